//! IPv6 conversations: who may begin one, what belongs to it, and that it has nothing to do with an IPv4 one between the same two.
//! Packets run by BPF_PROG_TEST_RUN.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::net::Ipv6Addr;

use aya::maps::{HashMap, Map, MapData};
use cc_common::firewall::{
    ACTION_ALLOW, CLASS_ANY_V4, CLASS_ANY_V6, PROTOCOL_CLASS_ICMPV6, PROTOCOL_CLASS_SOME, PROTOCOL_CLASS_UDP, RuleEntry,
};
use cc_common::flow::{Flow, FlowKey};
use cc_common::names::PROGRAM_FROM_ENDPOINT;
use cc_common::verdict::{Direction, DropReason};
use cc_host::datapath::{CompiledRules, PrefixTable, RuleRow};
use datapath_support::packets::{OWN, PEER, TC_REDIRECT, TC_SHOT, icmpv6, ipv6, run, tcp, udp_ports, with_source_mac};
use datapath_support::{Container, World, address_v6, default_rules};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const UNREACHABLE: u8 = 1;
const TOO_BIG: u8 = 2;
const TIME_EXCEEDED: u8 = 3;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// Host part and port of an end: 2 is OWN, 3 is PEER.
type End = (u8, u16);
const CLIENT: End = (2, 40_000);
const SERVER: End = (3, 80);

fn packet(from: u8, to: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let mac = [2, 0, 0, 0, 1, from];
    with_source_mac(mac, ipv6(address_v6(from), address_v6(to), next, 64, payload))
}

fn datagram(from: End, to: End) -> Vec<u8> {
    [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &[0, 16, 0, 0], &[0; 8]].concat()
}

fn udp(from: End, to: End) -> Vec<u8> {
    packet(from.0, to.0, UDP, &datagram(from, to))
}

fn segment(from: End, to: End, flags: u8, sequence: u32, acknowledged: u32) -> Vec<u8> {
    let (sequence, acknowledged) = (sequence.to_be_bytes(), acknowledged.to_be_bytes());
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let payload = [&ports[..], &sequence, &acknowledged, &[0x50, flags, 0x10, 0, 0, 0, 0, 0]].concat();
    packet(from.0, to.0, TCP, &payload)
}

fn message(from: u8, to: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    packet(from, to, ICMPV6, &icmpv6(address_v6(from), address_v6(to), kind, rest))
}

fn echo(from: u8, to: u8, kind: u8, identifier: u16) -> Vec<u8> {
    message(from, to, kind, &[&identifier.to_be_bytes()[..], &[0, 1]].concat())
}

/// About a packet, from whoever got it.
fn error(kind: u8, about: &[u8]) -> Vec<u8> {
    let (from, to) = (about[14 + 39], about[14 + 23]);
    message(from, to, kind, &[&[0; 4], &about[14..]].concat())
}

fn piece(from: End, to: End, offset_and_flag: u16, id: u32, payload: &[u8]) -> Vec<u8> {
    let header = [&[UDP, 0][..], &offset_and_flag.to_be_bytes(), &id.to_be_bytes()].concat();
    packet(from.0, to.0, FRAGMENT, &[&header[..], payload].concat())
}

struct Scene {
    world: World,
    own: Container,
    peer: Container,
}

impl Scene {
    /// OWN and PEER in one network, each in a group of its own. Everybody reaches out, and PEER lets everybody in, of both families.
    fn new() -> Scene {
        let mut world = World::new();
        world.network(1);
        let (own, peer) = (world.container_in_group(0, 1, 2, 7), world.container_in_group(1, 1, 3, 8));
        let scene = Scene { world, own, peer };
        scene.allow_into_peer(&[CLASS_ANY_V4, CLASS_ANY_V6]);
        scene
    }

    fn load(&self, rules: &CompiledRules) {
        self.world.datapath().load_rules(8, rules, PrefixTable::EMPTY).unwrap();
    }

    fn allow_into_peer(&self, classes: &[u32]) {
        let mut rules = default_rules(8);
        for &class in classes {
            rules.rows.extend((0..5).map(|protocol| row(class, protocol, 0, 0)));
        }
        self.load(&rules);
    }

    fn send(&self, packet: &[u8]) -> Result<u32, DropReason> {
        let from = if packet[11] == 2 { &self.own } else { &self.peer };
        let outcome = run(&self.world, PROGRAM_FROM_ENDPOINT, from.endpoint.ifindex, 0, packet).unwrap();
        match outcome.action {
            TC_REDIRECT => Ok(outcome.target),
            TC_SHOT => Err(DropReason::from_number(outcome.reason as u16).unwrap()),
            other => panic!("action {other}"),
        }
    }

    #[track_caller]
    fn passes(&self, packet: &[u8]) {
        let to = if packet[11] == 2 { &self.peer } else { &self.own };
        assert_eq!(self.send(packet), Ok(to.endpoint.ifindex));
    }

    fn flows(&self) -> Vec<(FlowKey, Flow)> {
        let map = MapData::from_pin(self.world.datapath().pin_dir().join("CC_FLOWS")).unwrap();
        let flows: HashMap<_, FlowKey, Flow> = Map::HashMap(map).try_into().unwrap();
        flows.iter().map(Result::unwrap).collect()
    }
}

fn row(class: u32, protocol: u8, port: u16, port_bits: u8) -> RuleRow {
    let entry = RuleEntry { rule: 100, priority: 10, action: ACTION_ALLOW, log: 0 };
    RuleRow { class, direction: Direction::Ingress, protocol, port, port_bits, entry }
}

#[test]
fn an_answer_needs_no_rule_and_a_question_does() {
    let scene = Scene::new();
    assert_eq!(scene.send(&udp(SERVER, CLIENT)), Err(DropReason::FirewallIngress), "OWN lets nobody in");
    scene.passes(&udp(CLIENT, SERVER));
    scene.passes(&udp(SERVER, CLIENT));
    assert_eq!(scene.send(&udp(SERVER, (2, 40_001))), Err(DropReason::FirewallIngress), "another port");
    scene.passes(&segment(CLIENT, SERVER, SYN, 100, 0));
    scene.passes(&segment(SERVER, CLIENT, SYN | ACK, 500, 101));
    scene.passes(&segment(CLIENT, SERVER, ACK, 101, 501));
    assert_eq!(scene.send(&segment(SERVER, CLIENT, RST, 9_000_000, 0)), Err(DropReason::TcpReset), "a blind guess");
    assert_eq!(scene.send(&echo(3, 2, ECHO_REPLY, 7)), Err(DropReason::FirewallIngress), "nobody asked");
    scene.passes(&echo(2, 3, ECHO_REQUEST, 7));
    scene.passes(&echo(3, 2, ECHO_REPLY, 7));
    assert_eq!(scene.send(&echo(3, 2, ECHO_REPLY, 8)), Err(DropReason::FirewallIngress), "another's question");
    assert_eq!(scene.flows().len(), 3, "TCP, UDP and ICMPv6: {:?}", scene.flows());
}

#[test]
fn the_same_ports_over_ipv4_are_another_conversation() {
    let scene = Scene::new();
    scene.passes(&udp(CLIENT, SERVER));
    let (client, server) = ((OWN, CLIENT.1), (PEER, SERVER.1));
    assert_eq!(scene.send(&udp_ports(server, client)), Err(DropReason::FirewallIngress), "it answers nothing");
    scene.passes(&udp_ports(client, server));
    scene.passes(&tcp(client, server, SYN, 1, 0));
    scene.passes(&segment(CLIENT, SERVER, SYN, 1, 0));
    assert_eq!(scene.flows().len(), 4);
    // A rule about one family that is gone ends that family's.
    scene.allow_into_peer(&[CLASS_ANY_V4]);
    assert_eq!(scene.send(&udp(CLIENT, SERVER)), Err(DropReason::FirewallIngress));
    assert_eq!(scene.send(&segment(SERVER, CLIENT, SYN | ACK, 1, 2)), Err(DropReason::FirewallIngress));
    scene.passes(&udp_ports(client, server));
    scene.passes(&tcp(server, client, SYN | ACK, 1, 2));
    assert_eq!(scene.flows().len(), 2);
}

#[test]
fn a_rule_about_types_admits_those_types() {
    let scene = Scene::new();
    let mut rules = default_rules(8);
    let of_type = row(CLASS_ANY_V6, PROTOCOL_CLASS_ICMPV6, u16::from(ECHO_REQUEST) << 8, 8);
    rules.rows.push(of_type);
    scene.load(&rules);
    scene.passes(&echo(2, 3, ECHO_REQUEST, 7));
    assert_eq!(scene.send(&message(2, 3, 139, &[0; 12])), Err(DropReason::FirewallIngress), "a node information query");
    assert_eq!(scene.send(&udp(CLIENT, SERVER)), Err(DropReason::FirewallIngress));
}

#[test]
fn an_error_passes_if_it_is_about_a_flow() {
    let scene = Scene::new();
    let sent = udp(CLIENT, SERVER);
    assert_eq!(scene.send(&error(UNREACHABLE, &sent)), Err(DropReason::IcmpUnrelated), "nothing was sent yet");
    scene.passes(&sent);
    for kind in [UNREACHABLE, TOO_BIG, TIME_EXCEEDED, 4] {
        scene.passes(&error(kind, &sent));
    }
    scene.passes(&segment(CLIENT, SERVER, SYN, 1, 0));
    scene.passes(&error(TOO_BIG, &segment(CLIENT, SERVER, ACK, 2, 2)));
    scene.passes(&echo(2, 3, ECHO_REQUEST, 7));
    scene.passes(&error(UNREACHABLE, &echo(2, 3, ECHO_REQUEST, 7)));
    let related = |packet: &[u8]| scene.send(packet);
    assert_eq!(related(&error(UNREACHABLE, &udp((2, 40_009), SERVER))), Err(DropReason::IcmpUnrelated));
    assert_eq!(related(&error(TOO_BIG, &segment((2, 40_009), SERVER, ACK, 2, 2))), Err(DropReason::IcmpUnrelated));
    assert_eq!(related(&error(UNREACHABLE, &echo(2, 3, ECHO_REQUEST, 8))), Err(DropReason::IcmpUnrelated));
    // About an error, about what went the other way, and about IPv4's of the same ends in disguise.
    assert_eq!(related(&error(UNREACHABLE, &error(UNREACHABLE, &sent))), Err(DropReason::IcmpUnrelated));
    let mapped = |last| Ipv6Addr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]);
    scene.passes(&udp_ports((OWN, 1), (PEER, 2)));
    let disguised = ipv6(mapped(2), mapped(3), UDP, 64, &datagram((2, 1), (3, 2)));
    let about = message(3, 2, UNREACHABLE, &[&[0; 4], &disguised[14..]].concat());
    assert_eq!(related(&about), Err(DropReason::IcmpUnrelated));
    // As much of the quoted packet as says whose it was must be there.
    let whole = error(UNREACHABLE, &sent);
    for quoted in 0..48 {
        let mut short = whole[..14 + 40 + 8 + quoted].to_vec();
        short[18..20].copy_from_slice(&(8 + quoted as u16).to_be_bytes());
        assert_eq!(related(&short), Err(DropReason::Truncated), "{quoted} bytes");
    }
}

#[test]
fn fragments_follow_their_first() {
    let scene = Scene::new();
    let mut rules = default_rules(8);
    rules.rows.push(row(CLASS_ANY_V6, PROTOCOL_CLASS_UDP, 80, 16));
    scene.load(&rules);
    let whole = datagram(CLIENT, SERVER);
    let first = |id| piece(CLIENT, SERVER, 1, id, &whole);
    let later = |id| piece(CLIENT, SERVER, 16, id, &[0; 8]);
    assert_eq!(scene.send(&later(7)), Err(DropReason::FragmentUnknown), "no port is known, none is allowed");
    scene.passes(&first(1));
    scene.passes(&later(1));
    assert_eq!(scene.send(&later(1 << 16 | 1)), Err(DropReason::FragmentUnknown), "another packet's, by all 32 bits");
    assert_eq!(scene.flows().len(), 1);
    let closed = piece(CLIENT, (3, 81), 1, 2, &datagram(CLIENT, (3, 81)));
    assert_eq!(scene.send(&closed), Err(DropReason::FirewallIngress));
    assert_eq!(scene.send(&later(2)), Err(DropReason::FirewallIngress), "and so is what follows it");
    // A first one without its ports is nobody's, and a header behind the fragment's does not hide them.
    assert_eq!(scene.send(&piece(CLIENT, SERVER, 1, 3, &whole[..4])), Err(DropReason::Truncated));
    let header = [DESTINATION, 0, 0, 1, 0, 0, 0, 4];
    let behind = [&header[..], &[UDP, 0, 1, 4, 0, 0, 0, 0], &whole].concat();
    scene.passes(&packet(2, 3, FRAGMENT, &behind));
    let of_its = [&[DESTINATION, 0, 0, 16, 0, 0, 0, 4][..], &[0; 8]].concat();
    assert_eq!(
        scene.send(&packet(2, 3, FRAGMENT, &of_its)),
        Err(DropReason::Ipv6Extension),
        "of what, it does not say"
    );
    // Where some port is open, a later fragment may come first: without its first it is nothing.
    rules.rows.push(row(CLASS_ANY_V6, PROTOCOL_CLASS_UDP | PROTOCOL_CLASS_SOME, 0, 0));
    scene.load(&rules);
    scene.passes(&later(9));
    assert_eq!(scene.flows().len(), 1, "and no flow is made of it");
}
