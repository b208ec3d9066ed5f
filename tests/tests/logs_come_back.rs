//! What a container wrote comes back: whole, in order, by stream, by tail, by time, and while it is written.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use cc_tests::World;

#[test]
fn logs_tail_since_and_timestamps() {
    let world = World::new();
    let id = world.run("busybox", &[], &["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2"]);
    world.cc(&["wait", &id]).ok();
    let ran = world.cc(&["logs", &id]).ok();
    assert_eq!(ran.stdout, "line 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(ran.stderr, "oops\n");
    assert_eq!(world.cc(&["logs", "--tail", "2", &id]).ok().stdout, "line 5\n", "the last two are one of each stream");
    assert_eq!(world.cc(&["logs", "--since", "1h", &id]).ok().stdout.lines().count(), 5);
    let stamped = world.cc(&["logs", "--timestamps", &id]).ok().stdout;
    let first = stamped.lines().next().unwrap();
    assert!(first.starts_with("20") && first.contains('T') && first.ends_with("line 1"), "{first}");
}

#[test]
fn following_ends_with_the_container() {
    let world = World::new();
    let id = world.run(
        "busybox",
        &["--name", "talker"],
        &["sh", "-c", "i=0; while [ $i -lt 20 ]; do echo $i; i=$((i+1)); sleep 0.05; done"],
    );
    let mut child = world.command(&["logs", "-f", &id]).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!(lines, (0..20).map(|i| i.to_string()).collect::<Vec<_>>());
    assert!(child.wait().unwrap().success());
}
