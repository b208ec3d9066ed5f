//! `cc run --init`: a first process of ours reaps orphans, passes signals on, and ends as the program does; nobody inside can look into it.

use std::time::{Duration, Instant};

use cc_tests::typist::Typist;
use cc_tests::{World, eventually};

const BOUND: Duration = Duration::from_secs(10);
const LEAVES_AN_ORPHAN: &str = "sleep 0.2 & true";

/// States of the first process's children, one letter each.
fn children(world: &World, name: &str) -> String {
    let pid = world.pid(name);
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let stats = children.split_whitespace().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}

#[test]
fn orphans_are_reaped_and_without_it_they_stay() {
    let world = World::new();
    world.run("busybox", &["--name", "with", "--init"], &["sleep", "600"]);
    world.run("busybox", &["--name", "without"], &["sleep", "600"]);
    for _ in 0..3 {
        world.cc(&["exec", "with", "sh", "-c", LEAVES_AN_ORPHAN]).ok();
        world.cc(&["exec", "without", "sh", "-c", LEAVES_AN_ORPHAN]).ok();
    }
    eventually("orphans stay", BOUND, || (children(&world, "without") == "ZZZ").then_some(()));
    eventually("orphans are reaped", BOUND, || (children(&world, "with") == "S").then_some(()));
    world.remove_all();
    world.assert_clean();
}

#[test]
fn it_ends_as_the_program_does() {
    let world = World::new();
    let code = |script: &str| world.run_rm("busybox", &["--init"], &["sh", "-c", script]).code;
    let scripts = ["exit 7", "kill -9 $$", "kill -40 $$", "true", "sleep 600 & exit 3"];
    assert_eq!(scripts.map(code), [7, 137, 168, 0, 3]);
    world.run_rm("busybox", &["--init"], &["no-such-program"]).fails(127, "no-such-program");
    world.run_rm("busybox", &["--init"], &["/etc/passwd"]).fails(126, "passwd");
    let piped = world.run_rm("busybox", &["--init"], &["sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!((piped.stdout.as_str(), piped.stderr.as_str()), ("out\n", "err\n"));
    let image = world.image("busybox");
    let read = world.cc_with_stdin(&["run", "--rm", "-i", "--init", "--image", &image, "cat"], b"typed").ok();
    assert_eq!(read.stdout, "typed");
    let options = ["--name", "greedy", "--init", "--memory", "32MiB"];
    let id = world.run("busybox", &options, &["sh", "-c", "exec tail /dev/zero"]);
    world.cc(&["wait", &id]).ok();
    let exit = world.inspect(&id)["exit"].clone();
    assert!(exit["code"] == 137 && exit["oom_killed"] == true, "{exit}");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn signals_are_passed_on() {
    let world = World::new();
    // Without it nobody would hear: the kernel gives a first process no signal that it has not asked for.
    world.run("busybox", &["--name", "sleeps", "--init"], &["sleep", "600"]);
    let began = Instant::now();
    world.cc(&["stop", "sleeps"]).ok();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(world.inspect("sleeps")["exit"]["code"], 143);
    // As often as it is started.
    world.cc(&["start", "sleeps"]).ok();
    world.cc(&["kill", "-s", "INT", "sleeps"]).ok();
    assert_eq!(world.cc(&["wait", "sleeps"]).line(), "130");
    let script = "trap 'echo got it' USR1; trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done";
    world.run("busybox", &["--name", "traps", "--init", "-u", "app"], &["sh", "-c", script]);
    let says = |text: &str| {
        eventually(text, BOUND, || (world.cc(&["logs", "traps"]).ok().stdout == text).then_some(()));
    };
    says("up\n");
    world.cc(&["kill", "-s", "USR1", "traps"]).ok();
    says("up\ngot it\n");
    world.cc(&["stop", "traps"]).ok();
    assert_eq!(world.inspect("traps")["exit"]["code"], 9);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_terminal_is_the_programs() {
    let world = World::new();
    let image = world.image("busybox");
    let script = "trap 'echo once more' INT; tty; echo up; read line; echo said $line; read line; exit 4";
    let args = ["run", "--rm", "-it", "--init", "--image", &image, "sh", "-c", script];
    let mut typist = Typist::start(world.command(&args), 24, 80);
    typist.sees("/dev/pts/0").sees("up").types("a line\n").sees("said a line").types("\x03").sees("once more");
    typist.types("\n");
    assert_eq!(typist.ends().code(), Some(4));
    assert_eq!(typist.all().matches("once more").count(), 1, "{}", typist.all());
    world.remove_all();
    world.assert_clean();
}

#[test]
fn nobody_inside_can_look_into_it() {
    let world = World::new();
    let options = ["--name", "web", "--init", "--cap-add", "SYS_PTRACE", "--cap-add", "DAC_READ_SEARCH"];
    world.run("busybox", &options, &["sleep", "600"]);
    let script = "cat /proc/1/comm; tr -d '\\0' < /proc/1/cmdline; echo; grep NoNewPrivs /proc/1/status; \
        for f in exe environ maps root cwd; do cat /proc/1/$f >/dev/null 2>&1 && echo reads $f; done; \
        readlink /proc/1/exe; ls /proc/1/fd 2>/dev/null; echo end";
    let said = world.cc(&["exec", "web", "sh", "-c", script]).ok().stdout;
    assert_eq!(said, "cc-init\ncc-init\nNoNewPrivs:\t1\nend\n");
    let pid = world.pid("web");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the host may look").count();
    assert_eq!(open, 0, "it has no descriptor");
    world.remove_all();
    world.assert_clean();
}
