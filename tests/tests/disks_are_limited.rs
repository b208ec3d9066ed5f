//! `cc run --disk`: a container's writable layer is as large as it was told, and not larger. Whoever fills it meets the end alone; what is in it
//! outlives stops and daemons, and goes with the container. Those that wait for containers to come are few, and are nobody's twice.

use std::time::Duration;

use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// Writes until it is refused; says the error and how many MiB were written. There is no room for its words anywhere in it then.
const FILL: &str = "dd if=/dev/zero of=/full bs=64k 2>&1 | grep -o 'No space left on device'; du -m /full | cut -f 1";

fn files(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.path("state/disks")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn uuid(ready: &str) -> &str {
    ready.strip_prefix("ready-").unwrap()
}

fn wait_for_ready(world: &World, count: usize) -> Vec<String> {
    eventually(&format!("{count} disks are ready"), BOUND, || {
        let ready = world.ready_disks();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        (ready.len() == count && ready.iter().all(|name| mounts.contains(&format!("/run/disks/{} ", uuid(name)))))
            .then_some(ready)
    })
}

#[test]
fn what_is_full_is_full_for_that_container_alone() {
    let world = World::with_config("disks.ready_max = 0");
    let neighbour = world.run("busybox", &["--disk", "32MiB"], &["sleep", "600"]);
    let id = world.run("busybox", &["--disk", "64MiB", "--name", "small"], &["sleep", "600"]);
    let filled = world.cc(&["exec", &id, "sh", "-c", FILL]).ok().stdout;
    let (said, written) = filled.trim().split_once('\n').unwrap();
    assert_eq!(said, "No space left on device");
    let written: u64 = written.parse().unwrap();
    assert!((48..=64).contains(&written), "{written} MiB");
    // The whole of it is one file on the host, as large as it was from the beginning.
    let file = std::fs::metadata(world.path("state/disks").join(format!("{id}.img"))).unwrap();
    assert_eq!(file.len(), 64 * MIB);
    assert!(std::os::unix::fs::MetadataExt::blocks(&file) * 512 < 66 * MIB);
    let df = world.cc(&["exec", &id, "df", "-m", "/"]).ok().stdout;
    let fields: Vec<&str> = df.lines().last().unwrap().split_whitespace().collect();
    let [size, free] = [1, 3].map(|at| fields[at].parse::<u64>().unwrap());
    assert!((48..=64).contains(&size) && free == 0, "{df}");
    // Nobody else notices: neither a neighbour with a disk of its own, nor one without, nor the host.
    world.cc(&["exec", &neighbour, "dd", "if=/dev/zero", "of=/file", "bs=1M", "count=16"]).ok();
    world.run_rm("busybox", &[], &["dd", "if=/dev/zero", "of=/file", "bs=1M", "count=96"]).ok();
    std::fs::write(world.path("file"), vec![1; 1 << 20]).unwrap();
    // What it removes is its own to use again.
    world.cc(&["exec", &id, "sh", "-c", "rm /full && dd if=/dev/zero of=/again bs=1M count=32"]).ok();
    let shown = world.inspect("small");
    assert_eq!(shown["spec"]["disk_bytes"], 64 * MIB, "{shown}");
    world.cc(&["update", "--disk", "128MiB", "small"]).fails(2, "keeps the size");
    world.remove_all();
    assert_eq!(files(&world), Vec::<String>::new());
    world.assert_clean();
}

#[test]
fn many_small_files_end_too() {
    let world = World::with_config("disks.ready_max = 0");
    let touch =
        "i=0; while touch /d/$i 2>/d.said; do i=$((i+1)); done; grep -o 'No space left on device' /d.said; echo $i";
    let ran = world.run_rm("busybox", &["--disk", "16MiB"], &["sh", "-c", &format!("mkdir /d; {touch}")]).ok().stdout;
    assert!(ran.starts_with("No space left on device\n"), "{ran}");
    world.assert_clean();
}

#[test]
fn it_is_as_any_other_writable_layer() {
    let seen = |options: &[&str]| {
        let world = World::with_config("disks.ready_max = 0");
        let look = "stat -c '%n %A %u %g' /* /etc/* | sort; id; touch /x && stat -c '%u %g %a' /x / /tmp; \
            cp /bin/busybox /su && chmod 4755 /su && stat -c %a /su; rm /etc/passwd; ls /etc; mknod /null c 1 3 2>&1; \
            mkdir /a && mv /a /b && ls -d /b; grep ' / / ' /proc/self/mountinfo | cut -d ' ' -f 6; ls /lost+found 2>&1";
        let seen = world.run_rm("busybox", options, &["sh", "-c", look]).stdout;
        world.assert_clean();
        seen
    };
    assert_eq!(seen(&["--disk", "32MiB"]), seen(&[]));
}

#[test]
fn what_is_in_it_outlives_stops_and_daemons() {
    let mut world = World::new();
    let write =
        "test -e /kept || { echo kept > /kept; dd if=/dev/zero of=/large bs=1M count=4 2>/dev/null; }; exec sleep 600";
    let id = world.run("busybox", &["--disk", "32MiB"], &["sh", "-c", write]);
    let reads = |world: &World, id: &str| {
        eventually("it has what it wrote", BOUND, || {
            (world.cc(&["exec", id, "cat", "/kept"]).stdout == "kept\n").then_some(())
        });
        world.cc(&["exec", id, "sh", "-c", "echo more >> /more"]).ok();
    };
    reads(&world, &id);
    world.cc(&["stop", "-t", "0", &id]).ok();
    eventually("it is mounted nowhere", BOUND, || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        // But for the one that waits for the next.
        let ready = world.ready_disks();
        let of_ours = mounts.lines().filter(|line| line.contains(&format!("{}/", world.path("run/disks").display())));
        of_ours.into_iter().all(|line| ready.iter().any(|name| line.contains(uuid(name)))).then_some(())
    });
    // Of one that has ended, files are copied in and out.
    world.cc(&["cp", &format!("{id}:/kept"), world.path("out").to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(world.path("out")).unwrap(), "kept\n");
    std::fs::write(world.path("in"), "put\n").unwrap();
    world.cc(&["cp", world.path("in").to_str().unwrap(), &format!("{id}:/put")]).ok();
    world.cc(&["start", &id]).ok();
    reads(&world, &id);
    assert_eq!(world.cc(&["exec", &id, "cat", "/put"]).ok().stdout, "put\n");
    for how in [Leave::Killed, Leave::Stopped] {
        let pid = world.pid(&id);
        world.leave(how);
        world.start();
        assert_eq!(world.pid(&id), pid, "it goes on");
        reads(&world, &id);
    }
    // It ends while nobody looks.
    world.leave(Leave::Killed);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid_of_init(&world, &id)), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    world.start();
    world.cc(&["wait", &id]).ok();
    world.cc(&["start", &id]).ok();
    reads(&world, &id);
    assert_eq!(world.cc(&["exec", &id, "wc", "-l", "/more"]).ok().stdout, "5 /more\n");
    world.cc(&["rm", "-f", &id]).ok();
    assert!(!files(&world).contains(&format!("{id}.img")));
    world.assert_clean();
}

fn pid_of_init(world: &World, id: &str) -> i32 {
    let state = std::fs::read(world.path("run/containers").join(id).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    i32::try_from(state["init"]["pid"].as_i64().unwrap()).unwrap()
}

/// One sum for volumes and disks; what is ready gives way.
#[test]
fn a_pool_promises_no_more_than_it_has() {
    let world = World::with_config("volumes.pool_bytes = 134217728");
    let image = world.image("busybox");
    let run = |size: &str| world.cc(&["run", "-d", "--image", &image, "--disk", size, "sleep", "600"]);
    run("129MiB").fails(125, "raise volumes.pool_bytes");
    assert_eq!(world.cc(&["ps", "-a", "-q"]).ok().stdout, "", "nothing is left of it");
    world.assert_clean();
    world.cc(&["volume", "create", "--size", "64MiB", "--name", "data"]).ok();
    run("65MiB").fails(125, "the pool has 67108864 bytes left");
    let id = run("48MiB").line();
    run("17MiB").fails(125, "the pool has 16777216 bytes left");
    world.cc(&["volume", "create", "--size", "17MiB", "--name", "more"]).fails(1, "16777216 bytes left");
    world.cc(&["stop", "-t", "0", &id]).ok();
    run("17MiB").fails(125, "bytes left");
    world.cc(&["rm", &id]).ok();
    world.cc(&["volume", "delete", "data"]).ok();
    // One more is made ahead, and gives way to who needs its room.
    let id = run("16MiB").line();
    let ready = wait_for_ready(&world, 1);
    let other = run("100MiB").line();
    assert!(!world.ready_disks().contains(&ready[0]), "it gave way");
    world.cc(&["rm", "-f", &id, &other]).ok();
    let id = run("16MiB").line();
    let ready = wait_for_ready(&world, 1);
    world.cc(&["volume", "create", "--size", "112MiB", "--name", "data"]).ok();
    assert!(!world.ready_disks().contains(&ready[0]), "to a volume, too");
    world.cc(&["volume", "delete", "data"]).ok();
    world.cc(&["rm", "-f", &id]).ok();
    world.assert_clean();
}

#[test]
fn sizes_that_make_no_sense_are_refused_by_name() {
    let world = World::new();
    for size in ["1", "15MiB", "17TiB"] {
        world.run_rm("busybox", &["--disk", size], &["true"]).fails(125, "a writable layer has from");
    }
    world.run_rm("busybox", &["--disk", "0"], &["true"]).fails(125, "leave the flag out");
    world.run_rm("busybox", &["--disk", "much"], &["true"]).fails(125, "is not a unit");
    world.assert_clean();
}

#[test]
fn what_is_ready_is_taken_once_and_goes_with_its_daemon() {
    let mut world = World::with_config("disks.ready_max = 2");
    assert_eq!(world.ready_disks(), Vec::<String>::new(), "nobody has asked for any");
    let run = |world: &World, size: &str| world.run("busybox", &["--disk", size], &["sleep", "600"]);
    let inode = |world: &World, name: &str| {
        // A container's own name comes when it runs.
        let meta = eventually("its file has a name", BOUND, || {
            std::fs::metadata(world.path("state/disks").join(format!("{name}.img"))).ok()
        });
        std::os::unix::fs::MetadataExt::ino(&meta)
    };
    run(&world, "32MiB");
    let ready = wait_for_ready(&world, 1);
    let ready_inode = inode(&world, &ready[0]);
    // Of exactly that size.
    let other = run(&world, "33MiB");
    assert_ne!(inode(&world, &other), ready_inode);
    let id = run(&world, "32MiB");
    assert_eq!(inode(&world, &id), ready_inode, "it is the one that was ready");
    assert_eq!(world.cc(&["exec", &id, "sh", "-c", "echo mine > /mine; cat /mine"]).ok().stdout, "mine\n");
    // Never more than may be.
    let ready = wait_for_ready(&world, 2);
    assert!(!ready.iter().any(|name| inode(&world, name) == ready_inode));
    world.remove_all();
    world.assert_clean();
    wait_for_ready(&world, 2);
    world.leave(Leave::Stopped);
    world.assert_clean();
    // Killed, the next daemon removes them.
    world.start();
    run(&world, "32MiB");
    let ready = wait_for_ready(&world, 1);
    world.leave(Leave::Killed);
    world.start();
    assert!(!files(&world).iter().any(|file| file.contains(&ready[0])), "{:?}", files(&world));
    world.remove_all();
    world.leave(Leave::Stopped);
    world.assert_clean();
}

#[test]
fn many_at_once_each_have_their_own() {
    let world = World::new();
    let image = world.image("busybox");
    let look = "echo $HOSTNAME > /own && sleep 1 && cat /own";
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|n| {
                let (world, image) = (world.command(&[]), image.clone());
                let mut command = world;
                command.args(["run", "--rm", "--image", &image, "--hostname", &format!("box-{n}"), "--disk", "16MiB"]);
                command.args(["sh", "-c", look]);
                scope.spawn(move || (n, command.output().unwrap()))
            })
            .collect();
        for run in runs {
            let (n, output) = run.join().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("box-{n}\n"), "{output:?}");
        }
    });
    world.assert_clean();
}

/// Only its own file system is mounted, and nothing is made in the place of what is missing.
#[test]
fn what_is_not_its_own_is_not_mounted() {
    let world = World::with_config("disks.ready_max = 0");
    let id = world.run("busybox", &["--disk", "16MiB"], &["true"]);
    let other = world.run("busybox", &["--disk", "16MiB"], &["true"]);
    for one in [&id, &other] {
        world.cc(&["wait", one]).ok();
    }
    let image = |id: &str| world.path("state/disks").join(format!("{id}.img"));
    let aside = world.path("aside");
    std::fs::rename(image(&id), &aside).unwrap();
    world.cc(&["start", &id]).fails(1, "is not its file system");
    assert!(!image(&id).exists());
    std::fs::copy(image(&other), image(&id)).unwrap();
    world.cc(&["start", &id]).fails(1, "UUID");
    std::fs::rename(&aside, image(&id)).unwrap();
    world.cc(&["start", &id]).ok();
    world.cc(&["wait", &id]).ok();
    world.remove_all();
    world.assert_clean();
}

/// `cc system df` counts each as its container's.
#[test]
fn the_disk_is_accounted_for() {
    let world = World::with_config("disks.ready_max = 0");
    world.run("busybox", &["--name", "runs", "--disk", "32MiB"], &["sleep", "600"]);
    world.run("busybox", &["--name", "ended", "--disk", "64MiB"], &["true"]);
    world.cc(&["wait", "ended"]).ok();
    let containers = || {
        let report = world.cc(&["system", "df", "--json"]).json();
        let parts = report["parts"].as_array().unwrap().clone();
        let part = parts.into_iter().find(|part| part["kind"] == "containers").unwrap();
        ["bytes", "reclaimable_bytes"].map(|field| part[field].as_u64().unwrap() / MIB)
    };
    eventually("each is counted", BOUND, || (containers() == [96, 64]).then_some(()));
    world.cc(&["prune", "--force"]).ok();
    assert_eq!(containers(), [32, 0]);
    world.remove_all();
    world.assert_clean();
}
