//! `cc exec`, `cc attach` and terminals feel like docker's: what runs where, by whose rights, with which code, and what stays when
//! somebody goes.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use cc_tests::typist::Typist;
use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(10);
const SLEEP: &[&str] = &["sleep", "600"];

#[test]
fn it_is_in_the_container_and_its_code_is_ours() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run("busybox", &["--name", "web", "--vpc", "blue", "--env", "A=1"], SLEEP);
    let address = world.address(&id);
    let shown = world.cc(&["exec", "-e", "B=2", "web", "sh", "-c", "echo $A $B; hostname; ip addr; echo err >&2"]).ok();
    assert!(shown.stdout.starts_with("1 2\nweb\n") && shown.stdout.contains(&address), "{}", shown.stdout);
    assert_eq!(shown.stderr, "err\n");
    let shown = world.cc(&["exec", "-u", "app", "-w", "/tmp", "web", "sh", "-c", "id -un; pwd"]).ok();
    assert_eq!(shown.stdout, "app\n/tmp\n");
    assert_eq!(world.cc(&["exec", "web", "sh", "-c", "exit 3"]).code, 3);
    assert_eq!(world.cc(&["exec", "web", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(world.cc_with_stdin(&["exec", "-i", "web", "cat"], &[b'x'; 300_000]).ok().stdout.len(), 300_000);
    assert_eq!(world.cc_with_stdin(&["exec", "web", "cat"], b"unread").ok().stdout, "");
    // The command's flags are its own.
    assert_eq!(world.cc(&["exec", "web", "echo", "-i", "--json"]).ok().stdout, "-i --json\n");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn its_processes_and_what_they_use_are_told() {
    let world = World::new();
    let id = world.run("busybox", &["--name", "web", "-u", "app"], &["sh", "-c", "while :; do :; done"]);
    world.cc(&["exec", "-d", "-u", "0", "web", "sleep", "599"]).ok();
    let top = world.cc(&["top", "web", "--json"]).json()[0]["processes"].clone();
    let told = |index: usize| (top[index]["uid"].as_u64(), top[index]["command"].as_str().map(str::to_owned));
    assert_eq!(told(0), (Some(1000), Some("sh -c while :; do :; done".to_owned())), "{top}");
    assert_eq!(told(1), (Some(0), Some("sleep 599".to_owned())), "{top}");
    assert_eq!((top[0]["pid"].as_i64(), top[0]["host_pid"].as_i64()), (Some(1), Some(world.pid(&id).into())));
    assert!(world.cc(&["top", "web"]).ok().stdout.contains("sleep 599"));
    let stats = world.cc(&["stats", "--once", "--json"]).json();
    let percent = stats[0]["cpu_percent"].as_f64().expect("two looks make a rate");
    assert!((20.0..150.0).contains(&percent) && stats[0]["pids"] == 2, "{stats}");
    let mut live = Typist::start(world.command(&["stats", "web"]), 24, 120);
    live.sees("web").sees("%").sees("web").sees("%").types("\x03");
    live.ends();
    world.cc(&["stop", "-t", "0", "web"]).ok();
    world.cc(&["top", "web"]).fails(1, "not running");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn what_is_wrong_is_named() {
    let world = World::new();
    let id = world.run("busybox", &["--name", "web"], SLEEP);
    world.cc(&["exec", "web", "no-such-program"]).fails(127, "no-such-program");
    world.cc(&["exec", "web", "/etc/passwd"]).fails(126, "/etc/passwd");
    world.cc(&["exec", "-u", "stranger", "web", "true"]).fails(125, "stranger");
    world.cc(&["exec", "-w", "/no/where", "web", "true"]).fails(125, "/no/where");
    world.cc(&["exec", "-w", "where", "web", "true"]).fails(125, "absolute");
    world.cc(&["exec", "-e", "=1", "web", "true"]).fails(125, "no name");
    world.cc(&["exec", "nobody", "true"]).fails(125, "nobody");
    world.cc(&["exec", "web"]).fails(125, "COMMAND");
    world.cc(&["exec", "-it", "web", "sh"]).fails(125, "no terminal");
    world.cc(&["exec", "--detach-keys", "ctrl-", "web", "sh"]).fails(125, "ctrl-");
    world.cc(&["stop", "-t", "0", &id]).ok();
    world.cc(&["exec", "web", "true"]).fails(125, "not running");
    world.cc(&["attach", "web"]).fails(1, "not running");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_shell_can_be_typed_into() {
    let world = World::new();
    world.run("busybox", &["--name", "web"], SLEEP);
    let mut shell = Typist::start(world.command(&["exec", "-it", "web", "sh"]), 24, 81);
    shell.sees("# ");
    assert!(!shell.is_cooked());
    // What is typed is also shown, so that the answer must be another text.
    shell.types("echo $((6 * 7))$((6 * 7)); tty; stty size\n").sees("4242").sees("/dev/pts/0").sees("24 81");
    shell
        .resizes(50, 132)
        .types("while test \"$(stty size)\" != '50 132'; do :; done; echo re''sized\n")
        .sees("resized");
    // Ctrl-c is for the program that runs, and the shell goes on. The program says itself that it runs: one that BusyBox's shell has
    // forked and that is still the shell loses the signal.
    shell.types("sh -c \"echo be''gun; exec sleep 600\"\n").sees("begun").types("\x03").sees("# ");
    shell.types("exit 5\n");
    assert_eq!(shell.ends().code(), Some(5));
    assert!(shell.is_cooked(), "the terminal is as it was");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn the_first_program_has_a_terminal_and_can_be_left_and_come_back_to() {
    let world = World::new();
    let image = world.image("busybox");
    let run = world.command(&["run", "-it", "--name", "shell", "--image", &image, "sh"]);
    let mut shell = Typist::start(run, 24, 80);
    shell.sees("# ").types("echo $((6 * 7))$((6 * 7)); x=kept\n").sees("4242");
    shell.types("\x10\x11");
    assert_eq!(shell.ends().code(), Some(0), "{}", shell.all());
    assert_eq!(world.inspect("shell")["state"], "running");
    let mut again = Typist::start(world.command(&["attach", "shell"]), 30, 90);
    again.takes_over().types("stty size; echo $x$x\n").sees("30 90").sees("keptkept").types("exit 6\n");
    assert_eq!(again.ends().code(), Some(6));
    assert!(again.is_cooked());
    // The daemon may be another one meanwhile.
    world.remove_all();
    world.assert_clean();
}

#[test]
fn one_that_was_started_in_the_background_is_attached_to() {
    let mut world = World::new();
    world.run("busybox", &["-i", "--name", "echo"], &["sh", "-c", "while read x; do echo got $x; done; exit 4"]);
    let ran = world.cc_with_stdin(&["attach", "echo"], b"a\nb\n");
    assert_eq!((ran.stdout.as_str(), ran.code), ("got a\ngot b\n", 4), "{}", ran.stderr);

    let script = "trap 'echo caught; exit 7' TERM; while :; do echo tick; sleep 0.1; done";
    world.run("busybox", &["--name", "ticks"], &["sh", "-c", script]);
    world.leave(Leave::Killed);
    world.start();
    // Signals that are kept to ourselves end the listening, and nothing else.
    let listens = world.command(&["attach", "--no-stdin", "--no-signals", "ticks"]).stdout(Stdio::piped()).spawn();
    let mut listens = listens.expect("cc can be run");
    let heard = BufReader::new(listens.stdout.take().expect("it is piped")).lines().next();
    assert_eq!(heard.expect("it ticks").expect("text"), "tick");
    let pid = nix::unistd::Pid::from_raw(listens.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    assert_eq!(listens.wait().expect("it is ours").code(), Some(143));
    assert_eq!(world.inspect("ticks")["state"], "running");
    let attached = world.command(&["attach", "--no-stdin", "ticks"]).stdout(Stdio::piped()).spawn();
    let mut attached = attached.expect("cc can be run");
    let mut lines = BufReader::new(attached.stdout.take().expect("it is piped")).lines();
    assert_eq!(lines.next().expect("it ticks").expect("text"), "tick");
    let pid = nix::unistd::Pid::from_raw(attached.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    assert_eq!(attached.wait().expect("it is ours").code(), Some(7));
    assert_eq!(lines.last().expect("it said so").expect("text"), "caught");
    world.remove_all();
    world.assert_clean();
}

/// Whoever has left takes nothing any more, and nobody waits for that.
#[test]
fn a_client_that_leaves_holds_nobody_up() {
    let world = World::new();
    let script = "read x; yes 0123456789abcde | head -n 200000; echo done; sleep 600";
    let image = world.image("busybox");
    let run = world.command(&["run", "-it", "--name", "web", "--image", &image, "sh", "-c", script]);
    let mut first = Typist::start(run, 24, 80);
    first.takes_over();
    eventually("it runs", BOUND, || (!world.cc(&["ps", "-q"]).ok().stdout.is_empty()).then_some(()));
    first.types("\x10\x11");
    assert_eq!(first.ends().code(), Some(0), "{}", first.all());
    let mut second = Typist::start(world.command(&["attach", "web"]), 24, 80);
    second.takes_over().types("go\n\x10\x11");
    assert_eq!(second.ends().code(), Some(0), "{}", second.all());
    eventually("it goes on without anybody", BOUND, || {
        world.cc(&["logs", "-n", "1", "web"]).ok().stdout.contains("done").then_some(())
    });
    world.remove_all();
    world.assert_clean();
}

#[test]
fn what_was_detached_goes_on_and_a_killed_daemon_changes_nothing() {
    let mut world = World::new();
    let id = world.run("busybox", &["--name", "web"], SLEEP);
    let there = |world: &World, file: &str| world.cc(&["exec", "web", "test", "-e", file]).code == 0;
    world.cc(&["exec", "-d", "web", "sh", "-c", "while ! test -e /tmp/go; do sleep 0.05; done; touch /tmp/went"]).ok();
    let mut attended = world.command(&["exec", "web", "sh", "-c", "touch /tmp/up; sleep 1; touch /tmp/attended"]);
    let mut attended = attended.stderr(Stdio::piped()).spawn().expect("cc can be run");
    eventually("it runs", BOUND, || there(&world, "/tmp/up").then_some(()));
    world.leave(Leave::Killed);
    assert_eq!(attended.wait().expect("it is ours").code(), Some(125), "its daemon is gone");
    world.start();
    world.cc(&["exec", "web", "touch", "/tmp/go"]).ok();
    for file in ["/tmp/went", "/tmp/attended"] {
        eventually("both went on", BOUND, || there(&world, file).then_some(()));
    }
    // Nothing but the first program is left of it all.
    let children = world.cc(&["exec", "web", "sh", "-c", "for p in /proc/[0-9]*; do test -e $p && echo $p; done"]);
    assert_eq!(children.ok().stdout.lines().count(), 2);
    assert_eq!(world.inspect(&id)["state"], "running");
    world.remove_all();
    world.assert_clean();
}
