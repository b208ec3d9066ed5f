//! `--memory` kills and says so; `--cpu` shares the processor; the number of processes is bounded.

use std::time::Duration;

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

/// Two busy containers on one processor: 3:1 of shares is about 3:1 of time. Asked of the kernel, of both at one moment: on a busy machine the
/// daemon's answers can be seconds apart.
#[test]
fn cpu_shares_share() {
    let world = World::new();
    let burn = ["sh", "-c", "while :; do :; done"];
    let start = |shares: &str| world.run("busybox", &["--cpu", shares, "--cpuset", "0"], &burn);
    let pids = [start("3072"), start("1024")].map(|id| world.pid(&id));
    let used = || pids.map(on_a_processor);
    let before = used();
    std::thread::sleep(Duration::from_secs(4));
    let after = used();
    let [large, small] = [0, 1].map(|n| (after[n] - before[n]).as_secs_f64());
    let ratio = large / small;
    assert!((2.0..4.5).contains(&ratio), "3:1 of shares became {ratio:.2}:1 ({large:.3} s and {small:.3} s)");
}

/// The time for which a process has run.
fn on_a_processor(pid: i32) -> Duration {
    let said = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(said.split(' ').next().unwrap().parse().unwrap())
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
