//! The daemon is killed at random moments under load; the next one brings everything back in line.

use std::time::{Duration, Instant};

use cc_tests::World;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The soak runs more.
fn kills() -> u32 {
    if std::env::var_os("CC_SOAK").is_some() { 500 } else { 50 }
}

fn seed() -> u64 {
    std::env::var("CC_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

#[test]
fn fifty_kills_at_random_moments_leave_nothing() {
    println!("seed {}", seed());
    let mut random = StdRng::seed_from_u64(seed());
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/16");
    let image = world.image("busybox");
    for round in 0..kills() {
        let commands: Vec<_> = (0..4)
            .map(|n| {
                let name = format!("r{round}-{n}");
                match n {
                    0 => world
                        .command(&["run", "-d", "--name", &name, "--vpc", "blue", "--image", &image, "sleep", "600"]),
                    1 => world.command(&["run", "--rm", "--vpc", "blue", "--image", &image, "true"]),
                    2 => world.command(&["run", "-d", "--rm", "--image", &image, "sleep", "600"]),
                    _ => world.command(&["vpc", "create", "--cidr", "10.3.0.0/24", "--name", &name]),
                }
            })
            .collect();
        let mut children: Vec<_> = commands
            .into_iter()
            .map(|mut c| c.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap())
            .collect();
        let moment = Instant::now() + Duration::from_micros(random.random_range(0..120_000));
        while Instant::now() < moment {
            std::thread::park_timeout(moment - Instant::now());
        }
        world.take_daemon().kill();
        let acknowledged: Vec<bool> = children.iter_mut().map(|c| c.wait().unwrap().success()).collect();
        world.start();
        // What was acknowledged is there: the detached container is known, if stopped; so is the VPC.
        if acknowledged[0] {
            let state = world.inspect(&format!("r{round}-0"))["state"].as_str().unwrap().to_owned();
            assert_eq!(state, "stopped", "round {round}");
        }
        let vpcs = world.cc(&["vpc", "list", "--json"]).json();
        let known = vpcs.as_array().unwrap().iter().any(|v| v["name"] == format!("r{round}-3").as_str());
        assert!(known || !acknowledged[3], "round {round}: an acknowledged VPC is lost");
        assert_eq!(world.cc(&["ps", "-q"]).ok().stdout, "", "round {round}: nothing runs after a restart");
        world.remove_all();
        world.assert_clean();
    }
    println!("soak: {} kills", kills());
}

#[test]
fn a_restart_says_what_it_stopped() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run("busybox", &["--vpc", "blue", "--name", "web"], &["sleep", "600"]);
    world.take_daemon().kill();
    world.start();
    let inspected = world.inspect("web");
    assert_eq!(inspected["state"], "stopped");
    assert!(inspected["exit"]["reason"].as_str().unwrap().contains("restart"), "{inspected}");
    let events = world.cc(&["events"]).ok().stdout;
    assert!(events.lines().any(|l| l.contains(&id) && l.contains("restart")), "{events}");
    // And a new one gets its network.
    world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    world.run_rm("busybox", &["--vpc", "blue"], &["ping", "-c", "1", "-W", "2", "10.0.0.3"]).ok();
}

#[test]
fn sigterm_stops_in_order_within_five_seconds() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    for _ in 0..3 {
        // Process 1 ignores TERM: the daemon must not wait for it for ever.
        world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    }
    let image = world.image("busybox");
    let foreground = world.command(&["run", "--rm", "--image", &image, "sh", "-c", "echo ready; sleep 600"]);
    let mut foreground = { foreground }.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(foreground.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let (status, took) = world.take_daemon().stop();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    // Its client is told how its container ended.
    assert_eq!(foreground.wait().unwrap().code(), Some(137));
    world.start();
    world.remove_all();
    world.assert_clean();
}
