//! `--memory` kills and says so; `--cpu` shares the processor; the number of processes is bounded.

use std::time::{Duration, Instant};

use cc_tests::World;

#[test]
fn a_container_over_its_memory_limit_is_killed_and_says_so() {
    let world = World::new();
    let id = world.run("busybox", &["--memory", "16MiB"], &["sh", "-c", "tail /dev/zero"]);
    let exit = world.cc(&["wait", &id, "--json"]).json();
    let exit = exit.get(0).cloned().unwrap_or(exit);
    assert_eq!(exit["code"], 137, "{exit}");
    assert_eq!(exit["oom_killed"], true, "{exit}");
    assert!(exit["reason"].as_str().unwrap().contains("memory limit"), "{exit}");
    let table = world.cc(&["ps", "-a"]).ok().stdout;
    assert!(table.contains("out of memory"), "{table}");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_container_within_its_memory_limit_is_not() {
    let world = World::new();
    // 8 MiB in a file in memory.
    let command = "head -c 8388608 /dev/zero > /dev/shm/x && cat /dev/shm/x | wc -c";
    let ran = world.run_rm("busybox", &["--memory", "64MiB"], &["sh", "-c", command]).ok();
    assert_eq!(ran.stdout.trim(), "8388608");
}

/// Two busy containers on one processor: 3:1 of shares is about 3:1 of time.
#[test]
fn cpu_shares_share() {
    let world = World::new();
    let burn = ["sh", "-c", "while :; do :; done"];
    let (large, small) =
        (world.run("busybox", &["--cpu", "3072"], &burn), world.run("busybox", &["--cpu", "1024"], &burn));
    for id in [&large, &small] {
        // Sharing shows only where they compete: on one processor.
        let pid = nix::unistd::Pid::from_raw(world.pid(id));
        let mut cpus = nix::sched::CpuSet::new();
        cpus.set(0).unwrap();
        nix::sched::sched_setaffinity(pid, &cpus).unwrap();
    }
    let used = |id: &str| world.cc(&["metrics", id, "--json"]).json()[0]["cpu_usage_us"].as_u64().unwrap();
    let (large_before, small_before) = (used(&large), used(&small));
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        std::thread::park_timeout(end - Instant::now());
    }
    let (large_used, small_used) = (used(&large) - large_before, used(&small) - small_before);
    let ratio = large_used as f64 / small_used as f64;
    assert!((2.0..4.5).contains(&ratio), "3:1 of shares became {ratio:.2}:1 ({large_used} and {small_used} µs)");
}

#[test]
fn the_number_of_processes_is_bounded() {
    let world = World::new();
    let command = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo all started";
    let ran = world.run_rm("busybox", &["--pids-limit", "20"], &["sh", "-c", command]);
    assert!(!ran.stdout.contains("all started"), "a fork bomb was not bounded: {}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("fork"), "{}", ran.stderr);
}

/// A limit that nobody asked for.
#[test]
fn a_fork_bomb_meets_the_default() {
    let world = World::with_config("pids_max = 30");
    let command = "i=0; while [ $i -lt 90 ]; do sleep 5 & i=$((i+1)); done; echo all started";
    let ran = world.run_rm("busybox", &[], &["sh", "-c", command]);
    assert!(!ran.stdout.contains("all started"), "a fork bomb was not bounded: {}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("fork"), "{}", ran.stderr);
}
