//! A volume comes to a container that runs, and leaves it: with the same owners and rights as from the start, and not under who uses it.

use cc_tests::{Leave, World};

fn volume(world: &World, name: &str) {
    world.cc(&["volume", "create", "--size", "16MiB", "--name", name]).ok();
}

#[test]
fn it_comes_to_who_runs_and_leaves_when_nobody_uses_it() {
    let mut world = World::new();
    volume(&world, "data");
    world.run_rm("busybox", &["-v", "data:/d"], &["sh", "-c", "echo before > /d/file; chown 7:8 /d/file"]).ok();
    let id = world.run("busybox", &["--name", "web"], &["sleep", "600"]);
    let says = |world: &World, script: &str| world.cc(&["exec", "web", "sh", "-c", script]);
    for round in 0..2 {
        assert_eq!(world.cc(&["volume", "attach", "web", "data:/new/data"]).line(), id);
        world.cc(&["volume", "attach", "web", "data:/new/data"]).ok();
        let said =
            says(&world, "cat /new/data/file; stat -c %u:%g /new /new/data /new/data/file; touch /new/data/mine").ok();
        assert_eq!(said.stdout, "before\n0:0\n0:0\n7:8\n", "round {round}");
        let volumes = world.inspect("web")["volumes"].clone();
        assert_eq!((&volumes[0]["name"], &volumes[0]["path"]), (&"data".into(), &"/new/data".into()));
        let pid = world.pid("web");
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let ours: Vec<&str> = mounts.lines().filter(|line| line.contains(" /new/data ")).collect();
        assert!(ours.len() == 1 && ours[0].contains("nosuid,nodev") && ours[0].contains("idmapped"), "{ours:?}");
        // In use: it stays, and is said to.
        let held = world
            .command(&["exec", "-d", "web", "sh", "-c", "echo $$ > /held; cd /new/data && exec sleep 601"])
            .status()
            .unwrap();
        assert!(held.success());
        cc_tests::eventually("it is used", std::time::Duration::from_secs(10), || {
            let refused = world.cc(&["volume", "detach", "web", "data"]);
            if refused.code == 0 {
                world.cc(&["volume", "attach", "web", "data:/new/data"]).ok();
                return None;
            }
            refused.fails(1, "files open in it");
            Some(())
        });
        assert_eq!(says(&world, "cat /new/data/file").ok().stdout, "before\n");
        world.cc(&["volume", "delete", "data"]).fails(1, "containers have it");
        says(&world, "kill $(cat /held)").ok();
        cc_tests::eventually("it is let go", std::time::Duration::from_secs(10), || {
            (world.cc(&["volume", "detach", "web", "data"]).code == 0).then_some(())
        });
        world.cc(&["volume", "detach", "web", "data"]).ok();
        assert_eq!(says(&world, "ls -A /new/data").ok().stdout, "");
        assert_eq!(world.cc(&["volume", "inspect", "data"]).json()[0]["mounted"], false);
        if round == 0 {
            world.leave(Leave::Killed);
            world.start();
        }
    }
    world.remove_all();
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}

#[test]
fn it_stays_over_an_end_and_is_refused_where_it_cannot_be() {
    let mut world = World::new();
    volume(&world, "data");
    volume(&world, "other");
    world.run("busybox", &["--name", "web", "--tmpfs", "/tmp"], &["sleep", "600"]);
    for bad in ["data:/", "data:/proc/x", "data:/dev", "data:/tmp/x"] {
        world.cc(&["volume", "attach", "web", bad]).fails(1, "--volume is not valid");
    }
    world.cc(&["volume", "attach", "web", "nothing:/d"]).fails(1, "no volume");
    world.cc(&["exec", "web", "sh", "-c", "ln -s /proc /kernel; touch /file"]).ok();
    for cannot in ["data:/kernel", "data:/kernel/sys", "data:/file", "data:/file/below"] {
        world.cc(&["volume", "attach", "web", cannot]).fails(1, "cannot attach a volume to container web");
        assert_eq!(world.inspect("web")["volumes"].as_array().map(Vec::len), Some(0), "{cannot}");
    }
    world.cc(&["volume", "attach", "web", "data:/d:ro"]).ok();
    world.cc(&["volume", "attach", "web", "data:/e"]).fails(1, "has volume data at /d");
    world.cc(&["volume", "attach", "web", "other:/d"]).fails(1, "has volume data at /d");
    world.cc(&["exec", "web", "touch", "/d/x"]).fails(1, "Read-only");
    world.leave(Leave::Killed);
    world.start();
    world.cc(&["restart", "-t", "0", "web"]).ok();
    world.cc(&["exec", "web", "touch", "/d/x"]).fails(1, "Read-only");
    world.cc(&["stop", "-t", "0", "web"]).ok();
    world.cc(&["volume", "delete", "data"]).fails(1, "containers have it");
    // Of one that has ended: when it is started again.
    world.cc(&["volume", "detach", "web", "data"]).ok();
    world.cc(&["volume", "attach", "web", "other:/o"]).ok();
    world.cc(&["start", "web"]).ok();
    world.cc(&["exec", "web", "touch", "/o/x"]).ok();
    world.cc(&["volume", "delete", "data"]).ok();
    world.remove_all();
    world.cc(&["volume", "delete", "other"]).ok();
    world.assert_clean();
}

/// With the host's users there is no user namespace to enter, and the read-only root cannot be written by us either.
#[test]
fn with_the_hosts_users_and_with_a_root_that_cannot_be_written() {
    let world = World::new();
    volume(&world, "data");
    world.run("busybox", &["--name", "host", "--userns", "host"], &["sleep", "600"]);
    world.cc(&["volume", "attach", "host", "data:/d"]).ok();
    world.cc(&["exec", "host", "sh", "-c", "echo x > /d/x; stat -c %u /d/x"]).ok();
    world.cc(&["volume", "detach", "host", "data"]).ok();
    world.run("busybox", &["--name", "sealed", "--read-only"], &["sleep", "600"]);
    world.cc(&["volume", "attach", "sealed", "data:/none"]).fails(1, "Read-only");
    world.cc(&["volume", "attach", "sealed", "data:/root"]).ok();
    assert_eq!(world.cc(&["exec", "sealed", "cat", "/root/x"]).ok().stdout, "x\n");
    world.remove_all();
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}
