//! Whoever removes the engine has its containers stopped with it, by SIGQUIT to the daemon: nobody would be left to manage them.

use std::time::Duration;

use cc_tests::{Build, Leave, World, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BOUND: Duration = Duration::from_secs(10);
/// Ends with 7 when it is asked to, and says when it can be asked.
const ASKED: [&str; 3] = ["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"];

/// Also of one that has only begun to start, which has to find them first.
#[test]
fn whoever_removes_the_engine_has_them_stopped() {
    let mut world = World::new();
    for early in [false, true] {
        let id = world.run("busybox", &[], &ASKED);
        eventually("it can be asked", BOUND, || world.cc(&["logs", &id]).ok().stdout.contains("ready").then_some(()));
        let mut daemon = match early {
            false => world.take_daemon(),
            true => {
                world.leave(Leave::Killed);
                let daemon = world.spawn_build(Build::Own);
                eventually("it hears signals", BOUND, || hears(daemon.pid(), Signal::SIGQUIT).then_some(()));
                daemon
            }
        };
        kill(Pid::from_raw(daemon.pid()), Signal::SIGQUIT).unwrap();
        let status = eventually("it has stopped", BOUND, || daemon.ended());
        assert!(status.success(), "{early}: {status}\n{}", daemon.log());
        assert_eq!(world.residue().iter().filter(|left| left.contains("process")).count(), 0, "{early}");
        world.start();
        assert_eq!(world.inspect(&id)["exit"]["code"], 7, "{early}: {}", world.daemon().log());
    }
}

fn hears(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (signal as i32 - 1)) != 0)
}
