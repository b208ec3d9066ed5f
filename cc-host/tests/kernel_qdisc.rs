//! What the kernel makes of a rate that was set: `tc` reads it back, and so do we. Where it has fq, by that, elsewhere by a token bucket.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::Write as _;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cc_host::kernel::departure::{self, Departures, Earlier};
use cc_host::kernel::link::{EndpointAddress, Links, Pair, PairKind, configure_endpoint};
use cc_host::kernel::netns;
use cc_host::kernel::qdisc::{QdiscError, queue_inside};
use cc_host::kernel::shape::{Shape, shape_inside};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

const SLOW: Shape = Shape { bytes_per_s: 125_000, burst_bytes: 12_500, queue_bytes: 262_144 };

/// A namespace for the calling thread, a veth pair out of it, and the namespace of its other end.
fn pair() -> (u32, Arc<OwnedFd>, tokio::runtime::Runtime) {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let inside = netns::create(|| {}).unwrap();
    let (kind, mac) = (PairKind::Veth, [2, 0, 0, 0, 0, 9]);
    let pair = Pair { kind, host_name: "ccq", netns: inside.as_fd(), mac, mtu: 1450, alias: "cc:q" };
    let ifindex = runtime.block_on(async { Links::open().unwrap().create_pair(&pair).await }).unwrap();
    (ifindex, Arc::new(inside), runtime)
}

/// Options of the queue at an interface's root, as `tc` tells them.
fn tc(interface: &str) -> serde_json::Value {
    let output = Command::new("tc").args(["-json", "qdisc", "show", "dev", interface, "root"]).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    found[0].clone()
}

/// Whether the kernel has fq, tried where nothing of ours is.
fn has_fq() -> bool {
    let elsewhere = netns::create(|| {}).unwrap();
    let tried = || Command::new("tc").args(["qdisc", "add", "dev", "lo", "root", "fq"]).output().unwrap();
    netns::in_netns(elsewhere.as_fd(), tried).unwrap().status.success()
}

/// That it is what was asked for; where nothing of the rate can be read, that something writes times.
fn assert_holds(interface: &str, asked: &Shape) {
    let found = tc(interface);
    if has_fq() {
        assert_eq!((&found["kind"], &found["options"]["limit"]), (&"fq".into(), &(asked.queue_bytes / 60).into()));
        let output = Command::new("tc").args(["filter", "show", "dev", interface, "egress"]).output().unwrap();
        let filters = String::from_utf8(output.stdout).unwrap();
        assert_eq!(filters.matches("handle 0x2 cc_depart direct-action").count(), 1, "{filters}");
        return;
    }
    assert_eq!((&found["kind"], &found["options"]["rate"]), (&"tbf".into(), &asked.bytes_per_s.into()));
    // Told as a time in microseconds, and so rounded.
    let (burst, rounding) = (found["options"]["burst"].as_u64().unwrap(), asked.bytes_per_s / 1_000_000);
    assert!(burst.abs_diff(asked.burst_bytes.into()) <= rounding, "{found}");
}

#[test]
fn a_queue_is_as_it_was_asked_for() {
    let (ifindex, inside, runtime) = pair();
    runtime.block_on(async {
        let links = Links::open().unwrap();
        assert_eq!(links.queue(ifindex).await.unwrap(), None, "nobody has set one");
        let fast = Shape { bytes_per_s: 12_500_000_000, burst_bytes: 64 << 20, queue_bytes: 4 << 20 };
        assert!(!links.is_shaped(ifindex).await.unwrap());
        for asked in [SLOW, fast] {
            links.shape(ifindex, &asked).await.unwrap();
            assert!(links.is_shaped(ifindex).await.unwrap());
            assert_holds("ccq", &asked);
            assert!(links.queue(ifindex).await.unwrap().is_some());
        }
        shape_inside(Arc::clone(&inside), SLOW).await.unwrap();
        assert!(queue_inside(Arc::clone(&inside)).await.unwrap().is_some());
    });
    netns::in_netns(inside.as_fd(), || assert_holds("eth0", &SLOW)).unwrap();
    assert_holds("ccq", &Shape { bytes_per_s: 12_500_000_000, burst_bytes: 64 << 20, queue_bytes: 4 << 20 });
}

/// What the program writes on a packet of a thousand bytes that says `tstamp` already. The kernel runs it, on no interface.
fn departs(program: &OwnedFd, tstamp: u64) -> u64 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).unwrap();
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")).unwrap().trim().to_owned();
    let mut packet = tempfile::NamedTempFile::new().unwrap();
    packet.write_all(&[0; 64]).unwrap();
    let mut context = [0; 192];
    context[152..160].copy_from_slice(&tstamp.to_ne_bytes());
    context[160..164].copy_from_slice(&1000_u32.to_ne_bytes());
    let mut given = tempfile::NamedTempFile::new().unwrap();
    given.write_all(&context).unwrap();
    let taken = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("bpftool");
    command.args(["prog", "run", "id", &id, "data_in"]).arg(packet.path());
    command.arg("ctx_in").arg(given.path()).arg("ctx_out").arg(taken.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("Return value: 4294967295"), "{said}");
    u64::from_ne_bytes(std::fs::read(taken.path()).unwrap()[152..160].try_into().unwrap())
}

/// How long the machine has been.
fn up() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
}

/// A hundred seconds for each packet, which is much longer than all runs take.
#[test]
fn packets_are_told_to_leave_at_the_rate() {
    const TURN: u64 = 100_000_000_000;
    let times =
        Departures { bytes_per_s: 10, burst_ns: 0, wait_ns: 4 * TURN, never_ns: 1000 * TURN, earlier: Earlier::Kept };
    let program = departure::open(&times).unwrap();
    assert_eq!(departs(&program, 0), 0, "the first leaves at once");
    let second = departs(&program, 0);
    assert!(second > 0);
    assert_eq!(departs(&program, 0), second + TURN);
    assert_eq!(departs(&program, second + 100 * TURN), second + 100 * TURN, "its own flow's later time stays");
    // Five turns ahead would be more than may wait, and takes nothing from who comes later.
    let (lost, too) = (departs(&program, 0), departs(&program, 0));
    assert!(lost > second + 900 * TURN && too > second + 900 * TURN, "{lost} {too}");

    // A pause is no longer than the machine has been up: of one that has just come up, it is waited for.
    const SHORT: u64 = TURN / 10;
    let burst = Departures { bytes_per_s: 100, burst_ns: 3 * SHORT, ..times };
    while up() < Duration::from_nanos(burst.burst_ns) {
        std::thread::sleep(Duration::from_secs(1));
    }
    let program = departure::open(&burst).unwrap();
    assert_eq!([(); 4].map(|()| departs(&program, 0)), [0; 4], "the burst, and the one that is its turn");
    assert!(departs(&program, 0) > 0);

    // What others wrote counts for nothing.
    let theirs = Departures { earlier: Earlier::Forgotten, ..times };
    let program = departure::open(&theirs).unwrap();
    assert_eq!(departs(&program, second + 100 * TURN), 0, "the first leaves at once");
    let second = departs(&program, second + 100 * TURN);
    assert_eq!(departs(&program, second + 100 * TURN), second + TURN);
}

/// Each part that somebody may take away is missed.
#[test]
fn a_rate_that_is_gone_is_not_taken_for_one() {
    let (ifindex, _inside, runtime) = pair();
    let links = runtime.block_on(async { Links::open().unwrap() });
    let is_shaped = || runtime.block_on(links.is_shaped(ifindex)).unwrap();
    let tc = |args: &[&str]| assert!(Command::new("tc").args(args).status().unwrap().success(), "{args:?}");
    let mut ways: Vec<&[&str]> = vec![&["qdisc", "del", "dev", "ccq", "root"]];
    if has_fq() {
        ways.push(&["filter", "del", "dev", "ccq", "egress", "pref", "1", "handle", "2", "bpf"]);
        ways.push(&["qdisc", "del", "dev", "ccq", "clsact"]);
    }
    for way in ways {
        runtime.block_on(links.shape(ifindex, &SLOW)).unwrap();
        assert!(is_shaped());
        tc(way);
        assert!(!is_shaped(), "{way:?}");
    }
    runtime.block_on(links.shape(ifindex, &SLOW)).unwrap();
    assert!(is_shaped());
}

#[test]
fn what_waits_is_lost_and_passes_is_counted() {
    let (_, inside, runtime) = pair();
    let shape = Shape { bytes_per_s: 100_000, burst_bytes: 1464, queue_bytes: 14_640 };
    let address =
        EndpointAddress { address: [10, 0, 0, 2].into(), prefix_len: 24, gateway: Some([10, 0, 0, 1].into()) };
    runtime.block_on(async {
        shape_inside(Arc::clone(&inside), shape).await.unwrap();
        configure_endpoint(inside.try_clone().unwrap(), vec![address]).await.unwrap();
    });
    let sender = netns::in_netns(inside.as_fd(), || {
        let static_neighbour = ["neigh", "replace", "10.0.0.9", "dev", "eth0", "lladdr", "02:00:00:00:00:01"];
        assert!(Command::new("ip").args(static_neighbour).status().unwrap().success());
        UdpSocket::bind("10.0.0.2:0").unwrap()
    });
    let sender = sender.unwrap();
    let before = runtime.block_on(queue_inside(Arc::clone(&inside))).unwrap().unwrap();
    for _ in 0..50 {
        // The queue refuses some: a datagram's sender is not told.
        let _ = sender.send_to(&[0; 1422], "10.0.0.9:9");
    }
    let after = runtime.block_on(queue_inside(Arc::clone(&inside))).unwrap().unwrap();
    let passed = after.bytes - before.bytes;
    assert!(passed + after.waiting_bytes + (after.dropped_packets - before.dropped_packets) * 1464 == 50 * 1464);
    assert!(after.dropped_packets - before.dropped_packets >= 35, "one burst passes and ten wait: {after:?}");
    assert!(after.waits > before.waits && after.packets > before.packets, "{after:?}");
}

#[test]
fn an_interface_that_is_gone_is_an_error_and_no_hang() {
    let (ifindex, inside, runtime) = pair();
    runtime.block_on(async {
        let links = Links::open().unwrap();
        links.delete(ifindex).await.unwrap();
        assert!(matches!(links.shape(ifindex, &SLOW).await, Err(QdiscError::Set { .. })));
        assert!(matches!(links.queue(ifindex).await, Err(QdiscError::Read { .. })));
        assert!(matches!(queue_inside(inside).await, Err(QdiscError::Find { .. })));
    });
    assert!(if_nametoindex("ccq").is_err());
}
