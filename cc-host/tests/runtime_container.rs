//! A container runs the program that it was told to, as whom and where it was told to, and sees nothing of the host.
#![cfg(feature = "daemon")]

mod runtime_world;

use cc_host::shim::protocol::FailureKind;
use cc_host::shim::spec::Bind;
use runtime_world::{ID_BASE, World, owner};

#[tokio::test]
async fn exit_codes_pass_through_and_streams_stay_apart() {
    let world = World::new();
    for code in [0, 3, 255] {
        let outcome = world.sh(&format!("echo out; echo err >&2; exit {code}")).await;
        assert_eq!((outcome.record.code, outcome.record.signal), (code, None));
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    }
    world.end();
}

#[tokio::test]
async fn what_cannot_be_run_is_told_apart() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    for (name, mode) in [("plain", 0o644), ("orphan", 0o755)] {
        let path = world.layer().join("bin").join(name);
        std::fs::write(&path, "#!/no/such/interpreter\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    for (program, kind, code) in [
        ("absent", FailureKind::NotFound, 127),
        ("/bin/absent", FailureKind::NotFound, 127),
        ("plain", FailureKind::NotExecutable, 126),
        ("orphan", FailureKind::NotExecutable, 126),
        ("/etc", FailureKind::NotExecutable, 126),
    ] {
        let failure = world.try_run(&[program], |_| ()).await.unwrap_err();
        assert_eq!((failure.kind, failure.exit_code()), (kind, code), "{program}: {failure}");
    }
    let failure = world.try_run(&["true"], |spec| spec.user = "nobody".into()).await.unwrap_err();
    assert_eq!((failure.kind, failure.exit_code()), (FailureKind::BadUser, 125));
    let failure = world.try_run(&["true"], |spec| spec.cwd = "/etc/passwd".into()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadDir);
    world.end();
}

#[tokio::test]
async fn user_environment_and_directory_arrive() {
    let world = World::new();
    let script = "id -u; id -g; id -G; pwd; echo $HOME $A $HOSTNAME; echo x > /dev/stdout; echo $$; hostname";
    let tweak = |spec: &mut cc_host::shim::spec::Spec| {
        spec.user = "web".into();
        spec.cwd = "/made/for/web".into();
        spec.env = vec!["A=1".into(), "A=2".into()];
    };
    let outcome = world.run(&["sh", "-c", script], tweak).await;
    assert_eq!(outcome.stdout, "101\n102\n102 4\n/made/for/web\n/srv 2 box\nx\n1\nbox\n", "{}", outcome.stderr);
    let outcome = world.run(&["sh", "-c", "id -u; id -g"], |spec| spec.user = "7:8".into()).await;
    assert_eq!(outcome.stdout, "7\n8\n");
    world.end();
}

#[tokio::test]
async fn root_inside_is_nobody_outside() {
    let world = World::new();
    let (shim, made) =
        world.spawn(&["sh", "-c", "id -u; touch /mine; echo more >> /etc/passwd; read x"], |s| s.stdin = true).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", shim.pid())).unwrap();
    let (stdin, mut output) = shim.attach(true).await.unwrap();
    shim.start().await.unwrap();
    assert_eq!(&output.recv().await.unwrap().bytes[..], b"0\n");
    let running = std::fs::read_to_string(format!("/proc/{}/status", shim.pid())).unwrap();
    assert!(running.contains(&format!("Uid:\t{ID_BASE}\t{ID_BASE}\t{ID_BASE}\t{ID_BASE}")), "{status}\n{running}");
    drop(stdin);
    assert_eq!(shim.wait().await.code, 1);
    assert_eq!(owner(&made.spec.rootfs.upper.join("mine")), (ID_BASE, ID_BASE));
    assert_eq!(owner(&made.spec.rootfs.upper.join("etc/passwd")), (ID_BASE, ID_BASE));
    // The layer is untouched.
    assert_eq!(owner(&world.layer().join("etc/passwd")), (0, 0));
    assert!(!std::fs::read_to_string(world.layer().join("etc/passwd")).unwrap().contains("more"));
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn privileges_are_dockers_defaults_and_not_one_more() {
    let world = World::new();
    let show = "cat /proc/self/status | while read key value; do case $key in Cap*|NoNew*|Groups:) echo $key$value;; esac; done";
    let outcome = world.sh(show).await;
    assert_eq!(
        outcome.stdout,
        "Groups:\nCapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\nCapBnd:00000000a80425fb\nCapAmb:0000000000000000\nNoNewPrivs:1\n"
    );
    let outcome = world.run(&["sh", "-c", show], |spec| spec.user = "7:8".into()).await;
    assert!(outcome.stdout.contains("CapEff:0000000000000000\nCapBnd:00000000a80425fb\n"), "{}", outcome.stdout);
    world.end();
}

#[tokio::test]
async fn the_hosts_files_processes_and_mounts_are_out_of_reach() {
    let world = World::new();
    let outcome = world.sh("ls /; cat /proc/mounts; ls -d /proc/[0-9]*; ls -la /proc/self/fd; cat /proc/self/cgroup; mount -t tmpfs x /tmp || echo denied").await;
    assert!(outcome.stdout.starts_with("bin\ndev\netc\nproc\nroot\nsys\ntmp\n"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("denied"));
    let mounts: Vec<&str> = outcome.stdout.lines().filter(|line| line.ends_with(" 0 0")).collect();
    for line in &mounts {
        let target = line.split(' ').nth(1).unwrap();
        assert!(target == "/" || ["/dev", "/proc", "/sys"].iter().any(|top| target.starts_with(top)), "{line}");
    }
    assert!(mounts.len() > 10);
    // Its own two processes and no others, no descriptor but the streams (and that of the listing), its cgroup as a root.
    assert!(outcome.stdout.contains("/proc/1\n") && !outcome.stdout.contains("/proc/3\n/proc/4\n"));
    assert!(outcome.stdout.lines().filter(|l| l.contains(" -> ")).count() <= 4, "{}", outcome.stdout);
    assert!(outcome.stdout.contains("\n0::/\n"));
    let outcome = world.run(&["true"], |spec| spec.cwd = "/../../..".into()).await;
    assert_eq!(outcome.record.code, 0);
    world.end();
}

#[tokio::test]
async fn masked_paths_are_empty_and_kernel_settings_read_only() {
    let world = World::new();
    let script = "for p in acpi asound interrupts keys kcore latency_stats sched_debug scsi timer_list timer_stats; do
            [ -d /proc/$p ] && ls -A /proc/$p; [ -f /proc/$p -o -c /proc/$p ] && cat /proc/$p; done
        ls -A /sys/firmware; [ -c /proc/keys ] && echo null
        (echo 1 > /proc/sys/net/ipv4/ip_forward) 2>/dev/null || echo ro
        (echo 1 > /sys/fs/cgroup/cgroup.procs) 2>/dev/null || echo ro
        echo x > /dev/null; head -c 4 /dev/zero | wc -c; ls /dev/pts /dev/shm /dev/mqueue /dev/ptmx >/dev/null && echo dev";
    let outcome = world.sh(script).await;
    assert_eq!(outcome.stdout, "null\nro\nro\n4\ndev\n", "{}", outcome.stderr);
    world.end();
}

#[tokio::test]
async fn links_in_an_image_lead_nowhere_outside() {
    use std::os::unix::fs::symlink;
    let world = World::new();
    let outside = world.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let hosts = world.dir.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 box\n").unwrap();
    symlink(outside.join("hosts"), world.layer().join("etc/hosts")).unwrap();
    symlink("/../../../../../../nowhere/deep", world.layer().join("etc/other")).unwrap();
    let bind = |target: &str| Bind { source: hosts.clone(), target: target.into(), readonly: true, idmap: true };
    let outcome = world
        .run(&["sh", "-c", "cat /etc/hosts /etc/other; (echo x > /etc/hosts) 2>/dev/null || echo ro"], |spec| {
            spec.binds = vec![bind("/etc/hosts"), bind("/etc/other")];
        })
        .await;
    assert_eq!(outcome.stdout, "127.0.0.1 box\n127.0.0.1 box\nro\n");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    std::fs::remove_dir_all(world.layer().join("proc")).ok();
    symlink("/tmp", world.layer().join("proc")).unwrap();
    let failure = world.try_run(&["true"], |_| ()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Mount);
    world.end();
}

#[tokio::test]
async fn loopback_is_up_and_there_is_nothing_else() {
    let world = World::new();
    let outcome = world.sh("cat /proc/net/dev; cat /sys/class/net/lo/flags").await;
    assert_eq!(outcome.stdout.lines().filter(|line| line.contains(':')).count(), 1, "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("0x9\n"), "{}", outcome.stdout);
    world.end();
}
