//! IPv6 over a table of packets, run by BPF_PROG_TEST_RUN: what is dropped and why, what is answered, and what arrives unchanged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::net::Ipv6Addr;

use cc_common::names::PROGRAM_FROM_ENDPOINT;
use cc_common::net::GATEWAY_MAC;
use cc_common::verdict::{DropReason, Verdict};
use datapath_support::packets::{
    BROADCAST, OWN_MAC, Outcome, PEER_MAC, TC_REDIRECT, TC_SHOT, assert_dropped, ethernet, icmpv6, icmpv6_checksum,
    ipv6, run, solicitation, with_destination_mac, with_source_mac,
};
use datapath_support::{Container, NETWORK_V6, World, address_v6};

const GATEWAY: Ipv6Addr = NETWORK_V6.gateway;
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Where a solicitation for PEER goes.
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 3);
const SOLICITED_MAC: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 3];
const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

fn own() -> Ipv6Addr {
    address_v6(2)
}

fn peer() -> Ipv6Addr {
    address_v6(3)
}

/// OWN and PEER in one group, a stranger in another, and somebody with another address in another network.
fn scene(world: &mut World) -> (Container, Container, Container) {
    world.network(1);
    world.network(2);
    let containers = (world.container(0, 1, 2), world.container(1, 1, 3), world.container_in_group(2, 1, 5, 99));
    world.container(3, 2, 9);
    containers
}

const DATAGRAM: [u8; 20] = [0, 9, 0, 9, 0, 20, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const SEGMENT: [u8; 20] = [0, 9, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x10, 0, 0, 0, 0, 0];

fn udp(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    ipv6(source, destination, UDP, 64, &DATAGRAM)
}

/// An extension header of eight bytes, padded, before `next`.
fn extension(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

fn fragment(next: u8, offset_and_flag: u16, id: u32) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (offset_and_flag.to_be_bytes(), id.to_be_bytes());
    [next, 0, a, b, c, d, e, f]
}

/// To PEER, with extension headers of these kinds before a datagram.
fn chain(kinds: &[u8]) -> Vec<u8> {
    let nexts = kinds.iter().skip(1).copied().chain([UDP]);
    let headers: Vec<u8> = nexts.flat_map(extension).chain(DATAGRAM).collect();
    ipv6(own(), peer(), kinds.first().copied().unwrap_or(UDP), 64, &headers)
}

fn message(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    ipv6(source, destination, ICMPV6, hop_limit, &icmpv6(source, destination, kind, rest))
}

fn echo(kind: u8) -> Vec<u8> {
    message(own(), GATEWAY, 64, kind, &[0x12, 0x34, 0, 1, 1, 2, 3, 4])
}

fn execute(world: &World, from: &Container, packet: &[u8]) -> Outcome {
    run(world, PROGRAM_FROM_ENDPOINT, from.endpoint.ifindex, 0, packet).unwrap()
}

#[test]
fn what_is_dropped_and_why() {
    use DropReason as R;
    let mut world = World::new();
    let (sender, _, stranger) = scene(&mut world);
    let (own, peer, nobody) = (own(), peer(), address_v6(77));
    let mapped = |last| Ipv6Addr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]);
    let asks = |source, target| with_destination_mac(SOLICITED_MAC, solicitation(source, SOLICITED, target, true));
    let with = |at: usize, bytes: &[u8], mut packet: Vec<u8>| {
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let solicited = |hops, kind, code: u8, target: Ipv6Addr| {
        let packet = message(own, SOLICITED, hops, kind, &[&[0; 4], &target.octets()[..], &[1, 1], &OWN_MAC].concat());
        with_destination_mac(SOLICITED_MAC, with(14 + 40 + 1, &[code], packet))
    };
    let report = [&[5, 2, 0, 0][..], &icmpv6(own, ALL_NODES, 143, &[0, 0, 0, 0])].concat();
    let mld = ipv6(own, ALL_NODES, HOP_BY_HOP, 1, &[&[ICMPV6, 0][..], &report[..4], &[1, 0], &report[4..]].concat());
    let table: Vec<(&str, R, Vec<u8>)> = vec![
        ("another's address", R::SpoofedIpv6, udp(peer, address_v6(5))),
        ("nobody's address", R::SpoofedIpv6, udp(nobody, peer)),
        ("the gateway's address", R::SpoofedIpv6, udp(GATEWAY, peer)),
        ("no address", R::SpoofedIpv6, udp(Ipv6Addr::UNSPECIFIED, peer)),
        ("a link-local source", R::SpoofedIpv6, udp(LINK_LOCAL, peer)),
        ("the own IPv4 address, mapped", R::SpoofedIpv6, udp(mapped(2), peer)),
        ("a multicast source", R::SpoofedIpv6, udp(ALL_NODES, peer)),
        ("loopback", R::SpoofedIpv6, udp(Ipv6Addr::LOCALHOST, peer)),
        ("another's MAC", R::SpoofedMac, with_source_mac(PEER_MAC, udp(own, peer))),
        ("past the gateway", R::WrongDestinationMac, with_destination_mac(PEER_MAC, udp(own, peer))),
        ("another's address by broadcast", R::SpoofedIpv6, with_destination_mac(BROADCAST, udp(peer, own))),
        ("a multicast", R::Multicast, with_destination_mac([0x33, 0x33, 0, 0, 0, 1], udp(own, ALL_NODES))),
        ("a multicast to the gateway's MAC", R::Multicast, udp(own, ALL_NODES)),
        ("an MLD report", R::Multicast, with_destination_mac([0x33, 0x33, 0, 0, 0, 0x16], mld)),
        ("a link-local destination", R::NoRoute, udp(own, LINK_LOCAL)),
        ("PEER's IPv4 address, mapped", R::NoRoute, udp(own, mapped(3))),
        ("no destination", R::NoRoute, udp(own, Ipv6Addr::UNSPECIFIED)),
        ("nobody", R::NoRoute, udp(own, nobody)),
        ("an address of the other VPC", R::NoRoute, udp(own, address_v6(9))),
        ("every router of the range", R::NoRoute, udp(own, NETWORK_V6.network)),
        ("loopback as the destination", R::NoInternet, udp(own, Ipv6Addr::LOCALHOST)),
        ("the internet", R::NoInternet, udp(own, "2001:db8::1".parse().unwrap())),
        ("the gateway by UDP", R::GatewayClosed, udp(own, GATEWAY)),
        ("an echo reply to the gateway", R::GatewayClosed, echo(129)),
        ("version 4", R::Ipv6Header, with(14, &[0x45], udp(own, peer))),
        ("version 7", R::Ipv6Header, with(14, &[0x70], udp(own, peer))),
        ("a length beyond the frame", R::Ipv6Length, with(18, &[0, 21], udp(own, peer))),
        ("the longest length", R::Ipv6Length, with(18, &[255, 255], udp(own, peer))),
        ("a routing header", R::Ipv6Extension, chain(&[ROUTING])),
        ("a routing header behind others", R::Ipv6Extension, chain(&[HOP_BY_HOP, DESTINATION, ROUTING])),
        ("five headers", R::Ipv6Extension, chain(&[DESTINATION; 5])),
        (
            "an error about nothing",
            R::IcmpUnrelated,
            message(own, peer, 64, 1, &[&[0; 4], &udp(peer, own)[14..]].concat()),
        ),
        ("a solicitation in another's name", R::SpoofedNd, asks(peer, GATEWAY)),
        ("a solicitation, link-local", R::SpoofedNd, asks(LINK_LOCAL, peer)),
        ("a probe for another's address", R::NdAnnouncement, asks(Ipv6Addr::UNSPECIFIED, peer)),
        ("a probe for the own address", R::NdAnnouncement, asks(Ipv6Addr::UNSPECIFIED, own)),
        ("a solicitation of oneself", R::NdAnnouncement, asks(own, own)),
        ("a solicitation of nobody", R::NdUnknownTarget, asks(own, nobody)),
        ("a solicitation into the other VPC", R::NdUnknownTarget, asks(own, address_v6(9))),
        ("a solicitation of the internet", R::NdUnknownTarget, asks(own, "2001:db8::1".parse().unwrap())),
        ("a solicitation of a link-local address", R::NdUnknownTarget, asks(own, LINK_LOCAL)),
        ("a solicitation of a mapped address", R::NdUnknownTarget, asks(own, mapped(3))),
        ("a solicitation of a group", R::NdMalformed, asks(own, ALL_NODES)),
        ("a solicitation from afar", R::NdMalformed, solicited(254, 135, 0, peer)),
        ("a solicitation with a code", R::NdMalformed, solicited(255, 135, 1, peer)),
        ("an advertisement", R::NdAnnouncement, solicited(255, 136, 0, peer)),
        ("a redirect", R::NdAnnouncement, solicited(255, 137, 0, peer)),
        ("a router's advertisement", R::NdAnnouncement, solicited(255, 134, 0, peer)),
        ("a router's solicitation", R::NdAnnouncement, solicited(255, 133, 0, peer)),
        (
            "a tag",
            R::Vlan,
            [ethernet(GATEWAY_MAC.0, OWN_MAC, 0x8100), vec![0, 5, 0x86, 0xdd], udp(own, peer)[14..].to_vec()].concat(),
        ),
    ];
    for (name, reason, packet) in table {
        assert_dropped(&world, &sender, sender.endpoint.id, "egress", reason, name, &packet);
    }
    let denied = udp(own, address_v6(5));
    assert_dropped(&world, &sender, stranger.endpoint.id, "ingress", R::FirewallIngress, "another group", &denied);
}

#[test]
fn a_network_without_it_takes_none() {
    let mut world = World::new();
    world.network(1);
    let plain = world.container_with(0, 1, 2, 1, None);
    world.container(1, 1, 3);
    let question = with_destination_mac(SOLICITED_MAC, solicitation(own(), SOLICITED, GATEWAY, true));
    for (name, packet) in [("a datagram", udp(own(), peer())), ("a solicitation", question), ("a ping", echo(128))] {
        assert_dropped(&world, &plain, 0, "egress", DropReason::Ipv6, name, &packet);
    }
}

#[test]
fn what_is_truncated_anywhere_goes_nowhere() {
    let mut world = World::new();
    let (sender, receiver, _) = scene(&mut world);
    let headers: Vec<u8> = extension(FRAGMENT).into_iter().chain(fragment(UDP, 1, 7)).chain(DATAGRAM).collect();
    let question = with_destination_mac(SOLICITED_MAC, solicitation(own(), SOLICITED, peer(), true));
    // With how many bytes of it enough is there for a decision, if its length says that this is all.
    let packets = [
        (udp(own(), peer()), 14 + 40 + 8),
        (ipv6(own(), peer(), TCP, 64, &SEGMENT), 14 + 40 + 16),
        (echo(128), 14 + 40 + 8),
        (question, 14 + 40 + 24),
        (chain(&[HOP_BY_HOP, DESTINATION]), 14 + 40 + 16 + 8),
        (ipv6(own(), peer(), HOP_BY_HOP, 64, &headers), 14 + 40 + 16 + 8),
    ];
    let mut ran = 0;
    let mut goes_nowhere = |packet: &[u8]| {
        let Some(outcome) = run(&world, PROGRAM_FROM_ENDPOINT, sender.endpoint.ifindex, 0, packet) else { return };
        ran += 1;
        let reason = DropReason::from_number(outcome.reason as u16);
        assert_eq!(outcome.action, TC_SHOT, "{packet:x?}");
        assert!(matches!(reason, Some(DropReason::Truncated | DropReason::Ipv6Length)), "{reason:?}: {packet:x?}");
    };
    for (packet, enough) in &packets {
        for len in 0..packet.len() {
            goes_nowhere(&packet[..len]);
            if (14 + 40..*enough).contains(&len) {
                let mut honest = packet[..len].to_vec();
                honest[18..20].copy_from_slice(&((len - 14 - 40) as u16).to_be_bytes());
                goes_nowhere(&honest);
                // What the frame has behind the packet is none of it.
                let padded = [&honest[..], &packet[len..]].concat();
                goes_nowhere(&padded);
            }
        }
    }
    assert!(ran > 200, "the kernel ran {ran}");
    let counters = world.datapath().counters(sender.endpoint.id).unwrap();
    assert_eq!((counters.sent.packets, counters.drops.iter().map(|d| d.packets).sum::<u64>()), (0, ran));
    assert_eq!(world.datapath().counters(receiver.endpoint.id).unwrap().received.packets, 0);
}

#[test]
fn what_is_delivered_is_rewritten_and_counted_on_both_sides() {
    let mut world = World::new();
    let (sender, receiver, _) = scene(&mut world);
    let pieces = |offset_and_flag| {
        ipv6(own(), peer(), FRAGMENT, 64, &[&fragment(UDP, offset_and_flag, 7)[..], &DATAGRAM].concat())
    };
    let (mut packets, mut bytes) = (0, 0);
    for (name, packet) in [
        ("UDP", udp(own(), peer())),
        ("TCP", ipv6(own(), peer(), TCP, 64, &SEGMENT)),
        ("a ping", message(own(), peer(), 64, 128, &[0, 1, 0, 1])),
        ("four headers", chain(&[HOP_BY_HOP, DESTINATION, DESTINATION, DESTINATION])),
        ("a fragment", pieces(1)),
        ("its next", pieces(9)),
        ("a whole packet as a fragment", pieces(0)),
        ("a protocol without ports", ipv6(own(), peer(), 132, 64, &DATAGRAM)),
        ("nothing behind the header", ipv6(own(), peer(), 59, 64, &[])),
        ("padded", [udp(own(), peer()), vec![0; 30]].concat()),
    ] {
        let outcome = execute(&world, &sender, &packet);
        let ifindex = receiver.endpoint.ifindex;
        assert_eq!((outcome.action, outcome.reason), (TC_REDIRECT, 0), "{name}");
        assert_eq!((outcome.verdict, outcome.target), (Verdict::Deliver { ifindex }.code(), ifindex), "{name}");
        assert_eq!(outcome.data[..14], ethernet(PEER_MAC, GATEWAY_MAC.0, 0x86dd), "{name}");
        assert_eq!(outcome.data[14..], packet[14..], "{name}: not a byte beyond the frame's header");
        (packets, bytes) = (packets + 1, bytes + packet.len() as u64);
        let (sent, received) = (
            world.datapath().counters(sender.endpoint.id).unwrap().sent,
            world.datapath().counters(receiver.endpoint.id).unwrap().received,
        );
        assert_eq!((sent.packets, sent.bytes), (packets, bytes), "{name}");
        assert_eq!(sent, received, "{name}");
    }
    assert!(world.datapath().counters(sender.endpoint.id).unwrap().drops.is_empty());
}

#[test]
fn solicitations_are_answered_with_the_gateways_address() {
    let mut world = World::new();
    let (sender, ..) = scene(&mut world);
    let asks = |target, option| solicitation(own(), SOLICITED, target, option);
    let multicast = |packet| with_destination_mac(SOLICITED_MAC, packet);
    const ROUTER: u8 = 0xe0;
    const NEIGHBOR: u8 = 0x60;
    for (name, target, flags, question) in [
        ("the gateway", GATEWAY, ROUTER, multicast(asks(GATEWAY, true))),
        ("a neighbour", peer(), NEIGHBOR, multicast(asks(peer(), true))),
        ("another group's", address_v6(5), NEIGHBOR, multicast(asks(address_v6(5), true))),
        ("without an option", peer(), NEIGHBOR, multicast(asks(peer(), false))),
        ("again, unicast", peer(), NEIGHBOR, solicitation(own(), peer(), peer(), true)),
        ("padded", peer(), NEIGHBOR, [multicast(asks(peer(), true)), vec![0; 30]].concat()),
    ] {
        let outcome = execute(&world, &sender, &question);
        assert_eq!((outcome.action, outcome.verdict), (TC_REDIRECT, Verdict::Answer.code()), "{name}");
        let rest = [&[flags, 0, 0, 0], &target.octets()[..], &[2, 1], &GATEWAY_MAC.0].concat();
        let mut answer = ethernet(OWN_MAC, GATEWAY_MAC.0, 0x86dd);
        answer.extend(&message(target, own(), 255, 136, &rest)[14..]);
        assert_eq!(outcome.data, answer, "{name}");
        assert_eq!(icmpv6_checksum(target, own(), &outcome.data[54..]), 0, "{name}");
    }
}

#[test]
fn the_gateway_answers_an_echo_request() {
    let mut world = World::new();
    let (sender, ..) = scene(&mut world);
    let behind = |headers: &[u8], first| {
        let echo = icmpv6(own(), GATEWAY, 128, &[0x12, 0x34, 0, 1, 1, 2, 3, 4]);
        ipv6(own(), GATEWAY, first, 64, &[headers, &echo].concat())
    };
    for (name, question, at) in
        [("plain", echo(128), 54), ("behind a header", behind(&extension(ICMPV6), DESTINATION), 62)]
    {
        let outcome = execute(&world, &sender, &question);
        assert_eq!((outcome.action, outcome.verdict), (TC_REDIRECT, Verdict::Answer.code()), "{name}");
        let mut answer = with_source_mac(GATEWAY_MAC.0, with_destination_mac(OWN_MAC, question.clone()));
        answer[22..54].copy_from_slice(&[GATEWAY.octets(), own().octets()].concat());
        answer[at] = 129;
        let right = icmpv6(GATEWAY, own(), 129, &question[at + 4..]);
        answer[at + 2..at + 4].copy_from_slice(&right[2..4]);
        assert_eq!(outcome.data, answer, "{name}: the checksum is right too");
    }
    let piece = behind(&fragment(ICMPV6, 1, 7), FRAGMENT);
    assert_dropped(&world, &sender, 0, "egress", DropReason::GatewayClosed, "a fragment", &piece);
}
