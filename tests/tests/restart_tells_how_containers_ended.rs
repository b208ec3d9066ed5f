//! A container that ended while no daemon ran ended as its program did, and the next daemon says so; one that cannot go on is taken
//! down, with the reason in its record and in an event.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use cc_tests::{Leave, World, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BOUND: Duration = Duration::from_secs(10);
const ASKED: [&str; 3] = ["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"];

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn gone(pid: i32) {
    eventually(&format!("process {pid} is gone"), BOUND, || (!lives(pid)).then_some(()));
}

fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn shim_of(world: &World, id: &str) -> i32 {
    let state = std::fs::read_to_string(world.path(&format!("run/containers/{id}/state.json"))).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    i32::try_from(state["shim"]["pid"].as_i64().unwrap()).unwrap()
}

fn ready(world: &World, id: &str) {
    eventually("it is ready", BOUND, || world.cc(&["logs", id]).ok().stdout.contains("ready").then_some(()));
}

#[test]
fn codes_and_signals_are_exact() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let asked = world.run("busybox", &["--vpc", "blue"], &ASKED);
    let killed = world.run("busybox", &[], &["sleep", "600"]);
    let removed = world.run("busybox", &["--rm", "--vpc", "blue"], &ASKED);
    ready(&world, &asked);
    ready(&world, &removed);
    let pids = [&asked, &killed, &removed].map(|id| world.pid(id));
    world.leave(Leave::Killed);
    for (pid, with) in pids.into_iter().zip([Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM]) {
        signal(pid, with);
    }
    pids.into_iter().for_each(gone);
    world.start();
    let exit = |id: &str| world.inspect(id)["exit"].clone();
    assert_eq!((exit(&asked)["code"].as_i64(), exit(&asked)["signal"].as_i64()), (Some(7), None));
    assert_eq!((exit(&killed)["code"].as_i64(), exit(&killed)["signal"].as_i64()), (Some(137), Some(9)));
    assert_eq!(exit(&asked)["reason"], "", "nobody stopped it");
    world.cc(&["inspect", &removed]).fails(1, "no container");
    for (id, code) in [(&asked, "7"), (&killed, "137"), (&removed, "7")] {
        let events = world.events_of(id);
        let last = events.last().unwrap_or_else(|| panic!("{id} has no event"));
        assert_eq!(last.0, "container.stopped");
        assert!(last.1.contains(&format!("ended with code {code}")), "{last:?}");
    }
    assert!(world.cc(&["logs", &asked]).ok().stdout.ends_with("bye\n"), "its last words too");
    assert_eq!(world.cc(&["wait", &asked]).ok().stdout, "7\n");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_container_without_its_shim_ends_with_it() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let plain = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    let removed = world.run("busybox", &["--rm"], &["sleep", "600"]);
    let inits = [&plain, &removed].map(|id| world.pid(id));
    let shims = [&plain, &removed].map(|id| shim_of(&world, id));
    world.leave(Leave::Killed);
    shims.into_iter().for_each(|shim| signal(shim, Signal::SIGKILL));
    // At once, and by itself: nobody supervises it any more.
    inits.into_iter().for_each(gone);
    world.start();
    let inspected = world.inspect(&plain);
    assert_eq!((inspected["state"].as_str(), inspected["exit"]["code"].as_i64()), (Some("stopped"), Some(137)));
    let reason = "its shim was killed while no daemon ran";
    assert_eq!(inspected["exit"]["reason"], reason);
    for id in [&plain, &removed] {
        let events = world.events_of(id);
        assert!(events.iter().any(|(kind, text)| kind == "container.stopped" && text.contains(reason)), "{events:?}");
    }
    world.cc(&["inspect", &removed]).fails(1, "no container");
    world.remove_all();
    world.assert_clean();
}

/// What makes a container impossible to take over, and the words of the reason.
type Spoil = fn(&World, &str);

#[test]
fn what_cannot_go_on_is_taken_down_and_says_why() {
    let spoilers: [(&str, Spoil); 6] = [
        ("network interface is gone", |world, id| link(world, &["link", "del", &interface(id)])),
        ("cannot replace program cc_from_ep", |world, id| {
            let tc = world.netns.command("tc").args(["filter", "del", "dev", &interface(id), "ingress"]).status();
            assert!(tc.unwrap().success());
        }),
        ("cannot replace program cc_cg_out", |world, id| {
            std::fs::remove_file(world.pins().join(format!("links/{id}-cgout"))).unwrap();
        }),
        ("run-time directory was removed", |world, id| {
            std::fs::remove_dir_all(world.path(&format!("run/containers/{id}"))).unwrap();
        }),
        ("speaks protocol version 0", |world, id| another_shim(world, id)),
        ("cannot connect to the shim", |world, id| {
            std::fs::remove_file(world.path(&format!("run/containers/{id}/shim.sock"))).unwrap();
        }),
    ];
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let ids: Vec<String> =
        spoilers.iter().map(|_| world.run("busybox", &["--vpc", "blue"], &["sleep", "600"])).collect();
    let whole = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    let pids: Vec<i32> = ids.iter().map(|id| world.pid(id)).collect();
    world.leave(Leave::Killed);
    for (id, (_, spoil)) in ids.iter().zip(&spoilers) {
        spoil(&world, id);
    }
    world.start();
    for ((id, pid), (word, _)) in ids.iter().zip(pids).zip(spoilers) {
        let inspected = world.inspect(id);
        assert_eq!(inspected["state"], "stopped", "{word}");
        let reason = inspected["exit"]["reason"].as_str().unwrap();
        assert!(reason.contains(word), "{word}: {reason}");
        let events = world.events_of(id);
        assert!(events.iter().any(|(kind, text)| kind == "container.stopped" && text.contains(word)), "{events:?}");
        assert!(!lives(pid), "{word}: it is not left without a supervisor");
    }
    assert_eq!(world.inspect(&whole)["state"], "running", "another one's trouble is not its own");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_first_process_that_changed_its_user_is_not_left_either() {
    let mut world = World::new();
    // The change of its ids takes the tie to the shim from it: what is left is the next daemon's to find.
    let id = world.run("busybox", &[], &["su", "-s", "/bin/sh", "nobody", "-c", "exec sleep 600"]);
    let (init, shim) = (world.pid(&id), shim_of(&world, &id));
    let command = || std::fs::read_to_string(format!("/proc/{init}/cmdline")).unwrap_or_default();
    eventually("it is another user by now", BOUND, || command().starts_with("sleep").then_some(()));
    world.leave(Leave::Killed);
    signal(shim, Signal::SIGKILL);
    gone(shim);
    assert!(lives(init), "nothing would be shown");
    world.start();
    assert!(!lives(init));
    assert_eq!(world.inspect(&id)["state"], "stopped");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_shim_that_does_not_answer_keeps_the_others_waiting_for_a_while_only() {
    let mut world = World::new();
    let [stuck, well] = [(); 2].map(|()| world.run("busybox", &[], &["sleep", "600"]));
    let init = world.pid(&stuck);
    world.leave(Leave::Killed);
    signal(shim_of(&world, &stuck), Signal::SIGSTOP);
    world.start();
    let reason = world.inspect(&stuck)["exit"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("does not answer") && !lives(init), "{reason}");
    assert_eq!(world.inspect(&well)["state"], "running");
    world.remove_all();
    world.assert_clean();
}

/// In the place of the shim's socket, one of a version to come.
fn another_shim(world: &World, id: &str) {
    let path = world.path(&format!("run/containers/{id}/shim.sock"));
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let hello = br#"{"type":"hello","version":0}"#;
    let length = u32::try_from(hello.len() + 1).unwrap().to_le_bytes();
    let frame = [&length[..], &[0], hello].concat();
    // Ends with the one connection that comes, or with the test.
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&frame).unwrap();
        // Until the other side has heard enough.
        let _ = stream.read_to_end(&mut Vec::new());
    });
}

fn interface(id: &str) -> String {
    format!("cc{}", &id[..12])
}

fn link(world: &World, arguments: &[&str]) {
    assert!(world.netns.command("ip").args(arguments).status().unwrap().success());
}

#[test]
fn out_of_memory_is_told_from_a_kill() {
    let mut world = World::new();
    let script = "trap 'exec tail /dev/zero' TERM; echo ready; while :; do sleep 0.05; done";
    let id = world.run("busybox", &["--memory", "16MiB"], &["sh", "-c", script]);
    ready(&world, &id);
    let init = world.pid(&id);
    world.leave(Leave::Killed);
    signal(init, Signal::SIGTERM);
    gone(init);
    world.start();
    let exit = world.inspect(&id)["exit"].clone();
    assert_eq!((exit["oom_killed"].as_bool(), exit["code"].as_i64()), (Some(true), Some(137)), "{exit}");
}
