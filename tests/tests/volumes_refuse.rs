//! What a volume is not for is refused by name, and nothing is left of it: paths that are the kernel's, more than the pool has, deletion of
//! what is claimed, links of an image that lead elsewhere, and a file system that is not its own.

use cc_tests::World;
use cc_tests::damage::damage;

fn volume(world: &World, name: &str) -> String {
    world.cc(&["volume", "create", "--size", "16MiB", "--name", name]).line()
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let world = World::new();
    let create = |args: &[&str]| world.cc(&[&["volume", "create"], args].concat());
    create(&["--size", "1MiB", "--name", "small"]).fails(1, "a volume has from");
    create(&["--size", "17TiB", "--name", "large"]).fails(1, "a volume has from");
    create(&["--size", "16MiB", "--name", "No"]).fails(1, "lower-case letters");
    create(&["--size", "16MiB", "--name", "x", "--pool", "fast"]).fails(1, "has one pool");
    create(&["--size", "16MiB", "--name", "x", "--persistent"]).fails(1, "object store");
    volume(&world, "data");
    create(&["--size", "16MiB", "--name", "data"]).fails(1, "name is taken");
    volume(&world, "other");
    for path in ["/", "/proc", "/proc/sys", "/sys", "/dev", "/dev/shm", "/a/../..", "/./sys"] {
        let asked = format!("data:{path}");
        world.run_rm("busybox", &["-v", &asked], &["true"]).fails(125, "--volume is not valid");
    }
    world.run_rm("busybox", &["-v", "data:/a", "-v", "other:/a/"], &["true"]).fails(125, "twice");
    world.run_rm("busybox", &["-v", "data:/a", "-v", "data:/b"], &["true"]).fails(125, "twice");
    world.run_rm("busybox", &["-v", "data:/tmp/a", "--tmpfs", "/tmp"], &["true"]).fails(125, "hidden");
    world.run_rm("busybox", &["-v", "nothing:/a"], &["true"]).fails(125, "cc volume create");
    world.run_rm("busybox", &["-v", "/etc:/a"], &["true"]).fails(125, "cc volume create");
    assert_eq!(world.cc(&["volume", "list", "-q"]).ok().stdout.lines().count(), 2);
    world.cc(&["volume", "prune", "--force"]).ok();
    world.assert_clean();
}

#[test]
fn what_a_container_has_is_not_deleted_and_nothing_else_with_it() {
    let world = World::new();
    let [used, free] = ["used", "free"].map(|name| volume(&world, name));
    let id = world.run("busybox", &["--name", "has", "-v", "used:/data"], &["sleep", "600"]);
    let refused = || {
        world.cc(&["volume", "delete", "free", "used"]).fails(1, "containers have it");
        let left = world.cc(&["volume", "list", "-q"]).ok().stdout;
        assert!(left.contains(&used) && left.contains(&free), "{left}");
    };
    refused();
    assert_eq!(world.cc(&["volume", "prune", "--force", "-q"]).ok().stdout, format!("{free}\n"));
    volume(&world, "free");
    world.cc(&["volume", "check", "used"]).fails(1, "containers have it");
    world.cc(&["stop", "-t", "0", &id]).ok();
    let free = world.cc(&["volume", "inspect", "free"]).json()[0]["id"].as_str().unwrap().to_owned();
    world.cc(&["volume", "delete", &free, &used]).fails(1, "stopped containers");
    // Stopped, it may be looked at.
    assert_eq!(world.cc(&["volume", "check", "used", "--json"]).json()["clean"], true);
    world.cc(&["rm", &id]).ok();
    world.cc(&["volume", "delete", "free", "used"]).ok();
    world.assert_clean();
}

#[test]
fn a_pool_promises_no_more_than_it_has_and_a_full_volume_is_its_containers_own() {
    let world = World::with_config("volumes.pool_bytes = 67108864");
    let pool = || world.cc(&["volume", "list", "-q"]).ok().stdout;
    world.cc(&["volume", "create", "--size", "48MiB", "--name", "data"]).ok();
    world.cc(&["volume", "create", "--size", "17MiB", "--name", "more"]).fails(1, "bytes for volume");
    world.cc(&["volume", "resize", "data", "--size", "65MiB"]).fails(1, "bytes for volume");
    world.cc(&["volume", "snapshot", "data", "--name", "copy"]).fails(1, "bytes for volume");
    assert_eq!(pool().lines().count(), 1);
    assert_eq!(std::fs::read_dir(world.path("state/volumes")).unwrap().count(), 1, "nothing is left of those");
    let fill = "dd if=/dev/zero of=/data/full bs=1M count=100 2>&1 | grep -o 'No space left'; rm /data/full; echo ok > /data/ok; sync";
    assert_eq!(world.run_rm("busybox", &["-v", "data:/data"], &["sh", "-c", fill]).ok().stdout, "No space left\n");
    assert_eq!(world.run_rm("busybox", &["-v", "data:/data"], &["cat", "/data/ok"]).ok().stdout, "ok\n");
    assert_eq!(world.cc(&["volume", "check", "data", "--json"]).json()["clean"], true);
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}

/// By what the file system has, and by no limit of ours.
#[test]
fn a_disk_that_is_full_is_a_clear_error_and_leaves_nothing() {
    let dir = tempfile::Builder::new().prefix(cc_tests::world::PREFIX).tempdir().unwrap();
    nix::mount::mount(Some("small"), dir.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=40m"))
        .unwrap();
    let world = World::with_config(&format!("volumes.dir = {:?}", dir.path().display().to_string()));
    volume(&world, "data");
    world.cc(&["volume", "create", "--size", "32MiB", "--name", "more"]).fails(1, "bytes for volume");
    world.cc(&["volume", "resize", "data", "--size", "64MiB"]).fails(1, "bytes for volume");
    let shown = world.cc(&["volume", "inspect", "data"]).json();
    assert_eq!((&shown[0]["size_bytes"], &shown[0]["state"]), (&(16 << 20).into(), &"ready".into()));
    world.run_rm("busybox", &["-v", "data:/data"], &["touch", "/data/file"]).ok();
    world.cc(&["volume", "delete", "data"]).ok();
    let files = std::fs::read_dir(dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file());
    assert_eq!(files.count(), 0);
    world.assert_clean();
    drop(world);
    nix::mount::umount(dir.path()).unwrap();
}

/// A container's files are an image's by the time that a volume is mounted: what they say of the way is among themselves.
#[test]
fn links_on_the_way_lead_nowhere_else() {
    let world = World::new();
    let id = volume(&world, "data");
    let marker = world.path("outside");
    std::fs::create_dir(&marker).unwrap();
    let out = format!("../../../../../../../../..{}", marker.display());
    let links = format!(
        "ln -s {out} /out; ln -s /proc /kernel; ln -s /proc/self/cwd /magic; ln -s /sys/fs/cgroup /groups; ln -s real /link; mkdir /real"
    );
    let run = |path: &str| {
        let container =
            world.run("busybox", &[], &["sh", "-c", &format!("test -e /link || {{ {links}; }}; cat {path}/file")]);
        world.cc(&["wait", &container]).ok();
        world.cc(&["volume", "attach", &container, &format!("data:{path}")]).ok();
        container
    };
    world.run_rm("busybox", &["-v", "data:/d"], &["sh", "-c", "echo volume > /d/file"]).ok();
    for path in ["/link", "/out/in"] {
        let container = run(path);
        world.cc(&["start", &container]).ok();
        world.cc(&["wait", &container]).ok();
        assert_eq!(world.cc(&["logs", &container]).ok().stdout, "volume\n", "{path}");
        world.cc(&["rm", &container]).ok();
    }
    assert_eq!(std::fs::read_dir(&marker).unwrap().count(), 0, "nothing was made outside");
    for path in ["/kernel", "/kernel/sys", "/magic", "/groups"] {
        let container = run(path);
        world.cc(&["start", &container]).fails(1, "in the container");
        world.cc(&["rm", &container]).ok();
    }
    world.cc(&["volume", "delete", &id]).ok();
    world.assert_clean();
}

#[test]
fn only_its_own_file_system_is_mounted() {
    let world = World::new();
    let [one, two] = ["one", "two"].map(|name| volume(&world, name));
    world.run_rm("busybox", &["-v", "one:/d"], &["sh", "-c", "echo one > /d/file"]).ok();
    let file = |id: &str| world.path("state/volumes").join(format!("{id}.img"));
    let swap = || {
        std::fs::rename(file(&one), world.path("aside")).unwrap();
        std::fs::rename(file(&two), file(&one)).unwrap();
        std::fs::rename(world.path("aside"), file(&two)).unwrap();
    };
    swap();
    for name in ["one:/d", "two:/d"] {
        world.run_rm("busybox", &["-v", name], &["true"]).fails(125, "is not its file system");
    }
    let bytes = |id: &str| std::fs::metadata(file(id)).unwrap().len();
    let before = bytes(&one);
    for args in [&["check", "--repair", "one"][..], &["resize", "one", "--size", "64MiB"]] {
        world.cc(&[&["volume"], args].concat()).fails(1, "is not its file system");
    }
    assert_eq!(bytes(&one), before, "another's is not made larger");
    swap();
    assert_eq!(world.run_rm("busybox", &["-v", "one:/d"], &["cat", "/d/file"]).ok().stdout, "one\n");
    // Nor is anything made in the place of what was cut off it, or of one that is gone.
    let image = std::fs::File::options().write(true).open(file(&two)).unwrap();
    image.set_len(before / 2).unwrap();
    for refused in [
        world.run_rm("busybox", &["-v", "two:/d"], &["true"]).fails(125, "is not its file system"),
        world.cc(&["volume", "resize", "two", "--size", "64MiB"]).fails(1, "is not its file system"),
    ] {
        assert!(refused.stderr.contains(&format!("has {} bytes instead of", before / 2)), "{refused:?}");
    }
    assert_eq!(bytes(&two), before / 2);
    std::fs::rename(file(&two), world.path("aside")).unwrap();
    world.run_rm("busybox", &["-v", "two:/d"], &["true"]).fails(125, "is not its file system");
    assert!(!file(&two).exists());
    world.cc(&["volume", "delete", "one", "two"]).ok();
    world.assert_clean();
}

/// The container's own look at it shows that its file system cannot be trusted: it is told, and nothing is forced.
#[test]
fn what_is_damaged_needs_somebody_to_say_so() {
    let world = World::new();
    let id = volume(&world, "data");
    world.run_rm("busybox", &["-v", "data:/d"], &["sh", "-c", "echo kept > /d/file"]).ok();
    let path = world.path("state/volumes").join(format!("{id}.img"));
    // Unmounted: what is written beside a mount is overwritten by it.
    world.assert_clean();
    damage(&path);
    for _ in 0..2 {
        world.run_rm("busybox", &["-v", "data:/d"], &["true"]).fails(125, "needs repair");
    }
    let shown = world.cc(&["volume", "inspect", "data"]).json();
    assert_eq!(shown[0]["state"], "needs-repair", "{shown}");
    assert!(world.events_of(&id).iter().any(|(kind, _)| kind == "volume.needs_repair"));
    world.cc(&["volume", "resize", "data", "--size", "32MiB"]).fails(1, "needs repair");
    world.cc(&["volume", "snapshot", "data", "--name", "copy"]).fails(1, "needs repair");
    let looked = world.cc(&["volume", "check", "data"]);
    assert!(looked.code == 1 && looked.stdout.contains("not clean"), "{looked:?}");
    let repaired = world.cc(&["volume", "check", "--repair", "data"]).ok();
    assert!(repaired.stdout.contains("was repaired"), "{repaired:?}");
    assert_eq!(world.cc(&["volume", "inspect", "data"]).json()[0]["state"], "ready");
    world.run_rm("busybox", &["-v", "data:/d"], &["touch", "/d/again"]).ok();
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}
