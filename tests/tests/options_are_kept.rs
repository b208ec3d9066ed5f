//! What `cc run` is told about a program is so: its entrypoint, its files, what it may do, how it is stopped, how much of a CPU it has.

use std::time::{Duration, Instant};

use cc_tests::{World, eventually};

const BOUND: Duration = Duration::from_secs(20);

fn says(world: &World, options: &[&str], script: &str) -> String {
    world.run_rm("busybox", options, &["sh", "-c", script]).ok().stdout
}

#[test]
fn a_read_only_root_and_file_systems_in_memory() {
    let world = World::new();
    let writes = "for d in / /root /tmp /run/x /dev/shm; do touch $d/f 2>/dev/null && echo $d; done";
    let options = ["--read-only", "--tmpfs", "/tmp:size=1m,mode=755", "--tmpfs", "/run/x"];
    assert_eq!(says(&world, &options, writes), "/tmp\n/run/x\n/dev/shm\n");
    assert_eq!(says(&world, &[], writes), "/\n/root\n/tmp\n/dev/shm\n");
    let fills = "head -c 2000000 /dev/zero > /tmp/f; wc -c < /tmp/f; stat -c %a /tmp; grep ' /tmp ' /proc/mounts";
    let said = world.run_rm("busybox", &options, &["sh", "-c", fills]).ok();
    assert!(said.stdout.starts_with("1048576\n755\n") && said.stdout.contains("noexec"), "{}", said.stdout);
    for bad in ["tmp", "/proc", "/tmp:size=0"] {
        world.run_rm("busybox", &["--tmpfs", bad], &["true"]).fails(125, "--tmpfs");
    }
    world.assert_clean();
}

#[test]
fn capabilities_and_limits() {
    let world = World::new();
    let capabilities = |options: &[&str]| says(&world, options, "grep -E '^Cap(Eff|Bnd)' /proc/self/status");
    assert_eq!(capabilities(&[]), "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n");
    let one = ["--cap-drop", "ALL", "--cap-add", "net_bind_service"];
    assert_eq!(capabilities(&one), "CapEff:\t0000000000000400\nCapBnd:\t0000000000000400\n");
    assert_eq!(capabilities(&["--cap-add", "NET_ADMIN"]), "CapEff:\t00000000a80435fb\nCapBnd:\t00000000a80435fb\n");
    world.run_rm("busybox", &["--cap-add", "FLY"], &["true"]).fails(125, "FLY");
    // Further programs have the same.
    world.run("busybox", &["--name", "small", "--cap-drop", "ALL", "--read-only"], &["sleep", "600"]);
    let inside = "grep ^CapEff /proc/self/status; touch /f || echo sealed";
    let said = world.cc(&["exec", "small", "sh", "-c", inside]).ok().stdout;
    assert_eq!(said, "CapEff:\t0000000000000000\nsealed\n");
    let limits = says(&world, &["--ulimit", "nofile=99:100", "--ulimit", "core=0"], "ulimit -n; ulimit -Hn; ulimit -c");
    assert_eq!(limits, "99\n100\n0\n");
    world.run_rm("busybox", &["--ulimit", "nofile=2:1"], &["true"]).fails(125, "--ulimit");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn an_entrypoint_and_a_file_of_variables() {
    let world = World::new();
    let ran = world.run_rm("busybox", &["--entrypoint", "/bin/echo"], &["a", "b"]).ok();
    assert_eq!(ran.stdout, "a b\n");
    let file = world.path("variables");
    std::fs::write(&file, "# not one\nA=1\nB=two words\n").expect("it can be written");
    let options = ["--env-file", file.to_str().expect("text"), "-e", "A=3"];
    assert_eq!(says(&world, &options, "echo $A $B"), "3 two words\n");
    world.assert_clean();
}

#[test]
fn how_it_is_stopped() {
    let world = World::new();
    let script = "trap 'exit 5' USR1; trap '' TERM; echo up; while :; do sleep 0.05; done";
    let options = ["--name", "web", "--stop-signal", "USR1"];
    world.run("busybox", &options, &["sh", "-c", script]);
    let up =
        |name: &str| eventually("it is up", BOUND, || (world.cc(&["logs", name]).ok().stdout == "up\n").then_some(()));
    up("web");
    world.cc(&["stop", "web"]).ok();
    assert_eq!(world.inspect("web")["exit"]["code"], 5);
    world.run("busybox", &["--name", "deaf", "--stop-timeout", "1"], &["sh", "-c", script]);
    up("deaf");
    let began = Instant::now();
    world.cc(&["stop", "deaf"]).ok();
    assert!((1.0..8.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
    assert_eq!(world.inspect("deaf")["exit"]["code"], 137);
    world.run_rm("busybox", &["--stop-signal", "LOUD"], &["true"]).fails(125, "LOUD");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_part_of_a_cpu() {
    let world = World::new();
    let id = world.run("busybox", &["--cpus", "0.2"], &["sh", "-c", "while :; do :; done"]);
    let used = || world.cc(&["metrics", &id, "--json"]).json()[0]["cpu_usage_us"].as_u64().expect("a number") as f64;
    let (began, before) = (Instant::now(), used());
    let end = began + Duration::from_secs(3);
    while Instant::now() < end {
        std::thread::park_timeout(end - Instant::now());
    }
    let part = (used() - before) / began.elapsed().as_secs_f64() / 1e6;
    assert!((0.1..0.25).contains(&part), "{part} of a CPU");
    world.run_rm("busybox", &["--cpus", "0"], &["true"]).fails(125, "--cpus");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn some_of_the_cpus() {
    let world = World::new();
    let allowed = "grep Cpus_allowed_list /proc/self/status";
    let all = says(&world, &[], allowed);
    assert_eq!(says(&world, &["--cpuset", "0"], allowed), "Cpus_allowed_list:\t0\n");
    world.run("busybox", &["--name", "one", "--cpuset", "0"], &["sleep", "600"]);
    let inside = |script: &str| world.cc(&["exec", "one", "sh", "-c", script]).ok().stdout;
    // Not to be evaded by a change of affinity, and further programs have it, too.
    assert_eq!(inside(&format!("taskset -p ffff $$ >/dev/null; {allowed}")), "Cpus_allowed_list:\t0\n");
    world.cc(&["restart", "-t", "0", "one"]).ok();
    assert_eq!(inside(allowed), "Cpus_allowed_list:\t0\n");
    assert_eq!(world.inspect("one")["spec"]["cpuset"], "0");
    // Nobody else has changed.
    assert_eq!(says(&world, &[], allowed), all);
    for bad in ["x", "1-0", "8000", "0,"] {
        world.run_rm("busybox", &["--cpuset", bad], &["true"]).fails(125, bad);
    }
    world.remove_all();
    world.assert_clean();
}
