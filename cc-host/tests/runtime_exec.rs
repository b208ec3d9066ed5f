//! Further programs in a container: where they run, what they may, how they end, and what becomes of them when nobody is there.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod runtime_world;

use std::time::{Duration, Instant};

use cc_host::container::launch::{LaunchError, Shim};
use cc_host::shim::exec_spec::ExecSpec;
use cc_host::shim::protocol::FailureKind;
use cc_host::shim::terminal::Size;
use runtime_world::{ID_BASE, Made, World, collect};

const BOUND: Duration = Duration::from_secs(10);

fn wanted(args: &[&str]) -> ExecSpec {
    let args = args.iter().map(ToString::to_string).collect();
    let (cwd, user) = (String::new(), String::new());
    ExecSpec { args, env: vec![], cwd, user, stdin: false, terminal: None, detach: false, bound: false }
}

fn sh(script: &str) -> ExecSpec {
    wanted(&["sh", "-c", script])
}

/// What it wrote to both streams, and its code.
async fn exec(shim: &Shim, spec: &ExecSpec) -> (String, String, i32) {
    let (stdin, mut output) = shim.exec(spec).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = output.recv().await {
        match piece.stream {
            cc_host::container::launch::Stream::Stdout => out.extend_from_slice(&piece.bytes),
            cc_host::container::launch::Stream::Stderr => err.extend_from_slice(&piece.bytes),
        }
    }
    drop(stdin);
    let code = output.end().unwrap().code;
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), code)
}

async fn up(world: &World) -> (Shim, Made) {
    let (shim, made) = world
        .spawn(&["sleep", "1000"], |spec| {
            spec.env = vec!["A=image".into(), "B=2".into()];
            spec.cwd = "/tmp".into();
        })
        .await;
    shim.start().await.unwrap();
    (shim, made)
}

async fn end(world: World, shim: Shim, made: Made) {
    assert!(shim.signal(9).await.unwrap());
    shim.wait().await;
    made.cgroup.remove().unwrap();
    drop(shim);
    world.end();
}

#[tokio::test]
async fn it_is_where_the_container_is_and_may_what_it_may() {
    let world = World::new();
    let (shim, made) = up(&world).await;
    let probe = "hostname; echo $A $B $C; pwd; id -u; for n in /proc/1/ns/*; do readlink $n; done > /tmp/1; \
                 for n in /proc/self/ns/*; do readlink $n; done > /tmp/2; cmp /tmp/1 /tmp/2 && echo same; \
                 cat /proc/1/cgroup > /tmp/1; cat /proc/self/cgroup > /tmp/2; cmp /tmp/1 /tmp/2 && echo same; \
                 grep -E '^(CapEff|CapBnd|NoNewPrivs|CapInh)' /proc/1/status > /tmp/1; \
                 grep -E '^(CapEff|CapBnd|NoNewPrivs|CapInh)' /proc/self/status > /tmp/2; cmp /tmp/1 /tmp/2 && echo same; \
                 ls /proc/self/fd | wc -l; echo wrong >&2; exit 7";
    let spec = ExecSpec { env: vec!["A=own".into(), "C=3".into()], ..sh(probe) };
    let (out, err, code) = exec(&shim, &spec).await;
    // The three streams, and the one that ls reads the directory by.
    assert_eq!((out.as_str(), err.as_str()), ("box\nown 2 3\n/tmp\n0\nsame\nsame\nsame\n4\n", "wrong\n"));
    assert_eq!(code, 7);
    end(world, shim, made).await;
}

#[tokio::test]
async fn a_user_and_a_directory_of_its_own() {
    let world = World::new();
    let (shim, made) = up(&world).await;
    let spec = ExecSpec {
        user: "web".into(),
        cwd: "/etc".into(),
        ..sh("id; pwd; echo $HOME; grep ^CapEff /proc/self/status")
    };
    let (out, ..) = exec(&shim, &spec).await;
    assert_eq!(out, "uid=101(web) gid=102(www) groups=4(log)\n/etc\n/srv\nCapEff:\t0000000000000000\n");
    let failure = |spec: ExecSpec| {
        let shim = &shim;
        async move {
            match shim.exec(&spec).await.err().unwrap() {
                LaunchError::Exec(failure) => failure.kind,
                other => panic!("{other}"),
            }
        }
    };
    assert_eq!(failure(wanted(&["no-such"])).await, FailureKind::NotFound);
    assert_eq!(failure(wanted(&["/etc"])).await, FailureKind::NotExecutable);
    assert_eq!(failure(ExecSpec { user: "nobody".into(), ..sh("true") }).await, FailureKind::BadUser);
    assert_eq!(failure(ExecSpec { cwd: "/absent".into(), ..sh("true") }).await, FailureKind::BadDir);
    // Nothing of what failed is left: no file, and no process.
    assert!(!std::fs::read_dir(&made.dir).unwrap().flatten().any(|e| e.file_name().to_string_lossy().contains("exec")));
    let all = exec(&shim, &sh("for p in /proc/[0-9]*; do test -e $p && echo $p; done")).await.0;
    assert_eq!(all.lines().count(), 2, "the container's first program, and whoever asks: {all}");
    end(world, shim, made).await;
}

#[tokio::test]
async fn input_signals_and_much_output() {
    let world = World::new();
    let (shim, made) = up(&world).await;
    let (mut stdin, output) = shim.exec(&ExecSpec { stdin: true, ..wanted(&["wc", "-c"]) }).await.unwrap();
    stdin.send(&vec![b'x'; 1_000_000]).await.unwrap();
    stdin.end().await.unwrap();
    assert_eq!(collect(output).await.0, "1000000\n");
    let (mut stdin, mut output) =
        shim.exec(&sh("trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done")).await.unwrap();
    output.recv().await.unwrap();
    stdin.signal(15).await.unwrap();
    while output.recv().await.is_some() {}
    assert_eq!(output.end().unwrap().code, 9);
    let (out, _, code) = exec(&shim, &sh("yes 0123456789abcde | head -n 100000")).await;
    assert_eq!((out.len(), code), (1_600_000, 0));
    // Its output is not the container's.
    assert_eq!(std::fs::read_to_string(&made.spec.log.as_ref().unwrap().path).unwrap(), "");
    end(world, shim, made).await;
}

#[tokio::test]
async fn a_terminal_is_one_and_has_a_size() {
    let world = World::new();
    let (shim, made) = up(&world).await;
    let size = |rows, columns| Size { rows, columns };
    let script = "test -t 0 && test -t 1 && test -t 2 && echo yes; tty; echo $TERM; stty size; read x; stty size; echo got $x; exit 3";
    let spec = ExecSpec { terminal: Some(size(24, 81)), stdin: true, user: "web".into(), ..sh(script) };
    let (mut stdin, mut output) = shim.exec(&spec).await.unwrap();
    let mut out = Vec::new();
    while !String::from_utf8_lossy(&out).contains("24 81") {
        out.extend_from_slice(&output.recv().await.unwrap().bytes);
    }
    stdin.resize(size(50, 132)).await.unwrap();
    stdin.send(b"hello\n").await.unwrap();
    while let Some(piece) = output.recv().await {
        out.extend_from_slice(&piece.bytes);
    }
    let out = String::from_utf8(out).unwrap();
    // What is typed is echoed by the terminal itself.
    assert_eq!(out, "yes\r\n/dev/pts/0\r\nxterm\r\n24 81\r\nhello\r\n50 132\r\ngot hello\r\n");
    assert_eq!(output.end().unwrap().code, 3);
    end(world, shim, made).await;
}

#[tokio::test]
async fn the_first_program_has_a_terminal_too() {
    let world = World::new();
    let (shim, made) = world
        .spawn(&["sh", "-c", "tty; stty size; read x; echo got $x; exit 4"], |spec| {
            (spec.stdin, spec.terminal) = (true, Some(Size { rows: 10, columns: 20 }));
        })
        .await;
    let (mut stdin, mut output) = shim.attach(true).await.unwrap();
    shim.start().await.unwrap();
    stdin.send(b"a\n").await.unwrap();
    let mut out = Vec::new();
    while let Some(piece) = output.recv().await {
        out.extend_from_slice(&piece.bytes);
    }
    let out = String::from_utf8(out).unwrap();
    // The echo of what is typed comes in between, whenever that was.
    assert!(out.contains("/dev/pts/0\r\n") && out.contains("10 20\r\n") && out.ends_with("got a\r\n"), "{out:?}");
    assert_eq!(shim.wait().await.code, 4);
    made.cgroup.remove().unwrap();
    world.end();
}

/// Until its predicate holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < BOUND, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn whoever_loses_its_client_goes_on_but_at_a_terminal() {
    let world = World::new();
    let (shim, made) = up(&world).await;
    let there = async |file: &str| exec(&shim, &sh(&format!("test -e /tmp/{file}"))).await.2 == 0;
    // More than a pipe takes, so that it would stand still if nobody read it.
    let writes = "touch /tmp/began; read x; yes | head -n 1000000; touch /tmp/done";
    drop(shim.exec(&ExecSpec { stdin: true, ..sh(writes) }).await.unwrap());
    eventually("it goes on without its client", || there("done")).await;
    let waits =
        |name: &str| format!("trap 'touch /tmp/{name}; exit' HUP; touch /tmp/{name}-up; while :; do sleep 0.01; done");
    let terminal = Some(Size { rows: 24, columns: 80 });
    let held = shim.exec(&ExecSpec { terminal, stdin: true, ..sh(&waits("hung-up")) }).await.unwrap();
    eventually("it runs", || there("hung-up-up")).await;
    drop(held);
    eventually("its terminal is hung up", || there("hung-up")).await;
    let detached = ExecSpec { terminal, detach: true, ..sh(&waits("kept")) };
    drop(shim.exec(&detached).await.unwrap());
    eventually("it runs", || there("kept-up")).await;
    assert!(!there("kept").await, "whoever was detached has its terminal");
    end(world, shim, made).await;
}

#[tokio::test]
async fn no_zombie_is_left_of_a_thousand_probes() {
    let world = World::new();
    let (shim, made) = up(&world).await;
    for _ in 0..if std::env::var_os("CC_SOAK").is_some() { 1000 } else { 100 } {
        assert_eq!(exec(&shim, &wanted(&["true"])).await.2, 0);
    }
    let state: cc_host::shim::record::StateRecord =
        cc_host::shim::record::read(&made.dir, cc_host::shim::record::STATE_FILE).unwrap().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", state.shim.pid)).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "init alone: {children}");
    let open = std::fs::read_dir(format!("/proc/{}/fd", state.shim.pid)).unwrap().count();
    assert!(open < 20, "{open} descriptors are open");
    end(world, shim, made).await;
}

/// What it has left behind holds its streams: nobody waits for that.
#[tokio::test]
async fn an_end_is_told_whatever_goes_on_behind_it() {
    let world = World::new();
    let (shim, made) = up(&world).await;
    let began = Instant::now();
    let (out, _, code) = exec(&shim, &sh("sleep 100 & echo last words; exit 5")).await;
    assert_eq!((out.as_str(), code), ("last words\n", 5));
    assert!(began.elapsed() < BOUND);
    end(world, shim, made).await;
}

#[tokio::test]
async fn it_ends_with_its_container_and_with_its_shim() {
    let world = World::new();
    let (shim, made) = up(&world).await;
    let (_stdin, mut output) = shim.exec(&wanted(&["sleep", "1000"])).await.unwrap();
    assert!(shim.signal(9).await.unwrap());
    assert_eq!(shim.wait().await.code, 137);
    assert!(output.recv().await.is_none());
    assert_eq!(output.end().unwrap().signal, Some(9));
    made.cgroup.remove().unwrap();

    let (shim, made) = up(&world).await;
    let (_stdin, mut output) = shim.exec(&wanted(&["sleep", "1000"])).await.unwrap();
    let state: cc_host::shim::record::StateRecord =
        cc_host::shim::record::read(&made.dir, cc_host::shim::record::STATE_FILE).unwrap().unwrap();
    let pid = rustix::process::Pid::from_raw(state.shim.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(output.recv().await.is_none() && output.end().is_none());
    shim.wait().await;
    // Only an empty one can be removed.
    made.cgroup.remove().unwrap();
    drop(shim);
    world.end();
}

/// A helper that is killed before it has said whom it has cloned leaves nobody behind that would keep the container from ending.
#[tokio::test]
async fn whoever_is_killed_while_it_enters_keeps_nothing_from_ending() {
    let world = World::new();
    for _ in 0..20 {
        let (shim, made) = up(&world).await;
        let (wanted, cgroup) = (wanted(&["true"]), &made.cgroup);
        // At different moments of an entry, the whole cgroup at once, as an end by force does it.
        let (entered, ()) = tokio::join!(shim.exec(&wanted), async {
            tokio::time::sleep(Duration::from_micros(rand::random::<u64>() % 4000)).await;
            cgroup.kill().unwrap();
        });
        drop(entered);
        let record = tokio::time::timeout(BOUND, shim.wait()).await.expect("it ends");
        assert_eq!(record.signal, Some(9));
        made.cgroup.remove().unwrap();
    }
    world.end();
}

/// The one that is in the container must not be one that somebody there could look into: CVE-2016-9962.
#[tokio::test]
async fn nobody_inside_can_look_into_who_enters() {
    let world = World::new();
    let (shim, made) = up(&world).await;
    // Tries to open what a process that came from the host would have open, at every moment of a hundred entries.
    let spy = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; *) \
               e=$(readlink $p/exe 2>/dev/null); case $e in */busybox|'') ;; *) echo $e;; esac; \
               for f in $p/fd/*; do l=$(readlink $f 2>/dev/null); case $l in pipe:*|''|/dev/*|/proc/*|/) ;; *) echo $l;; esac; done ;; esac; done; done";
    let (_spying, mut heard) = shim.exec(&sh(spy)).await.unwrap();
    for _ in 0..100 {
        assert_eq!(exec(&shim, &wanted(&["true"])).await.2, 0);
    }
    let said = tokio::time::timeout(Duration::from_millis(100), heard.recv()).await;
    assert!(said.is_err(), "it saw {said:?}");
    assert_eq!(ID_BASE, made.spec.id_base);
    end(world, shim, made).await;
}
