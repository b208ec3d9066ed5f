//! What has ended starts again: by hand with everything that it had, and by its policy, with pauses that grow, until somebody stops it.

use std::time::Duration;

use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(20);
const SLEEP: &[&str] = &["sleep", "600"];

fn restarts(world: &World, id: &str) -> u64 {
    world.inspect(id)["restarts"].as_u64().expect("a number")
}

#[test]
fn by_hand_with_what_it_had() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let script = "echo run >> /root/runs; cat /root/runs; sleep 600";
    let id = world.run("busybox", &["--name", "web", "--vpc", "blue", "-p", "8080:80"], &["sh", "-c", script]);
    let other = world.run("busybox", &["--name", "other", "--vpc", "blue"], SLEEP);
    let (address, pid) = (world.address(&id), world.pid(&id));
    let reaches = || world.cc(&["exec", "other", "ping", "-c", "1", "-W", "2", "web"]).code == 0;
    assert!(reaches());
    world.cc(&["stop", "-t", "0", "web"]).ok();
    assert!(!reaches());
    // At once after its end, while it is still being taken down.
    assert_eq!(world.cc(&["start", "web"]).line(), id);
    assert_ne!(world.pid(&id), pid);
    assert_eq!(world.address(&id), address);
    eventually("what it wrote before is there", BOUND, || {
        world.cc(&["logs", "web"]).ok().stdout.ends_with("run\nrun\nrun\n").then_some(())
    });
    assert!(reaches(), "its name leads to it again");
    world.cc(&["start", "web"]).ok();
    world.cc(&["restart", "-t", "0", "web", "other"]).ok();
    eventually("both run", BOUND, || reaches().then_some(()));
    assert_eq!(world.inspect(&other)["state"], "running");
    world.cc(&["start", "nobody"]).fails(1, "nobody");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn one_that_cannot_start_stays_as_it_was_and_says_why() {
    let world = World::new();
    let script = "test -e /root/once && rm /bin/sh; touch /root/once";
    let id = world.run("busybox", &["--name", "once"], &["sh", "-c", script]);
    world.cc(&["wait", &id]).ok();
    world.cc(&["start", &id]).ok();
    world.cc(&["wait", &id]).ok();
    world.cc(&["start", &id]).fails(1, "sh");
    assert_eq!(world.inspect(&id)["state"], "stopped");
    world.cc(&["rm", &id]).ok();
    world.assert_clean();
}

#[test]
fn a_failure_is_tried_again_so_often_and_a_success_is_not() {
    let world = World::new();
    let fails = world.run("busybox", &["--restart", "on-failure:2"], &["sh", "-c", "echo x >> /root/x; exit 3"]);
    let told = || world.events_of(&fails).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    let of = |kind: &str| told().iter().filter(|told| *told == kind).count();
    eventually("it was tried again, twice, and has ended again", BOUND, || {
        (of("container.restarted") == 2 && of("container.stopped") == 3).then_some(())
    });
    assert_eq!((restarts(&world, &fails), world.inspect(&fails)["state"].as_str()), (2, Some("stopped")));
    let succeeds = world.run("busybox", &["--restart", "on-failure"], &["true"]);
    world.cc(&["wait", &succeeds]).ok();
    assert_eq!((of("container.restarted"), restarts(&world, &succeeds)), (2, 0));
    world
        .cc(&["run", "--rm", "--restart", "always", "--image", &world.image("busybox"), "true"])
        .fails(125, "--restart");
    world.cc(&["run", "--restart", "often", "--image", &world.image("busybox"), "true"]).fails(125, "often");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn whoever_is_always_there_is_until_somebody_stops_it() {
    let mut world = World::new();
    let id = world.run("busybox", &["--restart", "always", "--name", "web"], SLEEP);
    let killed = world.pid(&id);
    world.cc(&["exec", "web", "kill", "-9", "1"]).ok();
    // The first process of a container does not hear that; the host's kernel does.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(killed), nix::sys::signal::Signal::SIGKILL).expect("it runs");
    let runs = |world: &World| {
        let now = world.inspect("web");
        (now["state"] == "running" && now["pid"].as_i64() != Some(killed.into())).then_some(())
    };
    eventually("it is there again", BOUND, || runs(&world));
    assert_eq!(restarts(&world, &id), 1);
    // While no daemon runs it ends, and the next daemon starts it.
    world.leave(Leave::Killed);
    let mut ended = false;
    for entry in std::fs::read_dir("/proc").expect("it is there").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let run_dir = world.path("run").join("containers").join(&id);
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command.ends_with(format!("{}\0", run_dir.display()).as_bytes()) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
                .expect("it runs");
            ended = true;
        }
    }
    assert!(ended, "its shim was found");
    world.start();
    eventually("the next daemon starts it", BOUND, || runs(&world));
    world.cc(&["stop", "-t", "0", "web"]).ok();
    world.leave(Leave::Stopped);
    world.start();
    assert_eq!(world.inspect("web")["state"], "stopped", "somebody stopped it");
    world.cc(&["start", "web"]).ok();
    world.remove_all();
    world.assert_clean();
}
