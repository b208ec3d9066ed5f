//! What a daemon left that died between making a thing and writing of it is gone when the next one answers: no ghost of a container stays,
//! in no place that has our name.

use std::path::PathBuf;
use std::time::Duration;

use cc_tests::{Leave, World, eventually};

/// As a container's id, and no container's.
const STRAY: &str = "00c0ffee00c0ffee";

fn cgroup_roots(world: &World, id: &str) -> Vec<PathBuf> {
    let line = std::fs::read_to_string(format!("/proc/{}/cgroup", world.pid(id))).unwrap();
    let own = line.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
    let dir = PathBuf::from(own).parent().unwrap().to_owned();
    let roots = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    roots.chain(["/sys/fs/cgroup".into()]).map(|root| root.join(&dir)).filter(|dir| dir.is_dir()).collect()
}

#[test]
fn what_no_record_explains_is_gone() {
    let mut world = World::new();
    world.run("busybox", &["--name", "web"], &["sleep", "600"]);
    let cgroups: Vec<PathBuf> = cgroup_roots(&world, "web").iter().map(|root| root.join(STRAY)).collect();
    assert!(!cgroups.is_empty());
    world.leave(Leave::Killed);
    let dirs = ["run/containers", "state/containers"].map(|dir| world.path(dir).join(STRAY));
    for dir in dirs.iter().chain(&cgroups) {
        std::fs::create_dir(dir).unwrap();
    }
    // Something that still runs in it.
    let mut left = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let v2 = cgroups
        .iter()
        .map(|dir| dir.join("cgroup.procs"))
        .find(|procs| procs.parent().unwrap().join("cgroup.kill").exists());
    std::fs::write(v2.unwrap(), left.id().to_string()).unwrap();
    world.start();
    let all: Vec<PathBuf> = dirs.into_iter().chain(cgroups).collect();
    let gone = || all.iter().all(|dir| !dir.exists()).then_some(());
    let found = std::panic::catch_unwind(|| eventually("strays are gone", Duration::from_secs(5), gone));
    // Ours to end, should it not have been ended.
    let _ = left.kill();
    let _ = left.wait();
    for dir in all.iter().filter(|dir| dir.exists()) {
        let _ = std::fs::remove_dir(dir);
    }
    found.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
    assert_eq!(world.inspect("web")["state"], "running", "what has a record stays");
    world.remove_all();
    world.assert_clean();
}
