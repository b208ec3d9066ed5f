//! A restarted daemon's programs take over under traffic: not one packet passes undecided, and not one is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cc_host::datapath::{Datapath, DatapathError};
use datapath_support::{Container, World, raw_socket, send_raw};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

const REPLACEMENTS: usize = 1000;
const RULE_SETS: usize = 300_000;
/// On their way at a time: fewer than any queue holds, so that only a program can lose one.
const WINDOW: u64 = 64;
/// A packet takes microseconds; one that takes this long is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// How often whoever waits for one looks whether all is over.
const LOOK: Duration = Duration::from_millis(50);
/// A type that nobody else uses.
const ETHERTYPE: u16 = 0x88b5;

/// What runs while programs are replaced.
struct Flood {
    over: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    /// Frames that the host sent towards a container, past us.
    intruded: AtomicU64,
}

impl Flood {
    /// Until another packet of either kind was sent, so that each replacement meets some; or until one is lost.
    fn goes_on(&self) {
        let [sent, intruded] = [&self.sent, &self.intruded].map(|n| n.load(Ordering::SeqCst));
        let more = |n: &AtomicU64, than| n.load(Ordering::SeqCst) > than || self.over.load(Ordering::SeqCst);
        while !(more(&self.sent, sent) && more(&self.intruded, intruded)) {
            std::thread::yield_now();
        }
    }
}

/// Ends the flood, also after a failure.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn programs_are_replaced_a_thousand_times_in_a_flood() {
    let mut world = World::new();
    world.network(1);
    let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
    assert!(a.pings(b.endpoint.ipv4), "neighbours are known before anything is counted");
    let before = [&a, &b].map(|one| world.datapath().counters(one.endpoint.id).unwrap());
    let ear = listen_raw(&a);
    let (client, server) = (udp(&a), udp(&b));
    client.connect(server.local_addr().unwrap()).unwrap();
    server.set_read_timeout(Some(LOOK)).unwrap();

    // Two daemons' worth of programs, each in its turn the newer one.
    let daemons = [world.datapath.take().unwrap(), world.open()];
    let flood = Flood { over: AtomicBool::new(false), sent: 0.into(), received: 0.into(), intruded: 0.into() };
    std::thread::scope(|scope| {
        scope.spawn(|| send(&client, &flood));
        scope.spawn(|| receive(&server, &flood));
        scope.spawn(|| intrude(&a, &flood));
        let _over = Over(&flood.over);
        for turn in 0..REPLACEMENTS {
            flood.goes_on();
            for container in [&a, &b] {
                daemons[turn % 2].adopt(&container.endpoint, &container.tag, &container.cgroup).unwrap();
            }
        }
    });
    let [sent, received, intruded] = [&flood.sent, &flood.received, &flood.intruded].map(|n| n.load(Ordering::SeqCst));
    println!("{sent} packets and {intruded} of the host's during {REPLACEMENTS} replacements on two interfaces");
    assert_eq!(received, sent, "a packet was lost, or went where no program sent it");
    let heard = recv(ear.as_raw_fd(), &mut [0; 64], MsgFlags::empty());
    assert_eq!(heard, Err(Errno::EAGAIN), "a frame of the host's passed");
    let after = [&a, &b].map(|one| daemons[0].counters(one.endpoint.id).unwrap());
    let refused: u64 = after[0].drops.iter().filter(|d| d.reason == "not_from_datapath").map(|d| d.packets).sum();
    assert_eq!(refused, intruded, "each frame of the host's met a program");
    assert_eq!(after[1].received.packets - before[1].received.packets, sent, "counters go on where they were");
    assert!(after[0].sent.packets - before[0].sent.packets >= sent);
}

/// To write one's rule set must not give another's row to a program that is about to read the first.
#[test]
fn rule_sets_change_in_a_flood() {
    let mut world = World::new();
    world.network(1);
    let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
    let flood = Flood { over: AtomicBool::new(false), sent: 0.into(), received: 0.into(), intruded: 0.into() };
    let datapath = world.datapath();
    std::thread::scope(|scope| {
        scope.spawn(|| intrude(&a, &flood));
        let _over = Over(&flood.over);
        while flood.intruded.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        for _ in 0..RULE_SETS {
            for container in [&a, &b] {
                datapath.set_rule_set(container.endpoint.id, container.endpoint.rule_set).unwrap();
            }
        }
    });
    let refused = |one: &Container| -> u64 {
        let drops = datapath.counters(one.endpoint.id).unwrap().drops;
        drops.iter().filter(|drop| drop.reason == "not_from_datapath").map(|drop| drop.packets).sum()
    };
    let intruded = flood.intruded.load(Ordering::SeqCst);
    println!("{intruded} frames during {RULE_SETS} changes on two interfaces");
    assert_eq!((refused(&a), refused(&b)), (intruded, 0), "a frame was taken for another interface's");
}

#[test]
fn the_newer_programs_are_the_ones_in_force() {
    let mut world = World::new();
    world.network(1);
    let a = world.container(0, 1, 2);
    let (old, old_links) = (filters(), link_programs(&world));
    assert_eq!((old.len(), old_links.len()), (2, 2), "{old:?} {old_links:?}");
    world.datapath = None;
    world.datapath = Some(world.open());
    assert_eq!((filters(), link_programs(&world)), (old.clone(), old_links.clone()), "until an endpoint is adopted");
    world.datapath().adopt(&a.endpoint, &a.tag, &a.cgroup).unwrap();
    let (new, new_links) = (filters(), link_programs(&world));
    assert_eq!((new.len(), new_links.len()), (2, 2), "one replaces the other: {new:?} {new_links:?}");
    assert!(new.iter().all(|id| !old.contains(id)) && new_links.iter().all(|id| !old_links.contains(id)));
    assert_eq!(world.pinned_links().len(), 2);
    assert!(a.pings(datapath_support::GATEWAY));
}

#[test]
fn what_is_not_whole_is_not_adopted() {
    let mut world = World::new();
    world.network(1);
    let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
    let adopt = |datapath: &Datapath, one: &Container| datapath.adopt(&one.endpoint, &one.tag, &one.cgroup);
    let refused = |result, word: &str| {
        let error: DatapathError = Result::unwrap_err(result);
        assert!(error.to_string().contains(word), "{error}");
    };
    world.datapath = Some(world.open());
    let elsewhere = cc_host::datapath::Endpoint { ipv4: b.endpoint.ipv4, ..a.endpoint.clone() };
    refused(world.datapath().adopt(&elsewhere, &a.tag, &a.cgroup), "address");
    refused(world.datapath().adopt(&a.endpoint, &b.tag, &a.cgroup), "another container's");
    refused(world.datapath().adopt(&a.endpoint, &a.tag, &b.cgroup), "another container's");
    adopt(world.datapath(), &a).unwrap();
    // As a daemon leaves it that dies half-way through an end.
    world.datapath().silence(a.endpoint.id).unwrap();
    refused(adopt(world.datapath(), &a), "its traffic was ended");
    // As another program leaves it that removes filters.
    let name = format!("cct{}", b.endpoint.id);
    let removed = Command::new("tc").args(["filter", "del", "dev", &name, "ingress"]).status().unwrap();
    assert!(removed.success());
    refused(adopt(world.datapath(), &b), "cannot replace program cc_from_ep");
}

fn udp(container: &Container) -> UdpSocket {
    container.inside(|| UdpSocket::bind((container.endpoint.ipv4, 9)).unwrap())
}

fn send(client: &UdpSocket, flood: &Flood) {
    while !flood.over.load(Ordering::SeqCst) {
        let sent = flood.sent.load(Ordering::SeqCst);
        if sent - flood.received.load(Ordering::SeqCst) < WINDOW {
            client.send(&sent.to_ne_bytes()).unwrap();
            flood.sent.store(sent + 1, Ordering::SeqCst);
        } else {
            std::thread::yield_now();
        }
    }
}

/// In order, each once, and until nothing is on its way.
fn receive(server: &UdpSocket, flood: &Flood) {
    let _over = Over(&flood.over);
    let mut expected: u64 = 0;
    let mut heard = Instant::now();
    while !flood.over.load(Ordering::SeqCst) || expected < flood.sent.load(Ordering::SeqCst) {
        let mut bytes = [0; 8];
        match server.recv(&mut bytes) {
            Ok(_) => {
                assert_eq!(u64::from_ne_bytes(bytes), expected);
                expected += 1;
                flood.received.store(expected, Ordering::SeqCst);
                heard = Instant::now();
            }
            Err(_) => assert!(heard.elapsed() < LOST_AFTER, "packet {expected} does not come"),
        }
    }
}

/// The host sends into the container, as only a program keeps it from doing.
fn intrude(container: &Container, flood: &Flood) {
    let [high, low] = ETHERTYPE.to_be_bytes();
    let frame = [&container.endpoint.mac[..], &[2, 9, 9, 9, 9, 9], &[high, low], &[0; 46]].concat();
    // One for all: to close one takes the kernel as long as many replacements.
    let socket = raw_socket();
    while !flood.over.load(Ordering::SeqCst) {
        send_raw(&socket, container.endpoint.ifindex, &frame);
        flood.intruded.fetch_add(1, Ordering::SeqCst);
    }
}

/// Hears frames of that type alone, so that the flood does not fill its buffer.
fn listen_raw(container: &Container) -> OwnedFd {
    container.inside(|| {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: takes integers and returns a descriptor, which nobody else knows of.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(ETHERTYPE.to_be())) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: as above.
        unsafe { OwnedFd::from_raw_fd(fd) }
    })
}

/// Numbers of the programs in the filters of this namespace.
fn filters() -> Vec<u64> {
    let shown = json(&["net", "show"]);
    let tc = shown[0]["tc"].as_array().unwrap().clone();
    tc.iter().map(|filter| filter["id"].as_u64().unwrap()).collect()
}

/// Numbers of the programs behind the links that this world has pinned: others' BPF filesystems may be mounted beside ours.
fn link_programs(world: &World) -> Vec<u64> {
    let links = json(&["link", "show"]);
    let dir = world.config().bpffs_dir;
    let pinned = |link: &&serde_json::Value| {
        link["pinned"]
            .as_array()
            .is_some_and(|pins| pins.iter().any(|pin| Path::new(pin.as_str().unwrap()).starts_with(&dir)))
    };
    let mut ids: Vec<u64> =
        links.as_array().unwrap().iter().filter(pinned).map(|link| link["prog_id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

fn json(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new("bpftool").args(["-j", "-f"]).args(arguments).output().expect("bpftool is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
