//! Everything that decides is visible: named programs, named maps, named fields, pinned links.

use std::process::Command;

use cc_tests::World;

fn bpftool(args: &[&str]) -> String {
    let output = Command::new("bpftool").args(args).output().expect("bpftool is installed by `cargo xtask setup`");
    assert!(output.status.success(), "bpftool {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn maps_programs_and_links_are_named() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    world.run_rm("busybox", &["--vpc", "blue"], &["ping", "-c", "1", "-W", "2", "10.0.0.2"]).ok();
    let pin = |name: &str| world.pins().join(name).display().to_string();
    let find = |name: &str| {
        let direct = pin(name);
        let nested = pin(&format!("maps/{name}"));
        if std::path::Path::new(&direct).exists() { direct } else { nested }
    };
    for (map, field) in [
        ("CC_PORTS", "\"ipv4\""),
        ("CC_ROUTES", "\"vni\""),
        ("CC_FLOWS", "\"last_seen_ns\""),
        ("CC_RULES", "\"priority\""),
        ("CC_ENDPOINTS", "\"ifindex\""),
        ("CC_COUNTERS", "\"received_packets\""),
    ] {
        let dump = bpftool(&["map", "dump", "pinned", &find(map)]);
        assert!(dump.contains(field), "{map} has no field {field}: {}", dump.chars().take(400).collect::<String>());
    }
    let links: Vec<String> = std::fs::read_dir(world.pins().join("links"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&id))
        .collect();
    assert_eq!(links.len(), 2, "both cgroup links: {links:?}");
    let programs = bpftool(&["prog", "show"]);
    for name in ["cc_from_ep", "cc_to_ep", "cc_cg_in", "cc_cg_out"] {
        assert!(programs.contains(name), "{name} is not loaded");
    }
}

#[test]
fn metrics_count_what_was_sent() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let server =
        world.run("busybox", &["--vpc", "blue"], &["sh", "-c", "nc -l -p 7000 -e sh -c 'cat | wc -c'; sleep 600"]);
    world.wait_for_listener(&server, 7000);
    let sent =
        world.run_rm("busybox", &["--vpc", "blue"], &["sh", "-c", "head -c 1000000 /dev/zero | nc -w 5 10.0.0.2 7000"]);
    assert_eq!(sent.stdout.trim(), "1000000", "the other side has it all: {}", sent.stderr);
    let metrics = world.cc(&["metrics", &server, "--json"]).json()[0].clone();
    let bytes = |key: &str| metrics[key]["bytes"].as_u64().unwrap();
    let packets = |key: &str| metrics[key]["packets"].as_u64().unwrap();
    assert!((1_000_000..1_300_000).contains(&bytes("received")), "{metrics}");
    assert!((1_000_000..1_300_000).contains(&bytes("socket_received")), "{metrics}");
    // Real segments, not super-packets: 1 MB needs at least 700 of 1450 bytes.
    assert!(packets("received") >= 700, "{metrics}");
    assert!(packets("sent") > 0 && bytes("socket_sent") > 0, "{metrics}");
    assert!(metrics["memory_bytes"].as_u64().unwrap() > 0 && metrics["pids"].as_u64().unwrap() >= 1, "{metrics}");
    let before = world.drops(&server, "no_way_out");
    // Beyond the VPC: the packet is dropped, counted, and the reason is told.
    world.in_container(&server, || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..5 {
            let _ = socket.send_to(b"x", "192.0.2.1:9");
        }
    });
    assert_eq!(world.drops(&server, "no_way_out") - before, 5);
}

#[test]
fn a_container_without_a_vpc_has_its_sockets_counted() {
    let world = World::new();
    // The listener's own input stays open: at its end it would close its half, and the sender's nc ends with that, sent or not.
    let script = "sleep 600 | nc -l -p 7000 >/dev/null &
        until grep -q ':1B58 .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done
        head -c 100000 /dev/zero | nc -w 2 127.0.0.1 7000; sleep 600";
    let id = world.run("busybox", &[], &["sh", "-c", script]);
    let counted = || {
        let metrics = world.cc(&["metrics", &id, "--json"]).json()[0].clone();
        let of = |key: &str| metrics[key]["bytes"].as_u64().unwrap();
        assert_eq!(of("received"), 0, "there is no interface: {metrics}");
        (of("socket_received") > 100_000 && of("socket_sent") > 100_000).then_some(())
    };
    cc_tests::eventually("what went over the loopback is counted", std::time::Duration::from_secs(10), counted);
    world.cc(&["rm", "-f", &id]).ok();
    world.assert_clean();
}
