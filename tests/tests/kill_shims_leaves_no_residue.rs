//! Shims are killed, and the daemon, and both, at random moments while containers are run, entered, stopped and removed. Whoever lost its
//! shim has ended, and is said to have; nobody else is touched; what was acknowledged is so; and when all are removed, nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cc_tests::truth::{shims, truth};
use cc_tests::{Leave, World, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng, SeedableRng};

/// From the restarted daemon's start on.
const TRUE_WITHIN: Duration = Duration::from_secs(1);
/// From a shim's kill on. A container that somebody was entering ends when the machine's first process, whose child the other has become,
/// has reaped it; and that is nobody's promise.
const ENDED_WITHIN: Duration = Duration::from_secs(5);
const ROUNDS_PER_SWEEP: u32 = 5;
/// Nothing that is killed is its.
const STANDING: &str = "standing";
const EARLY: [&str; 6] = ["early-0", "early-1", "early-2", "early-3", "early-4", "early-5"];
const KILLED_WITHIN_US: u64 = 120_000;

/// The soak runs more: so many that more than 500 shims die, since some rounds find theirs gone already.
fn rounds() -> u32 {
    if std::env::var_os("CC_SOAK").is_some() { 620 } else { 50 }
}

fn seed() -> u64 {
    std::env::var("CC_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// A command under way: what it is about, and what its success means.
struct Load {
    child: Child,
    name: String,
    means: Means,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Runs,
    Stopped,
    Removed,
    /// Of another than the standing one nothing is said.
    Entered,
}

#[test]
fn shims_and_daemon_die_at_random_moments_and_what_is_said_is_true() {
    println!("seed {}", seed());
    let mut random = StdRng::seed_from_u64(seed());
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/16");
    let image = world.image("busybox");
    let mut running: BTreeSet<String> = BTreeSet::new();
    let (mut killed_shims, mut killed_daemons, mut slowest, mut standing) = (0, 0, [Duration::ZERO; 2], 0);
    for round in 0..rounds() {
        if round % ROUNDS_PER_SWEEP == 0 {
            for name in std::iter::once(STANDING).chain(EARLY) {
                world.run("busybox", &["--name", name, "--vpc", "blue"], &["sleep", "600"]);
                running.insert(name.to_owned());
            }
            standing = world.pid(STANDING);
        }
        let told: BTreeMap<String, String> = ids(&world);
        let others = running.iter().filter(|name| *name != STANDING).cloned();
        let chosen = others.choose_multiple(&mut random, 3);
        let lasting = format!("lasting-{round}");
        let mut load = vec![
            start(&world, &["exec", STANDING, "true"], STANDING, Means::Entered),
            start(
                &world,
                &["run", "-d", "--name", &lasting, "--vpc", "blue", "--image", &image, "sleep", "600"],
                &lasting,
                Means::Runs,
            ),
            start(&world, &["run", "--rm", "--image", &image, "true"], "", Means::Entered),
            start(&world, &["exec", STANDING, "sh", "-c", "exit 0"], STANDING, Means::Entered),
        ];
        let about: [(&[&str], Means); 3] =
            [(&["stop", "-t", "0"], Means::Stopped), (&["rm", "-f"], Means::Removed), (&["exec"], Means::Entered)];
        for (name, (command, means)) in chosen.iter().zip(about) {
            let tail: &[&str] = if means == Means::Entered { &[name, "true"] } else { &[name] };
            load.push(start(&world, &[command, tail].concat(), name, means));
        }
        let moment = Instant::now() + Duration::from_micros(random.random_range(0..KILLED_WITHIN_US));
        while Instant::now() < moment {
            std::thread::park_timeout(moment.saturating_duration_since(Instant::now()));
        }
        let (shim, daemon) = [(true, false), (false, true), (true, true)][random.random_range(0..3)];
        let mut lost = BTreeSet::new();
        if shim {
            // Of one that ends by itself just now, too.
            let spared = &told[STANDING];
            let are_shims = |(id, pid): &(String, i32)| id != spared && is_shim(&world, id, *pid);
            let victims = shims(&world).into_iter().filter(are_shims).choose_multiple(&mut random, 2);
            for (id, pid) in victims {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                lost.insert(id);
            }
            killed_shims += lost.len();
        }
        let mut began = Instant::now();
        if daemon {
            world.leave(Leave::Killed);
            killed_daemons += 1;
        }
        let done: Vec<(String, Means, bool)> = load
            .iter_mut()
            .map(|one| (one.name.clone(), one.means, one.child.wait().expect("it is our own child").success()))
            .collect();
        if daemon {
            began = Instant::now();
            world.start();
        }
        let within = if shim { ENDED_WITHIN } else { TRUE_WITHIN };
        let left = within.saturating_sub(began.elapsed());
        // A killed shim is there, with its child, until the kernel has come to it.
        let seen = || {
            let told = truth(&world)?;
            let ghost = told.values().find(|told| told.state == "running" && lost.contains(&told.id));
            ghost.map_or(Ok(told.clone()), |ghost| Err(format!("a ghost: {} runs without a shim", ghost.id)))
        };
        let told = eventually("what is said is true", left, || seen().map_err(|lie| println!("{lie}")).ok());
        slowest[usize::from(shim)] = slowest[usize::from(shim)].max(began.elapsed());

        for (name, means, success) in &done {
            let state = told.get(name).map(|told| told.state.as_str());
            let is_lost = told.get(name).is_some_and(|told| lost.contains(&told.id));
            match (means, success) {
                (Means::Runs, true) if !is_lost => assert_eq!(state, Some("running"), "round {round}: {name}"),
                (Means::Stopped, true) => assert_eq!(state, Some("stopped"), "round {round}: {name}"),
                (Means::Removed, true) => assert_eq!(state, None, "round {round}: {name}"),
                (Means::Entered, false) if name == STANDING => {
                    assert!(daemon, "round {round}: nobody had killed anything of it")
                }
                _ => {}
            }
        }
        let touched: BTreeSet<&String> =
            done.iter().filter(|(_, means, _)| *means != Means::Entered).map(|(name, ..)| name).collect();
        for name in &running {
            let Some(now) = told.get(name) else {
                assert!(touched.contains(name), "round {round}: {name} is lost");
                continue;
            };
            if !lost.contains(&now.id) && !touched.contains(name) {
                assert_eq!(now.state, "running", "round {round}: {name} was not touched");
            }
        }
        assert_eq!(world.pid(STANDING), standing, "round {round}: it is the same one");
        world.cc(&["exec", STANDING, "true"]).ok();
        running = told.iter().filter(|(_, told)| told.state == "running").map(|(name, _)| name.clone()).collect();
        if (round + 1) % ROUNDS_PER_SWEEP == 0 {
            world.remove_all();
            world.assert_clean();
            running.clear();
        }
    }
    println!(
        "what was said was true after {:?}, and where shims were killed after {:?}, at the latest",
        slowest[0], slowest[1]
    );
    println!("soak: {killed_shims} shims and {killed_daemons} daemons killed");
    world.remove_all();
    world.assert_clean();
}

fn start(world: &World, args: &[&str], name: &str, means: Means) -> Load {
    let child = world.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cc can be run");
    Load { child, name: name.to_owned(), means }
}

fn ids(world: &World) -> BTreeMap<String, String> {
    let records = world.cc(&["ps", "-a", "--json"]).json();
    let text = |record: &serde_json::Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    records.as_array().into_iter().flatten().map(|record| (text(record, "name"), text(record, "id"))).collect()
}

/// By what it has written of itself: the process that it was cloned from, and the one that becomes the container's first, have its name for
/// a moment.
fn is_shim(world: &World, id: &str, pid: i32) -> bool {
    let state = std::fs::read(world.path("run/containers").join(id).join("state.json")).unwrap_or_default();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
    state["shim"]["pid"] == pid
}
