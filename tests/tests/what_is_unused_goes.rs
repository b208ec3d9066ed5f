//! `cc system df` says what `du` says, and `cc prune` frees what it called reclaimable; `cc update` changes limits that the kernel then has.

use std::process::Command;
use std::time::Duration;

use cc_tests::{World, eventually};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

fn du(world: &World) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(world.path("state")).output().expect("du can be run");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split('\t').next().and_then(|bytes| bytes.parse().ok()).expect("du says a number")
}

fn df(world: &World) -> Value {
    world.cc(&["system", "df", "--json"]).json()
}

fn part<'a>(report: &'a Value, kind: &str) -> &'a Value {
    let parts = report["parts"].as_array().expect("a report has parts");
    parts.iter().find(|part| part["kind"] == kind).expect("each kind is told")
}

/// Nothing is written while both look: the store settles.
fn says_what_du_says(world: &World) -> Value {
    eventually("df says what du says", SOON, || {
        let report = df(world);
        (report["total_bytes"].as_u64() == Some(du(world))).then_some(report)
    })
}

#[test]
fn the_disk_is_accounted_for_and_freed() {
    let world = World::new();
    let write = "dd if=/dev/zero of=/large bs=1M count=8 2>/dev/null; echo done";
    let kept = world.run("busybox", &["--name", "kept"], &["sleep", "600"]);
    let ended = world.run("busybox", &["--name", "ended"], &["sh", "-c", write]);
    world.image("layered");
    world.cc(&["wait", "ended"]).ok();
    let before = says_what_du_says(&world);
    let containers = part(&before, "containers");
    assert_eq!((containers["count"].as_u64(), containers["active"].as_u64()), (Some(2), Some(1)), "{before}");
    let reclaimable = containers["reclaimable_bytes"].as_u64().unwrap();
    assert!((8 << 20..9 << 20).contains(&reclaimable), "{before}");
    let images = part(&before, "images");
    assert_eq!((images["count"].as_u64(), images["active"].as_u64()), (Some(2), Some(1)), "{before}");
    assert!(images["reclaimable_bytes"].as_u64() > Some(0), "{before}");
    assert!(world.cc(&["system", "df"]).ok().stdout.contains("RECLAIMABLE"));
    // Nobody can be asked.
    world.cc(&["prune"]).fails(2, "--force");
    let pruned = world.cc(&["prune", "--all", "--force", "--json"]).json();
    assert_eq!(pruned["containers"], serde_json::json!([ended]), "{pruned}");
    assert_eq!(pruned["images"], serde_json::json!(["localhost/layered:latest"]), "{pruned}");
    let after = says_what_du_says(&world);
    for kind in ["images", "containers", "logs"] {
        assert_eq!(part(&after, kind)["reclaimable_bytes"], 0, "{kind}: {after}");
    }
    let freed = before["total_bytes"].as_u64().unwrap() - after["total_bytes"].as_u64().unwrap();
    assert!(freed >= reclaimable, "{freed} of {reclaimable} bytes were freed");
    assert_eq!(world.pid("kept"), world.pid(&kept), "what runs stays, and so does its image");
    world.remove_all();
    world.cc(&["prune", "-af"]).ok();
    let last = says_what_du_says(&world);
    assert_eq!(part(&last, "images")["count"], 0, "no orphaned image: {last}");
    world.assert_clean();
}

#[test]
fn a_pause_is_no_end() {
    let world = World::new();
    world.run("busybox", &["--name", "flaps", "--restart", "always"], &["false"]);
    // Each pause is twice as long as the one before: by now it is seconds.
    let restarts = || world.inspect("flaps")["restarts"].as_u64();
    eventually("it pauses for long", Duration::from_secs(30), || (restarts() >= Some(5)).then_some(()));
    world.cc(&["prune", "-af"]).ok();
    assert!(restarts() >= Some(5), "it is still there, and so is its image");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_new_policy_holds_at_the_next_end() {
    let world = World::new();
    let script = "test -f /again && exec sleep 600; touch /again; sleep 2; exit 1";
    world.run("busybox", &["--name", "web"], &["sh", "-c", script]);
    world.cc(&["update", "--restart", "on-failure:1", "web"]).ok();
    eventually("it was started again", SOON, || (world.inspect("web")["restarts"] == 1).then_some(()));
    world.remove_all();
    world.assert_clean();
}

/// What the kernel has, on either version of cgroups.
fn limit(world: &World, id: &str, v2: &str, v1: &str) -> String {
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", world.pid(id))).unwrap();
    let (controller, file) = v1.split_once('/').unwrap();
    let legacy = cgroups.lines().find_map(|line| {
        let mut fields = line.split(':').skip(1);
        let named = fields.next()?.split(',').any(|name| name == controller);
        named.then(|| fields.next())?.map(str::to_owned)
    });
    let path = match legacy {
        Some(path) => format!("/sys/fs/cgroup/{controller}{path}/{file}"),
        None => {
            let path = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
            format!("/sys/fs/cgroup{path}/{v2}")
        }
    };
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
}

#[test]
fn limits_and_the_policy_change_while_it_runs() {
    let world = World::new();
    let id = world.run("busybox", &["--name", "web", "--memory", "64MiB"], &["sleep", "600"]);
    let memory = || limit(&world, &id, "memory.max", "memory/memory.limit_in_bytes");
    let pids = || limit(&world, &id, "pids.max", "pids/pids.max");
    assert_eq!(memory(), (64 << 20).to_string());
    let pid = world.pid(&id);
    for mib in [256u64, 32] {
        world.cc(&["update", "--memory", &format!("{mib}MiB"), "web"]).ok();
        assert_eq!(memory(), (mib << 20).to_string());
    }
    world.cc(&["update", "--cpus", "0.5", "--pids-limit", "77", "--restart", "on-failure:3", "web"]).ok();
    assert_eq!(pids(), "77");
    assert_eq!(memory(), (32u64 << 20).to_string(), "what is not named stays");
    let quota = limit(&world, &id, "cpu.max", "cpu/cpu.cfs_quota_us");
    assert!(quota == "50000" || quota.starts_with("50000 "), "{quota}");
    let shown = world.inspect("web");
    assert_eq!(shown["spec"]["restart"], "on-failure:3", "{shown}");
    assert_eq!(world.pid(&id), pid, "and it went on");
    // The next start has them, and 0 takes one back.
    world.cc(&["restart", "-t", "0", "web"]).ok();
    assert_eq!((memory(), pids()), ((32u64 << 20).to_string(), "77".to_owned()));
    world.cc(&["update", "--memory", "0", "--cpus", "0", "web"]).ok();
    assert_ne!(memory(), (32u64 << 20).to_string());
    let quota = limit(&world, &id, "cpu.max", "cpu/cpu.cfs_quota_us");
    assert!(quota == "-1" || quota.starts_with("max"), "{quota}");
    world.cc(&["update", "web"]).fails(2, "--memory");
    world.cc(&["update", "--memory", "1MiB", "web"]).fails(1, "4 MiB");
    world.cc(&["update", "--restart", "sometimes", "web"]).fails(1, "on-failure");
    world.cc(&["update", "--cpu", "64", "nobody"]).fails(1, "nobody");
    world.remove_all();
    world.assert_clean();
}
