//! What is written to a volume is there for the next container, for several at once, and for the next daemon; and a volume that is deleted
//! leaves nothing.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::Duration;

use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;
/// The kernel begins with that within five seconds of the mount (`EXT4_DEF_LI_MAX_START_DELAY`).
const WHEN_IT_WOULD_HAVE: Duration = Duration::from_secs(7);

#[test]
fn the_next_container_reads_what_the_last_one_wrote() {
    let world = World::new();
    let id = world.cc(&["volume", "create", "--size", "32MiB", "--name", "data"]).line();
    let file = world.path("state/volumes").join(format!("{id}.img"));
    let meta = std::fs::metadata(&file).unwrap();
    assert!(meta.blocks() * 512 >= 32 * MIB && meta.mode() & 0o777 == 0o600, "it is not sparse, and root's: {meta:?}");
    let write = "echo kept > /data/sub/dir/file && mkdir /data/sub/dir/more && stat -c %u:%g /data /data/sub/dir/file";
    let written = world.run_rm("busybox", &["--volume", "data:/data/sub/dir"], &["sh", "-c", write]).ok();
    assert_eq!(written.stdout, "0:0\n0:0\n", "what root writes is root's, inside");
    world.assert_clean();
    // By its id, elsewhere, and by somebody else.
    let other = format!("{id}:/elsewhere");
    let read = world.run_rm(
        "busybox",
        &["-u", "1000", "--volume", &other],
        &["sh", "-c", "cat /elsewhere/file; ls /elsewhere"],
    );
    assert_eq!(read.ok().stdout, "kept\nfile\nmore\n", "nothing else is in it, no lost+found either");
    world.run_rm("busybox", &["-u", "1000", "--volume", &other], &["touch", "/elsewhere/mine"]).fails(1, "denied");
    assert_eq!(world.cc(&["volume", "delete", "data"]).ok().stdout, format!("{id}\n"));
    assert!(!file.exists());
    // Deleted already, or never there: fine.
    world.cc(&["volume", "delete", "data", &id, "vol-000000000000"]).ok();
    assert_eq!(world.cc(&["volume", "list", "-q"]).ok().stdout, "");
    world.assert_clean();
}

/// A file system that is mounted would have the rest of its tables read as zeros, soon, and a loop device makes holes of such zeros.
#[test]
fn what_a_volume_was_promised_stays_its_own_while_it_is_used() {
    let world = World::new();
    let id = world.cc(&["volume", "create", "--size", "64MiB", "--name", "data"]).line();
    let file = world.path("state/volumes").join(format!("{id}.img"));
    world.run("busybox", &["-v", "data:/d"], &["sleep", "1000"]);
    std::thread::sleep(WHEN_IT_WOULD_HAVE);
    let meta = std::fs::metadata(&file).unwrap();
    assert!(meta.blocks() * 512 >= 64 * MIB, "holes have come into it: {meta:?}");
    world.remove_all();
    // As a backup's copy has it, of which nothing is that reads as zeros.
    let copy = world.path("copy");
    let copied = Command::new("cp").args(["--preserve=mode", "--sparse=always"]).args([&file, &copy]).status();
    assert!(copied.unwrap().success() && std::fs::rename(&copy, &file).is_ok());
    assert!(std::fs::metadata(&file).unwrap().blocks() * 512 < 32 * MIB);
    world.run_rm("busybox", &["-v", "data:/d"], &["true"]).ok();
    let meta = std::fs::metadata(&file).unwrap();
    assert!(meta.blocks() * 512 >= 64 * MIB, "holes have stayed in it: {meta:?}");
    assert_eq!(world.cc(&["volume", "check", "data", "--json"]).json()["clean"], true);
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}

#[test]
fn what_was_written_outlives_the_daemon_and_its_kill() {
    let mut world = World::new();
    world.cc(&["volume", "create", "--size", "32MiB", "--name", "data"]).ok();
    let writer = world.run(
        "busybox",
        &["--name", "writer", "-v", "data:/data"],
        &["sh", "-c", "echo one > /data/one; sleep 600"],
    );
    for how in [Leave::Killed, Leave::Stopped] {
        world.leave(how);
        world.start();
        let shown = world.cc(&["volume", "inspect", "data"]).json();
        assert_eq!((&shown[0]["mounted"], &shown[0]["containers"][0]), (&true.into(), &"writer".into()));
        world.cc(&["exec", &writer, "sh", "-c", "echo more >> /data/one"]).ok();
    }
    let read = world.run_rm("busybox", &["-v", "data:/data:ro"], &["cat", "/data/one"]).ok();
    assert_eq!(read.stdout, "one\nmore\nmore\n");
    // Stopped, and started once more.
    world.cc(&["stop", "-t", "0", "writer"]).ok();
    world.cc(&["start", "writer"]).ok();
    assert_eq!(world.cc(&["exec", "writer", "cat", "/data/one"]).ok().stdout, "one\n");
    world.remove_all();
    world.cc(&["volume", "prune", "--force"]).ok();
    assert_eq!(world.cc(&["volume", "list", "-q"]).ok().stdout, "");
    world.assert_clean();
}

/// What was on the disk at one moment, as a host finds it that went down then. The writer waits, so that the copy is of one moment.
#[test]
fn a_host_that_went_down_loses_nothing_that_was_synced() {
    const SUPERBLOCK: usize = 1024;
    const INCOMPAT: usize = SUPERBLOCK + 0x60;
    const RECOVER: u8 = 4;
    let world = World::new();
    let id = world.cc(&["volume", "create", "--size", "16MiB", "--name", "data"]).line();
    let image = world.path("state/volumes").join(format!("{id}.img"));
    let write = "i=0; while [ $i -lt 50 ]; do echo $i > /d/$i; i=$((i+1)); done; sync; echo synced; sleep 600";
    let writer = world.run("busybox", &["-v", "data:/d"], &["sh", "-c", write]);
    eventually("it has synced", BOUND, || world.cc(&["logs", &writer]).ok().stdout.contains("synced").then_some(()));
    let found = std::fs::read(&image).unwrap();
    assert_ne!(found[INCOMPAT] & RECOVER, 0, "its journal is to be replayed");
    world.remove_all();
    world.assert_clean();
    std::fs::write(&image, &found).unwrap();
    // A look at it is no reason to call it broken.
    assert_eq!(world.cc(&["volume", "check", "data", "--json"]).json()["clean"], true);
    std::fs::write(&image, &found).unwrap();
    let read = "cat /d/[0-9]* | wc -l; cat /d/49";
    assert_eq!(world.run_rm("busybox", &["-v", "data:/d"], &["sh", "-c", read]).ok().stdout, "50\n49\n");
    assert_eq!(world.cc(&["volume", "inspect", "data"]).json()[0]["state"], "ready");
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}
