//! The shim keeps its container's streams, survives whoever talks to it, and leaves a record whatever happens.
#![cfg(feature = "daemon")]

mod runtime_world;

use std::path::Path;
use std::time::Duration;

use cc_host::container::launch::{LaunchError, Shim, kill_leftover, wait_for_shim_to_leave};
use cc_host::shim::protocol::FailureKind;
use cc_host::shim::record::{EXIT_FILE, ExitRecord, STATE_FILE, StateRecord, read};
use cc_host::shim::spec::{Bind, Spec};
use runtime_world::{ID_BASE, SHIM, World, collect, owner};

#[tokio::test]
async fn signals_reach_init_and_codes_say_so() {
    let world = World::new();
    let (shim, made) =
        world.spawn(&["sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"], |_| ()).await;
    let (_stdin, mut output) = shim.attach(false).await.unwrap();
    shim.start().await.unwrap();
    output.recv().await.unwrap();
    assert!(shim.signal(15).await.unwrap());
    assert_eq!(shim.wait().await.code, 9);
    assert!(!shim.signal(15).await.unwrap());
    made.cgroup.remove().unwrap();

    let (shim, made) = world.spawn(&["sleep", "1000"], |_| ()).await;
    shim.start().await.unwrap();
    assert!(shim.signal(9).await.unwrap());
    let record = shim.wait().await;
    assert_eq!((record.code, record.signal), (137, Some(9)));
    assert_eq!(read::<ExitRecord>(&made.dir, EXIT_FILE).unwrap(), Some(record));
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn input_arrives_whole_and_ends() {
    let world = World::new();
    let (shim, made) = world.spawn(&["wc", "-c"], |spec| spec.stdin = true).await;
    let (mut stdin, output) = shim.attach(true).await.unwrap();
    shim.start().await.unwrap();
    stdin.send(&vec![b'x'; 1_000_000]).await.unwrap();
    drop(stdin);
    assert_eq!(collect(output).await.0, "1000000\n");
    assert_eq!(shim.wait().await.code, 0);
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn a_slow_reader_loses_nothing_and_the_log_has_it_all() {
    let world = World::new();
    let (shim, made) = world.spawn(&["sh", "-c", "yes 0123456789abcde | head -n 100000"], |_| ()).await;
    let (_stdin, mut output) = shim.attach(false).await.unwrap();
    shim.start().await.unwrap();
    let mut bytes = 0;
    while let Some(piece) = output.recv().await {
        bytes += piece.bytes.len();
        tokio::task::yield_now().await;
    }
    assert_eq!(bytes, 1_600_000);
    assert_eq!(shim.wait().await.code, 0);
    let log = std::fs::read_to_string(&made.spec.log.as_ref().unwrap().path).unwrap();
    assert_eq!(log.lines().filter(|line| line.ends_with(" stdout F 0123456789abcde")).count(), 100_000);
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn a_container_outlives_those_who_watch_it() {
    let world = World::new();
    let (shim, made) = world.spawn(&["sh", "-c", "read x; exit 5"], |spec| spec.stdin = true).await;
    shim.start().await.unwrap();
    drop(shim.attach(false).await.unwrap());
    drop(shim);
    let again = Shim::connect(&made.dir).await.unwrap();
    let (mut stdin, _output) = again.attach(true).await.unwrap();
    stdin.send(b"go\n").await.unwrap();
    assert_eq!(again.wait().await.code, 5);
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn a_container_that_nobody_starts_ends() {
    let world = World::new();
    let (shim, made) = world.spawn(&["true"], |_| ()).await;
    let state: StateRecord = read(&made.dir, STATE_FILE).unwrap().unwrap();
    assert!(state.init.unwrap().is_alive());
    drop(shim);
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn a_killed_shim_takes_its_container_along_and_leaves_an_exit_code() {
    let world = World::new();
    let (shim, made) = world.spawn(&["sleep", "1000"], |_| ()).await;
    shim.start().await.unwrap();
    let state: StateRecord = read(&made.dir, STATE_FILE).unwrap().unwrap();
    let pid = rustix::process::Pid::from_raw(state.shim.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let record = shim.wait().await;
    assert_eq!((record.code, record.signal), (137, Some(9)));
    assert!(record.note.is_some());
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn what_was_left_behind_is_killed_exactly() {
    let world = World::new();
    let (shim, made) = world.spawn(&["sleep", "1000"], |_| ()).await;
    shim.start().await.unwrap();
    drop(shim);
    let state: StateRecord = read(&made.dir, STATE_FILE).unwrap().unwrap();
    // A process that has the pid but is another one is left alone.
    let mut stranger = state.clone();
    let me = cc_host::shim::record::Process::of(std::process::id() as i32).unwrap();
    stranger.shim = cc_host::shim::record::Process { start_ticks: me.start_ticks - 1, ..me };
    stranger.init = None;
    let other = world.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    cc_host::shim::record::write(&other, STATE_FILE, &stranger, false).unwrap();
    assert!(!kill_leftover(&other).unwrap());

    assert!(kill_leftover(&made.dir).unwrap());
    assert!(!kill_leftover(&made.dir).unwrap());
    assert!(!state.init.unwrap().is_alive());
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn a_specification_that_is_not_valid_is_explained() {
    let world = World::new();
    let made = world.make(&["true"], |spec| spec.args.clear());
    assert!(matches!(Shim::spawn(Path::new(SHIM), &made.dir, &made.spec).await, Err(LaunchError::Spec(_))));
    let made_too = world.make(&["true"], |spec| spec.rootfs.layers = vec!["/no/such/layer".into()]);
    let (shim, _) = Shim::spawn(Path::new(SHIM), &made_too.dir, &made_too.spec).await.unwrap();
    let failure = shim.start().await.unwrap_err();
    assert!(failure.message.contains("/no/such/layer"), "{failure}");
    shim.wait().await;
    made.cgroup.remove().unwrap();
    made_too.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn garbage_on_the_socket_hurts_nobody_else() {
    use std::io::{Read, Write};
    let world = World::new();
    let (shim, made) = world.spawn(&["sh", "-c", "exit 6"], |_| ()).await;
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x02\0\0\0\0{", b"\x11\0\0\0\0{\"type\":\"start\"}", b"\0\0\0\0"] {
        let mut stream = std::os::unix::net::UnixStream::connect(made.dir.join("shim.sock")).unwrap();
        stream.write_all(garbage).unwrap();
        let mut said = Vec::new();
        // It greets and hangs up.
        stream.read_to_end(&mut said).unwrap();
    }
    shim.start().await.unwrap();
    assert_eq!(shim.wait().await.code, 6);
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn a_program_that_reads_no_input_can_be_signalled() {
    let world = World::new();
    let (shim, made) = world.spawn(&["sleep", "1000"], |spec| spec.stdin = true).await;
    let (mut stdin, _output) = shim.attach(true).await.unwrap();
    shim.start().await.unwrap();
    // More than pipe, queue and socket hold.
    let flood = tokio::spawn(async move { stdin.send(&vec![b'x'; 4 << 20]).await });
    let asleep = tokio::time::timeout(Duration::from_millis(500), shim.wait()).await;
    assert!(asleep.is_err() && !flood.is_finished());
    assert!(shim.signal(9).await.unwrap());
    assert_eq!(shim.wait().await.code, 137);
    let _ = flood.await.unwrap();
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn a_bind_that_is_the_containers_own_is_not_mapped() {
    let world = World::new();
    let source = world.dir.path().join("hosts");
    std::fs::write(&source, "one\n").unwrap();
    std::os::unix::fs::chown(&source, Some(ID_BASE), Some(ID_BASE)).unwrap();
    let bind = Bind { source: source.clone(), target: "/etc/hosts".into(), readonly: false, idmap: false };
    let outcome = world
        .run(&["sh", "-c", "stat -c %u:%g /etc/hosts; echo two >> /etc/hosts; cat /etc/hosts"], |spec| {
            spec.binds = vec![bind];
        })
        .await;
    assert_eq!(outcome.stdout, "0:0\none\ntwo\n", "{}", outcome.stderr);
    assert_eq!(owner(&source), (ID_BASE, ID_BASE));
    world.end();
}

#[tokio::test]
async fn a_late_reader_gets_everything_and_then_the_shim_leaves() {
    let world = World::new();
    for bytes in [400_000, 5_000_000] {
        let (shim, made) = world.spawn(&["head", "-c", &bytes.to_string(), "/dev/zero"], |_| ()).await;
        let (_stdin, mut output) = shim.attach(false).await.unwrap();
        shim.start().await.unwrap();
        // Late on purpose: all buffers on the way are full, and the small one's container may have ended.
        assert!(!left_within(&made.dir, Duration::from_secs(1)).await);
        let mut received = 0;
        while let Some(piece) = output.recv().await {
            received += piece.bytes.len();
        }
        assert_eq!(received, bytes);
        assert_eq!(shim.wait().await.code, 0);
        assert!(left_within(&made.dir, Duration::from_secs(5)).await);
        assert!(!kill_leftover(&made.dir).unwrap());
        made.cgroup.remove().unwrap();
    }
    world.end();
}

async fn left_within(dir: &Path, within: Duration) -> bool {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || wait_for_shim_to_leave(&dir, within))
        .await
        .expect("waiting does not panic")
        .expect("the state can be read")
}

#[tokio::test]
async fn a_client_that_takes_nothing_does_not_hide_the_end() {
    let world = World::new();
    let (shim, made) = world.spawn(&["yes"], |_| ()).await;
    let (_stdin, mut output) = shim.attach(false).await.unwrap();
    shim.start().await.unwrap();
    // Until all buffers on the way are full: the program waits for the reader.
    let running = tokio::time::timeout(Duration::from_secs(1), shim.wait()).await;
    assert!(running.is_err());
    assert!(shim.signal(9).await.unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(25), shim.wait()).await;
    assert_eq!(ended.expect("the end is told").code, 137);
    assert!(left_within(&made.dir, Duration::from_secs(5)).await);
    while output.recv().await.is_some() {}
    assert!(!output.ended_whole());
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn a_whole_end_is_not_a_lost_connection() {
    let world = World::new();
    for kill in [false, true] {
        let (shim, made) = world.spawn(&["cat"], |spec| spec.stdin = true).await;
        let (stdin, mut output) = shim.attach(true).await.unwrap();
        shim.start().await.unwrap();
        if kill {
            assert!(kill_leftover(&made.dir).unwrap());
        }
        drop(stdin);
        assert_eq!(output.recv().await, None);
        assert_eq!(output.ended_whole(), !kill);
        shim.wait().await;
        made.cgroup.remove().unwrap();
    }
    world.end();
}

#[tokio::test]
async fn however_long_the_reason_is_a_failed_start_is_told() {
    type Spoil = fn(&mut Spec);
    let world = World::new();
    let spoilers: [(FailureKind, Spoil); 3] = [
        (FailureKind::BadUser, |spec| spec.user = "u".repeat(9000)),
        (FailureKind::BadDir, |spec| spec.cwd = format!("/{}", "\u{1}".repeat(4000))),
        (FailureKind::NotExecutable, |spec| spec.args[0] = "p".repeat(9000)),
    ];
    for (kind, spoil) in spoilers {
        let (shim, made) = world.spawn(&["true"], spoil).await;
        let started = tokio::time::timeout(Duration::from_secs(10), shim.start()).await;
        let failure = started.expect("it does not hang").unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.len() <= 1024);
        let record = shim.wait().await;
        assert_eq!(record.failure, Some(failure));
        made.cgroup.remove().unwrap();
    }
    world.end();
}

#[tokio::test]
async fn the_daemons_umask_is_not_the_containers() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let wrapper = world.dir.path().join("strict-shim");
    std::fs::write(&wrapper, format!("#!/bin/sh\numask 077\nexec {SHIM} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = "umask; stat -c %a /made/here /dev /dev/shm /dev/pts; touch /tmp/new; stat -c %a /tmp/new";
    let made = world.make(&["sh", "-c", script], |spec| spec.cwd = "/made/here".into());
    let (shim, _) = Shim::spawn(&wrapper, &made.dir, &made.spec).await.unwrap();
    let (_stdin, output) = shim.attach(false).await.unwrap();
    shim.start().await.unwrap();
    assert_eq!(collect(output).await.0, "0022\n755\n755\n1777\n755\n644\n");
    shim.wait().await;
    made.cgroup.remove().unwrap();
    world.end();
}
