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
        let doctor = world.cc(&["net", "doctor"]);
        assert!(doctor.stdout.contains("does not grow by itself"), "{doctor:?}");
        assert!(pool.devices().contains(&id));
        world.cc(&["volume", "delete", "data", "copy"]).ok();
        assert_eq!(pool.devices(), Vec::<String>::new());
        world.assert_clean();
    }
}
