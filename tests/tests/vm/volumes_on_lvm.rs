//! Volumes in a thin pool of LVM's keep data, grow under who uses them, are copied, and go. For machines with a device mapper:
//! `cargo xtask test --vm`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(10);

/// Gone with the guard.
struct Pool {
    dir: PathBuf,
    group: String,
}

impl Pool {
    fn new() -> Pool {
        let group = format!("cct{:08x}", rand::random::<u32>());
        let pool = Pool { dir: std::env::temp_dir().join(&group), group };
        pool.script("make");
        pool
    }

    fn script(&self, what: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/thin-pool");
        assert!(Command::new(script).arg(what).arg(&self.dir).arg(&self.group).status().unwrap().success());
    }

    /// Devices of the group: the pool's own have names with a dash.
    fn devices(&self) -> Vec<String> {
        let all = std::fs::read_dir(format!("/dev/{}", self.group)).into_iter().flatten().flatten();
        all.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name != "pool").collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.script("remove");
    }
}

#[test]
fn data_is_kept_grows_is_copied_and_goes() {
    let pool = Pool::new();
    {
        let mut world = World::with_config(&format!("volumes.lvm_pool = \"{}/pool\"", pool.group));
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
