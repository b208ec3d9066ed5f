//! What the kernel makes of a queue that was set: `tc` reads it back, and so do we.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

use cc_host::kernel::link::{EndpointAddress, Links, Veth, configure_endpoint};
use cc_host::kernel::netns;
use cc_host::kernel::qdisc::{QdiscError, Tbf, queue_inside, shape_inside};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

const SLOW: Tbf = Tbf { bytes_per_s: 125_000, burst_bytes: 12_500, queue_bytes: 262_144 };

/// A namespace for the calling thread, a veth pair out of it, and the namespace of its other end.
fn pair() -> (u32, Arc<OwnedFd>, tokio::runtime::Runtime) {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let inside = netns::create(|| {}).unwrap();
    let veth = Veth { host_name: "ccq", netns: inside.as_fd(), mac: [2, 0, 0, 0, 0, 9], mtu: 1450, alias: "cc:q" };
    let ifindex = runtime.block_on(async { Links::open().unwrap().create_veth(&veth).await }).unwrap();
    (ifindex, Arc::new(inside), runtime)
}

/// Options of the queue at an interface's root, as `tc` tells them.
fn tc(interface: &str) -> serde_json::Value {
    let output = Command::new("tc").args(["-json", "qdisc", "show", "dev", interface, "root"]).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    found[0].clone()
}

#[test]
fn a_queue_is_as_it_was_asked_for() {
    let (ifindex, inside, runtime) = pair();
    runtime.block_on(async {
        let links = Links::open().unwrap();
        assert_eq!(links.queue(ifindex).await.unwrap(), None, "nobody has set one");
        let fast = Tbf { bytes_per_s: 12_500_000_000, burst_bytes: 64 << 20, queue_bytes: 4 << 20 };
        for asked in [SLOW, fast] {
            links.shape(ifindex, &asked).await.unwrap();
            let found = tc("ccq");
            assert_eq!((&found["kind"], &found["options"]["rate"]), (&"tbf".into(), &asked.bytes_per_s.into()));
            // Told as a time in microseconds, and so rounded.
            let (burst, rounding) = (found["options"]["burst"].as_u64().unwrap(), asked.bytes_per_s / 1_000_000);
            assert!(burst.abs_diff(asked.burst_bytes.into()) <= rounding, "{found}");
            assert!(links.queue(ifindex).await.unwrap().is_some());
        }
        shape_inside(Arc::clone(&inside), SLOW).await.unwrap();
        assert!(queue_inside(Arc::clone(&inside)).await.unwrap().is_some());
    });
    let found = netns::in_netns(inside.as_fd(), || tc("eth0")).unwrap();
    assert_eq!(found["options"]["rate"], SLOW.bytes_per_s);
    assert_eq!(tc("ccq")["options"]["rate"], 12_500_000_000_u64, "the other end has its own");
}

#[test]
fn what_waits_is_lost_and_passes_is_counted() {
    let (_, inside, runtime) = pair();
    let tbf = Tbf { bytes_per_s: 100_000, burst_bytes: 1464, queue_bytes: 14_640 };
    let address =
        EndpointAddress { address: [10, 0, 0, 2].into(), prefix_len: 24, gateway: Some([10, 0, 0, 1].into()) };
    runtime.block_on(async {
        shape_inside(Arc::clone(&inside), tbf).await.unwrap();
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
