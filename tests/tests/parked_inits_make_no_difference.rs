//! The daemon parks inits for containers to come. What is started in one is a container as any other; what nobody needs is no container's,
//! goes with its daemon, and is never there twice.

use std::time::Duration;

use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(15);

/// For containers in VPCs, which is what a daemon expects at first.
fn wait_for_parked(world: &World, count: usize) -> Vec<String> {
    eventually(&format!("{count} are parked"), BOUND, || {
        let parked = world.parked();
        // The last that is made of it.
        let waits = parked.iter().all(|id| world.pins().join("links").join(format!("{id}-cgout")).exists());
        (parked.len() == count && waits).then_some(parked)
    })
}

/// By what its shim wrote: "shim" or "init".
fn process(world: &World, id: &str, which: &str) -> i32 {
    let state = std::fs::read(world.path("run/containers").join(id).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    i32::try_from(state[which]["pid"].as_i64().unwrap()).unwrap()
}

/// What a container can see of itself.
const LOOK: &str = "id; hostname; cat /proc/self/uid_map /etc/hosts; ip addr show eth0 | grep -o 'inet [0-9./]*'; \
    cat /proc/self/mountinfo | cut -d ' ' -f 5 | sort; ls /proc/self/fd | wc -l; grep -E 'Cap|Seccomp|NoNewPrivs' /proc/self/status; \
    ps > /tmp/ps; wc -l < /tmp/ps; ulimit -n; cat /proc/sys/net/ipv4/ping_group_range; ls /dev; wc -c < /dev/stdin";

#[test]
fn a_container_of_a_parked_init_is_as_any_other() {
    let seen = |extra: &str, wait: bool| {
        let world = World::with_config(extra);
        world.vpc("blue", "10.0.0.0/24");
        if wait {
            wait_for_parked(&world, 1);
        }
        let options = ["--vpc", "blue", "--hostname", "box", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50"];
        let seen = world.run_rm("busybox", &options, &["sh", "-c", LOOK]).ok().stdout;
        world.assert_clean();
        // Ranges of ids are each world's own.
        seen.lines().filter(|line| !line.trim_start().starts_with("0 ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (made, parked) = (seen("parked_max = 0", false), seen("", true));
    assert_eq!(made, parked);
    assert!(made.iter().any(|line| line.contains("10.0.0.2")), "{made:#?}");
}

#[test]
fn its_id_and_place_become_the_containers_and_are_not_used_again() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let mut used: Vec<String> = Vec::new();
    for round in 0..3 {
        let parked = wait_for_parked(&world, (round + 1).min(3));
        let id = world.run("busybox", &["--vpc", "blue", "--memory", "64m"], &["sleep", "600"]);
        assert!(parked.contains(&id), "{id} is none of {parked:?}");
        assert!(!used.contains(&id));
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", world.pid(&id))).unwrap();
        assert!(cgroup.contains(&id), "{cgroup}");
        used.push(id);
    }
    let endpoints: Vec<_> = used.iter().map(|id| world.inspect(id)["endpoint"].clone()).collect();
    assert!(endpoints[0] != endpoints[1] && endpoints[1] != endpoints[2], "{endpoints:?}");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn what_is_parked_is_nobodys_container_and_goes_with_its_daemon() {
    let mut world = World::new();
    let parked = wait_for_parked(&world, 1);
    assert_eq!(world.cc(&["ps", "-a", "-q"]).ok().stdout, "");
    assert_eq!(world.cc(&["info", "--json"]).json()["containers_total"].as_u64().unwrap_or(0), 0);
    world.cc(&["inspect", &parked[0]]).fails(1, "no container");
    assert_eq!(world.residue(), Vec::<String>::new());
    // In order, none is left; killed, its shims end by themselves, and the next daemon removes what they had.
    world.leave(Leave::Stopped);
    world.assert_clean();
    world.start();
    let parked = wait_for_parked(&world, 1);
    let processes = ["shim", "init"].map(|which| format!("/proc/{}", process(&world, &parked[0], which)));
    world.leave(Leave::Killed);
    for process in processes.iter().map(std::path::Path::new) {
        eventually(&format!("{} has ended", process.display()), BOUND, || (!process.exists()).then_some(()));
    }
    world.start();
    let anew = wait_for_parked(&world, 1);
    assert_ne!(anew, parked);
    world.leave(Leave::Stopped);
    world.assert_clean();
}

#[test]
fn without_any_containers_start_as_ever() {
    let world = World::with_config("id_ranges = 2");
    // Slots are the containers', not the pool's.
    wait_for_parked(&world, 1);
    let (one, other) =
        (world.run("busybox", &["--cpuset", "0"], &["sleep", "600"]), world.run("busybox", &[], &["sleep", "600"]));
    let third = world.cc(&["run", "-d", "--image", &world.image("busybox"), "sleep", "600"]);
    third.fails(125, "all 2 slots");
    world.cc(&["rm", "-f", &one, &other]).ok();
    world.assert_clean();
}

#[test]
fn one_whose_process_was_killed_is_nobodys() {
    let world = World::new();
    let parked = wait_for_parked(&world, 1);
    let init = nix::unistd::Pid::from_raw(process(&world, &parked[0], "init"));
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL).unwrap();
    world.vpc("blue", "10.0.0.0/24");
    world.run_rm("busybox", &["--vpc", "blue"], &["true"]).ok();
    world.assert_clean();
}

#[test]
fn one_that_cannot_be_used_is_made_anew() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let parked = wait_for_parked(&world, 1);
    // What it is to run cannot be written down for it.
    std::fs::create_dir(world.path("run/containers").join(&parked[0]).join("spec.json")).unwrap();
    let id = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    assert_eq!(id, parked[0], "it was to be that one");
    assert!(world.daemon().log().contains("what was parked is of no use"));
    world.run_rm("busybox", &["--vpc", "blue"], &["ping", "-c", "1", "-W", "2", &world.address(&id)]).ok();
    world.remove_all();
    world.assert_clean();
}
