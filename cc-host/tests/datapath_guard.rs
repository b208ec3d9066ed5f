//! What the guard drops, by BPF_PROG_TEST_RUN, and how its list is replaced.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::programs::ProgramInfo;
use cc_common::firewall::PrefixEntry;
use cc_common::names::PROGRAM_GUARD;
use cc_host::datapath::CompiledPrefixes;
use datapath_support::World;
use datapath_support::packets::{OWN, PEER, ethernet, ipv4_header};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

const BPF_PROG_TEST_RUN: libc::c_int = 10;

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    rest: [u64; 4],
}

fn run(world: &World, packet: &[u8]) -> u32 {
    let path = world.datapath().pin_dir().join("programs").join(PROGRAM_GUARD);
    let program = ProgramInfo::from_pin(path).unwrap().fd().unwrap();
    // aya opens no pinned program of this kind, so the kernel is asked by hand.
    let mut run = TestRun {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    // SAFETY: the struct is the kernel's for this command, and the packet that it points at lives through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, std::ptr::from_mut(&mut run), size_of::<TestRun>()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    run.retval
}

/// The reason that was counted, if it was dropped: one packet, and its bytes.
fn judged(world: &World, packet: &[u8]) -> Option<&'static str> {
    let before = world.datapath().guarded().unwrap();
    let action = run(world, packet);
    let after = world.datapath().guarded().unwrap();
    let counted: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    match action {
        XDP_PASS => {
            assert_eq!(counted, []);
            None
        }
        XDP_DROP => {
            let [(before, after)] = counted[..] else { panic!("{counted:?}") };
            assert_eq!((after.packets, after.bytes), (before.packets + 1, before.bytes + packet.len() as u64));
            Some(after.reason)
        }
        other => panic!("action {other}"),
    }
}

fn tcp(source: [u8; 4], destination: [u8; 4], flags: u8) -> Vec<u8> {
    let mut packet = ethernet(MAC, MAC, 0x0800);
    packet.extend(ipv4_header(5, 40, source, destination, 6));
    packet.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    packet
}

fn v6(source: [u8; 16], destination: [u8; 16], next: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = ethernet(MAC, MAC, 0x86dd);
    packet.extend([0x60, 0, 0, 0]);
    packet.extend((rest.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(rest);
    packet
}

fn edited(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}

fn ip6(last: u8) -> [u8; 16] {
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

#[test]
fn what_is_malformed_is_dropped_with_its_reason() {
    let world = World::new();
    let sound = || tcp(PEER, OWN, 2);
    let tcp6 = |flags: u8| [&sound()[34..47], &[flags], &sound()[48..]].concat();
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let tagged = |packet: Vec<u8>| [&packet[..12], &[0x81, 0, 0, 5], &packet[12..]].concat();
    let mut arp = ethernet([0xff; 6], MAC, 0x0806);
    arp.extend([0; 46]);
    let table: [(&str, Vec<u8>, Option<&str>); 27] = [
        ("sound", sound(), None),
        ("arp", arp, None),
        ("with padding", [sound(), vec![0; 6]].concat(), None),
        ("tagged", tagged(sound()), None),
        ("tagged and closing at once", tagged(tcp(PEER, OWN, 3)), Some("tcp_flags")),
        ("no flags", tcp(PEER, OWN, 0), Some("tcp_flags")),
        ("only the explicit congestion flags", tcp(PEER, OWN, 0xc0), Some("tcp_flags")),
        ("SYN and FIN", tcp(PEER, OWN, 3), Some("tcp_flags")),
        ("SYN and ACK", tcp(PEER, OWN, 0x12), None),
        ("version 5", edited(sound(), 14, &[0x55]), Some("ipv4_header")),
        ("a header of 16 bytes", edited(sound(), 14, &[0x44]), Some("ipv4_header")),
        ("a header beyond the packet", edited(sound(), 14, &[0x4f]), Some("ipv4_length")),
        ("longer than the frame", edited(sound(), 16, &[0, 41]), Some("ipv4_length")),
        ("no length", edited(sound(), 16, &[0, 0]), Some("ipv4_length")),
        ("half a TCP header", edited(sound(), 16, &[0, 30]), Some("truncated")),
        ("half an IPv4 header", sound()[..30].to_vec(), Some("truncated")),
        ("from itself", tcp(OWN, OWN, 2), Some("land")),
        ("from a group", tcp([224, 0, 0, 5], OWN, 2), Some("source_multicast")),
        ("from everybody", tcp([255; 4], OWN, 2), Some("source_broadcast")),
        ("from loopback", tcp([127, 1, 2, 3], OWN, 2), Some("source_loopback")),
        ("a later fragment", edited(tcp(PEER, OWN, 0), 20, &[0, 9]), None),
        ("IPv6", v6(ip6(1), ip6(2), 6, &tcp6(2)), None),
        ("IPv6 behind options", v6(ip6(1), ip6(2), 0, &[&options(6)[..], &tcp6(3)].concat()), Some("tcp_flags")),
        ("IPv6 options without end", v6(ip6(1), ip6(2), 0, &[6, 200, 0, 0, 0, 0, 0, 0]), Some("truncated")),
        ("IPv6 from itself", v6(ip6(1), ip6(1), 6, &tcp6(2)), Some("land")),
        ("IPv6 longer than the frame", edited(v6(ip6(1), ip6(2), 17, &[0; 8]), 18, &[0, 9]), Some("ipv6_length")),
        ("a short UDP header", v6(ip6(1), ip6(2), 17, &[0; 7]), Some("truncated")),
    ];
    for (what, packet, expected) in table {
        assert_eq!(judged(&world, &packet), expected, "{what}");
    }
}

#[test]
fn whoever_is_denied_is_dropped_until_the_list_is_another() {
    let mut world = World::new();
    let entry = PrefixEntry { inside: 0, outside: 0 };
    let denied = |v4: &[([u8; 4], u8)], v6: &[([u8; 16], u8)]| CompiledPrefixes {
        v4: v4.iter().map(|&(address, length)| (address, length, entry)).collect(),
        v6: v6.iter().map(|&(address, length)| (address, length, entry)).collect(),
    };
    let from = |last: u8| tcp([198, 51, 100, last], OWN, 2);
    let from6 = |last: u8| v6(ip6(last), ip6(200), 17, &[0; 8]);
    assert_eq!((judged(&world, &from(7)), judged(&world, &from6(7))), (None, None));
    let (v4, v6_list) = ([([198, 51, 100, 0], 29)], [(ip6(0), 125)]);
    world.datapath().load_guard(&denied(&v4, &v6_list)).unwrap();
    assert_eq!((judged(&world, &from(7)), judged(&world, &from6(7))), (Some("denied"), Some("denied")));
    assert_eq!((judged(&world, &from(8)), judged(&world, &from6(8))), (None, None));
    // An earlier daemon's list is in force until this one's is; and no number is given twice.
    world.datapath = None;
    world.datapath = Some(world.open());
    assert_eq!(judged(&world, &from(7)), Some("denied"));
    world.datapath().load_guard(&denied(&[([198, 51, 100, 8], 32)], &[])).unwrap();
    assert_eq!((judged(&world, &from(7)), judged(&world, &from(8))), (None, Some("denied")));
    assert_eq!(world.datapath().remove_stray_rules().unwrap(), 2, "what the earlier one has loaded");
    world.datapath().load_guard(&CompiledPrefixes::default()).unwrap();
    assert_eq!(judged(&world, &from(8)), None);
    assert_eq!(world.datapath().remove_stray_rules().unwrap(), 0);
}

fn list(v4: &[([u8; 4], u8)]) -> CompiledPrefixes {
    let entry = PrefixEntry { inside: 0, outside: 0 };
    let mut v4: Vec<_> = v4.iter().map(|&(address, length)| (address, length, entry)).collect();
    v4.sort_unstable_by_key(|row| (row.0, row.1));
    v4.dedup_by_key(|row| (row.0, row.1));
    CompiledPrefixes { v4, v6: vec![] }
}

/// Numbers that look random, and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % below
    }
}

#[test]
fn every_list_denies_what_is_in_it_and_nothing_else() {
    let world = World::new();
    let mut numbers = Numbers(1);
    for round in 0..12 {
        // Within 10.0.0.0/18, so that they meet; each list replaces the one before.
        let prefixes: Vec<(u32, u8)> = (0..8)
            .map(|_| {
                let length = 18 + numbers.next(15) as u8;
                ((0x0a00_0000 | numbers.next(1 << 14)) & u32::MAX << (32 - length), length)
            })
            .collect();
        let rows: Vec<_> = prefixes.iter().map(|&(address, length)| (address.to_be_bytes(), length)).collect();
        world.datapath().load_guard(&list(&rows)).unwrap();
        let beside = prefixes.iter().flat_map(|&(net, length)| {
            let last = net | !(u32::MAX << (32 - length));
            [net, last, net.wrapping_sub(1), last.wrapping_add(1)]
        });
        let others: Vec<u32> = (0..50).map(|_| 0x0a00_0000 | numbers.next(1 << 15)).collect();
        for address in beside.chain(others) {
            let is_in = |&(net, length): &(u32, u8)| address & u32::MAX << (32 - length) == net;
            let expected = prefixes.iter().any(is_in).then_some("denied");
            let packet = tcp(address.to_be_bytes(), [192, 0, 2, 1], 2);
            assert_eq!(judged(&world, &packet), expected, "round {round}, {:x?}", address.to_be_bytes());
        }
    }
}

#[test]
fn who_is_on_every_list_never_gets_in_between_two() {
    let world = World::new();
    let lists = [
        list(&[([198, 51, 100, 7], 32)]),
        list(&[([198, 51, 0, 0], 16), ([203, 0, 113, 0], 24)]),
        list(&[([198, 51, 100, 0], 24), ([198, 51, 100, 4], 30)]),
    ];
    world.datapath().load_guard(&lists[0]).unwrap();
    let packet = tcp([198, 51, 100, 7], OWN, 2);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (world, done, packet) = (&world, &done, &packet);
        let probes = scope.spawn(move || {
            let mut sent = 0u64;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(run(world, packet), XDP_DROP, "after {sent}");
                sent += 1;
            }
            sent
        });
        for turn in 0..60 {
            world.datapath().load_guard(&lists[turn % lists.len()]).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(probes.join().unwrap() > 1_000, "probes went on all the while");
    });
}

#[test]
fn it_is_on_an_interface_by_a_pin_and_never_in_anothers_place() {
    let world = World::new();
    let (ifindex, _netns) = world.veth(7, MAC);
    let datapath = world.datapath();
    let guarded = datapath.guard_interface(ifindex).unwrap();
    assert_eq!(datapath.guard_interface(ifindex).unwrap(), guarded, "again changes nothing");
    assert_eq!(datapath.guarded_interfaces().unwrap(), [guarded]);
    let attached = || {
        let output = std::process::Command::new("ip").args(["-json", "link", "show", "dev", "cct7"]).output().unwrap();
        let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        links[0]["xdp"]["prog"]["name"].as_str().map(str::to_owned)
    };
    assert_eq!(attached().as_deref(), Some(PROGRAM_GUARD));
    datapath.unguard_all_but(&[ifindex]).unwrap();
    assert_eq!(datapath.guarded_interfaces().unwrap(), [guarded]);
    datapath.unguard_all_but(&[]).unwrap();
    assert_eq!((attached(), datapath.guarded_interfaces().unwrap()), (None, Vec::new()));
    // Somebody else's program stays, and is an error.
    let pin = datapath.pin_dir().join("programs").join(PROGRAM_GUARD).display().to_string();
    let set = |what: &[&str]| {
        let args = [&["link", "set", "dev", "cct7"], what].concat();
        assert!(std::process::Command::new("ip").args(args).status().unwrap().success());
    };
    set(&["xdpgeneric", "pinned", &pin]);
    datapath.guard_interface(ifindex).unwrap_err();
    assert_eq!(attached().as_deref(), Some(PROGRAM_GUARD));
    set(&["xdpgeneric", "off"]);
}
