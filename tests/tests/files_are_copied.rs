//! `cc cp` does what docker's does, of containers that run and that have ended; and whatever either side makes of its files, no file of
//! the host's is read or written but the one that was named.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use cc_tests::{World, eventually};

const SLEEP: &[&str] = &["sleep", "600"];

/// Files of ours to copy.
fn tree(world: &World) -> std::path::PathBuf {
    let tree = world.path("tree");
    fs::create_dir_all(tree.join("sub/deep")).unwrap();
    fs::write(tree.join("file"), "hello\n").unwrap();
    fs::write(tree.join("sub/deep/large"), vec![7; 3 << 20]).unwrap();
    fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("sub/deep", tree.join("link")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(tree.join("pipe")).status().unwrap();
    assert!(made.success());
    tree
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What both kinds of containers must do.
fn goes_in_and_out(world: &World, id: &str) {
    let tree = tree(world);
    let at = |path: &str| format!("{id}:{path}");
    world.cc(&["cp", &text(&tree), &at("/srv-new")]).ok();
    world.cc(&["cp", &text(&tree.join("file")), &at("/tmp/")]).ok();
    world.cc(&["cp", &text(&tree.join("file")), &at("/tmp/renamed")]).ok();
    world.cc(&["cp", &format!("{}/.", text(&tree)), &at("/tmp")]).ok();
    let out = world.path("out");
    fs::create_dir(&out).unwrap();
    let told = world.cc(&["cp", &at("/srv-new"), &text(&out), "--json"]).json();
    assert_eq!((told["entries"].as_u64(), told["bytes"].as_u64()), (Some(7), Some(6 + (3 << 20))), "{told}");
    assert_eq!(fs::read(out.join("srv-new/file")).unwrap(), b"hello\n");
    assert_eq!(fs::read(out.join("srv-new/sub/deep/large")).unwrap(), vec![7; 3 << 20]);
    assert_eq!(fs::read_link(out.join("srv-new/link")).unwrap(), Path::new("sub/deep"));
    let metadata = fs::metadata(out.join("srv-new/file")).unwrap();
    let original = fs::metadata(tree.join("file")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    assert_eq!(metadata.mtime(), original.mtime(), "its time is kept");
    world.cc(&["cp", &at("/srv-new/."), &text(&world.path("contents"))]).ok();
    assert!(world.path("contents/file").is_file());
    world.cc(&["cp", &at("tmp/renamed"), &text(&world.path("one"))]).ok();
    assert_eq!(fs::read(world.path("one")).unwrap(), b"hello\n");
    world.cc(&["cp", "-L", &at("/srv-new/link"), &text(&world.path("followed"))]).ok();
    assert!(world.path("followed/large").is_file());
    // It keeps the name that was asked for, whatever it leads to.
    let named = world.path("named");
    fs::create_dir(&named).unwrap();
    world.cc(&["cp", "-L", &at("/srv-new/link"), &text(&named)]).ok();
    assert!(named.join("link/large").is_file() && fs::read_dir(&named).unwrap().count() == 1);
    // As a stream.
    let archive = world.command(&["cp", &at("/srv-new/sub"), "-"]).output().unwrap();
    assert!(archive.status.success());
    world.cc_with_stdin(&["cp", "-", &at("/tmp")], &archive.stdout).ok();
    world.cc(&["cp", &at("/tmp/sub/deep/large"), &text(&world.path("streamed"))]).ok();
    assert_eq!(fs::metadata(world.path("streamed")).unwrap().len(), 3 << 20);
    // What is wrong is named, and says what next.
    world.cc(&["cp", &at("/nowhere"), "x"]).fails(1, "no /nowhere");
    world.cc(&["cp", &text(&tree), &at("/etc/passwd")]).fails(1, "no directory");
    world.cc(&["cp", &text(&tree.join("file")), &at("/no/where")]).fails(1, "no directory /no");
    world.cc(&["cp", &text(&tree.join("file")), &at("/no/")]).fails(1, "no directory /no");
    world.cc(&["cp", "no-such-file", &at("/tmp")]).fails(1, "no-such-file");
    world.cc_with_stdin(&["cp", "-", &at("/tmp")], b"this is no archive").fails(1, "archive is broken");
    for path in ["tree", "out", "contents", "followed", "named"] {
        fs::remove_dir_all(world.path(path)).unwrap();
    }
}

#[test]
fn of_one_that_runs() {
    let world = World::new();
    let id = world.run("busybox", &["--name", "web", "--tmpfs", "/mem"], SLEEP);
    goes_in_and_out(&world, "web");
    let inside = |script: &str| world.cc(&["exec", "web", "sh", "-c", script]).ok().stdout;
    assert_eq!(inside("stat -c '%u %g %a' /srv-new/file"), "0 0 640\n", "it is the container's root's");
    assert_eq!(inside("cat /tmp/file /tmp/renamed"), "hello\nhello\n");
    // What is mounted there is written as a program there would.
    fs::write(world.path("x"), "x").unwrap();
    world.cc(&["cp", &text(&world.path("x")), "web:/mem"]).ok();
    assert_eq!(inside("cat /mem/x"), "x");
    // Owners are kept when asked for, by number.
    inside("touch /tmp/owned && chown 1000:1000 /tmp/owned");
    world.cc(&["cp", "-a", "web:/tmp/owned", &text(&world.path("owned"))]).ok();
    let owned = fs::metadata(world.path("owned")).unwrap();
    assert_eq!((owned.uid(), owned.gid()), (1000, 1000));
    world.cc(&["cp", "-a", &text(&world.path("owned")), "web:/tmp/again"]).ok();
    assert_eq!(inside("stat -c '%u %g' /tmp/again"), "1000 1000\n");
    // The kernel's own files have no size and no end.
    world.cc(&["cp", "web:/proc/version", &text(&world.path("version"))]).fails(1, "kernel");
    let all = world.command(&["cp", "web:/", "-"]).output().unwrap();
    assert!(all.status.success() && all.stdout.len() < 100 << 20, "{} bytes", all.stdout.len());
    world.cc(&["cp", &text(&world.path("x")), "web:/proc/sys/kernel/hostname"]).fails(1, "/proc/sys/kernel/hostname");
    assert_eq!(world.pid(&id), world.pid("web"), "and it runs");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn of_one_that_has_ended() {
    let world = World::new();
    world.run("busybox", &["--name", "web"], &["sh", "-c", "echo left > /left"]);
    world.cc(&["wait", "web"]).ok();
    goes_in_and_out(&world, "web");
    world.cc(&["cp", "web:/left", &text(&world.path("left"))]).ok();
    assert_eq!(fs::read(world.path("left")).unwrap(), b"left\n");
    world.cc(&["cp", "web:/etc/passwd", &text(&world.path("passwd"))]).ok();
    assert!(fs::read_to_string(world.path("passwd")).unwrap().contains("app"), "the image's own");
    // What was put there is there when it starts again.
    fs::write(world.path("next"), "exit 7\n").unwrap();
    world.run("busybox", &["--name", "again"], &["sh", "-c", "if test -f /next; then . /next; fi"]);
    world.cc(&["wait", "again"]).ok();
    world.cc(&["cp", &text(&world.path("next")), "again:/"]).ok();
    world.cc(&["start", "again"]).ok();
    assert_eq!(world.cc(&["wait", "again"]).ok().stdout.trim(), "7");
    world.run("busybox", &["--name", "sealed", "--read-only"], &["true"]);
    world.cc(&["wait", "sealed"]).ok();
    world.cc(&["cp", &text(&world.path("next")), "sealed:/tmp"]).fails(1, "read-only");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn no_link_leads_to_the_host() {
    let world = World::new();
    let secret = world.path("secret");
    fs::write(&secret, "of the host").unwrap();
    let id = world.run("busybox", &["--name", "web"], SLEEP);
    let dir = text(world.path("").as_path());
    let dir = dir.trim_end_matches('/');
    let script = format!(
        "ln -s {secret} /file; ln -s {dir} /dir; ln -s ../../../../../../..{dir} /up; ln -s /proc/1/root{dir} /root-of-1; \
         ln -s /proc/self/root{dir} /own-root",
        secret = text(&secret)
    );
    world.cc(&["exec", "web", "sh", "-c", &script]).ok();
    let check = |state: &str| {
        for path in ["/file", "/dir/secret", "/up/secret", "/root-of-1/secret", "/own-root/secret"] {
            let out = world.path("stolen");
            let ran = world.cc(&["cp", "-L", &format!("{id}:{path}"), &text(&out)]);
            assert_ne!(ran.code, 0, "{state}: {path} was copied");
            assert!(!out.exists(), "{state}: {path}");
            fs::write(world.path("mine"), "of the container").unwrap();
            world.cc(&["cp", &text(&world.path("mine")), &format!("{id}:{path}")]);
            assert_eq!(fs::read(&secret).unwrap(), b"of the host", "{state}: through {path}");
        }
    };
    check("it runs");
    world.cc(&["stop", "-t", "0", "web"]).ok();
    check("it has ended");
    world.remove_all();
    world.assert_clean();
}

/// A directory that is a symlink to the host's half of the time (CVE-2018-15664): each copy finds the container's own, or nothing.
#[test]
fn links_that_change_while_it_copies_lead_to_nothing_of_the_host() {
    const ROUNDS: usize = 60;
    let world = World::new();
    let secret = world.path("secret");
    fs::write(&secret, "of the host").unwrap();
    let dir = text(secret.parent().unwrap());
    let script = format!(
        "mkdir -p /a /spare; echo own > /a/secret; \
         while :; do mv /a /spare/a; ln -s {dir} /a; rm /a; mv /spare/a /a; done"
    );
    world.run("busybox", &["--name", "web"], &["sh", "-c", &script]);
    eventually("it has begun", Duration::from_secs(10), || {
        (world.cc(&["exec", "web", "test", "-d", "/spare"]).code == 0).then_some(())
    });
    fs::write(world.path("mine"), "of the container").unwrap();
    let mut found = 0;
    for _ in 0..ROUNDS {
        let out = world.path("out");
        if world.cc(&["cp", "web:/a/secret", &text(&out)]).code == 0 {
            let got = fs::read_to_string(&out).unwrap();
            assert_ne!(got, "of the host");
            found += 1;
            fs::remove_file(&out).unwrap();
        }
        world.cc(&["cp", &text(&world.path("mine")), "web:/a/secret"]);
        assert_eq!(fs::read(&secret).unwrap(), b"of the host");
    }
    assert!(found > 0, "some copies found the directory in its place");
    world.remove_all();
    world.assert_clean();
}

/// A copy that nobody drives keeps nothing from being removed: it ends with the container, or after a minute.
#[test]
fn a_container_that_ends_ends_its_copies() {
    let world = World::new();
    let id =
        world.run("busybox", &["--name", "web"], &["sh", "-c", "dd if=/dev/zero of=/large bs=1M count=64; sleep 600"]);
    eventually("the file is there", Duration::from_secs(20), || {
        (world.cc(&["exec", "web", "sh", "-c", "test $(stat -c %s /large) = 67108864"]).code == 0).then_some(())
    });
    let mut command = world.command(&["cp", "web:/large", "-"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut copy = command.spawn().unwrap();
    let copies = || {
        let mut children = 0;
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let parent = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let ours = parent.contains(&format!(" {} ", world.daemon().pid()));
            children += usize::from(ours && line.windows(10).any(|part| part == b"copy-files"));
        }
        children
    };
    eventually("it copies", Duration::from_secs(10), || (copies() == 1).then_some(()));
    world.cc(&["rm", "-f", &id]).ok();
    eventually("it ends", Duration::from_secs(10), || (copies() == 0).then_some(()));
    // Its client, which read nothing so far, hears of it.
    let output = {
        drop(copy.stdin.take());
        copy.wait_with_output().unwrap()
    };
    assert!(!output.status.success() && output.stdout.len() < 64 << 20, "{} bytes", output.stdout.len());
    world.assert_clean();
}
