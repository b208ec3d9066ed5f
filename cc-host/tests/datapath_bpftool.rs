//! A person with bpftool reads our maps by field name, and finds our programs and links by theirs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cc_common::names::{MAPS, PROGRAMS};
use datapath_support::{GATEWAY, World};
use nix::sys::signal::SigSet;

fn bpftool(arguments: &[&str], path: &Path) -> String {
    let output = Command::new("bpftool").args(arguments).arg(path).output().expect("bpftool is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const LOADS: usize = 5;
/// What is promised of an optimized daemon on the machine that PROMISES.md names.
const LOADED_WITHIN: Duration = Duration::from_millis(300);

#[test]
fn maps_show_named_fields() {
    let mut world = World::new();
    world.network(1);
    let a = world.container(0, 1, 2);
    // Something to see in the tables of drops and of flows.
    assert!(!a.pings(std::net::Ipv4Addr::new(10, 0, 0, 77)));
    assert!(a.pings(GATEWAY));
    let b = world.container(1, 1, 3);
    assert!(a.pings(b.endpoint.ipv4));
    let dir = world.datapath().pin_dir();
    for (map, fields) in [
        ("CC_PORTS", &["ifindex", "endpoint", "generation", "vni", "rule_set", "ipv4", "ipv6", "mac"][..]),
        ("CC_ROUTES", &["prefix_len", "vni", "address", "kind", "endpoint"]),
        ("CC_ENDPOINTS", &["ifindex", "vni", "rule_set", "ipv4", "mac", "generation", "container", "cgroup"]),
        ("CC_COUNTERS", &["received_packets", "received_bytes", "sent_packets", "sent_bytes"]),
        ("CC_DROPS", &["endpoint", "direction", "reason", "packets", "bytes"]),
        ("CC_SOCKETS", &["cgroup", "received_packets", "received_bytes", "sent_packets", "sent_bytes"]),
        ("CC_SETTINGS", &["tcp_established_ns", "flows_per_endpoint", "nat_block_first"]),
        ("CC_RULESETS", &["generation", "version", "prefix_table"]),
        ("CC_RULES", &["generation", "class", "direction", "protocol", "port", "rule", "priority", "action"]),
        ("CC_FLOWS", &["addresses", "ports", "protocol", "endpoints", "initiator", "life", "last_seen_ns"]),
        ("CC_QUOTAS", &["flows", "half_open", "nat_blocks"]),
    ] {
        let dump = bpftool(&["map", "dump", "pinned"], &dir.join(map));
        for field in fields {
            assert!(dump.contains(&format!("\"{field}\":")), "{map} has no field {field}: {dump:.600}");
        }
    }
}

#[test]
fn maps_programs_and_links_have_their_names() {
    let mut world = World::new();
    world.network(1);
    let a = world.container(0, 1, 2);
    let dir = world.datapath().pin_dir();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&dir).unwrap());
    assert_eq!(mode & 0o777, 0o700, "only root may open what is pinned");
    for name in MAPS {
        assert!(bpftool(&["map", "show", "pinned"], &dir.join(name)).contains(&format!("name {name} ")), "{name}");
    }
    for name in PROGRAMS {
        let shown = bpftool(&["prog", "show", "pinned"], &dir.join("programs").join(name));
        assert!(shown.contains(&format!("name {name} ")), "{name}: {shown}");
    }
    let expected: Vec<_> = ["cgin", "cgout"].map(|suffix| format!("{}-{suffix}", a.tag)).into();
    assert_eq!(world.pinned_links(), expected);
    // Of this test's namespace: a child is born in its thread's.
    let output = Command::new("bpftool").args(["net", "show"]).output().unwrap();
    let attached = String::from_utf8(output.stdout).unwrap();
    let interface = |direction: &str, program: &str| format!("clsact/{direction} {program}");
    for line in [interface("ingress", "cc_from_ep"), interface("egress", "cc_to_ep")] {
        assert!(attached.contains(&line), "{line}: {attached}");
    }
}

/// Of a program, functions of its own included.
const VERIFIER_BUDGET: u32 = 1_000_000;
/// Of all programs: the time that loading takes is the verifier's, about 0.6 µs for each, and this part of it is the same on every machine.
const LOOKED_AT_MAX: u32 = 350_000;
/// Of one: what the verifier removes and puts in, it does place by place, and looks at the whole program each time.
const LENGTH_MAX: u32 = 20_000;
const INSTRUCTION_BYTES: u32 = 8;

#[test]
fn every_program_leaves_the_verifier_a_third_of_its_budget() {
    let world = World::new();
    let dir = world.datapath().pin_dir().join("programs");
    let mut total = 0;
    for name in PROGRAMS {
        let info = aya::programs::ProgramInfo::from_pin(dir.join(name)).unwrap();
        let looked_at = info.verified_instruction_count().unwrap();
        let load = info.memory_locked().unwrap_or(0) / 1024;
        let length = info.size_translated().unwrap() / INSTRUCTION_BYTES;
        println!("{name}: {length} instructions, {looked_at} looked at, {load} KiB");
        assert!(looked_at <= VERIFIER_BUDGET / 10 * 7, "{name}: {looked_at}");
        assert!(length <= LENGTH_MAX, "{name}: {length}");
        total += looked_at;
    }
    println!("{total} instructions in all");
    assert!(total <= LOOKED_AT_MAX, "{total}");
}

/// The least of some, because other tests run beside it. What is promised of one machine in milliseconds is asked of optimized code only,
/// which is how PROMISES.md asks for it; every machine is asked for what it rests on, the number of instructions, by the test above.
#[test]
fn all_programs_are_loaded_in_time() {
    let mut world = World::new();
    let least = (0..LOADS).map(|_| {
        world.datapath = None;
        let began = Instant::now();
        world.datapath = Some(world.open());
        began.elapsed()
    });
    let least = least.min().unwrap();
    println!("maps taken over, programs loaded and replaced in {least:?}");
    assert!(cfg!(debug_assertions) || least <= LOADED_WITHIN, "{least:?}");
}

const APART: Duration = Duration::from_millis(5);

/// Says so also where a test fails half-way.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The verifier gives up at a signal; and that a child has ended is one, by which every thread that loads can be hit.
#[test]
fn a_signal_does_not_keep_programs_from_being_loaded() {
    let mut world = World::new();
    // What has no handler would not be a signal.
    let kind = tokio::signal::unix::SignalKind::user_defined1();
    let _handled = world.block_on(async { tokio::signal::unix::signal(kind).unwrap() });
    let (loading, mask) = (nix::unistd::gettid().as_raw(), SigSet::thread_get_mask().unwrap());
    let loaded = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sent = 0;
            while !loaded.load(Ordering::Relaxed) {
                // SAFETY: the number of a thread of this process, which waits for this one; the signal has a handler.
                assert_eq!(unsafe { libc::tgkill(std::process::id() as i32, loading, libc::SIGUSR1) }, 0);
                sent += 1;
                std::thread::sleep(APART);
            }
            sent
        });
        let over = Over(&loaded);
        world.datapath = None;
        world.datapath = Some(world.open());
        drop(over);
        sending.join().unwrap()
    });
    assert!(sent > 10, "{sent}");
    assert_eq!(SigSet::thread_get_mask().unwrap(), mask, "signals arrive again");
}

#[test]
fn a_foreign_map_under_our_name_is_refused() {
    let mut world = World::new();
    let dir = world.datapath().pin_dir();
    world.datapath = None;
    std::fs::remove_file(dir.join("CC_PORTS")).unwrap();
    std::fs::rename(dir.join("CC_SOCKETS"), dir.join("CC_PORTS")).unwrap();
    let error = cc_host::datapath::Datapath::open(&world.config()).err().expect("it is not ours").to_string();
    assert!(error.contains("CC_PORTS") && error.contains("keys of 8 bytes"), "{error}");
}
