//! A dry run says what the programs would do with a packet, and leaves everything as it was: compared with the programs that packets run,
//! over random rules and packets, on the same maps.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap};
use cc_common::counters::{Counters, DropCount, DropKey};
use cc_common::firewall::{
    ACTION_ALLOW, ACTION_DENY, CLASS_ANY_V4, CLASS_ANY_V6, PROTOCOL_CLASS_SOME, RuleEntry, class_of_groups,
};
use cc_common::flow::{Flow, FlowKey, NatEntry, VNI_OUTSIDE};
use cc_common::fragment::{FragmentEntry, FragmentKey};
use cc_common::limits::ENDPOINTS_MAX;
use cc_common::names::{PROGRAM_FROM_ENDPOINT, PROGRAM_FROM_UPLINK};
use cc_common::nat::Block;
use cc_common::net::GATEWAY_MAC;
use cc_common::quota::Quota;
use cc_common::rate::Rate;
use cc_common::trace::{JUDGED_ALLOWED, JUDGED_ASKED, SEEN_FLOW, SEEN_OPENED, SEEN_TRANSLATED, STANDING_HOLDS};
use cc_common::verdict::{Direction, DropReason};
use cc_host::datapath::{
    CompiledRules, Door, DryRun, Entrance, Fate, Host, NatPorts, Network, PortProtocol, PrefixTable, Published, Range,
    RuleRow,
};
use datapath_support::packets::run;
use datapath_support::{Container, GATEWAY, NETWORK_V6, World, address_v6, default_rules};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const CASES: u32 = 1200;
/// In a rule, behind the classes of protocols: all of them.
const ANY: u8 = 5;
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);

/// Two containers of one network and one of another, a way out, and a published port.
struct Scene {
    world: World,
    containers: [Container; 3],
    uplink: u32,
    _others: Vec<std::os::fd::OwnedFd>,
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Scene {
    fn new() -> Scene {
        let mut world = World::new();
        for vni in [1, 2] {
            let ipv4 = Range { network: Ipv4Addr::new(10, 0, 0, 0), prefix_len: 24, gateway: GATEWAY };
            let network = Network { vni, ipv4, ipv6: Some(NETWORK_V6), internet: vni == 1, resolver: None };
            world.datapath().add_network(&network).unwrap();
        }
        let containers = [
            world.container_in_group(0, 1, 2, 7),
            world.container_in_group(1, 1, 3, 8),
            world.container_in_group(2, 2, 9, 9),
        ];
        let (uplink, far) = world.veth(100, [2, 0, 0, 0, 9, 1]);
        let (host, peer) = world.veth(101, [2, 0, 0, 0, 9, 2]);
        sh(&format!(
            "for one in cct100 cct101; do echo 0 > /proc/sys/net/ipv6/conf/$one/disable_ipv6; ip link set $one up; done
             ip addr add {HOST}/24 dev cct100
             ip -6 addr add {HOST6}/64 dev cct100 nodad; ip addr add 100.64.0.1/16 dev cct101
             ip route add default via 192.0.2.254; ip -6 route add default via 2001:db8:1::fe dev cct100
             echo 1 > /proc/sys/net/ipv4/conf/cct101/forwarding; echo 1 > /proc/sys/net/ipv6/conf/cct101/forwarding"
        ));
        let datapath = world.datapath();
        let stand_ins = (IpAddr::from([100, 64, 0, 0]), Some("fd64::".parse().unwrap()));
        let nat_ports = NatPorts::within(61_056, 65_535).unwrap();
        datapath.set_host(&Host { ifindex: host, stand_ins, nat_ports }).unwrap();
        datapath.set_uplinks(&[uplink]).unwrap();
        let scene = Scene { world, containers, uplink, _others: vec![far, peer] };
        scene.publish(true);
        scene
    }

    fn publish(&self, published: bool) {
        let at = |address: IpAddr| Published {
            address,
            port: 8080,
            protocol: PortProtocol::Tcp,
            endpoint: 0,
            to_port: 80,
            door: Door::Everybody,
        };
        let all = [at(HOST.into()), at(HOST6.into())];
        self.world.datapath().set_published(if published { &all } else { &[] }).unwrap();
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.world.datapath().pin_dir().join(name)).unwrap()
    }

    fn nat(&self) -> HashMap<MapData, FlowKey, NatEntry> {
        Map::HashMap(self.map("CC_NAT")).try_into().unwrap()
    }

    fn flows(&self) -> HashMap<MapData, FlowKey, Flow> {
        Map::HashMap(self.map("CC_FLOWS")).try_into().unwrap()
    }

    /// As if no packet had ever been.
    fn forget(&self) {
        let (mut flows, mut nat) = (self.flows(), self.nat());
        for key in flows.keys().map(Result::unwrap).collect::<Vec<_>>() {
            flows.remove(&key).unwrap();
        }
        for key in nat.keys().map(Result::unwrap).collect::<Vec<_>>() {
            nat.remove(&key).unwrap();
        }
        let mut quotas: Array<_, Quota> = Map::Array(self.map("CC_QUOTAS")).try_into().unwrap();
        for id in [0, 1, 2, ENDPOINTS_MAX] {
            quotas.set(id, Quota::default(), 0).unwrap();
        }
    }

    /// Every word that programs write, as text by map and row; what is zero is left out.
    fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        let mut put = |map: &str, key: String, value: String| drop(state.insert(format!("{map} {key}"), value));
        for row in self.flows().iter().map(Result::unwrap) {
            put("flows", format!("{:?}", row.0), format!("{:?}", row.1));
        }
        for row in self.nat().iter().map(Result::unwrap) {
            put("nat", format!("{:?}", row.0), format!("{:?}", row.1));
        }
        let fragments: HashMap<_, FragmentKey, FragmentEntry> =
            Map::LruHashMap(self.map("CC_FRAGMENTS")).try_into().unwrap();
        for row in fragments.iter().map(Result::unwrap) {
            put("fragments", format!("{:?}", row.0), format!("{:?}", row.1));
        }
        let drops: PerCpuHashMap<_, DropKey, DropCount> = Map::PerCpuHashMap(self.map("CC_DROPS")).try_into().unwrap();
        for row in drops.iter().map(Result::unwrap) {
            put("drops", format!("{:?}", row.0), format!("{:?}", row.1.to_vec()));
        }
        let counters: PerCpuArray<_, Counters> = Map::PerCpuArray(self.map("CC_COUNTERS")).try_into().unwrap();
        let quotas: Array<_, Quota> = Map::Array(self.map("CC_QUOTAS")).try_into().unwrap();
        let rates: Array<_, Rate> = Map::Array(self.map("CC_RATES")).try_into().unwrap();
        for id in (0..8).chain([ENDPOINTS_MAX]) {
            put("quotas", id.to_string(), format!("{:?}", quotas.get(&id, 0).unwrap()));
        }
        for id in 0..8 {
            put("counters", id.to_string(), format!("{:?}", counters.get(&id, 0).unwrap().to_vec()));
            put("rates", id.to_string(), format!("{:?}", rates.get(&id, 0).unwrap()));
        }
        let blocks: Array<_, Block> = Map::Array(self.map("CC_BLOCKS")).try_into().unwrap();
        for (number, block) in blocks.iter().map(Result::unwrap).enumerate().filter(|(_, b)| *b != Block::default()) {
            put("blocks", number.to_string(), format!("{block:?}"));
        }
        state
    }

    fn dry(&self, from: From, frame: &[u8]) -> DryRun {
        let entrance = match from {
            From::Container(n) => Entrance::Endpoint(self.containers[n].endpoint.id),
            From::Outside => Entrance::Uplink,
        };
        self.world.datapath().dry_run(entrance, frame).unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// What the programs do that packets run, and where to.
    fn real(&self, from: From, frame: &[u8]) -> (Fate, u32) {
        let (program, ifindex) = match from {
            From::Container(n) => (PROGRAM_FROM_ENDPOINT, self.containers[n].endpoint.ifindex),
            From::Outside => (PROGRAM_FROM_UPLINK, self.uplink),
        };
        let outcome = run(&self.world, program, ifindex, 0, frame).unwrap();
        let reason = outcome.reason as u16;
        let fate = match outcome.verdict {
            1 => Fate::Passed,
            2 | 5 => Fate::Delivered,
            3 => Fate::Answered,
            4 => Fate::Dropped(DropReason::from_number(reason).ok_or(reason)),
            6 => Fate::Out,
            7 => Fate::Host,
            other => panic!("verdict {other}"),
        };
        (fate, outcome.target)
    }

    /// The interface that a dry run would have sent to.
    fn target(&self, said: &DryRun) -> Option<u32> {
        match said.fate {
            Fate::Delivered => Some(self.containers[said.trace.to as usize].endpoint.ifindex),
            Fate::Out | Fate::Host => Some(said.trace.to_ifindex),
            _ => None,
        }
    }

    fn load(&self, rules: &[Rule]) {
        for number in [7, 8] {
            let mut rows = Vec::new();
            for rule in rules.iter().filter(|rule| rule.of == number) {
                let of_one = rule.protocol..rule.protocol + 1;
                rows.extend((if rule.protocol == ANY { 0..ANY } else { of_one }).map(|protocol| {
                    let ports = if matches!(rule.protocol, 1 | 2) && !rule.some { rule.port } else { None };
                    RuleRow {
                        class: rule.class,
                        direction: rule.direction,
                        protocol: protocol | if rule.some { PROTOCOL_CLASS_SOME } else { 0 },
                        port: ports.unwrap_or(0),
                        port_bits: if ports.is_some() { 16 } else { 0 },
                        entry: rule.entry,
                    }
                }));
            }
            let compiled = CompiledRules { rows, names_prefixes: 0, names_groups: 3 };
            self.world.datapath().load_rules(number, &compiled, PrefixTable::EMPTY).unwrap();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    Container(usize),
    Outside,
}

#[derive(Debug, Clone)]
struct Rule {
    of: u32,
    class: u32,
    direction: Direction,
    protocol: u8,
    port: Option<u16>,
    some: bool,
    entry: RuleEntry,
}

#[derive(Debug, Clone)]
struct Packet {
    from: From,
    v6: bool,
    /// Indices of the addresses in `address`.
    source: Option<usize>,
    destination: usize,
    protocol: u8,
    ports: (u16, u16),
    flags: u8,
    ttl: u8,
    /// IPv4's word of flags and offset.
    fragment: u16,
    wrong_mac: bool,
    /// From outside, to whatever port a conversation has leased.
    answers: bool,
    length: usize,
}

#[derive(Debug, Clone)]
enum Step {
    Rules(Vec<Rule>),
    Published(bool),
    Packet(Packet),
}

fn address(v6: bool, n: usize) -> IpAddr {
    const LAST: [u8; 5] = [2, 3, 9, 77, 1];
    match (n, v6) {
        (0..5, false) => Ipv4Addr::new(10, 0, 0, LAST[n]).into(),
        (0..5, true) => address_v6(LAST[n]).into(),
        (5, false) => FAR.into(),
        (5, true) => FAR6.into(),
        (6, false) => HOST.into(),
        (6, true) => HOST6.into(),
        (7, false) => Ipv4Addr::LOCALHOST.into(),
        (7, true) => Ipv6Addr::LOCALHOST.into(),
        (_, false) => Ipv4Addr::new(224, 0, 0, 1).into(),
        (_, true) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![53, 80, 8080, 40_000])
}

fn rule() -> impl Strategy<Value = Rule> {
    let class = prop_oneof![
        3 => Just(CLASS_ANY_V4),
        1 => Just(CLASS_ANY_V6),
        1 => (7..10u32).prop_map(class_of_groups),
    ];
    let entry = (1..99u32, 1..4u16, prop::bool::weighted(0.8)).prop_map(|(rule, priority, allows)| RuleEntry {
        rule,
        priority,
        action: if allows { ACTION_ALLOW } else { ACTION_DENY },
        log: 0,
    });
    let direction = prop::sample::select(Direction::ALL.to_vec());
    let protocol = prop_oneof![0..ANY, Just(ANY)];
    (7..9u32, class, direction, protocol, prop::option::weighted(0.3, port()), prop::bool::weighted(0.1), entry)
        .prop_map(|(of, class, direction, protocol, port, some, entry)| Rule {
            of,
            class,
            direction,
            protocol,
            port,
            some,
            entry,
        })
}

fn packet() -> impl Strategy<Value = Packet> {
    let from = prop_oneof![
        4 => Just(From::Container(0)), 3 => Just(From::Container(1)), 1 => Just(From::Container(2)),
        3 => Just(From::Outside),
    ];
    let ends = (prop::option::weighted(0.05, 0..9usize), 0..9usize, (port(), port()));
    let protocol = prop_oneof![4 => Just(6u8), 3 => Just(17), 2 => Just(1), 1 => Just(47)];
    let flags = prop::sample::select(vec![2u8, 2, 2, 0x12, 0x10, 0x11, 4]);
    let ttl = prop_oneof![10 => Just(64u8), 1 => Just(1), 1 => Just(0)];
    let fragment = prop_oneof![10 => Just(0u16), 1 => Just(0x2000), 1 => Just(0x2010), 1 => Just(0x0010)];
    let odd = (prop::bool::weighted(0.03), prop::bool::weighted(0.3));
    let length = prop_oneof![5 => Just(12usize), 1 => Just(1480)];
    (from, prop::bool::weighted(0.3), ends, protocol, flags, ttl, fragment, odd, length).prop_map(
        |(from, v6, (source, destination, ports), protocol, flags, ttl, fragment, (wrong_mac, answers), length)| {
            Packet { from, v6, source, destination, protocol, ports, flags, ttl, fragment, wrong_mac, answers, length }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => packet().prop_map(Step::Packet),
        1 => prop::collection::vec(rule(), 0..12).prop_map(Step::Rules),
        1 => any::<bool>().prop_map(Step::Published),
    ]
}

impl Packet {
    fn frame(&self, scene: &Scene) -> Vec<u8> {
        let own = match self.from {
            From::Container(n) => n,
            From::Outside => 5,
        };
        let mut source = address(self.v6, self.source.unwrap_or(own));
        // From outside, to where anything is at all.
        let to = if self.from == From::Outside && self.destination < 5 { 6 } else { self.destination };
        let mut destination = address(self.v6, to);
        let (mut protocol, mut ports) = (self.protocol, self.ports);
        if self.from == From::Outside
            && self.answers
            && let Some((key, entry)) = scene.nat().iter().map(Result::unwrap).next()
        {
            assert_eq!(key.vni, VNI_OUTSIDE);
            let far = scene.flows().get(&entry.flow, 0).map_or(0, |flow| {
                let beyond = usize::from(entry.beyond);
                usize::from(key.addresses[0].octets != flow.outer_addresses[beyond].octets)
            });
            let address = |ip: cc_common::net::Ip| Ipv6Addr::from(ip.octets).to_canonical();
            (source, destination) = (address(key.addresses[far]), address(key.addresses[1 - far]));
            (protocol, ports) = (key.protocol, (key.ports[far].get(), key.ports[1 - far].get()));
        }
        let v6 = source.is_ipv6();
        let mac = match self.from {
            From::Container(n) if !self.wrong_mac => scene.containers[n].endpoint.mac,
            _ => [2, 9, 9, 9, 9, 9],
        };
        let mut payload = Vec::new();
        match protocol {
            6 => {
                payload.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
                payload.extend([0, 0, 0, 9, 0, 0, 0, 7, 0x50, self.flags, 0x10, 0, 0, 0, 0, 0]);
            }
            17 => payload.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes(), [0, 20], [0, 0]].concat()),
            1 | 58 => {
                let kind = if protocol == 58 || v6 { 128 } else { 8 };
                payload.extend([kind, 0, 0, 0]);
                payload.extend(ports.1.to_be_bytes());
                payload.extend([0, 1]);
            }
            _ => {}
        }
        payload.extend(std::iter::repeat_n(0xa5, self.length));
        let ethertype = if v6 { 0x86ddu16 } else { 0x0800 };
        let mut frame = [&GATEWAY_MAC.0[..], &mac, &ethertype.to_be_bytes()].concat();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x45, 0]);
                frame.extend((20 + payload.len() as u16).to_be_bytes());
                frame.extend([0, 7]);
                frame.extend(self.fragment.to_be_bytes());
                frame.extend([self.ttl, protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x60, 0, 0, 0]);
                frame.extend((payload.len() as u16).to_be_bytes());
                frame.extend([if protocol == 1 { 58 } else { protocol }, self.ttl]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => unreachable!("both are of one family"),
        }
        frame.extend(payload);
        frame
    }
}

fn tcp(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16), flags: u8) -> Packet {
    let index = |wanted: Ipv4Addr| (0..9).find(|&n| address(false, n) == IpAddr::from(wanted)).unwrap();
    let from = match index(source) {
        n @ 0..3 => From::Container(n),
        _ => From::Outside,
    };
    Packet {
        from,
        v6: false,
        source: None,
        destination: index(destination),
        protocol: 6,
        ports,
        flags,
        ttl: 64,
        fragment: 0,
        wrong_mac: false,
        answers: false,
        length: 12,
    }
}

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

#[test]
fn what_it_says_is_what_happens() {
    let scene = Scene::new();
    let rules = || prop::collection::vec(rule(), 0..12);
    let cases = (rules(), prop::collection::vec(step(), 1..8));
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let seen = std::cell::RefCell::new(BTreeMap::<String, u32>::new());
    let mut packets = 0;
    TestRunner::new(config)
        .run(&cases, |(rules, steps)| {
            scene.forget();
            scene.load(&rules);
            for step in steps {
                match step {
                    Step::Rules(rules) => scene.load(&rules),
                    Step::Published(published) => scene.publish(published),
                    Step::Packet(packet) => {
                        let frame = packet.frame(&scene);
                        let said = scene.dry(packet.from, &frame);
                        let again = scene.dry(packet.from, &frame);
                        prop_assert_eq!(said.fate, again.fate, "asking changes nothing");
                        let (fate, target) = scene.real(packet.from, &frame);
                        prop_assert_eq!(said.fate, fate, "{:?}", said.trace);
                        if let Some(wanted) = scene.target(&said) {
                            prop_assert_eq!(target, wanted, "{:?}", said.trace);
                        }
                        *seen.borrow_mut().entry(format!("{fate:?}")).or_default() += 1;
                    }
                }
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let seen = seen.into_inner();
    packets += seen.values().sum::<u32>();
    println!("{packets} packets: {seen:?}");
    assert!(packets > CASES, "{packets}");
    for fate in
        ["Delivered", "Out", "Answered", "Passed", "Dropped(Ok(FirewallEgress))", "Dropped(Ok(FirewallIngress))"]
    {
        assert!(seen.get(fate).is_some_and(|&times| times >= 10), "{fate} is hardly seen: {seen:?}");
    }
}

#[test]
fn nothing_changes_whatever_is_asked() {
    let scene = Scene::new();
    let open = |of| {
        let mut rules = default_rules(of);
        let entry = RuleEntry { rule: 100 + of, priority: 10, action: ACTION_ALLOW, log: 0 };
        let row = |protocol| RuleRow {
            class: CLASS_ANY_V4,
            direction: Direction::Ingress,
            protocol,
            port: 0,
            port_bits: 0,
            entry,
        };
        rules.rows.extend((0..5).map(row));
        scene.world.datapath().load_rules(of, &rules, PrefixTable::EMPTY).unwrap();
    };
    open(7);
    open(8);
    // Flows of every kind, a block of ports, counters and drops: then everything that there is to be asked about.
    let real = [
        tcp(OWN, PEER, (40_000, 80), 2),
        tcp(PEER, OWN, (80, 40_000), 0x12),
        tcp(OWN, FAR, (40_000, 443), 2),
        tcp(PEER, HOST, (40_000, 8080), 2),
        tcp(FAR, HOST, (40_000, 8080), 2),
        Packet { wrong_mac: true, ..tcp(OWN, PEER, (1, 2), 2) },
        Packet { fragment: 0x2000, ..tcp(OWN, PEER, (3, 4), 2) },
    ];
    for packet in &real {
        scene.real(packet.from, &packet.frame(&scene));
    }
    let before = scene.state();
    for (map, rows) in [("flows", 5), ("nat", 2), ("blocks", 1), ("drops", 1), ("fragments", 1)] {
        let found = before.keys().filter(|key| key.starts_with(map)).count();
        assert!(found >= rows, "{map} has {found} rows: {before:#?}");
    }
    let mut runner = TestRunner::deterministic();
    let others: Vec<Packet> = (0..500)
        .map(|_| {
            use proptest::strategy::ValueTree as _;
            packet().new_tree(&mut runner).unwrap().current()
        })
        .collect();
    for packet in real.iter().chain(&others) {
        scene.dry(packet.from, &packet.frame(&scene));
    }
    // A flow whose rules have changed would be judged again, and one that may not go on forgotten.
    open(7);
    scene.world.datapath().unload_rules(8).unwrap();
    scene.publish(false);
    for packet in real.iter().chain(&others) {
        scene.dry(packet.from, &packet.frame(&scene));
    }
    assert_eq!(scene.state(), before);
}

#[test]
fn steps_are_told() {
    let scene = Scene::new();
    let ask = |packet: Packet| scene.dry(packet.from, &packet.frame(&scene));
    let denied = ask(tcp(PEER, OWN, (40_000, 80), 2));
    assert_eq!(denied.fate, Fate::Dropped(Ok(DropReason::FirewallIngress)));
    let [egress, ingress] = denied.trace.judged;
    assert_eq!((egress.rule_set, egress.rule, egress.bits), (8, 1, JUDGED_ASKED | JUDGED_ALLOWED));
    assert_eq!((ingress.rule_set, ingress.groups, ingress.rule, ingress.bits), (7, 8, 0, JUDGED_ASKED));
    assert_eq!((denied.trace.refused_at, denied.trace.refused_direction), (0, Direction::Ingress as u32));
    let out = ask(tcp(OWN, FAR, (40_000, 443), 2));
    assert_eq!((out.fate, out.trace.to_ifindex), (Fate::Out, scene.uplink));
    assert_eq!(out.trace.seen & (SEEN_OPENED | SEEN_TRANSLATED | SEEN_FLOW), SEEN_OPENED | SEEN_TRANSLATED);
    assert_eq!(out.trace.out.source.octets, HOST.to_ipv6_mapped().octets());
    // Now it is there.
    let first = tcp(OWN, FAR, (40_000, 443), 2);
    scene.real(first.from, &first.frame(&scene));
    let goes_on = ask(tcp(OWN, FAR, (40_000, 443), 0x10));
    assert_eq!((goes_on.fate, goes_on.trace.standing), (Fate::Out, STANDING_HOLDS));
    assert_eq!(goes_on.trace.seen & (SEEN_OPENED | SEEN_FLOW), SEEN_FLOW);
    let entered = ask(tcp(FAR, HOST, (40_000, 8080), 2));
    assert_eq!((entered.fate, entered.trace.to, entered.trace.forward), (Fate::Delivered, 0, 0));
    assert_eq!((entered.trace.out.destination_port.get(), entered.trace.forward_port), (80, 80));
}
