//! `cc run --userns host`: without a user namespace, for who may. What root inside may not do is then up to capabilities, masks and filters
//! alone, and they hold.

use std::os::unix::fs::MetadataExt as _;

use cc_tests::World;
use cc_tests::daemon::Leave;

const HOST: &[&str] = &["--userns", "host"];

fn says(world: &World, options: &[&str], script: &str) -> String {
    world.run_rm("busybox", &[HOST, options].concat(), &["sh", "-c", script]).ok().stdout
}

#[test]
fn root_is_the_hosts_with_dockers_rights_and_no_more() {
    let world = World::new();
    let said =
        says(&world, &[], "cat /proc/self/uid_map; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status");
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[..3], ["0", "0", "4294967295"], "{said}");
    let rights = ["CapEff:", "00000000a80425fb", "CapBnd:", "00000000a80425fb", "NoNewPrivs:", "1", "Seccomp:", "2"];
    assert_eq!(words[3..], rights, "{said}");

    // What the host's root could reach if it were not for mounts, masks, the device filter and the cgroup namespace.
    let script = "\
        (echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo sysctl; \
        (echo h > /proc/sysrq-trigger) 2>/dev/null && echo sysrq; \
        (echo x > /sys/kernel/uevent_helper) 2>/dev/null && echo uevent; \
        mount -t tmpfs x /mnt 2>/dev/null && echo mount; \
        mkdir /sys/fs/cgroup/x 2>/dev/null && echo cgroup; \
        mknod /dev/k b 259 0 2>/dev/null && echo disk; \
        mknod /dev/m c 1 1 2>/dev/null && echo memory; \
        head -c 1 /proc/kcore 2>/dev/null | grep -q . && echo kcore; \
        unshare -U true 2>/dev/null && echo userns; \
        set -- /proc/[0-9]*; echo $#; head -c 2 /dev/zero | wc -c; echo x > /dev/null && echo null";
    let said = says(&world, &[], script);
    // The shell alone: what it would count with might not be there yet.
    assert_eq!(said, "1\n2\nnull\n");
    world.assert_clean();
}

/// The nodes are its own: those of the host belong to the same root.
#[test]
fn what_it_does_to_devices_is_not_done_to_the_hosts() {
    let world = World::new();
    let mode = || std::fs::metadata("/dev/null").unwrap().mode();
    let before = mode();
    assert_eq!(says(&world, &[], "chmod 600 /dev/null && stat -c %a /dev/null"), "600\n");
    assert_eq!(mode(), before);
    let said = says(
        &world,
        &["--device", "/dev/loop-control:/dev/l:r"],
        "exec 3</dev/l && echo read; (exec 3>/dev/l) 2>/dev/null || echo closed",
    );
    assert_eq!(said, "read\nclosed\n");
    world.assert_clean();
}

#[test]
fn it_lives_as_others_do() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let options = [HOST, &["--vpc", "blue", "--name", "web"]].concat();
    let id = world.run("busybox", &options, &["sh", "-c", "echo began; exec sleep 600"]);
    world.run("busybox", &["--vpc", "blue", "--name", "other"], &["sleep", "600"]);
    assert_eq!(world.inspect("web")["spec"]["userns"], "host");
    let text = |world: &World, args: &[&str]| world.cc(args).ok().stdout;
    // A further program, another user, the network, and the processes as the host has them.
    assert_eq!(text(&world, &["exec", "web", "id", "-u"]), "0\n");
    assert_eq!(
        text(&world, &["exec", "-u", "app", "web", "sh", "-c", "grep CapEff /proc/self/status | cut -f2"]),
        "0000000000000000\n"
    );
    let capabilities = text(&world, &["exec", "web", "sh", "-c", "grep CapBnd /proc/self/status | cut -f2"]);
    assert_eq!(capabilities, "00000000a80425fb\n");
    assert!(text(&world, &["exec", "web", "ping", "-c", "1", "-W", "2", "other"]).contains("1 packets received"));
    let uid = |pid: i64| std::fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_eq!(uid(world.inspect("web")["pid"].as_i64().unwrap()), 0);
    // Files go in and come out while it runs, and when it has ended.
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(file("a"), "one").unwrap();
    world.cc(&["cp", &file("a"), "web:/root/a"]).ok();
    assert_eq!(text(&world, &["exec", "web", "sh", "-c", "cat /root/a; stat -c ' %u' /root/a"]), "one 0\n");
    // The next daemon takes it as it is.
    world.leave(Leave::Killed);
    world.start();
    assert_eq!(text(&world, &["exec", "web", "id", "-u"]), "0\n");
    world.cc(&["stop", "-t", "0", "web"]).ok();
    world.cc(&["cp", "web:/root/a", &file("b")]).ok();
    assert_eq!(std::fs::read_to_string(file("b")).unwrap(), "one");
    world.cc(&["start", "web"]).ok();
    assert_eq!(
        text(&world, &["exec", "web", "cat", "/proc/self/uid_map"]).split_whitespace().last(),
        Some("4294967295")
    );
    assert!(world.cc(&["logs", &id]).ok().stdout.contains("began"));
    world.remove_all();
    world.assert_clean();
}

/// CVE-2019-5736: whoever enters the container must not bring a file along that its root could write to.
#[test]
fn the_shims_file_cannot_be_written_from_inside() {
    let world = World::new();
    let id = world.run("busybox", &[HOST, &["--name", "web"]].concat(), &["sleep", "600"]);
    let state = std::fs::read(world.path(&format!("run/containers/{id}/state.json"))).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let exe = format!("/proc/{}/exe", state["shim"]["pid"]);
    // While it runs, it is busy for everybody. Who has opened it and waits for its end has it from a mount that cannot be written.
    let mount = nix::sys::statvfs::statvfs(exe.as_str()).unwrap();
    assert!(mount.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY), "{mount:?}");
    // It has keys of its own, and so has who comes in.
    let keys = std::fs::read_to_string("/proc/keys").unwrap();
    assert!(keys.contains(&format!("_ses.{id}")), "{keys}");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn it_is_for_who_may() {
    let world = World::new();
    let refused = |options: &[&str], why: &str| {
        world.run_rm("busybox", &[HOST, options].concat(), &["true"]).fails(125, why);
    };
    refused(&["--cap-add", "SYS_MODULE"], "has given this one up");
    refused(&["--cap-add", "SYS_PTRACE"], "SYS_PTRACE");
    refused(&["--cap-add", "ALL"], "has given this one up");
    world.run_rm("busybox", &["--userns", "keep-id"], &["true"]).fails(125, "keep-id");
    world.assert_clean();
}
