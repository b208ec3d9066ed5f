//! What rules that are to be told decide is told: a conversation once, when it begins; a refusal with each packet, at a rate; and nothing
//! else. Packets run by BPF_PROG_TEST_RUN.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::net::Ipv6Addr;

use cc_common::event::RuleRecord;
use cc_common::firewall::{
    ACTION_ALLOW, ACTION_DENY, CLASS_ANY_V4, CLASS_ANY_V6, PROTOCOL_CLASS_ICMP, PROTOCOL_CLASS_SOME,
    PROTOCOL_CLASS_UDP, RuleEntry,
};
use cc_common::limits::EVENTS_PER_SECOND;
use cc_common::names::PROGRAM_FROM_ENDPOINT;
use cc_common::net::Ip;
use cc_common::verdict::Direction;
use cc_host::datapath::{CompiledRules, PrefixTable, Record, RuleRow};
use datapath_support::packets::{OWN, PEER, TC_REDIRECT, ethernet, ipv4_header, ipv6, run, udp_ports, with_source_mac};
use datapath_support::{Container, World, address_v6, default_rules, drain};

const CLIENT: ([u8; 4], u16) = (OWN, 40_000);
const ALLOWED: ([u8; 4], u16) = (PEER, 80);
const DENIED: ([u8; 4], u16) = (PEER, 53);

/// Numbers of rules: what lets OWN out, what lets into PEER, what does not, and what does so untold.
const OUT: u32 = 1;
const IN: u32 = 100;
const SHUT: u32 = 101;
const PING: u32 = 102;
const UNTOLD: u32 = 103;

struct Scene {
    world: World,
    own: Container,
    peer: Container,
}

impl Scene {
    fn new() -> Scene {
        let mut world = World::new();
        world.network(1);
        let (own, peer) = (world.container_in_group(0, 1, 2, 7), world.container_in_group(1, 1, 3, 8));
        let scene = Scene { world, own, peer };
        scene.load(1);
        scene
    }

    /// The rules of both, with this for `log`.
    fn load(&self, log: u8) {
        let mut own = default_rules(7);
        own.rows.iter_mut().filter(|row| row.direction == Direction::Egress).for_each(|row| row.entry.log = log);
        let mut peer = default_rules(8);
        for class in [CLASS_ANY_V4, CLASS_ANY_V6] {
            let row = |protocol, port, rule, action, log| RuleRow {
                class,
                direction: Direction::Ingress,
                protocol,
                port,
                port_bits: if port == 0 { 0 } else { 16 },
                entry: RuleEntry { rule, priority: 10, action, log },
            };
            peer.rows.extend([
                row(PROTOCOL_CLASS_UDP, 80, IN, ACTION_ALLOW, log),
                row(PROTOCOL_CLASS_UDP, 53, SHUT, ACTION_DENY, log),
                row(PROTOCOL_CLASS_UDP, 54, UNTOLD, ACTION_DENY, 0),
                row(PROTOCOL_CLASS_UDP | PROTOCOL_CLASS_SOME, 0, IN, ACTION_ALLOW, log),
                row(PROTOCOL_CLASS_ICMP, 0, PING, ACTION_ALLOW, log),
            ]);
        }
        let load = |number: u32, rules: &CompiledRules| {
            self.world.datapath().load_rules(number, rules, PrefixTable::EMPTY).unwrap();
        };
        load(7, &own);
        load(8, &peer);
    }

    /// Whether it passed.
    fn send(&self, from: &Container, packet: &[u8]) -> bool {
        let outcome = run(&self.world, PROGRAM_FROM_ENDPOINT, from.endpoint.ifindex, 0, packet).unwrap();
        outcome.action == TC_REDIRECT
    }

    /// What was told since the beginning.
    fn told(&self) -> Vec<RuleRecord> {
        let records = drain(&self.world).into_iter().map(|record| match record {
            Record::Decided(record) => record,
            Record::Dropped(record) => panic!("nobody watches drops: {record:?}"),
        });
        records.collect()
    }
}

fn number(container: &Container) -> u64 {
    u64::from_str_radix(&container.tag, 16).unwrap()
}

/// Whose, which rule, allowed or not, and in which direction.
fn outline(records: &[RuleRecord]) -> Vec<(u64, u32, u8, u8)> {
    records.iter().map(|record| (record.container, record.rule, record.action, record.direction)).collect()
}

const EGRESS: u8 = Direction::Egress as u8;
const INGRESS: u8 = Direction::Ingress as u8;

#[test]
fn a_conversation_is_told_once_by_each_rule_and_a_refusal_each_time() {
    let scene = Scene::new();
    let (own, peer) = (number(&scene.own), number(&scene.peer));
    for _ in 0..3 {
        assert!(scene.send(&scene.own, &udp_ports(CLIENT, ALLOWED)));
        assert!(scene.send(&scene.peer, &udp_ports(ALLOWED, CLIENT)));
    }
    for _ in 0..2 {
        assert!(!scene.send(&scene.own, &udp_ports(CLIENT, DENIED)));
    }
    assert!(!scene.send(&scene.own, &udp_ports(CLIENT, (PEER, 54))), "by a rule that is not to be told");
    assert!(!scene.send(&scene.peer, &udp_ports(DENIED, CLIENT)), "by no rule at all");
    let told = scene.told();
    let expected = [
        (own, OUT, ACTION_ALLOW, EGRESS),
        (peer, IN, ACTION_ALLOW, INGRESS),
        (peer, SHUT, ACTION_DENY, INGRESS),
        (peer, SHUT, ACTION_DENY, INGRESS),
    ];
    assert_eq!(outline(&told), expected);
    for record in &told[..2] {
        assert_eq!((record.source.last().0, record.destination.last().0, record.protocol), (OWN, PEER, 17));
        assert_eq!((record.source_port.get(), record.destination_port.get(), record.icmp), (40_000, 80, [0; 2]));
    }
    assert_eq!((told[2].destination_port.get(), told[2].endpoint), (53, 1));
    assert!(told.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
    let datapath = scene.world.datapath();
    assert_eq!((datapath.logged(0).unwrap().written, datapath.logged(1).unwrap().written), (1, 3));
}

#[test]
fn ipv6_is_told_likewise() {
    let scene = Scene::new();
    let datagram = |from: (u8, u16), to: (u8, u16)| {
        let payload = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &[0, 16, 0, 0], &[0; 8]].concat();
        with_source_mac([2, 0, 0, 0, 1, from.0], ipv6(address_v6(from.0), address_v6(to.0), 17, 64, &payload))
    };
    let (client, allowed, denied) = ((2, 40_000), (3, 80), (3, 53));
    for _ in 0..2 {
        assert!(scene.send(&scene.own, &datagram(client, allowed)));
        assert!(scene.send(&scene.peer, &datagram(allowed, client)));
        assert!(!scene.send(&scene.own, &datagram(client, denied)));
    }
    let told = scene.told();
    let (own, peer) = (number(&scene.own), number(&scene.peer));
    let expected = [
        (own, OUT, ACTION_ALLOW, EGRESS),
        (peer, IN, ACTION_ALLOW, INGRESS),
        (peer, SHUT, ACTION_DENY, INGRESS),
        (peer, SHUT, ACTION_DENY, INGRESS),
    ];
    assert_eq!(outline(&told), expected);
    let as_ip = |address: Ipv6Addr| Ip { octets: address.octets() };
    assert!(told.iter().all(|r| r.source == as_ip(address_v6(2)) && r.destination == as_ip(address_v6(3))));
    assert_eq!((told[2].source_port.get(), told[2].destination_port.get()), (40_000, 53));
}

#[test]
fn a_ping_is_told_by_its_type() {
    let scene = Scene::new();
    let mut ping = ethernet([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 2], 0x0800);
    ping[..6].copy_from_slice(&udp_ports(CLIENT, ALLOWED)[..6]);
    ping.extend(ipv4_header(5, 36, OWN, PEER, 1));
    ping.extend([8, 0, 0, 0, 0x12, 0x34, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(scene.send(&scene.own, &ping));
    let told = scene.told();
    assert_eq!(told.iter().map(|record| record.rule).collect::<Vec<_>>(), [OUT, PING]);
    let ping = told[1];
    assert_eq!((ping.protocol, ping.icmp, ping.source_port.get(), ping.destination_port.get()), (1, [8, 0], 0, 0));
}

#[test]
fn conversations_that_stand_and_parts_of_packets_are_not_told() {
    let scene = Scene::new();
    scene.load(0);
    assert!(scene.send(&scene.own, &udp_ports(CLIENT, ALLOWED)));
    scene.load(1);
    // Judged again by rules that are to be told, from either end.
    assert!(scene.send(&scene.peer, &udp_ports(ALLOWED, CLIENT)));
    assert!(scene.send(&scene.own, &udp_ports(CLIENT, ALLOWED)));
    // A fragment whose first was not seen passes, and begins nothing.
    let mut fragment = udp_ports(CLIENT, ALLOWED);
    fragment[18..20].copy_from_slice(&9u16.to_be_bytes());
    fragment[20..22].copy_from_slice(&3u16.to_be_bytes());
    assert!(scene.send(&scene.own, &fragment));
    assert_eq!(outline(&scene.told()), []);
}

#[test]
fn what_a_quota_refuses_no_rule_has_decided() {
    let scene = Scene::new();
    let half_open_max = cc_common::limits::HALF_OPEN_PER_ENDPOINT;
    scene.load(0);
    for n in 0..half_open_max {
        let port = 10_000 + n as u16;
        assert!(scene.send(&scene.own, &udp_ports((OWN, port), ALLOWED)));
    }
    scene.load(1);
    assert!(!scene.send(&scene.own, &udp_ports(CLIENT, ALLOWED)));
    assert_eq!(outline(&scene.told()), []);
}

#[test]
fn a_flood_is_held_to_its_rate_and_counted() {
    let scene = Scene::new();
    for _ in 0..1_000 {
        assert!(!scene.send(&scene.own, &udp_ports(CLIENT, DENIED)));
    }
    assert!(scene.send(&scene.own, &udp_ports(CLIENT, ALLOWED)));
    let datapath = scene.world.datapath();
    let (flooded, other) = (datapath.logged(1).unwrap(), datapath.logged(0).unwrap());
    let second = u64::from(EVENTS_PER_SECOND);
    assert!(flooded.written + flooded.lost == 1_001 && (second..second * 5).contains(&flooded.written), "{flooded:?}");
    assert_eq!((other.written, other.lost), (1, 0), "another's records have their own rate");
    assert_eq!(scene.told().len() as u64, flooded.written + 1);
    // The next endpoint of the slot begins anew.
    scene.world.delete_link(&scene.peer);
    datapath.detach(1).unwrap();
    assert_eq!(datapath.logged(1).unwrap().lost, 0);
}
