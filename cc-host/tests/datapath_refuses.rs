//! Tables that the daemon fills, full: what asks for one row more is refused whole, with an error that says what is full and what to do,
//! and what was there before is still in force. At their real sizes. Each row of docs/maps.md names its test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuHashMap, PerCpuValues};
use cc_common::api::fault::Fault;
use cc_common::counters::{Counters, SocketKey};
use cc_common::firewall::{
    ACTION_ALLOW, Be32Hash, CLASS_ANY_V4, PROTOCOL_CLASS_UDP, Prefix4Key, PrefixEntry, RuleEntry, RuleKey,
    class_of_groups,
};
use cc_common::guard::Guard;
use cc_common::limits::{
    ENDPOINTS_MAX, FORWARDS_MAX, PORTS_MAX, PREFIXES_MAX, ROUTES_MAX, RULE_SETS_MAX, RULES_MAX, SOCKETS_MAX,
    UPLINKS_MAX, VNI_MAX,
};
use cc_common::names::{LINK_UPLINK, PROGRAM_FROM_ENDPOINT, PROGRAM_FROM_UPLINK};
use cc_common::net::{Be32, Ip};
use cc_common::port::{Port, PortKey};
use cc_common::route::{HOST_PREFIX_BITS, Route, RouteKey};
use cc_common::verdict::{Direction, DropReason};
use cc_host::datapath::{
    CompiledPrefixes, CompiledRules, DatapathError, Door, Endpoint, NatPorts, Network, PortProtocol, PrefixTable,
    Published, Range, RuleRow,
};
use datapath_support::outside::{HOST, Outside, network, sh};
use datapath_support::packets::{OWN, PEER, TC_REDIRECT, TC_SHOT, TC_UNSPEC, run, tcp, udp_ports};
use datapath_support::{Container, GATEWAY, World, default_rules};

const CLIENT: ([u8; 4], u16) = (OWN, 40_000);
const SERVER: ([u8; 4], u16) = (PEER, 80);
const SYN: u8 = 2;
/// A table's number, and an address.
const PREFIX4_BITS: u32 = 64;

/// OWN and PEER in a network, each in a group of its own; PEER lets in what `rules` say.
struct Scene {
    world: World,
    own: Container,
    _peer: Container,
}

impl Scene {
    fn new() -> Scene {
        let mut world = World::new();
        network(&world, 1, true);
        let (own, peer) = (world.container_in_group(0, 1, 2, 7), world.container_in_group(1, 1, 3, 8));
        Scene { world, own, _peer: peer }
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.world.datapath().pin_dir().join(name)).unwrap()
    }

    /// The table of prefixes whose sources the guard denies.
    fn guard_table(&self) -> u32 {
        let guard: Array<_, Guard> = Map::Array(self.map("CC_GUARD")).try_into().unwrap();
        guard.get(&0, 0).unwrap().table
    }

    fn has_prefix(&self, table: u32, address: [u8; 4]) -> bool {
        let prefixes: LpmTrie<_, Prefix4Key, PrefixEntry> = Map::LpmTrie(self.map("CC_PREFIX4")).try_into().unwrap();
        let table = Be32Hash(table.to_be_bytes());
        prefixes.get(&Key::new(PREFIX4_BITS, Prefix4Key { table, address }), 0).is_ok()
    }

    /// What becomes of a packet of OWN's.
    fn send(&self, packet: &[u8]) -> Result<(), DropReason> {
        let outcome = run(&self.world, PROGRAM_FROM_ENDPOINT, self.own.endpoint.ifindex, 0, packet).unwrap();
        match outcome.action {
            TC_REDIRECT => Ok(()),
            TC_SHOT => Err(DropReason::from_number(outcome.reason as u16).unwrap()),
            other => panic!("action {other}"),
        }
    }

    /// An endpoint that is not attached yet, in a network of its own.
    fn third(&self) -> (Endpoint, OwnedFd) {
        let mac = [2, 0, 0, 0, 1, 4];
        let (ifindex, netns) = self.world.veth(2, mac);
        (Endpoint { id: 2, ifindex, mac, ipv4: Ipv4Addr::new(10, 0, 0, 4), ipv6: None, ..self.own.endpoint }, netns)
    }

    /// Attaching it is refused for want of a row of `name`, and nothing of it is left.
    fn refuses(&self, third: &Endpoint, name: &str) {
        let (links, cgroup) = (self.world.pinned_links(), &self.own.cgroup.parent().unwrap().to_owned());
        let refused = self.world.datapath().attach(third, "00000000000000a2", cgroup).unwrap_err();
        assert!(matches!(&refused, DatapathError::Full { name: full, .. } if *full == name), "{refused:?}");
        assert_is_told(refused, "datapath.full", name);
        assert_eq!(self.world.pinned_links(), links);
        assert_eq!(self.world.datapath().endpoint_entry(2).unwrap(), Default::default());
        let to = tcp(CLIENT, (third.ipv4.octets(), 80), SYN, 1, 0);
        assert_eq!(self.send(&to), Err(DropReason::NoRoute), "nothing leads to it");
        let from = run(&self.world, PROGRAM_FROM_ENDPOINT, third.ifindex, 0, &to).unwrap();
        assert_eq!(from.reason, DropReason::UnknownPort as u32, "and nothing comes from it");
    }

    /// As a daemon does when it has room again.
    fn accepts(&self, third: &Endpoint) {
        // Its interface has our queue by now.
        sh(&format!("tc qdisc del dev cct{} clsact 2>/dev/null || true", third.id));
        let cgroup = self.own.cgroup.parent().unwrap().to_owned();
        self.world.datapath().attach(third, "00000000000000a2", &cgroup).unwrap();
    }
}

/// What a person is told of it.
fn assert_is_told(error: DatapathError, code: &str, word: &str) {
    let fault = Fault::from(error);
    assert_eq!(fault.code, code);
    assert!(fault.why.contains(word), "{}", fault.why);
    assert!(!fault.next.is_empty(), "it says what to do");
}

fn allow_udp(rule: u32, port: u16) -> RuleRow {
    let entry = RuleEntry { rule, priority: 10, action: ACTION_ALLOW, log: 0 };
    let (class, direction) = (CLASS_ANY_V4, Direction::Ingress);
    RuleRow { class, direction, protocol: PROTOCOL_CLASS_UDP, port, port_bits: 16, entry }
}

#[test]
fn an_endpoint_without_a_port_is_not_attached() {
    let scene = Scene::new();
    let (third, _netns) = scene.third();
    let mut ports: HashMap<_, PortKey, Port> = Map::HashMap(scene.map("CC_PORTS")).try_into().unwrap();
    let nobodys = ports.get(&PortKey { ifindex: scene.own.endpoint.ifindex }, 0).unwrap();
    let (first, rows) = (1 << 30, PORTS_MAX - 2);
    for ifindex in first..first + rows {
        ports.insert(PortKey { ifindex }, Port { endpoint: ENDPOINTS_MAX - 1, ..nobodys }, 0).unwrap();
    }
    scene.refuses(&third, "CC_PORTS");
    assert_eq!(scene.send(&udp_ports(CLIENT, SERVER)), Err(DropReason::FirewallIngress), "others go on");
    ports.remove(&PortKey { ifindex: first }).unwrap();
    scene.accepts(&third);
}

#[test]
fn an_endpoint_whose_sockets_nobody_could_count_is_not_attached() {
    let scene = Scene::new();
    let (third, _netns) = scene.third();
    let mut sockets: PerCpuHashMap<_, SocketKey, Counters> =
        Map::PerCpuHashMap(scene.map("CC_SOCKETS")).try_into().unwrap();
    let nothing = || PerCpuValues::try_from(vec![Counters::default(); aya::util::nr_cpus().unwrap()]).unwrap();
    let key = |n: u32| SocketKey { cgroup: u64::MAX - u64::from(n) };
    for n in 0..SOCKETS_MAX - 2 {
        sockets.insert(key(n), nothing(), 0).unwrap();
    }
    scene.refuses(&third, "CC_SOCKETS");
    sockets.remove(&key(0)).unwrap();
    scene.accepts(&third);
}

#[test]
fn a_network_or_endpoint_without_a_route_is_refused() {
    let scene = Scene::new();
    let (third, _netns) = scene.third();
    let mut routes: LpmTrie<_, RouteKey, Route> = Map::LpmTrie(scene.map("CC_ROUTES")).try_into().unwrap();
    let key = |n: u32| Key::new(HOST_PREFIX_BITS, RouteKey::new(VNI_MAX, Ip::v4(Be32::new(n))));
    let mut rows = routes.keys().count() as u32;
    let first = rows;
    while routes.insert(&key(rows), Route::nobody(), 0).is_ok() {
        rows += 1;
    }
    assert_eq!(rows, ROUTES_MAX);
    scene.refuses(&third, "CC_ROUTES");
    let ipv4 = Range { network: Ipv4Addr::new(10, 0, 0, 0), prefix_len: 24, gateway: GATEWAY };
    let network = Network { vni: 2, ipv4, ipv6: None, internet: true, resolver: None };
    let refused = scene.world.datapath().add_network(&network).unwrap_err();
    assert_is_told(refused, "datapath.full", "CC_ROUTES");
    assert_eq!(scene.send(&udp_ports(CLIENT, SERVER)), Err(DropReason::FirewallIngress), "others go on");
    routes.remove(&key(first)).unwrap();
    scene.accepts(&third);
}

#[test]
fn an_endpoint_beyond_the_last_is_refused() {
    let scene = Scene::new();
    let (third, _netns) = scene.third();
    let attach =
        |id: u32| scene.world.datapath().attach(&Endpoint { id, ..third }, "00000000000000a2", &scene.own.cgroup);
    let beyond = attach(ENDPOINTS_MAX).unwrap_err();
    assert!(matches!(beyond, DatapathError::EndpointOutOfRange { .. }), "{beyond:?}");
    assert_is_told(beyond, "datapath.endpoints", &ENDPOINTS_MAX.to_string());
    let taken = attach(0).unwrap_err();
    assert!(matches!(taken, DatapathError::EndpointInUse { id: 0 }), "{taken:?}");
    assert_eq!(scene.send(&udp_ports(CLIENT, SERVER)), Err(DropReason::FirewallIngress), "whoever has it keeps it");
}

#[test]
fn rules_that_have_no_room_are_refused_whole_and_the_old_ones_stay() {
    let scene = Scene::new();
    let datapath = scene.world.datapath();
    let mut rules = default_rules(8);
    rules.rows.push(allow_udp(100, 80));
    datapath.load_rules(8, &rules, PrefixTable::EMPTY).unwrap();
    scene.send(&udp_ports(CLIENT, SERVER)).unwrap();
    let before = {
        let rules: LpmTrie<_, RuleKey, RuleEntry> = Map::LpmTrie(scene.map("CC_RULES")).try_into().unwrap();
        move || rules.keys().count()
    };
    let rows = before();
    // Rows that would open everything: none of them may count.
    let classes = [CLASS_ANY_V4].into_iter().chain((0..RULES_MAX / 65_536).map(class_of_groups));
    let of = |class| (0..=u16::MAX).map(move |port| RuleRow { class, ..allow_udp(200, port) });
    let too_many: Vec<RuleRow> = classes.flat_map(of).collect();
    let compiled = CompiledRules { rows: too_many, ..rules.clone() };
    let refused = datapath.load_rules(8, &compiled, PrefixTable::EMPTY).unwrap_err();
    assert_is_told(refused, "datapath.rules", "CC_RULES");
    scene.send(&udp_ports((OWN, 40_001), SERVER)).unwrap();
    assert_eq!(scene.send(&udp_ports((OWN, 40_001), (PEER, 81))), Err(DropReason::FirewallIngress));
    assert_eq!(before(), rows, "nothing of it is left");
    for number in [0, RULE_SETS_MAX] {
        let refused = datapath.load_rules(number, &rules, PrefixTable::EMPTY).unwrap_err();
        assert!(matches!(refused, DatapathError::RuleSetOutOfRange { .. }), "{refused:?}");
    }
}

#[test]
fn prefixes_that_have_no_room_are_refused_whole_and_the_old_ones_stay() {
    let scene = Scene::new();
    let datapath = scene.world.datapath();
    let entry = PrefixEntry { inside: 5, outside: 5 };
    let one = |address: [u8; 4]| CompiledPrefixes { v4: vec![(address, 32, entry)], v6: Vec::new() };
    datapath.load_guard(&one(PEER)).unwrap();
    datapath.load_prefixes(&one(OWN)).unwrap();
    // The first table's number, and the one after it.
    let guarded = scene.guard_table();
    let are_there = || scene.has_prefix(guarded, PEER) && scene.has_prefix(guarded + 1, OWN);
    assert!(are_there());
    let many = PREFIXES_MAX - 2;
    let full = CompiledPrefixes {
        v4: (0..many).map(|n| ((n << 8).to_be_bytes(), 24, entry)).collect(),
        v6: (0..many).map(|n| ((u128::from(n) << 64).to_be_bytes(), 64, entry)).collect(),
    };
    let filler = datapath.load_prefixes(&CompiledPrefixes { v6: Vec::new(), ..full.clone() }).unwrap();
    for refused in [datapath.load_prefixes(&one(PEER)).unwrap_err(), datapath.load_guard(&one(OWN)).unwrap_err()] {
        assert_is_told(refused, "datapath.rules", "CC_PREFIX4");
    }
    assert_eq!(scene.guard_table(), guarded, "the guard's list is the old one");
    assert!(are_there(), "and all of the old ones are there");
    datapath.unload_prefixes(filler);
    datapath.load_guard(&one(OWN)).unwrap();
    assert_ne!(scene.guard_table(), guarded);
    // The other family's table is another.
    let filler = datapath.load_prefixes(&CompiledPrefixes { v4: Vec::new(), ..full }).unwrap();
    let v6 = CompiledPrefixes { v4: one(OWN).v4, v6: (0..3).map(|n| ([n; 16], 128, entry)).collect() };
    assert_is_told(datapath.load_prefixes(&v6).unwrap_err(), "datapath.rules", "CC_PREFIX6");
    datapath.unload_prefixes(filler);
    datapath.load_prefixes(&v6).unwrap();
}

#[test]
fn ports_that_have_no_room_are_not_published_and_the_old_ones_stay() {
    let scene = Scene::new();
    let outside = Outside::of(&scene.world, NatPorts::within(61_056, 65_535).unwrap());
    let datapath = scene.world.datapath();
    let at = |address: IpAddr, port| Published {
        address,
        port,
        protocol: PortProtocol::Tcp,
        endpoint: 0,
        to_port: 80,
        door: Door::Everybody,
    };
    datapath.set_published(&[HOST.into()], &[at(HOST.into(), 8080)]).unwrap();
    let enters = |port: u16| {
        let packet = tcp(([203, 0, 113, 5], port), (HOST.octets(), port), SYN, 1, 0);
        run(&scene.world, PROGRAM_FROM_UPLINK, outside.uplink, 0, &packet).unwrap().action
    };
    assert_eq!(enters(8080), TC_REDIRECT);
    // The host's own address takes a row, too.
    let other = IpAddr::from([192, 0, 2, 2]);
    let many: Vec<_> = (0..=u16::MAX).map(|port| at(if port == 0 { other } else { HOST.into() }, port)).collect();
    let refused = datapath.set_published(&[HOST.into()], &many).unwrap_err();
    assert!(matches!(refused, DatapathError::TooManyPublished { count } if count == FORWARDS_MAX as usize + 1));
    assert_is_told(refused, "datapath.published", &FORWARDS_MAX.to_string());
    assert_eq!((enters(8080), enters(8081)), (TC_REDIRECT, TC_UNSPEC), "all of them, or none");
    datapath.set_published(&[HOST.into()], &many[1..]).unwrap();
    assert_eq!((enters(8080), enters(8081)), (TC_REDIRECT, TC_REDIRECT));
}

#[test]
fn an_interface_too_many_does_not_lead_out_and_the_others_do() {
    let scene = Scene::new();
    sh("for n in $(seq 0 2 64); do ip link add many$n type veth peer name many$((n + 1)); done");
    let ifindex = |n: u32| nix::net::if_::if_nametoindex(format!("many{n}").as_str()).unwrap();
    let mut all: Vec<u32> = (0..=UPLINKS_MAX).map(ifindex).collect();
    all.sort_unstable();
    let (first, last) = all.split_at(UPLINKS_MAX as usize);
    let datapath = scene.world.datapath();
    let refused = datapath.set_uplinks(&all).unwrap_err();
    assert!(matches!(refused, DatapathError::TooManyUplinks { ifindex } if ifindex == last[0]), "{refused:?}");
    assert_is_told(refused, "datapath.uplinks", &UPLINKS_MAX.to_string());
    let used = || {
        let mut used = datapath.uplinks().unwrap();
        used.sort_unstable();
        let links: Vec<_> =
            scene.world.pinned_links().into_iter().filter(|name| name.starts_with(LINK_UPLINK)).collect();
        assert_eq!(links.len(), used.len(), "a program is where its row is: {links:?}");
        used
    };
    assert_eq!(used(), first);
    // One goes, and the last one comes in its place.
    datapath.set_uplinks(&all[1..]).unwrap();
    assert_eq!(used(), all[1..]);
}
