//! Conversations and what is remembered of them: who may begin one, who may go on, what ends it, and who pays for it. Packets run
//! by BPF_PROG_TEST_RUN, so that every step is one's own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use aya::maps::{HashMap, Map, MapData};
use cc_common::firewall::{ACTION_ALLOW, ACTION_DENY, CLASS_ANY_V4, PROTOCOL_CLASS_UDP, RuleEntry};
use cc_common::flow::{Flow, FlowKey};
use cc_common::names::PROGRAM_FROM_ENDPOINT;
use cc_common::quota::Quota;
use cc_common::verdict::{Direction, DropReason};
use cc_host::datapath::{CompiledRules, PrefixTable, RuleRow};
use datapath_support::packets::{OWN, PEER, TC_REDIRECT, TC_SHOT, run, tcp, udp_ports};
use datapath_support::{Container, World, default_rules};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const CLIENT: ([u8; 4], u16) = (OWN, 40_000);
const SERVER: ([u8; 4], u16) = (PEER, 80);

struct Scene {
    world: World,
    own: Container,
    peer: Container,
}

impl Scene {
    /// OWN and PEER in one network, each in a group of its own. Everybody reaches out, and PEER lets everybody in.
    fn new() -> Scene {
        let mut world = World::new();
        world.network(1);
        let (own, peer) = (world.container_in_group(0, 1, 2, 7), world.container_in_group(1, 1, 3, 8));
        let scene = Scene { world, own, peer };
        scene.allow_into_peer(100);
        scene
    }

    fn load(&self, number: u32, rules: &CompiledRules) {
        self.world.datapath().load_rules(number, rules, PrefixTable::EMPTY).unwrap();
    }

    fn allow_into_peer(&self, rule: u32) {
        let mut rules = default_rules(8);
        let entry = RuleEntry { rule, priority: 10, action: ACTION_ALLOW, log: 0 };
        rules.rows.extend((0..5).map(|protocol| RuleRow {
            class: CLASS_ANY_V4,
            direction: Direction::Ingress,
            protocol,
            port: 0,
            port_bits: 0,
            entry,
        }));
        self.load(8, &rules);
    }

    fn from(&self, packet: &[u8]) -> Result<u32, DropReason> {
        let ifindex = if packet[26..30] == OWN { self.own.endpoint.ifindex } else { self.peer.endpoint.ifindex };
        let outcome = run(&self.world, PROGRAM_FROM_ENDPOINT, ifindex, 0, packet).unwrap();
        match outcome.action {
            TC_REDIRECT => Ok(outcome.target),
            TC_SHOT => Err(DropReason::from_number(outcome.reason as u16).unwrap()),
            other => panic!("action {other}"),
        }
    }

    #[track_caller]
    fn passes(&self, packet: &[u8]) {
        let to = if packet[26..30] == OWN { self.peer.endpoint.ifindex } else { self.own.endpoint.ifindex };
        assert_eq!(self.from(packet), Ok(to));
    }

    fn flows(&self) -> Vec<(FlowKey, Flow)> {
        let map = MapData::from_pin(self.world.datapath().pin_dir().join("CC_FLOWS")).unwrap();
        let flows: HashMap<_, FlowKey, Flow> = Map::HashMap(map).try_into().unwrap();
        flows.iter().map(Result::unwrap).collect()
    }

    /// Makes every flow as old as if nobody had used it for so long.
    fn age(&self, seconds: u64) {
        let map = MapData::from_pin(self.world.datapath().pin_dir().join("CC_FLOWS")).unwrap();
        let mut flows: HashMap<_, FlowKey, Flow> = Map::HashMap(map).try_into().unwrap();
        for (key, flow) in self.flows() {
            let last_seen_ns = flow.last_seen_ns.saturating_sub(seconds * 1_000_000_000);
            flows.insert(key, Flow { last_seen_ns, ..flow }, 0).unwrap();
        }
    }

    fn quota(&self, endpoint: u32) -> Quota {
        let map = MapData::from_pin(self.world.datapath().pin_dir().join("CC_QUOTAS")).unwrap();
        let quotas: aya::maps::Array<_, Quota> = Map::Array(map).try_into().unwrap();
        quotas.get(&endpoint, 0).unwrap()
    }

    fn handshake(&self) {
        self.passes(&tcp(CLIENT, SERVER, SYN, 100, 0));
        self.passes(&tcp(SERVER, CLIENT, SYN | ACK, 500, 101));
        self.passes(&tcp(CLIENT, SERVER, ACK, 101, 501));
    }
}

#[test]
fn an_answer_needs_no_rule_and_a_question_does() {
    let scene = Scene::new();
    assert_eq!(scene.from(&udp_ports(SERVER, CLIENT)), Err(DropReason::FirewallIngress), "OWN lets nobody in");
    scene.passes(&udp_ports(CLIENT, SERVER));
    scene.passes(&udp_ports(SERVER, CLIENT));
    assert_eq!(scene.from(&udp_ports(SERVER, (OWN, 40_001))), Err(DropReason::FirewallIngress), "another port");
    let flows = scene.flows();
    assert_eq!(flows.len(), 1, "one entry serves both directions: {flows:?}");
    let (_, flow) = flows[0];
    assert_eq!((flow.packets, flow.allowed_by.iter().max()), ([1, 1], Some(&100)));
}

#[test]
fn a_revoked_rule_ends_what_lived_by_it_and_nothing_else() {
    let scene = Scene::new();
    scene.handshake();
    scene.passes(&udp_ports(CLIENT, (PEER, 53)));
    // Rules that still allow it: the conversation goes on in both directions, also where the answer comes first.
    scene.allow_into_peer(101);
    scene.passes(&tcp(SERVER, CLIENT, ACK, 501, 101));
    scene.passes(&tcp(CLIENT, SERVER, ACK, 101, 501));
    scene.load(7, &default_rules(7));
    scene.passes(&tcp(SERVER, CLIENT, ACK, 501, 101));
    let of_tcp = |flows: Vec<(FlowKey, Flow)>| flows.into_iter().find(|(key, _)| key.protocol == 6).unwrap().1;
    assert!(of_tcp(scene.flows()).allowed_by.contains(&101), "it is known by which rule it lives now");
    // UDP only: TCP ends, from either side, and UDP goes on.
    let mut udp_only = default_rules(8);
    let entry = RuleEntry { rule: 102, priority: 10, action: ACTION_ALLOW, log: 0 };
    let (class, direction) = (CLASS_ANY_V4, Direction::Ingress);
    udp_only.rows.push(RuleRow { class, direction, protocol: PROTOCOL_CLASS_UDP, port: 0, port_bits: 0, entry });
    scene.load(8, &udp_only);
    assert_eq!(scene.from(&tcp(SERVER, CLIENT, ACK, 501, 101)), Err(DropReason::FirewallIngress));
    assert_eq!(scene.from(&tcp(CLIENT, SERVER, ACK, 101, 501)), Err(DropReason::FirewallIngress));
    scene.passes(&udp_ports((PEER, 53), CLIENT));
    scene.passes(&udp_ports(CLIENT, (PEER, 53)));
    assert_eq!(scene.flows().len(), 1);
    assert_eq!(scene.quota(0).flows, 1, "what ended is off the books");
}

#[test]
fn a_denial_before_an_allowance() {
    let scene = Scene::new();
    let mut rules = default_rules(8);
    for (rule, action, port, port_bits) in [(1, ACTION_ALLOW, 0, 0), (2, ACTION_DENY, 53, 16)] {
        let entry = RuleEntry { rule, priority: 10, action, log: 0 };
        let (class, direction) = (CLASS_ANY_V4, Direction::Ingress);
        rules.rows.push(RuleRow { class, direction, protocol: PROTOCOL_CLASS_UDP, port, port_bits, entry });
    }
    scene.load(8, &rules);
    scene.passes(&udp_ports(CLIENT, (PEER, 54)));
    assert_eq!(scene.from(&udp_ports(CLIENT, (PEER, 53))), Err(DropReason::FirewallIngress));
    scene.world.datapath().unload_rules(7).unwrap();
    assert_eq!(scene.from(&udp_ports(CLIENT, (PEER, 54))), Err(DropReason::FirewallEgress), "no rules deny everything");
}

#[test]
fn only_a_reset_within_the_window_ends_a_connection() {
    let scene = Scene::new();
    scene.handshake();
    assert_eq!(scene.from(&tcp(SERVER, CLIENT, RST, 9_000_000, 0)), Err(DropReason::TcpReset), "a blind guess");
    scene.passes(&tcp(CLIENT, SERVER, ACK, 101, 501));
    scene.passes(&tcp(SERVER, CLIENT, RST, 501, 0));
    // Over: the same ports begin anew, from either end that may.
    scene.passes(&tcp(CLIENT, SERVER, SYN, 7_000, 0));
    scene.passes(&tcp(SERVER, CLIENT, SYN | ACK, 1, 7_001));
    assert_eq!(scene.flows().len(), 1);
    assert_eq!(scene.quota(0).flows, 1);
}

#[test]
fn a_connection_that_is_over_may_not_be_begun_by_whom_no_rule_allows() {
    let scene = Scene::new();
    scene.handshake();
    scene.passes(&tcp(CLIENT, SERVER, FIN | ACK, 101, 501));
    scene.passes(&tcp(SERVER, CLIENT, FIN | ACK, 501, 102));
    scene.passes(&tcp(CLIENT, SERVER, ACK, 102, 502));
    assert_eq!(scene.from(&tcp(SERVER, CLIENT, SYN, 9, 0)), Err(DropReason::FirewallIngress));
}

#[test]
fn the_sweep_forgets_what_has_had_its_time_and_nothing_that_lives() {
    let scene = Scene::new();
    scene.handshake();
    scene.passes(&udp_ports(CLIENT, (PEER, 53)));
    let sweep = || scene.world.datapath().sweep_flows().unwrap().forgotten;
    assert_eq!((sweep(), sweep(), scene.flows().len()), (0, 0, 2), "everything is fresh");
    assert_eq!((scene.quota(0).flows, scene.quota(0).half_open), (2, 1), "nobody has answered the datagram");
    scene.age(31);
    assert_eq!(sweep(), 0, "the first sweep only marks");
    assert_eq!(sweep(), 1, "an unanswered datagram's flow goes after 30 s");
    assert_eq!((scene.flows().len(), scene.quota(0).flows, scene.quota(0).half_open), (1, 1, 0));
    scene.age(61);
    assert_eq!(sweep(), 0);
    scene.passes(&tcp(SERVER, CLIENT, ACK, 501, 101));
    assert_eq!((sweep(), sweep(), scene.flows().len()), (0, 0, 1), "a packet in between revives it");
    scene.age(61);
    assert_eq!((sweep(), sweep(), scene.flows().len()), (0, 1, 0));
    assert_eq!(scene.quota(0), Quota::default());
}

#[test]
fn a_flood_costs_its_sender_alone() {
    let mut scene = Scene::new();
    scene.world.network(2);
    let (quiet, _) = (scene.world.container(2, 2, 2), scene.world.container(3, 2, 3));
    scene.handshake();
    let half_open_max = cc_common::limits::HALF_OPEN_PER_ENDPOINT;
    let flood: Vec<u32> = (0..half_open_max + 50)
        .filter(|n| {
            let port = (10_000 + n / 200) as u16;
            let target = (PEER, (1000 + n % 200) as u16);
            matches!(scene.from(&tcp((OWN, port), target, SYN, 1, 0)), Err(DropReason::HalfOpenQuota))
        })
        .collect();
    assert_eq!(flood.len(), 50, "the quota is exact");
    scene.passes(&tcp(SERVER, CLIENT, ACK, 501, 101));
    scene.passes(&tcp(CLIENT, SERVER, ACK, 101, 501));
    // The neighbour with the same address in another network notices nothing.
    let outcome =
        run(&scene.world, PROGRAM_FROM_ENDPOINT, quiet.endpoint.ifindex, 0, &with_mac(quiet.endpoint.mac)).unwrap();
    assert_eq!(outcome.action, TC_REDIRECT);
    let counters = scene.world.datapath().counters(0).unwrap();
    let drop = counters.drops.iter().find(|drop| drop.reason == "half_open_quota").unwrap();
    assert_eq!((drop.direction, drop.packets), ("egress", 50), "and it is counted");
}

fn with_mac(mac: [u8; 6]) -> Vec<u8> {
    let mut packet = udp_ports(CLIENT, SERVER);
    packet[6..12].copy_from_slice(&mac);
    packet
}

#[test]
fn an_endpoint_that_goes_takes_its_flows_and_its_share_along() {
    let scene = Scene::new();
    for port in 0..100 {
        scene.passes(&udp_ports((OWN, 20_000 + port), SERVER));
    }
    let pool = cc_common::limits::ENDPOINTS_MAX;
    assert_eq!((scene.quota(0).flows, scene.quota(pool).flows), (100, 36), "beyond 64 they are the pool's");
    scene.world.datapath().detach(0).unwrap();
    assert_eq!((scene.quota(0), scene.quota(pool).flows), (Quota::default(), 0));
    let sweep = || scene.world.datapath().sweep_flows().unwrap().forgotten;
    assert_eq!((sweep(), sweep(), scene.flows().len()), (0, 100, 0), "orphans go at once");
    assert_eq!((scene.quota(0), scene.quota(pool).flows), (Quota::default(), 0), "and are on nobody's books");
}

#[test]
fn nothing_reaches_a_silenced_endpoint_by_a_flow_that_was_there() {
    let scene = Scene::new();
    scene.handshake();
    scene.world.datapath().silence(1).unwrap();
    assert_eq!(scene.from(&tcp(CLIENT, SERVER, ACK, 101, 501)), Err(DropReason::NoRoute));
    assert_eq!(scene.from(&tcp(SERVER, CLIENT, ACK, 501, 101)), Err(DropReason::UnknownPort));
    assert_eq!(scene.flows().len(), 0, "and it is forgotten");
    // Whatever was silenced can still be taken apart.
    scene.world.datapath().detach(1).unwrap();
    assert_eq!(scene.world.pinned_links().len(), 2);
}

#[test]
fn fragments_follow_their_first() {
    let scene = Scene::new();
    let fragment = |offset_and_flag: u16, id: u16| {
        let mut packet = udp_ports(CLIENT, SERVER);
        packet[18..20].copy_from_slice(&id.to_be_bytes());
        packet[20..22].copy_from_slice(&offset_and_flag.to_be_bytes());
        packet
    };
    let mut rules = default_rules(8);
    let entry = RuleEntry { rule: 5, priority: 10, action: ACTION_ALLOW, log: 0 };
    let (class, direction) = (CLASS_ANY_V4, Direction::Ingress);
    rules.rows.push(RuleRow { class, direction, protocol: PROTOCOL_CLASS_UDP, port: 80, port_bits: 16, entry });
    scene.load(8, &rules);
    assert_eq!(scene.from(&fragment(0x0003, 7)), Err(DropReason::FragmentUnknown), "no port is known, none is allowed");
    scene.passes(&fragment(0x2000, 1));
    scene.passes(&fragment(0x0003, 1));
    assert_eq!(scene.from(&fragment(0x0003, 2)), Err(DropReason::FragmentUnknown), "another packet's");
    assert_eq!(scene.flows().len(), 1);
    // Where some port is open, a later fragment may come first: without its first it is nothing.
    let some = RuleRow { protocol: PROTOCOL_CLASS_UDP | 0x80, port: 0, port_bits: 0, ..*rules.rows.last().unwrap() };
    rules.rows.push(some);
    scene.load(8, &rules);
    scene.passes(&fragment(0x0003, 3));
    assert_eq!(scene.flows().len(), 1, "and no flow is made of it");
}

#[test]
fn an_icmp_error_passes_if_it_is_about_a_flow() {
    let scene = Scene::new();
    let about = |packet: &[u8]| {
        let quoted = &packet[14..14 + 28];
        let mut error = udp_ports(SERVER, CLIENT)[..14].to_vec();
        error.extend(datapath_support::packets::ipv4_header(5, 56, PEER, OWN, 1));
        error.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        error.extend(quoted);
        error
    };
    let sent = udp_ports(CLIENT, SERVER);
    assert_eq!(scene.from(&about(&sent)), Err(DropReason::IcmpUnrelated), "nothing was sent yet");
    scene.passes(&sent);
    scene.passes(&about(&sent));
    assert_eq!(scene.from(&about(&udp_ports((OWN, 40_009), SERVER))), Err(DropReason::IcmpUnrelated));
    let mut truncated = about(&sent);
    truncated.truncate(14 + 20 + 8 + 20 + 4);
    truncated[16..18].copy_from_slice(&52u16.to_be_bytes());
    assert_eq!(scene.from(&truncated), Err(DropReason::Truncated));
}
