//! What a program, a client or a user does cannot lose output, hang a command, or leave something that cannot be removed.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use cc_tests::World;

/// From a command to its answer, whatever the program does.
const PROMPT: Duration = Duration::from_secs(10);

#[test]
fn a_slow_reader_gets_everything() {
    let world = World::new();
    let image = world.image("busybox");
    let mut command = world.command(&["run", "--rm", "--image", &image, "head", "-c", "5000000", "/dev/zero"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    // The program has ended long before anybody reads.
    std::thread::park_timeout(Duration::from_secs(2));
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    assert_eq!((output.len(), child.wait().unwrap().code()), (5_000_000, Some(0)));
}

#[test]
fn a_program_that_never_reads_its_input_can_be_stopped() {
    let world = World::new();
    let image = world.image("busybox");
    let mut command =
        world.command(&["run", "--rm", "-i", "--name", "deaf", "--image", &image, "sh", "-c", "echo ready; sleep 600"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        // More than all buffers on the way hold; it fails when the container has ended.
        let _ = stdin.write_all(&vec![b'x'; 32 << 20]);
    });
    std::thread::park_timeout(Duration::from_millis(500));
    let start = Instant::now();
    world.cc(&["stop", "-t", "1", "deaf"]).ok();
    assert!(start.elapsed() < PROMPT, "it took {:?}", start.elapsed());
    assert_eq!(child.wait().unwrap().code(), Some(137));
    writer.join().unwrap();
    world.assert_clean();
}

#[test]
fn a_client_that_stands_still_holds_up_nobody() {
    let world = World::new();
    let image = world.image("busybox");
    let mut command =
        world.command(&["run", "--rm", "--name", "loud", "--image", &image, "sh", "-c", "yes | head -c 50000000"]);
    // Nobody reads this pipe.
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let running = || world.cc(&["ps"]).ok().stdout.contains("loud").then_some(());
    cc_tests::eventually("it runs", PROMPT, running);
    let start = Instant::now();
    world.cc(&["rm", "-f", "loud"]).ok();
    assert!(start.elapsed() < Duration::from_secs(30), "it took {:?}", start.elapsed());
    child.kill().unwrap();
    child.wait().unwrap();
    world.assert_clean();
}

#[test]
fn absurd_users_directories_and_programs_fail_at_once() {
    let world = World::new();
    let long = "x".repeat(9000);
    let start = Instant::now();
    assert_eq!(world.run_rm("busybox", &["--user", &long], &["true"]).code, 125);
    assert_ne!(world.run_rm("busybox", &["--dir", &format!("/{long}")], &["true"]).code, 0);
    assert_ne!(world.run_rm("busybox", &[], &[&long]).code, 0);
    assert!(start.elapsed() < PROMPT * 3, "it took {:?}", start.elapsed());
    assert_eq!(world.cc(&["ps", "-a", "-q"]).ok().stdout, "");
    world.assert_clean();
}

#[test]
fn a_tree_without_end_is_removed() {
    let world = World::new();
    let dig = "cd /tmp; i=0; while [ $i -lt 3000 ]; do mkdir a-directory && cd a-directory || exit 1; i=$((i+1)); done";
    let id = world.run("busybox", &[], &["sh", "-c", dig]);
    world.cc(&["wait", &id]).ok();
    world.cc(&["rm", &id]).ok();
    world.assert_clean();
}

/// Containers and deletions at once: an address is given once, and a VPC with a container is never deleted.
#[test]
fn parallel_starts_get_different_addresses() {
    let world = World::new();
    world.vpc("tiny", "10.9.0.0/29");
    let image = world.image("busybox");
    for round in 0..3 {
        let commands: Vec<_> =
            (0..8).map(|_| world.command(&["run", "-d", "--vpc", "tiny", "--image", &image, "sleep", "600"])).collect();
        let ids: Vec<Option<String>> = std::thread::scope(|scope| {
            let runs = commands.into_iter().map(|mut command| scope.spawn(move || world_run(&mut command)));
            let runs: Vec<_> = runs.collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        let started: Vec<String> = ids.into_iter().flatten().collect();
        let addresses: std::collections::BTreeSet<String> = started.iter().map(|id| world.address(id)).collect();
        assert_eq!((started.len(), addresses.len()), (5, 5), "round {round}: {addresses:?}");
        world.cc(&["vpc", "delete", "tiny"]).fails(1, "tiny");
        world.remove_all();
    }
}

fn world_run(command: &mut std::process::Command) -> Option<String> {
    let output = command.output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
