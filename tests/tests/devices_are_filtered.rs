//! A container's cgroup opens and makes no device but those that it is given: whoever is in it, with whatever rights, also while no daemon
//! runs, and until the cgroup is gone. Who asks here is the host's root, put into the cgroup: nothing but the filter stands in his way.

use std::path::{Path, PathBuf};
use std::process::Command;

use cc_tests::{Leave, World};

/// 10:237: there on every machine that can mount an image, and closed to containers.
const LOOP_CONTROL: &str = "/dev/loop-control";

/// Of the v2 tree, where the filter hangs.
fn cgroup(world: &World, id: &str) -> PathBuf {
    let line = std::fs::read_to_string(format!("/proc/{}/cgroup", world.pid(id))).unwrap();
    let path = line.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|of| of[2] == "cgroup2").unwrap()[1];
    PathBuf::from(mount).join(path)
}

/// As the host's root, in the container's cgroup or where the test is.
fn asks(cgroup: Option<&PathBuf>, script: &str) -> String {
    let enter = cgroup.map_or(String::new(), |dir| format!("echo $$ > {}/cgroup.procs || exit 9\n", dir.display()));
    let output = Command::new("bash").arg("-c").arg(format!("{enter}{script}")).output().unwrap();
    assert_ne!(output.status.code(), Some(9), "it is not in the cgroup");
    String::from_utf8(output.stdout).unwrap()
}

fn opens(cgroup: Option<&PathBuf>, device: &str) -> bool {
    asks(cgroup, &format!("(exec 3<{device}) 2>/dev/null && echo opened")) == "opened\n"
}

#[test]
fn mknod_and_open_are_for_what_is_on_the_list() {
    let world = World::new();
    world.run("busybox", &["--name", "plain"], &["sleep", "600"]);
    let inside = cgroup(&world, "plain");
    let dir = world.path("nodes");
    std::fs::create_dir(&dir).unwrap();
    let make = |name: &str, kind: &str, number: &str| {
        format!("mknod {}/{name} {kind} {number} 2>/dev/null && echo made", dir.display())
    };
    // What nobody is denied anything of without the filter.
    assert_eq!(asks(None, &make("free", "c", "10 237")), "made\n");
    assert!(opens(None, LOOP_CONTROL) && opens(None, "/dev/kmsg"));
    for (number, kind) in [("10 237", "c"), ("1 1", "c"), ("5 1", "c"), ("1 11", "c"), ("7 0", "b"), ("259 1", "b")] {
        assert_eq!(asks(Some(&inside), &make("denied", kind, number)), "", "{kind} {number} was made");
    }
    for device in [LOOP_CONTROL, "/dev/kmsg", &format!("{}/free", dir.display())] {
        assert!(!opens(Some(&inside), device), "{device} was opened");
    }
    for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"] {
        // Who has no terminal has no /dev/tty either, filter or not.
        let device = format!("/dev/{device}");
        assert_eq!(opens(Some(&inside), &device), opens(None, &device), "{device}");
    }
    assert_eq!(asks(Some(&inside), &make("null", "c", "1 3")), "made\n");
    // A mark of overlayfs is no device: a container removes a file of its image.
    world.cc(&["exec", "plain", "rm", "/etc/passwd"]).ok();
    world.remove_all();
    world.assert_clean();
}

#[test]
fn given_devices_pass_with_the_rights_that_they_were_given() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let options = ["--name", "given", "--vpc", "blue", "--device", LOOP_CONTROL, "--device", "/dev/kmsg:/dev/kmsg:r"];
    world.run("busybox", &options, &["sleep", "600"]);
    let check = || {
        let inside = cgroup(&world, "given");
        assert!(opens(Some(&inside), LOOP_CONTROL) && opens(Some(&inside), "/dev/kmsg"));
        let written = asks(Some(&inside), "(exec 3>/dev/kmsg) 2>/dev/null && echo opened");
        assert_eq!(written, "", "it was given for reading only");
        assert!(!opens(Some(&inside), "/dev/fuse") || !opens(None, "/dev/fuse"));
        let dir = world.path("run").display().to_string();
        assert_eq!(asks(Some(&inside), &format!("mknod {dir}/x c 10 237 2>/dev/null && echo made")), "");
    };
    check();
    // A changed limit touches no filter, and a container that is started again has it in its new cgroup.
    world.cc(&["update", "--memory", "64MiB", "given"]).ok();
    check();
    world.cc(&["restart", "-t", "0", "given"]).ok();
    check();
    world.remove_all();
    world.assert_clean();
}

#[test]
fn it_is_in_force_without_a_daemon_and_put_back_by_the_next() {
    let mut world = World::new();
    world.run("busybox", &["--name", "plain"], &["sleep", "600"]);
    let inside = cgroup(&world, "plain");
    for how in [Leave::Killed, Leave::Stopped] {
        world.leave(how);
        assert!(!opens(Some(&inside), LOOP_CONTROL), "no daemon: {how:?}");
        world.start();
        assert!(!opens(Some(&inside), LOOP_CONTROL), "the next daemon: {how:?}");
        assert_eq!(filters(&inside).len(), 1, "one filter, the one that was there");
    }
    // As of a container that an earlier release has started.
    world.leave(Leave::Killed);
    for id in filters(&inside) {
        bpftool(&["cgroup", "detach", &inside.display().to_string(), "cgroup_device", "id", &id.to_string()]);
    }
    assert!(opens(Some(&inside), LOOP_CONTROL), "nothing else is in the way");
    world.start();
    assert!(!opens(Some(&inside), LOOP_CONTROL), "it is put back");
    world.remove_all();
    world.assert_clean();
}

fn filters(cgroup: &Path) -> Vec<u64> {
    let shown: serde_json::Value =
        serde_json::from_str(&bpftool(&["-j", "cgroup", "show", &cgroup.display().to_string()])).unwrap();
    let all = shown.as_array().cloned().unwrap_or_default();
    let devices = all.iter().filter(|one| one["attach_type"].as_str().is_some_and(|of| of.contains("device")));
    devices.filter_map(|one| one["id"].as_u64()).collect()
}

fn bpftool(args: &[&str]) -> String {
    let output = Command::new("bpftool").args(args).output().expect("bpftool can be run");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
