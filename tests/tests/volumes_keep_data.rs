//! What is written to a volume is there for the next container, for several at once, and for the next daemon; and a volume that is deleted
//! leaves nothing.

use std::os::unix::fs::MetadataExt as _;

use cc_tests::{Leave, World};

const MIB: u64 = 1 << 20;

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
