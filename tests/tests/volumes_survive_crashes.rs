//! The daemon dies at each step of what can be done to a volume. The next one finishes or undoes it: no data is lost, and nothing is left.
//! `cargo xtask test` builds the daemon that dies where it is told. In emulated machines once more with volumes in a thin pool of LVM's.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::time::Duration;

use cc_tests::lvm::Pool;
use cc_tests::{Build, Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(20);

/// Set by `cargo xtask test --vm`.
fn on_lvm() -> bool {
    std::env::var_os("CC_TEST_VOLUMES").is_some_and(|kind| kind == "lvm")
}

/// A world and where its volumes are: in a pool, or in files of its own. The world goes first.
struct Host {
    world: World,
    pool: Option<Pool>,
}

impl Deref for Host {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for Host {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Host {
    fn new() -> Host {
        let pool = on_lvm().then(Pool::new);
        let world = World::with_config(&pool.as_ref().map(Pool::config).unwrap_or_default());
        Host { world, pool }
    }

    /// Of volumes, whatever the records say.
    fn there(&self) -> usize {
        match &self.pool {
            Some(pool) => pool.devices().len(),
            None => std::fs::read_dir(self.path("state/volumes")).unwrap().count(),
        }
    }
}

/// The device of a volume, which is in use as long as this is kept.
fn opened(host: &Host, id: &str) -> File {
    let Some(pool) = &host.pool else {
        let image = host.path("state/volumes").join(format!("{id}.img"));
        let made = Command::new("losetup").args(["--find", "--show"]).arg(image).output().unwrap();
        let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let opened = File::open(&device).unwrap();
        // It goes with the last who has it open, also when this test fails.
        assert!(Command::new("losetup").args(["--detach", &device]).status().unwrap().success());
        return opened;
    };
    File::open(pool.device(id)).unwrap()
}

/// A world with a volume that has been written to, and a daemon that will die at that place.
fn world(place: &'static str) -> Host {
    let mut world = Host::new();
    world.cc(&["volume", "create", "--size", "16MiB", "--name", "data"]).ok();
    world.run_rm("busybox", &["-v", "data:/d"], &["sh", "-c", "echo kept > /d/file; sync"]).ok();
    world.assert_clean();
    world.leave(Leave::Stopped);
    world.start_build(Build::Faults(place));
    world
}

/// The command is lost with the daemon, and the next daemon is there.
fn dies(world: &mut World, place: &str, command: &[&str]) {
    let ran = world.cc(command);
    assert_ne!(ran.code, 0, "{place}: {ran:?}");
    let mut daemon = world.take_daemon();
    eventually(&format!("the daemon dies at {place}"), BOUND, || daemon.ended().map(drop));
    drop(daemon);
    world.start();
}

fn volumes(world: &World) -> String {
    world.cc(&["volume", "list", "--json"]).json().as_array().unwrap().iter().fold(String::new(), |all, one| {
        format!("{all}{} {} {};", one["name"].as_str().unwrap(), one["state"].as_str().unwrap(), one["size_bytes"])
    })
}

fn has_its_data(world: &Host, place: &str) {
    let read = world.run_rm("busybox", &["-v", "data:/d"], &["sh", "-c", "cat /d/file && echo more > /d/more && sync"]);
    assert_eq!(read.ok().stdout, "kept\n", "{place}");
    world.remove_all();
    world.assert_clean();
    assert_eq!(world.cc(&["volume", "check", "data", "--json"]).json()["clean"], true, "{place}");
    world.cc(&["volume", "delete", "data"]).ok();
    assert_eq!(world.there(), 0, "{place}");
    world.assert_clean();
}

/// The kernel asks for this capability, and not every machine's root has it.
fn can_grow_in_use() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim().to_owned();
    u64::from_str_radix(&bits, 16).unwrap() & (1 << CAP_SYS_RESOURCE) != 0
}

const ONE: &str = "data ready 16777216;";

/// Somebody on the host has it when the next daemon would remove it.
#[test]
fn what_cannot_go_at_boot_goes_later() {
    let mut world = world("volume.delete.recorded");
    let id = world.cc(&["volume", "inspect", "data"]).json()[0]["id"].as_str().unwrap().to_owned();
    assert_ne!(world.cc(&["volume", "delete", "data"]).code, 0);
    let mut daemon = world.take_daemon();
    eventually("the daemon dies", BOUND, || daemon.ended().map(drop));
    drop(daemon);
    let device = opened(&world, &id);
    world.start();
    assert_eq!((volumes(&world).as_str(), world.there()), ("", 1), "nobody finds it, and it is there");
    drop(device);
    eventually("it is gone", BOUND, || (world.there() == 0).then_some(()));
    world.assert_clean();
}

#[test]
fn a_volume_is_made_or_was_never_asked_for() {
    for place in ["recorded", "allocated", "formatted", "made"].map(|step| format!("volume.create.{step}")) {
        let place: &'static str = place.leak();
        let mut world = world(place);
        dies(&mut world, place, &["volume", "create", "--size", "16MiB", "--name", "new"]);
        assert_eq!((volumes(&world).as_str(), world.there()), (ONE, 1), "{place}");
        world.cc(&["volume", "create", "--size", "16MiB", "--name", "new"]).ok();
        world.cc(&["volume", "delete", "new"]).ok();
        has_its_data(&world, place);
    }
}

#[test]
fn a_start_with_a_volume_leaves_it_free() {
    for place in ["volume.attach.device", "volume.attach.checked", "volume.attach.mounted"] {
        let mut world = world(place);
        let image = world.image("busybox");
        dies(&mut world, place, &["run", "-d", "--image", &image, "-v", "data:/d", "sleep", "600"]);
        world.assert_clean();
        assert_eq!(volumes(&world), ONE, "{place}");
        has_its_data(&world, place);
    }
}

#[test]
fn a_container_has_what_its_record_says() {
    for (place, has_it) in [
        ("volume.attach.recorded", true),
        ("volume.attach.shown", true),
        ("volume.detach.recorded", false),
        ("volume.detach.hidden", false),
    ] {
        let mut world = world(place);
        let id = world.run("busybox", &["--name", "web"], &["sleep", "600"]);
        let attach = ["volume", "attach", "web", "data:/d"];
        if has_it {
            dies(&mut world, place, &attach);
        } else {
            world.cc(&attach).ok();
            dies(&mut world, place, &["volume", "detach", "web", "data"]);
        }
        let seen = world.cc(&["exec", &id, "cat", "/d/file"]);
        assert_eq!((seen.code == 0, seen.stdout == "kept\n"), (has_it, has_it), "{place}: {seen:?}");
        let listed = world.inspect("web")["volumes"].as_array().map(Vec::len);
        assert_eq!(listed, Some(usize::from(has_it)), "{place}");
        assert_eq!(world.cc(&["volume", "inspect", "data"]).json()[0]["mounted"], has_it, "{place}");
        has_its_data(&world, place);
    }
}

#[test]
fn a_volume_grows_all_the_way() {
    for place in ["volume.resize.recorded", "volume.resize.allocated", "volume.resize.grown"] {
        for in_use in [false, true] {
            // Where the kernel lets nobody do that, there is nothing to be finished.
            if in_use && !can_grow_in_use() {
                continue;
            }
            let mut world = world(place);
            if in_use {
                world.run("busybox", &["--name", "web", "-v", "data:/d"], &["sleep", "600"]);
            }
            dies(&mut world, place, &["volume", "resize", "data", "--size", "48MiB"]);
            // The daemon serves others before that is done, if it takes long.
            eventually(&format!("{place}: it grows"), BOUND, || {
                (volumes(&world) == "data ready 50331648;").then_some(())
            });
            let fill = ["dd", "if=/dev/zero", "of=/d/large", "bs=1M", "count=28"];
            match in_use {
                true => world.cc(&[&["exec", "web"], &fill[..]].concat()).ok(),
                false => world.run_rm("busybox", &["-v", "data:/d"], &fill).ok(),
            };
            has_its_data(&world, place);
        }
    }
}

#[test]
fn a_copy_is_whole_or_is_not_there_and_who_waited_for_it_goes_on() {
    let everywhere = ["volume.snapshot.recorded", "volume.snapshot.frozen"];
    // Where a snapshot takes the place of what was made for it.
    let on_lvm = on_lvm().then_some(["volume.snapshot.emptied", "volume.snapshot.taken"]);
    for place in everywhere.into_iter().chain(on_lvm.into_iter().flatten()) {
        let mut world = world(place);
        world.run("busybox", &["--name", "web", "-v", "data:/d"], &["sleep", "600"]);
        dies(&mut world, place, &["volume", "snapshot", "data", "--name", "copy"]);
        assert_eq!((volumes(&world).as_str(), world.there()), (ONE, 1), "{place}");
        world.cc(&["exec", "web", "sh", "-c", "echo more > /d/more; sync"]).ok();
        has_its_data(&world, place);
    }
}

#[test]
fn what_is_deleted_is_gone() {
    for place in ["volume.delete.recorded", "volume.delete.removed"] {
        let mut world = world(place);
        dies(&mut world, place, &["volume", "delete", "data"]);
        assert_eq!((volumes(&world).as_str(), world.there()), ("", 0), "{place}");
        world.cc(&["volume", "create", "--size", "16MiB", "--name", "data"]).ok();
        world.cc(&["volume", "delete", "data"]).ok();
        world.assert_clean();
    }
}
