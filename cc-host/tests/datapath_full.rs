//! Tables that packets fill, full: what becomes of the next packet, where it is counted, and that whoever was there before notices
//! nothing. At their real sizes. Each row of docs/maps.md names its test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use cc_common::counters::{DropCount, DropKey};
use cc_common::event::DropRecord;
use cc_common::flow::{Flow, FlowKey, NatEntry};
use cc_common::fragment::{FragmentEntry, FragmentPlace};
use cc_common::limits::{
    DROPS_MAX, ENDPOINT_UNKNOWN, ENDPOINTS_MAX, EVENTS_BYTES, FLOWS_GUARANTEED, FLOWS_MAX, FLOWS_POOL, FRAGMENTS_EACH,
    MEANT_MAX, NAT_BLOCK_PORTS, NAT_BLOCKS_MAX, NAT_MAX, NAT_SHARED_PER_ENDPOINT, NAT_TRIES_MAX, VNI_MAX,
};
use cc_common::names::PROGRAM_FROM_ENDPOINT;
use cc_common::nat::{Block, MeantKey};
use cc_common::net::{Be16, Be32, Ip};
use cc_common::quota::Quota;
use cc_common::rate::Rate;
use cc_common::settings::Settings;
use cc_common::verdict::DropReason;
use cc_host::datapath::{Endpoint, PortProtocol, Published};
use datapath_support::outside::{HOST, sh};
use datapath_support::packets::{OWN, PEER, STRANGER, tcp, udp, udp_ports, with_source_mac};
use datapath_support::scene::{SERVICE, Scene};

const SYN: u8 = 2;
const CLIENT: ([u8; 4], u16) = (OWN, 40_000);
const SERVER: ([u8; 4], u16) = (PEER, 80);
const FAR: [u8; 4] = [203, 0, 113, 5];
const SO_NETNS_COOKIE: libc::c_int = 71;

impl Scene {
    fn set_pool(&self, flows: u32) {
        let mut quotas: Array<_, Quota> = Map::Array(self.map("CC_QUOTAS")).try_into().unwrap();
        quotas.set(ENDPOINTS_MAX, Quota { flows: flows.into(), ..Quota::default() }, 0).unwrap();
    }

    /// Fills a table of conversations with those of a network that is nobody's; gives the last row that there was room for.
    fn fill<V: Pod>(&self, name: &str, value: impl Fn(&FlowKey) -> V) -> (HashMap<MapData, FlowKey, V>, FlowKey) {
        let mut table: HashMap<_, FlowKey, V> = Map::HashMap(self.map(name)).try_into().unwrap();
        let key = |n: u32| FlowKey {
            vni: VNI_MAX,
            addresses: [Ip::v4(Be32::new(n)), Ip::v4(Be32::new(n))],
            ports: [Be16::new(1); 2],
            protocol: 17,
            pad: [0; 3],
        };
        let mut rows = 0;
        while table.insert(key(rows), value(&key(rows)), 0).inspect_err(assert_full).is_ok() {
            rows += 1;
        }
        (table, key(rows - 1))
    }

    /// The flow of the first conversation that there is.
    fn any_flow(&self) -> Flow {
        let flows: HashMap<_, FlowKey, Flow> = Map::HashMap(self.map("CC_FLOWS")).try_into().unwrap();
        flows.iter().next().unwrap().unwrap().1
    }
}

fn assert_full(error: &MapError) {
    let MapError::SyscallError(error) = error else { panic!("{error}") };
    assert_eq!(error.io_error.raw_os_error(), Some(libc::E2BIG), "{error}");
}

#[test]
fn an_empty_pool_leaves_everybody_his_own_share() {
    let scene = Scene::new();
    scene.set_pool(FLOWS_POOL);
    for port in 0..FLOWS_GUARANTEED as u16 {
        scene.leaves(&udp_ports((OWN, 1000 + port), SERVER)).unwrap();
    }
    for n in 1..=3 {
        assert_eq!(scene.leaves(&udp_ports((OWN, 5000), SERVER)), Err(DropReason::FlowTableFull));
        assert_eq!(scene.drops(0, "egress", DropReason::FlowTableFull), n);
    }
    scene.leaves(&udp_ports((OWN, 1000), SERVER)).unwrap();
    // The neighbour's share is his, out of his network and into it.
    for port in 0..FLOWS_GUARANTEED as u16 / 2 {
        scene.leaves(&udp_ports((PEER, 1000 + port), (FAR, 53))).unwrap();
        scene.enters(&tcp((FAR, 1000 + port), (HOST.octets(), SERVICE), SYN, 1, 0)).unwrap();
    }
    assert_eq!(scene.enters(&tcp((FAR, 5000), (HOST.octets(), SERVICE), SYN, 1, 0)), Err(DropReason::FlowTableFull));
    assert_eq!(scene.drops(1, "ingress", DropReason::FlowTableFull), 1);
    assert_eq!((scene.quota(0).flows, scene.quota(1).flows), (FLOWS_GUARANTEED.into(), FLOWS_GUARANTEED.into()));
    assert_eq!(scene.quota(ENDPOINTS_MAX).flows, u64::from(FLOWS_POOL), "who was refused holds nothing");
    scene.set_pool(FLOWS_POOL - 1);
    scene.leaves(&udp_ports((OWN, 5000), SERVER)).unwrap();
}

#[test]
fn a_full_table_of_flows_refuses_the_next_and_no_other() {
    let scene = Scene::new();
    scene.leaves(&tcp(CLIENT, SERVER, SYN, 100, 0)).unwrap();
    let flow = scene.any_flow();
    let (mut table, last) = scene.fill("CC_FLOWS", |_| flow);
    assert_eq!(table.keys().count(), FLOWS_MAX as usize);
    let before = (scene.quota(0), scene.quota(ENDPOINTS_MAX));
    assert_eq!(scene.leaves(&tcp((OWN, 40_001), SERVER, SYN, 1, 0)), Err(DropReason::FlowTableFull));
    assert_eq!(scene.leaves(&udp_ports((OWN, 40_001), (FAR, 53))), Err(DropReason::FlowTableFull));
    assert_eq!(scene.drops(0, "egress", DropReason::FlowTableFull), 2);
    let enters = tcp((FAR, 40_001), (HOST.octets(), SERVICE), SYN, 1, 0);
    assert_eq!(scene.enters(&enters), Err(DropReason::FlowTableFull));
    assert_eq!(scene.drops(1, "ingress", DropReason::FlowTableFull), 1);
    assert_eq!((scene.quota(0), scene.quota(ENDPOINTS_MAX)), before, "who was refused holds nothing, no port either");
    let nat: HashMap<_, FlowKey, NatEntry> = Map::HashMap(scene.map("CC_NAT")).try_into().unwrap();
    assert_eq!(nat.keys().count(), 0, "nor is the outside told of it");
    scene.leaves(&tcp(SERVER, CLIENT, SYN | 16, 500, 101)).unwrap();
    scene.leaves(&tcp(CLIENT, SERVER, 16, 101, 501)).unwrap();
    table.remove(&last).unwrap();
    scene.leaves(&tcp((OWN, 40_001), SERVER, SYN, 1, 0)).unwrap();
}

#[test]
fn an_endpoint_at_its_quota_is_refused_alone() {
    let scene = Scene::with(|settings| Settings { flows_per_endpoint: 100, ..settings }, 71);
    for port in 0..100 {
        scene.leaves(&udp_ports((OWN, 1000 + port), SERVER)).unwrap();
    }
    assert_eq!(scene.leaves(&udp_ports((OWN, 5000), SERVER)), Err(DropReason::FlowQuota));
    assert_eq!(scene.drops(0, "egress", DropReason::FlowQuota), 1);
    scene.leaves(&udp_ports((OWN, 1000), SERVER)).unwrap();
    scene.leaves(&udp_ports((PEER, 1000), (OWN, 80))).unwrap();
    assert_eq!(scene.quota(0).flows, 100);
}

#[test]
fn a_full_table_of_what_the_outside_knows_refuses_the_next_and_no_other() {
    let scene = Scene::new();
    let (out, enters) = (udp_ports((OWN, 1), (FAR, 53)), tcp((FAR, 1), (HOST.octets(), SERVICE), SYN, 1, 0));
    scene.leaves(&out).unwrap();
    scene.enters(&enters).unwrap();
    let (mut table, last) = scene.fill("CC_NAT", |key| NatEntry { flow: *key, beyond: 0, pad: [0; 3] });
    assert_eq!(table.keys().count(), NAT_MAX as usize);
    let before = (scene.quota(0), scene.quota(1));
    assert_eq!(scene.leaves(&udp_ports((OWN, 2), (FAR, 53))), Err(DropReason::NatExhausted));
    assert_eq!(scene.drops(0, "egress", DropReason::NatExhausted), 1);
    let another = tcp((FAR, 2), (HOST.octets(), SERVICE), SYN, 1, 0);
    assert_eq!(scene.enters(&another), Err(DropReason::NatExhausted));
    assert_eq!(scene.drops(1, "ingress", DropReason::NatExhausted), 1);
    assert_eq!((scene.quota(0), scene.quota(1)), before);
    scene.leaves(&out).unwrap();
    scene.enters(&enters).unwrap();
    scene.leaves(&udp_ports(CLIENT, SERVER)).unwrap();
    table.remove(&last).unwrap();
    scene.enters(&another).unwrap();
}

#[test]
fn ports_run_out_towards_one_far_end_and_for_nobody_else() {
    let scene = Scene::with(|settings| settings, 1);
    let tried = 3 * NAT_BLOCK_PORTS;
    let opened =
        (0..tried).filter(|n| scene.leaves(&udp_ports((OWN, 1000 + *n as u16), (FAR, 53))).is_ok()).count() as u32;
    assert!((NAT_TRIES_MAX..=NAT_BLOCK_PORTS).contains(&opened), "{opened} of the block's {NAT_BLOCK_PORTS}");
    assert_eq!(scene.drops(0, "egress", DropReason::NatExhausted), u64::from(tried - opened));
    assert_eq!((scene.quota(0).nat_blocks, scene.quota(0).flows), (1, opened.into()));
    // The same ports serve other far ends, and the neighbour finds one of somebody else's block.
    scene.leaves(&udp_ports((OWN, 1), (FAR, 54))).unwrap();
    scene.leaves(&udp_ports((PEER, 1), (FAR, 55))).unwrap();
    assert_eq!((scene.quota(1).nat_blocks, scene.quota(1).nat_shared), (0, 1));
}

#[test]
fn ports_of_others_blocks_are_so_many_for_each() {
    let scene = Scene::with(|settings| settings, 8);
    let mut blocks: Array<_, Block> = Map::Array(scene.map("CC_BLOCKS")).try_into().unwrap();
    for number in NAT_BLOCKS_MAX - 8..NAT_BLOCKS_MAX {
        blocks.set(number, Block { owner: u64::MAX, uses: 1 }, 0).unwrap();
    }
    // One far end each: only their number counts.
    for n in 0..NAT_SHARED_PER_ENDPOINT as u16 {
        scene.leaves(&udp_ports((OWN, 1000), (FAR, 1000 + n))).unwrap();
    }
    assert_eq!(scene.leaves(&udp_ports((OWN, 1000), (FAR, 999))), Err(DropReason::NatExhausted));
    assert_eq!(scene.drops(0, "egress", DropReason::NatExhausted), 1);
    assert_eq!((scene.quota(0).nat_shared, scene.quota(0).nat_blocks), (NAT_SHARED_PER_ENDPOINT.into(), 0));
    scene.leaves(&udp_ports((OWN, 1000), (FAR, 1000))).unwrap();
    scene.leaves(&udp_ports((PEER, 1000), (FAR, 999))).unwrap();
}

#[test]
fn packets_in_fragments_take_the_places_of_their_senders_own() {
    let scene = Scene::new();
    let fragment = |client, server, offset_and_flag: u16, id: u16| {
        let mut packet = udp_ports(client, server);
        packet[18..20].copy_from_slice(&id.to_be_bytes());
        packet[20..22].copy_from_slice(&offset_and_flag.to_be_bytes());
        packet
    };
    const FIRST: u16 = 0x2000;
    const LATER: u16 = 0x0003;
    let out = |offset_and_flag, id| scene.leaves(&fragment(CLIENT, (FAR, 53), offset_and_flag, id));
    let of_peer = |offset_and_flag, id| scene.leaves(&fragment((PEER, 9), (FAR, 53), offset_and_flag, id));
    of_peer(FIRST, 3).unwrap();
    let begun = 40 * FRAGMENTS_EACH as u16;
    for id in 0..begun {
        out(FIRST, id).unwrap();
    }
    let rows = {
        let table: HashMap<_, FragmentPlace, FragmentEntry> =
            Map::HashMap(scene.map("CC_FRAGMENTS")).try_into().unwrap();
        table.keys().count()
    };
    assert_eq!(rows, FRAGMENTS_EACH as usize + 1);
    // Out of the network nothing goes without its port.
    assert_eq!(out(LATER, begun - 1 - FRAGMENTS_EACH as u16), Err(DropReason::FragmentUnknown), "its place was taken");
    assert_eq!(scene.drops(0, "egress", DropReason::FragmentUnknown), 1);
    for id in begun - FRAGMENTS_EACH as u16..begun {
        out(LATER, id).unwrap();
    }
    assert_eq!(scene.quota(0).flows, 1, "they were one conversation");
    of_peer(LATER, 3).unwrap();
}

#[test]
fn drops_that_no_row_is_left_for_are_counted_as_uncounted() {
    let scene = Scene::new();
    assert_eq!(scene.leaves(&udp(OWN, STRANGER)), Err(DropReason::NoRoute));
    let mut drops: aya::maps::PerCpuHashMap<_, DropKey, DropCount> =
        Map::PerCpuHashMap(scene.map("CC_DROPS")).try_into().unwrap();
    let cpus = aya::util::nr_cpus().unwrap();
    let nothing = || aya::maps::PerCpuValues::try_from(vec![DropCount::default(); cpus]).unwrap();
    let key = |n: u32| DropKey { endpoint: 0x8000_0000 + n, direction: 0, reason: 1 };
    let mut rows = 0;
    while drops.insert(key(rows), nothing(), 0).inspect_err(assert_full).is_ok() {
        rows += 1;
    }
    // Beside ours: the first drop's, and the two that are there from the start.
    assert_eq!(rows, DROPS_MAX - 3);
    let spoofed = || scene.run(PROGRAM_FROM_ENDPOINT, scene.own.endpoint.ifindex, &udp([10, 0, 0, 77], PEER));
    for n in 1..=3 {
        assert_eq!(spoofed(), Err(DropReason::SpoofedIpv4));
        assert_eq!(scene.drops(ENDPOINT_UNKNOWN, "egress", DropReason::Uncounted), n);
    }
    assert_eq!(scene.drops(0, "egress", DropReason::SpoofedIpv4), 0);
    assert_eq!(scene.leaves(&udp(OWN, STRANGER)), Err(DropReason::NoRoute));
    assert_eq!(scene.drops(0, "egress", DropReason::NoRoute), 2, "a row that was there counts on");
    drops.remove(&key(0)).unwrap();
    assert_eq!(spoofed(), Err(DropReason::SpoofedIpv4));
    assert_eq!(scene.drops(0, "egress", DropReason::SpoofedIpv4), 1);
}

#[test]
fn records_that_the_ring_has_no_room_for_are_counted_as_lost() {
    let scene = Scene::with(|settings| Settings { events_per_second: u32::MAX, ..settings }, 71);
    let datapath = scene.world.datapath();
    datapath.watch_drops(true).unwrap();
    // The kernel's header of a record has eight bytes.
    let room = u64::from(EVENTS_BYTES) / (size_of::<DropRecord>() as u64 + 8);
    let dropped = room + 1000;
    for _ in 0..dropped {
        assert_eq!(scene.leaves(&udp(OWN, STRANGER)), Err(DropReason::NoRoute));
    }
    let told = datapath.told(0).unwrap();
    assert_eq!(told.written + told.lost, dropped, "none is unaccounted for");
    assert!(told.written <= room && told.lost >= 1000, "{told:?}");
    assert_eq!(scene.drops(0, "egress", DropReason::NoRoute), dropped, "and all are counted as drops");
}

/// The test's process in a cgroup, whose sockets' programs then see it; back where it was when this is dropped.
struct Inside(String);

impl Inside {
    fn of(cgroup: &Path) -> Inside {
        let of_v2 = |line: &str| line.strip_prefix("0::").map(str::to_owned);
        let own = fs::read_to_string("/proc/self/cgroup").unwrap().lines().find_map(of_v2).unwrap();
        fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
        let root =
            cgroup.ancestors().find(|dir| dir.join("cgroup.controllers").exists() && !dir.join("cgroup.type").exists());
        Inside(format!("{}{own}/cgroup.procs", root.unwrap().display()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        fs::write(&self.0, "0").unwrap();
    }
}

#[test]
fn a_socket_whose_row_was_forgotten_is_told_its_stand_in() {
    let scene = Scene::new();
    // SAFETY: a socket's option that the kernel fills with eight bytes, for which there is room.
    let cookie = || unsafe {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mut cookie, mut bytes) = (0u64, size_of::<u64>() as u32);
        let into = (&raw mut cookie).cast();
        assert_eq!(libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, into, &raw mut bytes), 0);
        cookie
    };
    sh("ip link set lo up");
    scene.world.datapath().lead_sockets(&scene.own.cgroup, cookie()).unwrap();
    let inside = Inside::of(&scene.own.cgroup);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let meant: SocketAddr = (HOST, SERVICE).into();
    let published = |protocol| Published { protocol, ..scene.published() };
    scene.world.datapath().set_published(&[HOST.into()], &[published(PortProtocol::Udp)]).unwrap();
    // One that asks shows what is told while there is a row. The other's row is one of the oldest that nobody has asked for.
    let asks = UdpSocket::bind("0.0.0.0:0").unwrap();
    asks.connect(meant).unwrap();
    assert_eq!(asks.peer_addr().unwrap(), meant);
    socket.connect(meant).unwrap();
    let mut table: HashMap<_, MeantKey, Ip> = Map::LruHashMap(scene.map("CC_MEANT")).try_into().unwrap();
    let row = table.iter().next().unwrap().unwrap();
    for n in 0..4 * u64::from(MEANT_MAX) {
        table.insert(MeantKey { socket: u64::MAX - n, ..row.0 }, row.1, 0).unwrap();
    }
    assert!(table.keys().count() <= MEANT_MAX as usize);
    let told = socket.peer_addr().unwrap();
    drop(inside);
    assert_eq!(told, (Ipv4Addr::new(100, 64, 0, 3), SERVICE).into(), "where it is really connected to");
}

#[test]
fn a_bucket_that_is_used_up_drops_its_endpoints_packets_alone() {
    let scene = Scene::new();
    let (mac, ipv4) = ([2, 0, 0, 0, 1, 4], Ipv4Addr::new(10, 0, 0, 4));
    let (ifindex, _netns) = scene.world.veth(2, mac);
    let rate = Some(Rate::new(1_000, 2_000));
    let limited = Endpoint { id: 2, ifindex, mac, ipv4, ipv6: None, egress_rate: rate, ..scene.own.endpoint };
    scene.world.datapath().attach(&limited, "00000000000000a2", &scene.own.cgroup).unwrap();
    let packet = with_source_mac(mac, udp_ports((ipv4.octets(), 1), SERVER));
    let sent: Vec<_> = (0..200).map(|_| scene.run(PROGRAM_FROM_ENDPOINT, ifindex, &packet)).collect();
    let refused = sent.iter().filter(|one| **one == Err(DropReason::EgressRate)).count();
    assert!(refused > 100 && sent[0].is_ok(), "{refused}");
    assert_eq!(scene.drops(2, "egress", DropReason::EgressRate), refused as u64);
    for _ in 0..200 {
        scene.leaves(&udp_ports(SERVER, CLIENT)).unwrap();
    }
}
