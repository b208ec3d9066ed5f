//! Volumes in a thin pool of LVM's keep data, grow under who uses them, are copied, and go. For machines with a device mapper:
//! `cargo xtask test --vm`.

use std::time::Duration;

use cc_tests::lvm::Pool;
use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn data_is_kept_grows_is_copied_and_goes() {
    let pool = Pool::new();
    {
        let mut world = World::with_config(&pool.config());
        let id = world.cc(&["volume", "create", "--size", "32MiB", "--name", "data"]).line();
        assert_eq!(world.cc(&["volume", "inspect", "data"]).json()[0]["backend"], "lvm-thin");
        let script = "echo kept > /d/file; while :; do date >> /d/log; done";
        let writer = world.run("busybox", &["-v", "data:/d"], &["sh", "-c", script]);
        let reads = |world: &World, id: &str| world.cc(&["exec", id, "cat", "/d/file"]).stdout == "kept\n";
        eventually("it has written", BOUND, || reads(&world, &writer).then_some(()));
        // Under who uses it, the daemon's end included.
        world.cc(&["volume", "resize", "data", "--size", "64MiB"]).ok();
        let size = world.cc(&["exec", &writer, "sh", "-c", "df -mP /d | tail -1 | awk '{print ($2 > 40)}'"]);
        assert_eq!(size.ok().stdout, "1\n");
        world.cc(&["volume", "snapshot", "data", "--name", "copy"]).ok();
        world.leave(Leave::Killed);
        world.start();
        assert!(reads(&world, &writer));
        let read = world.run_rm("busybox", &["-v", "copy:/d"], &["cat", "/d/file"]);
        assert_eq!(read.ok().stdout, "kept\n");
        // Of 256 MiB, 128 are promised.
        world.cc(&["volume", "create", "--size", "160MiB", "--name", "more"]).fails(1, "pool");
        world.cc(&["volume", "delete", "data"]).fails(1, "remove them first");
        world.remove_all();
        for name in ["data", "copy"] {
            assert_eq!(world.cc(&["volume", "check", name, "--json"]).json()["clean"], true);
        }
        let doctor = world.cc(&["doctor"]);
        assert!(doctor.stdout.contains("does not grow by itself"), "{doctor:?}");
        assert!(pool.devices().contains(&id));
        world.cc(&["volume", "delete", "data", "copy"]).ok();
        assert_eq!(pool.devices(), Vec::<String>::new());
        world.assert_clean();
    }
}

/// LVM gives a volume whole extents, of 4 MiB.
#[test]
fn a_size_between_two_extents_is_had_as_well() {
    let pool = Pool::new();
    let world = World::with_config(&pool.config());
    world.cc(&["volume", "create", "--size", "17MiB", "--name", "data"]).ok();
    for size in [18_u64, 20, 21] {
        world.cc(&["volume", "resize", "data", "--size", &format!("{size}MiB")]).ok();
        let shown = world.cc(&["volume", "inspect", "data"]).json();
        assert_eq!((&shown[0]["state"], &shown[0]["size_bytes"]), (&"ready".into(), &(size << 20).into()));
        world.run_rm("busybox", &["-v", "data:/d"], &["touch", "/d/file"]).ok();
    }
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}

#[test]
fn what_is_in_another_pool_is_neither_used_nor_thought_gone() {
    let pool = Pool::new();
    let mut world = World::with_config(&pool.config());
    let id = world.cc(&["volume", "create", "--size", "32MiB", "--name", "data"]).line();
    world.run_rm("busybox", &["-v", "data:/d"], &["sh", "-c", "echo kept > /d/file"]).ok();
    let told = std::fs::read_to_string(world.config()).unwrap();
    let tell = |world: &mut World, config: &str| {
        world.leave(Leave::Stopped);
        std::fs::write(world.config(), config).unwrap();
        world.start();
    };
    // Whoever runs goes on, and gives the volume back when it ends.
    let runs = world.run("busybox", &["-v", "data:/d"], &["sleep", "600"]);
    tell(&mut world, &told.replace(&pool.config(), ""));
    let shown = world.cc(&["volume", "inspect", "data"]).json();
    assert_eq!((&shown[0]["backend"], &shown[0]["mounted"]), (&pool.place().into(), &true.into()), "{shown:#}");
    let script = "cat /d/file; echo more > /d/more; sync";
    assert_eq!(world.cc(&["exec", &runs, "sh", "-c", script]).ok().stdout, "kept\n");
    world.cc(&["volume", "delete", "data"]).fails(1, "");
    world.remove_all();
    world.assert_clean();
    assert_eq!(world.cc(&["volume", "inspect", "data"]).json()[0]["mounted"], false);
    for refused in [
        world.cc(&["volume", "delete", "data"]).fails(1, "volumes.lvm_pool"),
        world.cc(&["volume", "resize", "data", "--size", "64MiB"]).fails(1, "volumes.lvm_pool"),
        world.cc(&["volume", "snapshot", "data", "--name", "copy"]).fails(1, "volumes.lvm_pool"),
        world.cc(&["volume", "check", "data"]).fails(1, "volumes.lvm_pool"),
        world.run_rm("busybox", &["-v", "data:/d"], &["true"]).fails(125, "volumes.lvm_pool"),
    ] {
        assert!(refused.stderr.contains(&pool.place()), "{refused:?}");
    }
    assert!(pool.devices().contains(&id));
    tell(&mut world, &told);
    let shown = world.cc(&["volume", "inspect", "data"]).json();
    assert_eq!((&shown[0]["state"], &shown[0]["size_bytes"]), (&"ready".into(), &(32_u64 << 20).into()));
    let read = world.run_rm("busybox", &["-v", "data:/d"], &["cat", "/d/file", "/d/more"]);
    assert_eq!(read.ok().stdout, "kept\nmore\n");
    world.cc(&["volume", "delete", "data"]).ok();
    assert_eq!(pool.devices(), Vec::<String>::new());
    world.assert_clean();
}

#[test]
fn a_pool_that_fills_is_told_and_gets_nothing_more() {
    let pool = Pool::new();
    // Promised is more than there is, or that would be the reason.
    let world = World::with_config(&format!("{}\nvolumes.lvm_promised_percent = 200", pool.config()));
    world.cc(&["volume", "create", "--size", "256MiB", "--name", "data"]).ok();
    world.cc(&["doctor"]).ok();
    let fill = ["dd", "if=/dev/zero", "of=/d/file", "bs=1M", "count=210"];
    world.run_rm("busybox", &["-v", "data:/d"], &fill).ok();
    world.cc(&["volume", "create", "--size", "16MiB", "--name", "more"]).fails(1, "stops the writes of all");
    let told = world.cc(&["doctor"]).fails(1, "");
    assert!(told.stdout.contains("of the data of thin pool"), "{told:?}");
    eventually("an event tells", Duration::from_secs(60), || {
        world.cc(&["events", "--since", "10m"]).stdout.contains("volume.pool_filling").then_some(())
    });
    world.cc(&["volume", "delete", "data"]).ok();
    world.cc(&["doctor"]).ok();
    world.assert_clean();
}
