//! The daemon is killed at random moments under load. What it says after each restart is what is true, and when all containers are
//! removed, nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cc_tests::{Leave, World, eventually};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// From the restarted daemon's start on.
const TRUE_WITHIN: Duration = Duration::from_secs(1);
/// After so many rounds, everything is removed and looked for.
const ROUNDS_PER_SWEEP: u32 = 5;
/// The one that is there from sweep to sweep.
const STANDING: &str = "standing";
const KILLED_WITHIN_US: u64 = 120_000;

/// The soak runs more.
fn kills() -> u32 {
    if std::env::var_os("CC_SOAK").is_some() { 500 } else { 50 }
}

fn seed() -> u64 {
    std::env::var("CC_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// What the test knows of a container by what was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Running,
    Stopped,
    /// A command about it was under way when the daemon was killed.
    Unsure,
}

#[test]
fn after_fifty_kills_at_random_moments_the_daemon_tells_the_truth_and_leaves_nothing() {
    println!("seed {}", seed());
    let mut random = StdRng::seed_from_u64(seed());
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/16");
    let image = world.image("busybox");
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let (mut adopted, mut slowest, mut standing) = (0, Duration::ZERO, 0);
    for round in 0..kills() {
        if round % ROUNDS_PER_SWEEP == 0 {
            // However slow the machine is: one that nothing ends, and some to be stopped and removed.
            for name in [STANDING, "early-1", "early-2", "early-3"] {
                world.run("busybox", &["--name", name, "--vpc", "blue"], &["sleep", "600"]);
                known.insert(name.to_owned(), Known::Running);
            }
            standing = world.pid(STANDING);
        }
        let [lasting, vpc] = ["lasting", "vpc"].map(|what| format!("{what}-{round}"));
        let running = known.iter().filter(|(name, known)| **known == Known::Running && *name != STANDING);
        let victims = running.map(|(name, _)| name.clone()).choose_multiple(&mut random, 2);
        let run = |arguments: &[&str]| [&["run"], arguments, &["--image", &image]].concat().join(" ");
        let mut load = vec![
            run(&["-d", "--name", &lasting, "--vpc", "blue"]) + " sleep 600",
            run(&["--rm", "--vpc", "blue"]) + " true",
            run(&["-d", "--rm"]) + " sleep 600",
            format!("vpc create --cidr 10.3.0.0/24 --name {vpc}"),
        ];
        load.extend(victims.iter().zip(["stop -t 0", "rm -f"]).map(|(name, command)| format!("{command} {name}")));
        let mut children: Vec<Child> = load.iter().map(|line| start(&world, line)).collect();
        let moment = Instant::now() + Duration::from_micros(random.random_range(0..KILLED_WITHIN_US));
        while Instant::now() < moment {
            std::thread::park_timeout(moment.saturating_duration_since(Instant::now()));
        }
        world.leave(Leave::Killed);
        let done: Vec<bool> = children.iter_mut().map(|child| child.wait().unwrap().success()).collect();
        known.insert(lasting, if done[0] { Known::Running } else { Known::Unsure });
        for (index, name) in victims.iter().enumerate() {
            match (done[4 + index], index) {
                (true, 0) => known.insert(name.clone(), Known::Stopped),
                (true, _) => known.remove(name),
                (false, _) => known.insert(name.clone(), Known::Unsure),
            };
        }

        let began = Instant::now();
        world.start();
        let left = TRUE_WITHIN.saturating_sub(began.elapsed());
        // A shim whose container has ended may take a moment to end itself.
        let told = eventually("what is said is true", left, || truth(&world).map_err(|lie| println!("{lie}")).ok());
        slowest = slowest.max(began.elapsed());
        for (name, known) in &known {
            let state = told.get(name).map(String::as_str);
            match known {
                Known::Running => assert_eq!(state, Some("running"), "round {round}: {name}"),
                Known::Stopped => assert_eq!(state, Some("stopped"), "round {round}: {name}"),
                Known::Unsure => {}
            }
        }
        if let (true, Some(removed)) = (done.get(5) == Some(&true), victims.get(1)) {
            assert_eq!(told.get(removed), None, "round {round}: it was removed");
        }
        assert_eq!(world.pid(STANDING), standing, "round {round}: it is the same one");
        let vpcs = world.cc(&["vpc", "list", "--json"]).json();
        let is_known = vpcs.as_array().unwrap().iter().any(|one| one["name"] == vpc.as_str());
        assert!(is_known || !done[3], "round {round}: an acknowledged VPC is lost");
        adopted += told.values().filter(|state| *state == "running").count();
        // What was not sure is settled now.
        known.retain(|name, _| told.contains_key(name));
        for (name, known) in &mut known {
            *known = if told[name] == "running" { Known::Running } else { Known::Stopped };
        }
        if (round + 1) % ROUNDS_PER_SWEEP == 0 {
            world.remove_all();
            world.assert_clean();
            known.clear();
        }
    }
    println!("the slowest restart was true after {slowest:?}");
    println!("soak: {} kills; {adopted} adoptions", kills());
    world.remove_all();
    world.assert_clean();
}

fn start(world: &World, line: &str) -> Child {
    let words: Vec<&str> = line.split(' ').collect();
    world.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Every record that says "running" has its init, and a shim above it; every shim and every init has such a record. Gives the states
/// by name.
fn truth(world: &World) -> Result<BTreeMap<String, String>, String> {
    let records = world.cc(&["ps", "-a", "--json"]).json();
    let records = records.as_array().unwrap();
    let shims = shims(world);
    let inits: BTreeSet<i32> = shims.values().flat_map(|shim| children(*shim)).collect();
    let mut running = BTreeSet::new();
    for record in records.iter().filter(|record| record["state"] == "running") {
        let (id, pid) = (record["id"].as_str().unwrap(), pid_of(record));
        running.insert(id.to_owned());
        let Some(shim) = shims.get(id) else { return Err(format!("a ghost: {id} has no shim")) };
        if children(*shim) != [pid] {
            return Err(format!("a ghost: init {pid} of {id} is no child of its shim {shim}"));
        }
    }
    let told: BTreeSet<i32> = records.iter().filter(|record| record["state"] == "running").map(pid_of).collect();
    match (shims.keys().find(|id| !running.contains(*id)), inits.difference(&told).next()) {
        (Some(id), _) => Err(format!("an orphan: the shim of {id}, of which no record says that it runs")),
        (_, Some(pid)) => Err(format!("an orphan: process {pid}, of which no record knows")),
        (None, None) => {
            let text = |record: &Value, key: &str| record[key].as_str().unwrap().to_owned();
            Ok(records.iter().map(|record| (text(record, "name"), text(record, "state"))).collect())
        }
    }
}

fn pid_of(record: &Value) -> i32 {
    i32::try_from(record["pid"].as_i64().unwrap()).unwrap()
}

/// Of this world's containers, by their ids, and not of what is parked; the kernel is asked, not the daemon.
fn shims(world: &World) -> BTreeMap<String, i32> {
    let (ours, parked) = (world.path("run/containers").display().to_string(), world.parked());
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of = |pid: i32| {
        // A process that has ended has no command line.
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split('\0');
        let is_shim = words.next()?.ends_with("cc-shim");
        let id = words.next()?.strip_prefix(&ours)?.strip_prefix('/')?.to_owned();
        (is_shim && !parked.contains(&id)).then_some((id, pid))
    };
    pids.filter_map(of).collect()
}

/// Those that live.
fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let lives = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(lives).collect()
}

#[test]
fn a_restart_finds_the_network_as_it_was() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.run("busybox", &["--vpc", "blue", "--name", "web"], &["sleep", "600"]);
    world.leave(Leave::Killed);
    world.start();
    // A new one gets an address of its own, and reaches the one that was there.
    let later = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    assert_eq!((world.address("web").as_str(), world.address(&later).as_str()), ("10.0.0.2", "10.0.0.3"));
    for address in ["10.0.0.2", "10.0.0.3"] {
        world.run_rm("busybox", &["--vpc", "blue"], &["ping", "-c", "1", "-W", "2", address]).ok();
    }
    let (web, later) = (world.inspect("web"), world.inspect(&later));
    assert_ne!(web["endpoint"], later["endpoint"], "a slot is not given twice");
}
