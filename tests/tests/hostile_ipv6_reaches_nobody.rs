//! IPv6 frames that no honest container sends reach nobody, whatever they pretend: each is dropped, counted by its reason.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use cc_tests::World;
use cc_tests::dual_stack::{Ear, host, mac, vpc};
use cc_tests::packet::{Wire, ethernet, icmpv6, ipv6, udp};

/// Whom every answer to neighbour discovery names.
const GATEWAY_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 1];
const ROUNDS: u64 = 10;
const MARK: &[u8] = b"hostile";

#[test]
fn each_is_dropped_with_its_reason() {
    let world = World::new();
    vpc(&world, "blue");
    let run = || world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    let (own, peer) = (run(), run());
    let (own_mac, peer_mac) = (mac(&world, &own), mac(&world, &peer));
    let (us, them, nobody) = (host(2), host(3), host(99));
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let mapped: Ipv6Addr = "::ffff:10.0.0.3".parse().unwrap();
    let to = |destination: [u8; 6], packet: Vec<u8>| ethernet(destination, own_mac, 0x86dd, &packet);
    let datagram = |from, at| ipv6(from, at, 17, 64, &udp(9, 9, MARK));
    let neighbor = |from: Ipv6Addr, at: Ipv6Addr, kind, hops, target: Ipv6Addr| {
        let rest = [&[0; 4], &target.octets()[..], &[1, 1], &own_mac, MARK, &[0]].concat();
        ipv6(from, at, 58, hops, &icmpv6(from, at, kind, &rest))
    };
    let behind = |extension: &[u8], next| ipv6(us, them, next, 64, &[extension, &udp(9, 9, MARK)].concat());
    let multicast_mac = [0x33, 0x33, 0, 0, 0, 1];
    let router: Vec<u8> = [&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &[1, 1], &own_mac, MARK, &[0]].concat();
    let advertisement = |from| ipv6(from, all_nodes, 58, 255, &icmpv6(from, all_nodes, 134, &router));
    let report = [&[5, 2, 0, 0][..], &[0; 4], MARK].concat();
    let mld = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &icmpv6(us, all_nodes, 143, &report)].concat();
    let error = |quoted: Vec<u8>| {
        let rest = [&[0; 4][..], &quoted, MARK].concat();
        ipv6(us, them, 58, 64, &icmpv6(us, them, 1, &rest))
    };
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("another's address", "spoofed_ipv6", to(GATEWAY_MAC, datagram(nobody, them))),
        ("no address", "spoofed_ipv6", to(GATEWAY_MAC, datagram(Ipv6Addr::UNSPECIFIED, them))),
        ("a link-local source", "spoofed_ipv6", to(GATEWAY_MAC, datagram(link_local, them))),
        ("a mapped source", "spoofed_ipv6", to(GATEWAY_MAC, datagram("::ffff:10.0.0.2".parse().unwrap(), them))),
        ("another's MAC", "spoofed_mac", ethernet(GATEWAY_MAC, peer_mac, 0x86dd, &datagram(us, them))),
        ("past the gateway", "wrong_destination_mac", to(peer_mac, datagram(us, them))),
        ("all nodes", "multicast", to(multicast_mac, datagram(us, all_nodes))),
        ("an MLD report", "multicast", to(multicast_mac, ipv6(us, "ff02::16".parse().unwrap(), 0, 1, &mld))),
        ("a link-local destination", "no_route", to(GATEWAY_MAC, datagram(us, link_local))),
        ("a mapped destination", "no_route", to(GATEWAY_MAC, datagram(us, mapped))),
        ("nobody", "no_route", to(GATEWAY_MAC, datagram(us, nobody))),
        ("the internet", "no_way_out", to(GATEWAY_MAC, datagram(us, "2001:db8::1".parse().unwrap()))),
        ("the gateway", "gateway_closed", to(GATEWAY_MAC, datagram(us, host(1)))),
        (
            "a solicitation in another's name",
            "spoofed_nd",
            to(multicast_mac, neighbor(nobody, all_nodes, 135, 255, them)),
        ),
        ("a solicitation from afar", "nd_malformed", to(multicast_mac, neighbor(us, all_nodes, 135, 64, them))),
        ("a solicitation of a group", "nd_malformed", to(multicast_mac, neighbor(us, all_nodes, 135, 255, all_nodes))),
        ("a solicitation of nobody", "nd_unknown_target", to(multicast_mac, neighbor(us, all_nodes, 135, 255, nobody))),
        ("a probe", "nd_announcement", to(multicast_mac, neighbor(Ipv6Addr::UNSPECIFIED, all_nodes, 135, 255, them))),
        (
            "an advertisement of another's",
            "nd_announcement",
            to(multicast_mac, neighbor(us, all_nodes, 136, 255, them)),
        ),
        ("a router's advertisement", "nd_announcement", to(multicast_mac, advertisement(us))),
        ("a router's, link-local", "nd_announcement", to(multicast_mac, advertisement(link_local))),
        ("a redirect", "nd_announcement", to(GATEWAY_MAC, neighbor(us, them, 137, 255, them))),
        ("a routing header", "ipv6_extension", to(GATEWAY_MAC, behind(&[17, 0, 0, 0, 0, 0, 0, 0], 43))),
        ("too many headers", "ipv6_extension", to(GATEWAY_MAC, behind(&[60, 0, 1, 4, 0, 0, 0, 0].repeat(5), 60))),
        ("a length beyond the frame", "ipv6_length", {
            let mut frame = to(GATEWAY_MAC, datagram(us, them));
            frame[18..20].copy_from_slice(&1000u16.to_be_bytes());
            frame
        }),
        ("version 4", "ipv6_header", {
            let mut frame = to(GATEWAY_MAC, datagram(us, them));
            frame[14] = 0x45;
            frame
        }),
        (
            "an error about nothing",
            "icmp_unrelated",
            to(GATEWAY_MAC, error(ipv6(them, us, 17, 64, &udp(70, 71, MARK)))),
        ),
    ];
    let ear = Ear::at(&world, &peer);
    let count = |reason: &str| world.drops(&own, reason);
    let mut expected = BTreeMap::<&str, u64>::new();
    for (_, reason, _) in &cases {
        *expected.entry(reason).or_insert_with(|| count(reason)) += ROUNDS;
    }
    let good = to(GATEWAY_MAC, ipv6(us, them, 17, 64, &udp(9, 9, b"for the peer")));
    let frames: Vec<(String, Vec<u8>)> =
        cases.iter().map(|(what, _, frame)| (what.to_string(), frame.clone())).collect();
    world.in_container(&own, move || {
        let wire = Wire::open("eth0").unwrap();
        for _ in 0..ROUNDS {
            for (what, frame) in &frames {
                wire.send(frame).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            wire.send(&good).unwrap();
        }
    });
    let heard = ear.heard();
    let contains = |mark: &[u8]| heard.iter().filter(|frame| frame.windows(mark.len()).any(|w| w == mark)).count();
    assert_eq!(contains(b"for the peer"), ROUNDS as usize, "the wire works");
    assert_eq!(contains(MARK), 0, "{heard:02x?}");
    let found: BTreeMap<&str, u64> = expected.keys().map(|reason| (*reason, count(reason))).collect();
    // A container's own stack may lose something meanwhile, too; never less.
    for (reason, least) in expected {
        assert!(found[reason] >= least, "{reason}: {} of {least} in {found:?}", found[reason]);
    }
}
