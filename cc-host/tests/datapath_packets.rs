//! The classifiers over a table of packets, run by BPF_PROG_TEST_RUN: verdict, target, reason, rewritten bytes and counters.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::time::{Duration, Instant};

use cc_common::names::{MARK_OURS, PROGRAM_FROM_ENDPOINT, PROGRAM_TO_ENDPOINT};
use cc_common::net::GATEWAY_MAC;
use cc_common::packet::TCP_SYN;
use cc_common::verdict::{DropReason, Verdict};
use cc_host::kernel::link::PairKind;
use datapath_support::packets::{
    BROADCAST, ELSEWHERE, OWN, OWN_MAC, PEER, PEER_MAC, STRANGER, TC_REDIRECT, TC_SHOT, TC_UNSPEC, arp, assert_dropped,
    echo, ethernet, ipv4_header, run, tcp, udp, with_destination_mac,
};
use datapath_support::{Container, GATEWAY, World, pair_kind};

/// A table of a hundred thousand rows, in an emulated machine too.
const FILLED_WITHIN: Duration = Duration::from_secs(60);

fn scene(world: &mut World) -> (Container, Container, Container) {
    world.network(1);
    world.network(2);
    let containers = (world.container(0, 1, 2), world.container(1, 1, 3), world.container_in_group(2, 1, 5, 99));
    world.container(3, 2, 9);
    containers
}

#[test]
fn what_is_dropped_and_why() {
    use DropReason as R;
    let mut world = World::new();
    let (own, _, stranger) = scene(&mut world);
    let ip = |words, total, extra: usize| {
        let mut packet = ethernet(GATEWAY_MAC.0, OWN_MAC, 0x0800);
        packet.extend(ipv4_header(words, total, OWN, PEER, 17));
        packet.extend(vec![0; extra]);
        packet
    };
    let leading = |kind| {
        let mut packet = ethernet(GATEWAY_MAC.0, OWN_MAC, 0x0800);
        packet.extend(ipv4_header(5, 36, OWN, PEER, 1));
        packet.extend([&[kind, 0, 0, 0][..], &[10, 0, 0, 4], &[0; 8]].concat());
        packet
    };
    let typed = |ethertype| [ethernet(GATEWAY_MAC.0, OWN_MAC, ethertype), vec![0; 50]].concat();
    let mut other_version = udp(OWN, PEER);
    other_version[14] = 0x65;
    let mut arp_ipv6 = arp(1, OWN_MAC, OWN, PEER);
    arp_ipv6[17] = 0xdd;
    let table: Vec<(&str, R, Vec<u8>)> = vec![
        ("802.1Q", R::Vlan, typed(0x8100)),
        ("802.1ad", R::Vlan, typed(0x88a8)),
        ("nonsense in an IPv6 frame", R::Ipv6Header, typed(0x86dd)),
        ("LLDP", R::Ethertype, typed(0x88cc)),
        ("an 802.3 length", R::Ethertype, typed(0x0040)),
        (
            "a spoofed MAC",
            R::SpoofedMac,
            [ethernet(GATEWAY_MAC.0, PEER_MAC, 0x0800), udp(OWN, PEER)[14..].to_vec()].concat(),
        ),
        ("a spoofed source", R::SpoofedIpv4, udp(PEER, STRANGER)),
        ("no source", R::SpoofedIpv4, udp([0; 4], PEER)),
        ("a broadcast frame", R::Broadcast, with_destination_mac(BROADCAST, udp(OWN, PEER))),
        ("a multicast frame", R::Multicast, with_destination_mac([1, 0, 0x5e, 0, 0, 1], udp(OWN, PEER))),
        ("past the gateway", R::WrongDestinationMac, with_destination_mac(PEER_MAC, udp(OWN, PEER))),
        ("a broadcast address", R::Broadcast, udp(OWN, [255; 4])),
        ("a multicast address", R::Multicast, udp(OWN, [224, 0, 0, 251])),
        ("the subnet's broadcast", R::NoRoute, udp(OWN, [10, 0, 0, 255])),
        ("nobody", R::NoRoute, udp(OWN, [10, 0, 0, 77])),
        ("an address of the other VPC", R::NoRoute, udp(OWN, ELSEWHERE)),
        ("version 6 in an IPv4 frame", R::Ipv4Header, other_version),
        ("a header of four words", R::Ipv4Header, ip(4, 40, 20)),
        ("a total length below the header", R::Ipv4Length, ip(5, 19, 20)),
        ("a total length of nothing", R::Ipv4Length, ip(5, 0, 20)),
        ("a total length beyond the frame", R::Ipv4Length, ip(5, 41, 20)),
        ("options beyond the frame", R::Ipv4Length, ip(15, 60, 0)[..14 + 59].to_vec()),
        ("the gateway by UDP", R::GatewayClosed, udp(OWN, GATEWAY.octets())),
        ("an echo reply to the gateway", R::GatewayClosed, echo(5, 0)),
        ("a redirect", R::IcmpUnrelated, leading(5)),
        ("a router's advertisement", R::IcmpUnrelated, leading(9)),
        ("a router solicitation", R::IcmpUnrelated, leading(10)),
        ("ARP for nobody", R::ArpUnknownTarget, arp(1, OWN_MAC, OWN, [10, 0, 0, 77])),
        ("ARP into the other VPC", R::ArpUnknownTarget, arp(1, OWN_MAC, OWN, ELSEWHERE)),
        ("ARP with another's MAC", R::SpoofedArp, arp(1, PEER_MAC, OWN, PEER)),
        ("ARP with another's address", R::SpoofedArp, arp(1, OWN_MAC, PEER, STRANGER)),
        ("an ARP reply with another's address", R::SpoofedArp, arp(2, OWN_MAC, GATEWAY.octets(), PEER)),
        ("an ARP reply", R::ArpAnnouncement, arp(2, OWN_MAC, OWN, PEER)),
        ("gratuitous ARP", R::ArpAnnouncement, arp(1, OWN_MAC, OWN, OWN)),
        ("an ARP probe for the own address", R::ArpAnnouncement, arp(1, OWN_MAC, [0; 4], OWN)),
        ("reverse ARP", R::ArpMalformed, arp(3, OWN_MAC, OWN, PEER)),
        ("ARP for IPv6", R::ArpMalformed, arp_ipv6),
        (
            "unicast ARP to a neighbour",
            R::WrongDestinationMac,
            with_destination_mac(PEER_MAC, arp(1, OWN_MAC, OWN, PEER)),
        ),
    ];
    for (name, reason, packet) in table {
        assert_dropped(&world, &own, own.endpoint.id, "egress", reason, name, &packet);
    }
    let denied = udp(OWN, STRANGER);
    assert_dropped(&world, &own, stranger.endpoint.id, "ingress", R::FirewallIngress, "another group", &denied);
}

#[test]
fn what_is_truncated_anywhere_goes_nowhere() {
    let mut world = World::new();
    let (own, peer, _) = scene(&mut world);
    let mut ran = 0;
    let mut goes_nowhere = |packet: &[u8]| {
        let Some(outcome) = run(&world, PROGRAM_FROM_ENDPOINT, own.endpoint.ifindex, 0, packet) else { return };
        ran += 1;
        let reason = DropReason::from_number(outcome.reason as u16);
        assert_eq!(outcome.action, TC_SHOT, "{packet:x?}");
        assert!(matches!(reason, Some(DropReason::Truncated | DropReason::Ipv4Length)), "{reason:?}: {packet:x?}");
    };
    for packet in [udp(OWN, PEER), arp(1, OWN_MAC, OWN, PEER), echo(5, 8), echo(15, 8)] {
        for len in 0..packet.len() {
            goes_nowhere(&packet[..len]);
        }
    }
    // What the frame has behind the packet is none of it: a receiver would put the header together from another fragment.
    let segment = tcp((OWN, 9), (PEER, 80), TCP_SYN, 1, 0);
    for (packet, header_bytes, enough) in [(udp(OWN, PEER), 20, 8), (echo(15, 8), 60, 8), (segment, 20, 16)] {
        for len in 0..enough {
            let mut padded = packet.clone();
            padded[16..18].copy_from_slice(&(header_bytes + len as u16).to_be_bytes());
            goes_nowhere(&padded);
        }
    }
    assert!(ran > 100, "the kernel ran {ran}");
    let counters = world.datapath().counters(own.endpoint.id).unwrap();
    assert_eq!((counters.sent.packets, counters.drops.iter().map(|d| d.packets).sum::<u64>()), (0, ran));
    assert_eq!(world.datapath().counters(peer.endpoint.id).unwrap().received.packets, 0);
}

#[test]
fn what_is_delivered_is_rewritten_and_counted_on_both_sides() {
    let mut world = World::new();
    let (own, peer, _) = scene(&mut world);
    let mut options = ethernet(GATEWAY_MAC.0, OWN_MAC, 0x0800);
    options.extend(ipv4_header(15, 68, OWN, PEER, 17));
    options.extend([0; 8]);
    let mut fragment = udp(OWN, PEER);
    fragment[14 + 6..14 + 8].copy_from_slice(&[0x20, 0x10]);
    let padded = [udp(OWN, PEER), vec![0; 30]].concat();
    let (mut packets, mut bytes) = (0, 0);
    for (name, packet) in [("UDP", udp(OWN, PEER)), ("options", options), ("a fragment", fragment), ("padded", padded)]
    {
        let outcome = run(&world, PROGRAM_FROM_ENDPOINT, own.endpoint.ifindex, 0, &packet).expect(name);
        let ifindex = peer.endpoint.ifindex;
        assert_eq!((outcome.action, outcome.reason), (TC_REDIRECT, 0), "{name}");
        let delivered = match pair_kind() {
            PairKind::Veth => Verdict::Deliver { ifindex },
            PairKind::Netkit => Verdict::Queue { ifindex },
        };
        assert_eq!((outcome.verdict, outcome.target), (delivered.code(), ifindex), "{name}");
        assert_eq!(outcome.data[..14], ethernet(PEER_MAC, GATEWAY_MAC.0, 0x0800), "{name}");
        assert_eq!(outcome.data[14..], packet[14..], "{name}: not a byte beyond the frame's header");
        (packets, bytes) = (packets + 1, bytes + packet.len() as u64);
        let (sent, received) = (
            world.datapath().counters(own.endpoint.id).unwrap().sent,
            world.datapath().counters(peer.endpoint.id).unwrap().received,
        );
        assert_eq!((sent.packets, sent.bytes), (packets, bytes), "{name}");
        assert_eq!(sent, received, "{name}");
    }
    assert!(world.datapath().counters(own.endpoint.id).unwrap().drops.is_empty());
}

#[test]
fn arp_is_answered_with_the_gateways_address() {
    let mut world = World::new();
    let (own, ..) = scene(&mut world);
    for (name, sender, target, question) in [
        ("the gateway", OWN, GATEWAY.octets(), arp(1, OWN_MAC, OWN, GATEWAY.octets())),
        ("a neighbour", OWN, PEER, arp(1, OWN_MAC, OWN, PEER)),
        ("another group's", OWN, STRANGER, arp(1, OWN_MAC, OWN, STRANGER)),
        ("a probe", [0; 4], PEER, arp(1, OWN_MAC, [0; 4], PEER)),
        ("again, unicast", OWN, PEER, with_destination_mac(GATEWAY_MAC.0, arp(1, OWN_MAC, OWN, PEER))),
        ("padded", OWN, PEER, [arp(1, OWN_MAC, OWN, PEER), vec![0; 18]].concat()),
    ] {
        let outcome = run(&world, PROGRAM_FROM_ENDPOINT, own.endpoint.ifindex, 0, &question).expect(name);
        assert_eq!((outcome.action, outcome.verdict), (TC_REDIRECT, Verdict::Answer.code()), "{name}");
        let mut answer = ethernet(OWN_MAC, GATEWAY_MAC.0, 0x0806);
        answer.extend([0, 1, 8, 0, 6, 4, 0, 2]);
        answer.extend(GATEWAY_MAC.0);
        answer.extend(target);
        answer.extend(OWN_MAC);
        answer.extend(sender);
        assert_eq!(outcome.data[..42], answer, "{name}");
    }
}

#[test]
fn the_gateway_answers_an_echo_request() {
    let mut world = World::new();
    let (own, ..) = scene(&mut world);
    for words in [5, 6, 15] {
        let outcome = run(&world, PROGRAM_FROM_ENDPOINT, own.endpoint.ifindex, 0, &echo(words, 8)).unwrap();
        assert_eq!((outcome.action, outcome.verdict), (TC_REDIRECT, Verdict::Answer.code()));
        let mut answer = echo(words, 0);
        answer[..12].copy_from_slice(&[OWN_MAC, GATEWAY_MAC.0].concat());
        answer[26..34].copy_from_slice(&[GATEWAY.octets(), OWN].concat());
        assert_eq!(outcome.data, answer, "{words} words of header; the checksum is right too");
    }
    let mut fragment = echo(5, 8);
    fragment[14 + 6] = 0x20;
    assert_dropped(&world, &own, 0, "egress", DropReason::GatewayClosed, "a fragment", &fragment);
}

#[test]
fn only_what_we_marked_goes_out_to_an_endpoint() {
    let mut world = World::new();
    let (own, ..) = scene(&mut world);
    let packet = udp(PEER, OWN);
    let outcome = run(&world, PROGRAM_TO_ENDPOINT, own.endpoint.ifindex, MARK_OURS, &packet).unwrap();
    assert_eq!((outcome.action, outcome.verdict, outcome.reason), (TC_UNSPEC, Verdict::Pass.code(), 0));
    for mark in [0, 1, MARK_OURS - 1] {
        let outcome = run(&world, PROGRAM_TO_ENDPOINT, own.endpoint.ifindex, mark, &packet).unwrap();
        assert_eq!((outcome.action, outcome.reason), (TC_SHOT, DropReason::NotFromDatapath as u32));
    }
    let drops = world.datapath().counters(own.endpoint.id).unwrap().drops;
    assert_eq!((drops.len(), drops[0].direction, drops[0].packets), (1, "ingress", 3));
}

#[test]
fn an_interface_that_is_no_port_passes_nothing() {
    let mut world = World::new();
    scene(&mut world);
    // The loopback of this namespace: there, and nobody's.
    let outcome = run(&world, PROGRAM_FROM_ENDPOINT, 1, 0, &udp(OWN, PEER)).unwrap();
    assert_eq!((outcome.action, outcome.reason), (TC_SHOT, DropReason::UnknownPort as u32));
    let drops = world.datapath().unknown_drops().unwrap();
    assert_eq!((drops.len(), drops[0].reason, drops[0].packets), (1, "unknown_port", 1));
}

#[test]
fn a_drop_without_room_is_counted_as_uncounted() {
    use aya::maps::{Map, MapData, MapError, PerCpuHashMap, PerCpuValues};
    use cc_common::counters::{DropCount, DropKey};
    let mut world = World::new();
    let (own, ..) = scene(&mut world);
    let map = MapData::from_pin(world.datapath().pin_dir().join("CC_DROPS")).unwrap();
    let mut drops: PerCpuHashMap<_, DropKey, DropCount> = Map::PerCpuHashMap(map).try_into().unwrap();
    let cpus = aya::util::nr_cpus().unwrap();
    let mut fill = |n: u32| {
        let key = DropKey { endpoint: 1_000_000 + n, direction: 0, reason: 1 };
        let none = PerCpuValues::try_from(vec![DropCount::default(); cpus]).unwrap();
        match drops.insert(key, none, 0) {
            Ok(()) => None,
            Err(MapError::SyscallError(error)) => error.io_error.raw_os_error(),
            Err(error) => panic!("{error}"),
        }
    };
    // The kernel's own stock of rows runs out when many are asked for one after the other, and is filled again meanwhile: that is not full.
    let began = Instant::now();
    let is_full = (0..cc_common::limits::DROPS_MAX).any(|n| {
        let told = loop {
            match fill(n) {
                Some(libc::ENOMEM) if began.elapsed() < FILLED_WITHIN => std::thread::yield_now(),
                told => break told,
            }
        };
        assert!(matches!(told, None | Some(libc::E2BIG)), "{told:?}");
        told.is_some()
    });
    assert!(is_full);
    let packet = udp(PEER, PEER);
    let outcome = run(&world, PROGRAM_FROM_ENDPOINT, own.endpoint.ifindex, 0, &packet).unwrap();
    assert_eq!((outcome.action, outcome.reason), (TC_SHOT, DropReason::SpoofedIpv4 as u32), "dropped all the same");
    let drops = world.datapath().unknown_drops().unwrap();
    assert_eq!((drops.len(), drops[0].direction, drops[0].reason), (1, "egress", "uncounted"));
    assert_eq!((drops[0].packets, drops[0].bytes), (1, packet.len() as u64));
}
