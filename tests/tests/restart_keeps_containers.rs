//! Containers go on while no daemon runs, however it went, and the next one adopts them: the same processes, streams, counters and
//! connections, and every command as before.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(10);
const BOTH: [Leave; 2] = [Leave::Killed, Leave::Stopped];

/// Ends with 7 when it is asked to, and says when it can be asked.
const ASKED: [&str; 3] = ["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"];
const COUNTING: [&str; 3] = ["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"];

/// A process that is told from a later one with its pid.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    start_ticks: String,
}

impl Process {
    fn of(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let running = fields.next()? != "Z";
        let start_ticks = fields.nth(18)?.to_owned();
        running.then_some(Process { pid, start_ticks })
    }

    fn init_of(world: &World, id: &str) -> Option<Process> {
        Process::of(world.pid(id))
    }
}

#[test]
fn every_command_works_on_what_was_adopted() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    for how in BOTH {
        let asked = world.run("busybox", &["--vpc", "blue"], &ASKED);
        let plain = world.run("busybox", &[], &["sleep", "600"]);
        let once = world.run("busybox", &["--rm", "--vpc", "blue"], &["sleep", "600"]);
        says(&world, &asked, "ready");
        let all = [&asked, &plain, &once];
        let before = all.map(|id| Process::init_of(&world, id).expect("it runs"));
        world.leave(how);
        for process in &before {
            assert_eq!(Process::of(process.pid).as_ref(), Some(process), "{how:?}: it goes on without a daemon");
        }
        world.start();
        for (id, process) in all.into_iter().zip(before) {
            assert_eq!(world.inspect(id)["state"], "running", "{how:?}");
            assert_eq!(Process::init_of(&world, id), Some(process), "{how:?}");
            let events = world.events_of(id);
            assert_eq!(events.last().map(|(kind, _)| kind.as_str()), Some("container.adopted"), "{how:?}: {events:?}");
        }
        assert_eq!(world.cc(&["ps", "-q"]).ok().stdout.lines().count(), 3, "{how:?}");
        // Its network is as it was, also for one that comes now.
        let address = world.address(&asked);
        world.run_rm("busybox", &["--vpc", "blue"], &["ping", "-c", "1", "-W", "2", &address]).ok();
        let waiting = world.command(&["wait", &asked]).stdout(Stdio::piped()).spawn().unwrap();
        world.cc(&["stop", &asked]).ok();
        assert_eq!(ended(waiting), (Some(0), "7\n".to_owned(), String::new()), "{how:?}");
        assert!(world.cc(&["logs", &asked]).ok().stdout.ends_with("bye\n"));
        world.cc(&["rm", &plain]).fails(1, "running");
        world.cc(&["kill", &plain]).ok();
        world.cc(&["wait", &plain]).ok();
        assert_eq!(world.inspect(&plain)["exit"]["signal"], 9);
        // That it is to go at its end is not forgotten.
        world.cc(&["kill", &once]).ok();
        eventually("it is removed at its end", BOUND, || (world.cc(&["inspect", &once]).code != 0).then_some(()));
        world.cc(&["rm", &asked, &plain]).ok();
        world.assert_clean();
    }
}

/// As a service manager stops a service: by its cgroup, with whatever is in it.
#[test]
fn what_ends_the_daemons_cgroup_ends_no_container() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let service = Service::holding(world.daemon().pid());
    let id = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    let init = Process::init_of(&world, &id);
    std::fs::write(service.0.join("cgroup.kill"), "1").unwrap();
    // It has ended by that; this only waits for it.
    world.leave(Leave::Killed);
    // A child that it was just starting ends as soon as it gets a processor.
    eventually("its cgroup is empty", BOUND, || {
        std::fs::read_to_string(service.0.join("cgroup.procs")).unwrap().is_empty().then_some(())
    });
    world.start();
    assert!(init.is_some() && Process::init_of(&world, &id) == init, "the same container");
}

/// A cgroup of its own on the v2 tree.
struct Service(PathBuf);

impl Service {
    fn holding(pid: i32) -> Service {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let v2 = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
        let dir = Path::new(v2.unwrap()).join(format!("{}service-{pid}", cc_tests::world::PREFIX));
        std::fs::create_dir(&dir).unwrap();
        let service = Service(dir);
        std::fs::write(service.0.join("cgroup.procs"), pid.to_string()).unwrap();
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A failed test may leave a daemon in it, which the world ends; then it stays, and is told as a residue.
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn counters_are_not_reset() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let server = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    let address = world.address(&server);
    // Five packets that arrive, one that is dropped, and some use of the CPU.
    let script = format!("ping -c 5 -i 0.1 {address}; ping -c 1 -W 1 192.0.2.1; echo done; exec sleep 600");
    let client = world.run("busybox", &["--vpc", "blue"], &["sh", "-c", &script]);
    says(&world, &client, "done");
    let before = [&server, &client].map(|id| Figures::of(&world, id));
    assert!(before[1].sent >= 5 && before[1].drops >= 1 && before[1].socket_sent >= 5, "{before:?}");
    for how in BOTH {
        world.leave(how);
        world.start();
        let after = [&server, &client].map(|id| Figures::of(&world, id));
        assert_eq!(after, before, "{how:?}");
    }
    world.run_rm("busybox", &["--vpc", "blue"], &["ping", "-c", "3", "-i", "0.1", &address]).ok();
    let after = Figures::of(&world, &server);
    assert!(after.received >= before[0].received + 3, "they go on: {after:?} after {before:?}");
}

/// Those that nothing changes while a container sleeps.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    sent: u64,
    received: u64,
    socket_sent: u64,
    drops: u64,
}

impl Figures {
    fn of(world: &World, id: &str) -> Figures {
        let metrics = world.cc(&["metrics", id, "--json"]).json()[0].clone();
        let packets = |key: &str| metrics[key]["packets"].as_u64().unwrap_or_else(|| panic!("no {key} in {metrics}"));
        let drops = metrics["drops"].as_array().unwrap().iter().map(|drop| drop["packets"].as_u64().unwrap()).sum();
        Figures { sent: packets("sent"), received: packets("received"), socket_sent: packets("socket_sent"), drops }
    }
}

#[test]
fn a_follower_of_the_log_misses_nothing() {
    let mut world = World::new();
    let id = world.run("busybox", &[], &COUNTING);
    let mut follower =
        world.command(&["logs", "-f", &id]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let reader = {
        let (out, seen) = (BufReader::new(follower.stdout.take().unwrap()), Arc::clone(&seen));
        std::thread::spawn(move || {
            let count = |line: std::io::Result<String>| {
                seen.fetch_add(1, Ordering::SeqCst);
                line.unwrap()
            };
            out.lines().map(count).collect::<Vec<String>>()
        })
    };
    let log = world.path(&format!("state/containers/{id}/log/0.log"));
    for how in BOTH {
        let before = seen.load(Ordering::SeqCst);
        eventually("the follower sees lines", BOUND, || (seen.load(Ordering::SeqCst) >= before + 20).then_some(()));
        world.leave(how);
        let at_its_end = lines_of(&log);
        eventually("the shim goes on writing", BOUND, || (lines_of(&log) >= at_its_end + 20).then_some(()));
        world.start();
        let written = lines_of(&log);
        eventually("the follower has caught up", BOUND, || (seen.load(Ordering::SeqCst) > written).then_some(()));
    }
    world.cc(&["kill", &id]).ok();
    let lines = reader.join().unwrap();
    let (code, _, said) = ended(follower);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lines, (0..lines.len()).map(|n| n.to_string()).collect::<Vec<_>>(), "each line once, in order");
    assert_eq!(world.cc(&["logs", &id]).ok().stdout.lines().count(), lines.len(), "to the last line");
}

fn lines_of(log: &PathBuf) -> u64 {
    std::fs::read_to_string(log).map_or(0, |text| text.lines().count() as u64)
}

#[test]
fn an_open_connection_loses_no_byte() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let [server, client] = [(); 2].map(|()| world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]));
    let to = format!("{}:7000", world.address(&server));
    let listener = world.in_container(&server, || TcpListener::bind("0.0.0.0:7000").unwrap());
    let stream = world.in_container(&client, move || TcpStream::connect(to).unwrap());
    let (mut echo, _) = listener.accept().unwrap();
    let (over, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let echoing = std::thread::spawn(move || {
        let mut back = echo.try_clone().unwrap();
        let bytes = std::io::copy(&mut echo, &mut back).unwrap();
        back.shutdown(Shutdown::Write).unwrap();
        bytes
    });
    let writing = {
        let (mut stream, over) = (stream.try_clone().unwrap(), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut words: u64 = 0;
            while !over.load(Ordering::SeqCst) {
                let chunk: Vec<u8> = (words..words + 512).flat_map(u64::to_ne_bytes).collect();
                stream.write_all(&chunk).unwrap();
                words += 512;
            }
            stream.shutdown(Shutdown::Write).unwrap();
            words
        })
    };
    let reading = {
        let (mut stream, received) = (BufReader::new(stream), Arc::clone(&received));
        std::thread::spawn(move || {
            let mut expected: u64 = 0;
            let mut word = [0; 8];
            while let Ok(()) = stream.read_exact(&mut word) {
                assert_eq!(u64::from_ne_bytes(word), expected);
                expected += 1;
                received.store(expected, Ordering::SeqCst);
            }
            expected
        })
    };
    let flows = |when: &str| {
        let before = received.load(Ordering::SeqCst);
        eventually(when, BOUND, || (received.load(Ordering::SeqCst) > before + 10_000).then_some(()));
    };
    for how in BOTH {
        flows("bytes flow with a daemon");
        world.leave(how);
        flows("bytes flow without one");
        world.start();
    }
    flows("bytes flow with the last one");
    over.store(true, Ordering::SeqCst);
    let words = writing.join().unwrap();
    assert_eq!(echoing.join().unwrap(), words * 8, "there");
    assert_eq!(reading.join().unwrap(), words, "and back");
}

#[test]
fn a_foreground_client_is_told_that_its_container_goes_on() {
    let mut world = World::new();
    let image = world.image("busybox");
    for how in BOTH {
        let mut command = world.command(&["run", "--image", &image, "sh", "-c", "echo $(hostname); exec sleep 600"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut name = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut name).unwrap();
        let id = world.inspect(name.trim())["id"].as_str().unwrap().to_owned();
        world.leave(how);
        let (code, _, said) = ended(child);
        assert_eq!(code, Some(125), "{how:?}: {said}");
        assert!(said.contains("goes on") && said.contains(&format!("cc logs -f {id}")), "{how:?}: {said}");
        world.start();
        assert_eq!(world.inspect(&id)["state"], "running", "{how:?}");
    }
}

#[test]
fn a_stop_in_order_waits_for_nobody_who_follows_and_says_what_goes_on() {
    let mut world = World::new();
    let id = world.run("busybox", &[], &COUNTING);
    let mut follower = world.command(&["logs", "-f", &id]).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(follower.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let (status, took) = world.take_daemon().stop();
    assert!(status.success() && took < cc_tests::allowed(Duration::from_secs(2)), "{status} after {took:?}");
    follower.kill().unwrap();
    follower.wait().unwrap();
    let log = std::fs::read_to_string(world.path("daemon.log")).unwrap();
    assert!(log.contains("one container goes on"), "{log}");
    world.start();
}

#[test]
fn what_another_version_has_pinned_goes_unless_its_daemon_runs() {
    let mut world = World::new();
    world.leave(Leave::Stopped);
    let of_version = |n: u32| world.path("bpf").join(format!("v{n}"));
    let (old, busy, other) = (of_version(1), of_version(2), world.path("bpf/other"));
    for dir in [&old, &busy, &other] {
        std::fs::create_dir_all(dir.join("links")).unwrap();
    }
    let map = world.pins().join("CC_SETTINGS");
    let mut bpftool = std::process::Command::new("bpftool");
    bpftool.args(["map", "pin", "pinned"]).arg(&map).arg(old.join("CC_X"));
    assert!(bpftool.status().unwrap().success());
    let lock = std::fs::File::open(&busy).unwrap();
    let _held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    world.start();
    assert!(!old.exists() && busy.exists() && other.exists() && map.exists());
}

#[test]
fn who_wants_it_so_has_them_stopped() {
    let mut world = World::with_config("stop_containers = true");
    world.vpc("blue", "10.0.0.0/24");
    // Process 1 ignores TERM: the daemon must not wait for it for ever.
    let plain = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    let asked = world.run("busybox", &["--vpc", "blue"], &ASKED);
    says(&world, &asked, "ready");
    let image = world.image("busybox");
    let mut command = world.command(&["run", "--rm", "--image", &image, "sh", "-c", "echo ready; exec sleep 600"]);
    let mut foreground = command.stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(foreground.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    world.leave(Leave::Stopped);
    assert_eq!(foreground.wait().unwrap().code(), Some(137), "its client is told how it ended");
    assert_eq!(world.residue().iter().filter(|left| left.contains("process")).count(), 0);
    world.start();
    assert_eq!([&plain, &asked].map(|id| world.inspect(id)["exit"]["code"].as_i64()), [Some(137), Some(7)]);
    // By order only: a daemon that was killed stopped nothing.
    let id = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    world.leave(Leave::Killed);
    world.start();
    assert_eq!(world.inspect(&id)["state"], "running");
}

fn says(world: &World, id: &str, word: &str) {
    let said = || world.cc(&["logs", id]).ok().stdout.lines().any(|line| line == word).then_some(());
    eventually(&format!("{id} says {word}"), BOUND, said);
}

/// Its exit code, and what it said that nobody has read yet.
fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}
