//! How a program ends is how `cc run` ends; signals and streams pass through.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use cc_tests::{World, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn exit_codes() {
    let world = World::new();
    let code = |command: &[&str]| world.run_rm("busybox", &[], command).code;
    assert_eq!(code(&["true"]), 0);
    assert_eq!(code(&["sh", "-c", "exit 3"]), 3);
    // Process 1 cannot kill itself; a shell gives its child's signal as 128 + n.
    assert_eq!(code(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]), 128 + 9);
}

#[test]
fn our_own_failures_have_their_own_codes() {
    let world = World::new();
    world.run_rm("busybox", &[], &["/no/such/program"]).fails(127, "/no/such/program");
    world.run_rm("busybox", &[], &["no-such-program"]).fails(127, "no-such-program");
    world.run_rm("busybox", &[], &["/etc/passwd"]).fails(126, "/etc/passwd");
    let image = world.image("busybox");
    world.cc(&["run", "--rm", "--image", &image, "--vpc", "nowhere", "true"]).fails(125, "nowhere");
    world.cc(&["run", "--rm", "--image", "oci:/no/such/dir", "true"]).fails(125, "/no/such/dir");
    world.assert_clean();
}

#[test]
fn output_streams_are_separate_and_stdin_is_forwarded() {
    let world = World::new();
    let ran = world.run_rm("busybox", &[], &["sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    let image = world.image("busybox");
    // A megabyte each way: more than any pipe holds.
    let input: Vec<u8> = (0..1_048_576_u32).map(|i| b"0123456789abcde\n"[i as usize % 16]).collect();
    let ran = world.cc_with_stdin(&["run", "--rm", "-i", "--image", &image, "cat"], &input).ok();
    assert!(ran.stdout.as_bytes() == input, "stdin came back changed: {} bytes of {}", ran.stdout.len(), input.len());
    // Without -i there is no input.
    let ran = world.cc_with_stdin(&["run", "--rm", "--image", &image, "cat"], b"unread").ok();
    assert_eq!(ran.stdout, "");
}

#[test]
fn signals_are_forwarded_to_the_program() {
    let world = World::new();
    let image = world.image("busybox");
    let script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = world.command(&["run", "--rm", "--image", &image, "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "caught");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn stop_kill_wait_and_rm() {
    let world = World::new();
    let trap = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"];
    let polite = world.run("busybox", &["--name", "polite"], &trap);
    world.cc(&["rm", "polite"]).fails(1, "running");
    eventually("the trap is set", Duration::from_secs(5), || {
        // Stop is only polite when the trap is in place: it is once the loop's sleep runs.
        (world.cc(&["metrics", "polite", "--json"]).json()[0]["pids"].as_u64()? >= 2).then_some(())
    });
    world.cc(&["stop", "polite"]).ok();
    assert_eq!(world.inspect(&polite)["exit"]["code"], 0);
    let stubborn = world.run("busybox", &[], &["sleep", "600"]);
    world.cc(&["stop", "-t", "1", &stubborn]).ok();
    assert_eq!(world.inspect(&stubborn)["exit"]["code"], 137, "TERM is ignored by process 1, KILL is not");
    let killed = world.run("busybox", &[], &["sleep", "600"]);
    world.cc(&["kill", &killed]).ok();
    let exit = world.cc(&["wait", &killed, "--json"]).json();
    assert_eq!(exit.get(0).unwrap_or(&exit)["signal"], 9);
    world.cc(&["kill", &killed]).fails(1, "not running");
    world.cc(&["rm", &polite, &stubborn, &killed]).ok();
    assert_eq!(world.cc(&["ps", "-a", "-q"]).ok().stdout, "");
    world.assert_clean();
}
