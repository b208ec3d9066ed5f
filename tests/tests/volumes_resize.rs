//! A volume grows, in use or not, and never shrinks; a snapshot is a volume of its own, with what was there at one moment.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use cc_tests::damage::damage;
use cc_tests::{Build, Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// The kernel asks for this capability, and not every machine's root has it.
fn can_grow_in_use() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim().to_owned();
    u64::from_str_radix(&bits, 16).unwrap() & (1 << CAP_SYS_RESOURCE) != 0
}

/// Of the file system at `/d`, in MiB, and what is in its file.
fn look(world: &World, id: &str) -> (u64, String) {
    let said = world.cc(&["exec", id, "sh", "-c", "df -m /d | tail -1 | awk '{print $2}'; cat /d/file"]).ok().stdout;
    let (size, file) = said.split_once('\n').unwrap();
    (size.parse().unwrap(), file.to_owned())
}

#[test]
fn it_grows_under_who_uses_it_and_only_grows() {
    let world = World::new();
    let id = world.cc(&["volume", "create", "--size", "16MiB", "--name", "data"]).line();
    let resize = |size: &str| world.cc(&["volume", "resize", "data", "--size", size]);
    // Nobody has it.
    assert_eq!(resize("32MiB").line(), id);
    let container = world.run(
        "busybox",
        &["-v", "data:/d"],
        &["sh", "-c", "echo kept > /d/file; while :; do date >> /d/log; done"],
    );
    cc_tests::eventually("the container has written", std::time::Duration::from_secs(10), || {
        (world.cc(&["exec", &container, "cat", "/d/file"]).stdout == "kept\n").then_some(())
    });
    let (before, _) = look(&world, &container);
    assert!((20..=32).contains(&before), "{before}");
    for (size, least, most) in [("1GiB", 900, 1024), ("1GiB", 900, 1024), ("1025MiB", 900, 1025)] {
        if can_grow_in_use() {
            resize(size).ok();
        } else {
            resize(size).fails(1, "CAP_SYS_RESOURCE");
            assert_eq!(look(&world, &container).0, before, "it is as it was");
            assert_eq!(world.cc(&["volume", "inspect", "data"]).json()[0]["size_bytes"], 32 * MIB);
            world.cc(&["stop", "-t", "0", &container]).ok();
            resize(size).ok();
            world.cc(&["start", &container]).ok();
        }
        let (now, file) = look(&world, &container);
        assert!((least..=most).contains(&now) && file == "kept\n", "{size}: {now}");
        if !can_grow_in_use() {
            break;
        }
    }
    let file = std::fs::metadata(world.path("state/volumes").join(format!("{id}.img"))).unwrap();
    assert!(file.blocks() * 512 >= file.len(), "what it has grown by is not all its own: {file:?}");
    let size = if can_grow_in_use() { 1025 * MIB } else { 1024 * MIB };
    for smaller in ["1023MiB", "16MiB"] {
        resize(smaller).fails(1, "only grows");
    }
    resize("1MiB").fails(1, "a volume has from");
    world.cc(&["exec", &container, "dd", "if=/dev/zero", "of=/d/large", "bs=1M", "count=200"]).ok();
    let shown = world.cc(&["volume", "inspect", "data"]).json();
    assert_eq!((&shown[0]["size_bytes"], &shown[0]["state"]), (&size.into(), &"ready".into()));
    world.remove_all();
    assert_eq!(world.cc(&["volume", "check", "data", "--json"]).json()["clean"], true);
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}

/// A container is said to have ended before all of it is gone.
#[test]
fn one_that_has_just_ended_is_in_nobodys_way() {
    let world = World::new();
    world.cc(&["volume", "create", "--size", "16MiB", "--name", "data"]).ok();
    let container = world.run("busybox", &["-v", "data:/d"], &["sleep", "1000"]);
    let ends = || {
        world.cc(&["kill", &container]).ok();
        world.cc(&["wait", &container]).ok();
    };
    for round in 1..=10_u64 {
        ends();
        world.cc(&["volume", "resize", "data", "--size", &format!("{}MiB", 16 + round)]).ok();
        assert_eq!(world.cc(&["volume", "inspect", "data"]).json()[0]["size_bytes"], (16 + round) * MIB);
        world.cc(&["start", &container]).ok();
        ends();
        world.cc(&["volume", "snapshot", "data", "--name", "copy"]).ok();
        world.cc(&["volume", "delete", "copy"]).ok();
        world.cc(&["start", &container]).ok();
    }
    world.remove_all();
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}

#[test]
fn a_snapshot_has_what_was_there_and_a_name_of_its_own() {
    let world = World::new();
    world.cc(&["volume", "create", "--size", "64MiB", "--name", "data"]).ok();
    // Two files that are changed in this order, always: in no moment is the second ahead of the first.
    let script = "i=0; while :; do i=$((i+1)); echo $i > /d/a.new && mv /d/a.new /d/a; echo $i > /d/b.new && mv /d/b.new /d/b; done";
    let writer = world.run("busybox", &["-v", "data:/d"], &["sh", "-c", script]);
    cc_tests::eventually("it writes", std::time::Duration::from_secs(10), || {
        (world.cc(&["exec", &writer, "cat", "/d/b"]).code == 0).then_some(())
    });
    let uuid = |name: &str| world.cc(&["volume", "inspect", name]).json()[0]["uuid"].as_str().unwrap().to_owned();
    for name in ["first", "second"] {
        world.cc(&["volume", "snapshot", "data", "--name", name]).ok();
        assert_ne!(uuid(name), uuid("data"));
        let mount = format!("{name}:/d");
        let said = world.run_rm("busybox", &["-v", &mount], &["cat", "/d/a", "/d/b"]).ok().stdout;
        let numbers: Vec<u64> = said.lines().map(|line| line.parse().unwrap()).collect();
        assert!(numbers[0] == numbers[1] || numbers[0] == numbers[1] + 1, "{numbers:?}");
        assert_eq!(world.cc(&["volume", "check", name, "--json"]).json()["clean"], true);
    }
    // It goes on, and so do the copies.
    let before = world.cc(&["exec", &writer, "cat", "/d/a"]).ok().stdout;
    cc_tests::eventually("it writes on", std::time::Duration::from_secs(10), || {
        (world.cc(&["exec", &writer, "cat", "/d/a"]).ok().stdout != before).then_some(())
    });
    world.remove_all();
    world.run_rm("busybox", &["-v", "first:/d"], &["sh", "-c", "echo mine > /d/a"]).ok();
    assert_ne!(world.run_rm("busybox", &["-v", "data:/d"], &["cat", "/d/a"]).ok().stdout, "mine\n");
    // Of one that nobody has.
    world.cc(&["volume", "snapshot", "first", "--name", "third"]).ok();
    assert_eq!(world.run_rm("busybox", &["-v", "third:/d"], &["cat", "/d/a"]).ok().stdout, "mine\n");
    world.cc(&["volume", "snapshot", "first", "--name", "third"]).fails(1, "name is taken");
    world.cc(&["volume", "delete", "data", "first", "second", "third"]).ok();
    world.assert_clean();
}

/// A volume that was being made larger when the host went down, and came back with a file system that a person has to look at.
#[test]
fn a_larger_size_outlives_a_repair() {
    let mut world = World::new();
    let id = world.cc(&["volume", "create", "--size", "16MiB", "--name", "data"]).line();
    world.leave(Leave::Stopped);
    world.start_build(Build::Faults("volume.resize.recorded"));
    assert_ne!(world.cc(&["volume", "resize", "data", "--size", "48MiB"]).code, 0);
    let mut daemon = world.take_daemon();
    eventually("the daemon dies", BOUND, || daemon.ended().map(drop));
    drop(daemon);
    damage(&world.path("state/volumes").join(format!("{id}.img")));
    world.start();
    let state = |world: &World| {
        let shown = world.cc(&["volume", "inspect", "data"]).json();
        (shown[0]["size_bytes"].as_u64().unwrap(), shown[0]["state"].as_str().unwrap().to_owned())
    };
    eventually("its file system is looked at", BOUND, || (state(&world).1 == "needs-repair").then_some(()));
    world.run_rm("busybox", &["-v", "data:/d"], &["true"]).fails(125, "needs repair");
    // Another daemon knows both.
    world.leave(Leave::Killed);
    world.start();
    assert_eq!(state(&world), (16 * MIB, "needs-repair".to_owned()));
    world.cc(&["volume", "check", "--repair", "data"]).ok();
    eventually("it grows", BOUND, || (state(&world) == (48 * MIB, "ready".to_owned())).then_some(()));
    let fill = ["dd", "if=/dev/zero", "of=/d/large", "bs=1M", "count=28"];
    world.run_rm("busybox", &["-v", "data:/d"], &fill).ok();
    assert_eq!(world.cc(&["volume", "check", "data", "--json"]).json()["clean"], true);
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}
