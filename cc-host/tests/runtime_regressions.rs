//! What other runtimes were broken by, one test each, named for it. What was no hole of others is in `runtime_container.rs`.
#![cfg(feature = "daemon")]

mod runtime_world;

use std::os::unix::fs::symlink;

use cc_host::container::launch::Shim;
use cc_host::shim::exec_spec::ExecSpec;
use cc_host::shim::protocol::FailureKind;
use cc_host::shim::spec::Bind;
use runtime_world::{SHIM, World, collect};
use rustix::fs::FileType;

/// Whatever lies at /dev/null covers /proc/keys and its like: a file of somebody's choice must not.
#[tokio::test]
async fn cve_2025_31133_nothing_but_the_null_device_masks() {
    let world = World::new();
    let other = world.dir.path().join("other");
    std::fs::write(&other, "not null").unwrap();
    let bind = Bind { source: other, target: "/dev/null".into(), readonly: true, idmap: true };
    let failure = world.try_run(&["cat", "/proc/keys"], |spec| spec.binds = vec![bind]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Mount);
    assert!(failure.message.contains("not the null device"), "{failure}");
    world.end();
}

/// An image in which a mount point of the kernel's is a link would have the mount elsewhere, and the path unprotected.
#[tokio::test]
async fn cve_2025_52565_dev_proc_and_sys_of_an_image_are_no_links() {
    for name in ["dev", "proc", "sys"] {
        for target in ["/tmp", "tmp", "../../../tmp", "/proc/self/root/tmp"] {
            let world = World::new();
            symlink(target, world.layer().join(name)).unwrap();
            let failure = world.try_run(&["true"], |_| ()).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Mount, "{name} -> {target}");
            world.end();
        }
    }
    let world = World::new();
    // What the image has in its /dev is not looked at: it is another file system.
    std::fs::create_dir(world.layer().join("dev")).unwrap();
    for name in ["console", "pts", "null", "shm"] {
        symlink("/etc/passwd", world.layer().join("dev").join(name)).unwrap();
    }
    let outcome =
        world.sh("ls /dev/console; [ -c /dev/null ] && [ -d /dev/pts ] && [ ! -L /dev/shm ] && echo own").await;
    assert_eq!(outcome.stdout, "own\n", "{}", outcome.stderr);
    assert!(std::fs::read_to_string(world.layer().join("etc/passwd")).unwrap().starts_with("root:"));
    world.end();
}

/// Settings go to the procfs that was just made, whatever the image has at its path.
#[tokio::test]
async fn cve_2019_16884_settings_are_written_to_the_kernels_proc_and_to_no_other() {
    let world = World::new();
    let fake = world.layer().join("proc/sys/net/ipv4");
    std::fs::create_dir_all(&fake).unwrap();
    for name in ["ping_group_range", "ip_unprivileged_port_start"] {
        std::fs::write(fake.join(name), "fake").unwrap();
    }
    let (shim, made) = world.spawn(&["cat", "/proc/sys/net/ipv4/ping_group_range"], |_| ()).await;
    let (_stdin, output) = shim.attach(false).await.unwrap();
    shim.start().await.unwrap();
    assert_eq!(collect(output).await.0.split_ascii_whitespace().collect::<Vec<_>>(), ["0", "65535"]);
    shim.wait().await;
    // A write would have made a copy here.
    assert!(!made.spec.rootfs.upper.join("proc/sys").exists(), "something was written to the image's");
    made.cgroup.remove().unwrap();
    world.end();
}

/// A directory of the host's that was left open is a way out: none is, and none can be entered.
#[tokio::test]
async fn cve_2024_21626_no_descriptor_is_left_and_none_is_entered() {
    let world = World::new();
    // The shim inherits it, as it would whatever a daemon forgot to close.
    let leaked = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    // The fourth is the listing's own.
    let outcome = world.sh("cd /proc/self/fd; set -- *; echo $#").await;
    let count: u32 = outcome.stdout.trim().parse().unwrap();
    assert!(count <= 4, "{count} descriptors");
    for number in 3..14 {
        let cwd = format!("/proc/self/fd/{number}");
        let failure = world.try_run(&["true"], |spec| spec.cwd = cwd.clone()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadDir, "{cwd}: {failure}");
    }
    drop(leaked);
    world.end();
}

/// Who is executed as the runtime itself can be opened by its link: nobody inside may write to the file.
#[tokio::test]
async fn cve_2019_5736_the_shims_file_is_written_by_nobody_inside() {
    let world = World::new();
    let shim_file = world.dir.path().join("shim-of-this-test");
    std::fs::copy(SHIM, &shim_file).unwrap();
    let before = std::fs::read(&shim_file).unwrap();
    let spy = "while :; do for p in /proc/[0-9]*; do (echo x >> $p/exe) 2>/dev/null && echo wrote; done; done";
    let made = world.make(&["sh", "-c", spy], |_| ());
    let (shim, _) = Shim::spawn(&shim_file, &made.dir, &made.spec).await.unwrap();
    let (_stdin, mut output) = shim.attach(false).await.unwrap();
    shim.start().await.unwrap();
    for _ in 0..50 {
        let args = vec!["/proc/self/exe".to_owned()];
        let wanted = ExecSpec {
            args,
            env: vec![],
            cwd: String::new(),
            user: String::new(),
            stdin: false,
            terminal: None,
            detach: false,
            bound: false,
        };
        // The program is the shim itself, which says how it is used, or it cannot be executed at all.
        if let Ok((_stdin, mut said)) = shim.exec(&wanted).await {
            while said.recv().await.is_some() {}
        }
    }
    let heard = tokio::time::timeout(std::time::Duration::from_millis(100), output.recv()).await;
    assert!(heard.is_err(), "it wrote to {heard:?}");
    assert!(std::fs::read(&shim_file).unwrap() == before, "the shim's file is another");
    shim.signal(9).await.unwrap();
    shim.wait().await;
    made.cgroup.remove().unwrap();
    drop(shim);
    world.end();
}

/// Nor any v1 hierarchy, whose release_agent the kernel would run for whoever may write it.
#[tokio::test]
async fn cve_2022_0492_no_cgroup_is_written_and_there_is_no_release_agent() {
    let world = World::new();
    let script = "grep cgroup /proc/mounts; busybox find / -name release_agent 2>/dev/null; \
        busybox mkdir /sys/fs/cgroup/x 2>&1; mount -t cgroup none /tmp 2>/dev/null || echo denied; \
        busybox cut -d: -f3 /proc/self/cgroup | busybox sort -u";
    let outcome = world.sh(script).await;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let [mount, made, denied, root] = lines[..] else { panic!("{}", outcome.stdout) };
    let fields: Vec<&str> = mount.split(' ').collect();
    assert_eq!((fields[1], fields[2]), ("/sys/fs/cgroup", "cgroup2"));
    assert!(fields[3].split(',').any(|option| option == "ro"), "{mount}");
    assert!(made.contains("Read-only"), "{made}");
    assert_eq!((denied, root), ("denied", "/"));
    world.end();
}

/// Also for who could write them by his capabilities: what is in the way is the mount.
#[tokio::test]
async fn cve_2025_31133_kernel_settings_stay_read_only_whoever_asks() {
    let world = World::new();
    // A new namespace has the host's setting, whatever that is.
    let script = "f=sys/net/ipv4/ip_forward; read -r before < /proc/$f; for f in $f sys/kernel/domainname; do \
        (echo $((1 - before)) > /proc/$f) 2>&1 | grep -o 'Read-only file system'; done; \
        read -r after < /proc/sys/net/ipv4/ip_forward; [ $before = $after ] && echo unchanged";
    let everything = Some(0x1ff_ffff_ffff);
    let outcome = world
        .run(&["sh", "-c", script], |spec| {
            spec.capabilities = everything;
            spec.seccomp = None;
        })
        .await;
    let expected = "Read-only file system\nRead-only file system\nunchanged\n";
    assert_eq!(outcome.stdout, expected, "{}", outcome.stderr);
    world.end();
}

/// Neither upwards nor by what is mounted below: the host's root is gone.
#[tokio::test]
async fn escape_by_dotdot_and_by_descriptors_ends_at_the_containers_root() {
    let world = World::new();
    let script = "while read -r d where rest; do [ $where = / ] && echo root; done < /proc/mounts; \
        cd /../../../..; ls -d etc/passwd; ls /proc/1/root/../../ | grep -c . ; ls / | grep -c .; \
        ls /proc/1/cwd/../.. | grep -c .";
    let outcome = world.sh(script).await;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let [root, passwd, above, at, from_cwd] = lines[..] else { panic!("{} {}", outcome.stdout, outcome.stderr) };
    assert_eq!((root, passwd), ("root", "etc/passwd"), "more than one root is mounted");
    assert!(above == at && at == from_cwd, "{lines:?}");
    world.end();
}

/// No node is made inside, and those of an image are none.
#[tokio::test]
async fn mknod_gives_no_device_and_neither_does_an_image() {
    let world = World::new();
    // 1:5, as /dev/zero: nothing but the root's own flag is in the way.
    let layer = std::fs::File::open(world.layer()).unwrap();
    rustix::fs::mknodat(&layer, "node", FileType::CharacterDevice, 0o666.into(), rustix::fs::makedev(1, 5)).unwrap();
    rustix::fs::chmodat(&layer, "node", 0o666.into(), rustix::fs::AtFlags::empty()).unwrap();
    let script = "for dir in /tmp /dev /dev/shm; do for of in 'c 1 3' 'c 1 1' 'b 7 0'; do \
        busybox mknod $dir/made $of 2>/dev/null && echo made; done; done; \
        [ -c /node ] && echo there; head -c 1 /node 2>/dev/null | wc -c";
    let outcome = world.sh(script).await;
    assert_eq!(outcome.stdout, "there\n0\n", "{}", outcome.stderr);
    world.end();
}
