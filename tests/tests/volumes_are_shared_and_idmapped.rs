//! One volume, several containers at once: each sees its own users as the owners, none gains a right by it, and the host has it mounted once.

use std::os::unix::fs::MetadataExt as _;

use cc_tests::World;

/// Lines of a list of mounts that are of the volume's file system.
fn mounts(world: &World, pid: &str) -> Vec<String> {
    let id = world.cc(&["volume", "list", "-q"]).line();
    let own = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = world.path("run/volumes").join(id).display().to_string();
    let device = own.lines().find(|line| line.contains(&place)).and_then(|line| line.split(' ').nth(2));
    let device = format!(" {} ", device.expect("it is mounted on the host"));
    let all = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    all.lines().filter(|line| line.contains(&device)).map(str::to_owned).collect()
}

#[test]
fn all_see_the_same_files_and_each_its_own_owners() {
    let world = World::new();
    let id = world.cc(&["volume", "create", "--size", "32MiB", "--name", "data"]).line();
    let with = ["--volume", "data:/data"];
    let [one, two] =
        ["one", "two"].map(|name| world.run("busybox", &[&with[..], &["--name", name]].concat(), &["sleep", "600"]));
    let three = world.run("busybox", &["--name", "three", "-v", "data:/mnt/it:ro"], &["sleep", "600"]);
    let says = |id: &str, script: &str| world.cc(&["exec", id, "sh", "-c", script]);
    says(&one, "umask 022; echo hers > /data/file; chown 1000:1001 /data/file; mkdir /data/dir").ok();
    assert_eq!(says(&two, "cat /data/file; stat -c %u:%g /data/file /data/dir").ok().stdout, "hers\n1000:1001\n0:0\n");
    says(&two, "echo his >> /data/file && chmod 666 /data/file").ok();
    assert_eq!(says(&three, "cat /mnt/it/file").ok().stdout, "hers\nhis\n");
    for refused in ["echo x >> /mnt/it/file", "touch /mnt/it/new", "rm /mnt/it/file", "mkdir /mnt/it/d"] {
        says(&three, refused).fails(1, "Read-only file system");
    }
    // With the host's users there is nothing to map; and what it writes is the others' root's all the same.
    let host = world.run("busybox", &["--name", "host", "--userns", "host", "-v", "data:/data"], &["sleep", "600"]);
    assert_eq!(says(&host, "stat -c %u:%g /data/file; touch /data/host").ok().stdout, "1000:1001\n");
    assert_eq!(says(&two, "stat -c %u:%g /data/host").ok().stdout, "0:0\n");
    // On the disk there are the containers' ids, not those that the host gives them.
    let on_host = std::fs::metadata(world.path("run/volumes").join(&id).join("data/file")).unwrap();
    assert_eq!((on_host.uid(), on_host.gid()), (1000, 1001));
    let ours = mounts(&world, "self");
    assert_eq!(ours.len(), 1, "once per host: {ours:?}");
    assert!(ours[0].contains("nosuid,nodev") && ours[0].contains("errors=remount-ro"), "{ours:?}");
    let its = mounts(&world, &world.pid(&one).to_string());
    assert!(its.len() == 1 && its[0].contains("nosuid,nodev") && its[0].contains("idmapped"), "{its:?}");
    let its = mounts(&world, &world.pid(&host).to_string());
    assert!(its.len() == 1 && its[0].contains("nosuid,nodev"), "{its:?}");
    world.remove_all();
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}

/// Root in one container makes a program set-uid root; nobody becomes root by it, there or elsewhere.
#[test]
fn no_right_comes_with_a_file() {
    let world = World::new();
    world.cc(&["volume", "create", "--size", "32MiB", "--name", "data"]).ok();
    let with = ["-v", "data:/data"];
    let make = "cp /bin/busybox /data/busybox && chmod 4755 /data/busybox && stat -c %a /data/busybox";
    assert_eq!(world.run_rm("busybox", &with, &["sh", "-c", make]).ok().stdout, "4755\n");
    let who = world.run_rm(
        "busybox",
        &["-v", "data:/data", "-u", "1000:1000"],
        &["/data/busybox", "grep", "^Uid", "/proc/self/status"],
    );
    assert_eq!(who.ok().stdout, "Uid:\t1000\t1000\t1000\t1000\n");
    // A node of the host's disk, made by who can: root of the host's users.
    let make = "mknod /data/disk b 7 0 2>/dev/null; mknod /data/null c 1 3 2>/dev/null; ls /data";
    world.run_rm("busybox", &["-v", "data:/data", "--userns", "host"], &["sh", "-c", make]).ok();
    world.run_rm("busybox", &with, &["sh", "-c", "head -c 1 /data/disk || echo x > /data/null"]).fails(1, "");
    world.cc(&["volume", "delete", "data"]).ok();
    world.assert_clean();
}

/// Those that are parked had their namespaces before anybody asked for a volume.
#[test]
fn a_volume_within_a_volume_and_under_the_files_of_etc() {
    let world = World::new();
    for name in ["outer", "inner"] {
        world.cc(&["volume", "create", "--size", "16MiB", "--name", name]).ok();
    }
    for round in 0..3 {
        let options = ["-v", "inner:/a/b/c", "-v", "outer:/a", "--hostname", "told"];
        let script =
            format!("echo {round} >> /a/outer; echo {round} >> /a/b/c/inner; cat /etc/hostname /a/outer /a/b/c/inner");
        let said = world.run_rm("busybox", &options, &["sh", "-c", &script]).ok().stdout;
        let rounds: String = (0..=round).map(|round| format!("{round}\n")).collect();
        assert_eq!(said, format!("told\n{rounds}{rounds}"));
    }
    // Over /etc: the files that are the container's own are on top of it.
    let said =
        world.run_rm("busybox", &["-v", "outer:/etc", "--hostname", "told"], &["cat", "/etc/hostname", "/etc/outer"]);
    assert_eq!(said.ok().stdout, "told\n0\n1\n2\n");
    world.cc(&["volume", "prune", "--force"]).ok();
    world.assert_clean();
}

/// CVE-2021-30465: what one container does to a shared volume while another's mounts are made.
#[test]
fn links_that_change_meanwhile_lead_nowhere_else() {
    let world = World::new();
    for name in ["shared", "inner"] {
        world.cc(&["volume", "create", "--size", "16MiB", "--name", name]).ok();
    }
    let outside = world.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let swap = format!(
        "mkdir -p /s/real; ln -s ../../../../../../../..{} /s/link; while :; do \
         mv -T /s/real /s/x 2>/dev/null; mv -T /s/link /s/real 2>/dev/null; mv -T /s/real /s/link 2>/dev/null; \
         mv -T /s/x /s/real 2>/dev/null; done",
        outside.display()
    );
    world.run("busybox", &["-v", "shared:/s"], &["sh", "-c", &swap]);
    let mut mounted = 0;
    for _ in 0..20 {
        // Whichever it meets: the directory, the link, or neither.
        let ran =
            world.run_rm("busybox", &["-v", "shared:/s", "-v", "inner:/s/real"], &["sh", "-c", "touch /s/real/file"]);
        mounted += u32::from(ran.code == 0);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made on the host");
    }
    assert!(mounted > 0, "none of them started: it shows nothing");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&outside.display().to_string()), "{mounts}");
    world.remove_all();
    world.cc(&["volume", "delete", "shared", "inner"]).ok();
    world.assert_clean();
}
