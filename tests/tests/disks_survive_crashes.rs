//! The daemon dies at each step of a disk's life. The next one leaves a container with all that it wrote, or nothing of it. `cargo xtask test`
//! builds the daemon that dies where it is told.

use std::time::Duration;

use cc_tests::eventually::within;
use cc_tests::{Build, Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(20);

fn world(place: &'static str, config: &str) -> World {
    let mut world = World::with_config(config);
    world.image("busybox");
    world.leave(Leave::Stopped);
    world.start_build(Build::Faults(place));
    world
}

/// The command is lost with the daemon, and the next daemon is there.
fn dies(world: &mut World, place: &str, command: &[&str]) {
    let ran = world.cc(command);
    assert_ne!(ran.code, 0, "{place}: {ran:?}");
    next(world, place);
}

fn next(world: &mut World, place: &str) {
    let mut daemon = world.take_daemon();
    eventually(&format!("the daemon dies at {place}"), BOUND, || daemon.ended().map(drop));
    drop(daemon);
    world.start();
}

#[test]
fn one_that_was_being_made_was_never_asked_for() {
    for place in
        ["container.run.recorded", "disk.make.allocated", "disk.make.formatted", "disk.make.attached", "disk.mounted"]
    {
        let mut world = world(place, "disks.ready_max = 0");
        let image = world.image("busybox");
        dies(&mut world, place, &["run", "-d", "--image", &image, "--disk", "16MiB", "sleep", "600"]);
        assert_eq!(world.cc(&["ps", "-a", "-q"]).ok().stdout, "", "{place}");
        world.assert_clean();
        world.run_rm("busybox", &["--disk", "16MiB"], &["touch", "/file"]).ok();
        world.assert_clean();
    }
}

/// It is the container's from its start on, whatever its file is called.
#[test]
fn one_that_was_made_ahead_is_its_containers_or_nobodys() {
    for place in ["disk.name.begun", "disk.name.done", "container.run.recorded"] {
        let mut world = world("", "");
        let run = |world: &World| {
            let command = ["sh", "-c", "echo kept > /kept; exec sleep 600"];
            world.cc(&[&["run", "-d", "--image", &world.image("busybox"), "--disk", "16MiB"], &command[..]].concat())
        };
        if place != "container.run.recorded" {
            world.leave(Leave::Stopped);
            world.start_build(Build::Faults(place));
            run(&world).ok();
            eventually("one is ready", BOUND, || (!world.ready_disks().is_empty()).then_some(()));
        } else {
            run(&world).ok();
            eventually("one is ready", BOUND, || (!world.ready_disks().is_empty()).then_some(()));
            world.leave(Leave::Killed);
            world.start_build(Build::Faults(place));
        }
        // The answer may come first, and a file be there before its disk is ready: then this start makes its own, and the next one meets it.
        let mut daemon = world.take_daemon();
        let dies = |_| {
            run(&world);
            within(Duration::from_secs(2), || daemon.ended().map(drop)).is_some()
        };
        assert!((0..5).any(dies), "the daemon does not die at {place}");
        drop(daemon);
        world.start();
        let ids = world.cc(&["ps", "-q"]).ok().stdout;
        for id in ids.lines() {
            let file = world.path("state/disks").join(format!("{id}.img"));
            assert!(file.exists(), "{place}: {} is not there", file.display());
            assert_eq!(world.cc(&["exec", id, "cat", "/kept"]).ok().stdout, "kept\n", "{place}");
            world.cc(&["restart", "-t", "0", id]).ok();
            assert_eq!(world.cc(&["exec", id, "cat", "/kept"]).ok().stdout, "kept\n", "{place}");
        }
        world.remove_all();
        world.assert_clean();
        world.leave(Leave::Stopped);
        world.assert_clean();
    }
}

#[test]
fn one_that_was_being_started_again_has_what_it_wrote() {
    for place in ["disk.mount.attached", "disk.mounted"] {
        let mut world = world("", "disks.ready_max = 0");
        let id = world.run("busybox", &["--disk", "16MiB"], &["sh", "-c", "cat /kept || echo kept > /kept"]);
        world.cc(&["wait", &id]).ok();
        world.leave(Leave::Stopped);
        world.start_build(Build::Faults(place));
        dies(&mut world, place, &["start", &id]);
        world.cc(&["start", &id]).ok();
        eventually("it reads what it wrote", BOUND, || {
            world.cc(&["logs", &id]).stdout.contains("kept\n").then_some(())
        });
        world.remove_all();
        world.assert_clean();
    }
}

#[test]
fn one_that_was_being_removed_is_gone() {
    for place in ["disk.remove.unmounted", "disk.remove.removed"] {
        let mut world = world("", "disks.ready_max = 0");
        let id = world.run("busybox", &["--disk", "16MiB"], &["true"]);
        world.cc(&["wait", &id]).ok();
        world.leave(Leave::Stopped);
        world.start_build(Build::Faults(place));
        dies(&mut world, place, &["rm", &id]);
        // Nobody was told that it is gone: whoever asks again is.
        world.cc(&["rm", "-f", &id]);
        assert_eq!(world.cc(&["ps", "-a", "-q"]).ok().stdout, "", "{place}");
        world.assert_clean();
    }
}

/// A container that runs loses nothing, whatever its daemon was doing with another's disk.
#[test]
fn one_that_runs_goes_on() {
    let place = "disk.make.formatted";
    let mut world = world("", "disks.ready_max = 0");
    let id = world.run("busybox", &["--disk", "16MiB"], &["sh", "-c", "echo kept > /kept; exec sleep 600"]);
    world.leave(Leave::Killed);
    world.start_build(Build::Faults(place));
    let image = world.image("busybox");
    dies(&mut world, place, &["run", "-d", "--image", &image, "--disk", "16MiB", "sleep", "600"]);
    assert_eq!(world.cc(&["exec", &id, "cat", "/kept"]).ok().stdout, "kept\n");
    world.cc(&["restart", "-t", "0", &id]).ok();
    assert_eq!(world.cc(&["exec", &id, "cat", "/kept"]).ok().stdout, "kept\n");
    world.remove_all();
    world.assert_clean();
}
