//! A shim outlives the daemon that started it, so that a later daemon gets along with what an earlier one's shims speak. `old-shim` speaks it
//! by its bytes, as they were when version 1 was frozen.

use std::time::Duration;

use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(10);
/// Ends with 7 when it is asked to.
const ASKED: [&str; 3] = ["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"];

fn with_old_shim() -> World {
    World::with_config(&format!("shim = {:?}", env!("CARGO_BIN_EXE_old-shim")))
}

fn says(world: &World, id: &str, word: &str) {
    let said = || world.cc(&["logs", id]).ok().stdout.lines().any(|line| line == word).then_some(());
    eventually(&format!("{id} says {word}"), BOUND, said);
}

#[test]
fn its_container_is_run_adopted_stopped_and_removed() {
    let mut world = with_old_shim();
    world.vpc("blue", "10.0.0.0/24");
    for how in [Leave::Killed, Leave::Stopped] {
        let id = world.run("busybox", &["--vpc", "blue"], &ASKED);
        says(&world, &id, "ready");
        let pid = world.pid(&id);
        world.leave(how);
        world.start();
        assert_eq!((world.inspect(&id)["state"].as_str(), world.pid(&id)), (Some("running"), pid), "{how:?}");
        let events = world.events_of(&id);
        assert_eq!(events.last().map(|(kind, _)| kind.as_str()), Some("container.adopted"), "{how:?}: {events:?}");
        // What later versions of the shim tell by files is not there.
        assert_eq!(world.cc(&["metrics", &id, "--json"]).json()[0]["log_dropped_records"], 0);
        world.cc(&["kill", "--signal", "CONT", &id]).ok();
        world.cc(&["stop", &id]).ok();
        assert_eq!(world.inspect(&id)["exit"]["code"], 7, "{how:?}");
        says(&world, &id, "bye");
        world.cc(&["rm", &id]).ok();
        world.assert_clean();
    }
}

#[test]
fn its_output_and_its_end_reach_who_is_attached() {
    let world = with_old_shim();
    let ran = world.run_rm("busybox", &[], &["sh", "-c", "echo out; echo err >&2; exit 5"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (5, "out\n", "err\n"));
    let id = world.run("busybox", &[], &["sleep", "600"]);
    world.cc(&["kill", &id]).ok();
    assert_eq!(world.cc(&["wait", &id]).line(), "137");
    assert_eq!(world.inspect(&id)["exit"]["signal"], 9);
}

#[test]
fn one_that_ends_while_no_daemon_runs_has_its_own_exit_code() {
    let mut world = with_old_shim();
    let id = world.run("busybox", &[], &["sh", "-c", "echo ready; sleep 0.5; exit 6"]);
    says(&world, &id, "ready");
    let init = format!("/proc/{}", world.pid(&id));
    world.leave(Leave::Killed);
    eventually("it has ended", BOUND, || (!std::path::Path::new(&init).exists()).then_some(()));
    world.start();
    assert_eq!(world.cc(&["wait", &id]).line(), "6");
}
