//! Whether a container is well is asked by a program in it, as its image and `--health-*` say, and told by `cc ps`, `cc inspect` and events.

use std::path::Path;
use std::time::Duration;

use cc_tests::{Leave, World, eventually, images};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const BOUND: Duration = Duration::from_secs(30);
/// A first process that reaps whoever is left to it.
const REAPS: &[&str] = &["sh", "-c", "while :; do sleep 0.1; done"];

fn status(world: &World, name: &str) -> String {
    world.inspect(name)["health"]["status"].as_str().unwrap_or_default().to_owned()
}

fn becomes(world: &World, name: &str, wanted: &str) {
    eventually(&format!("{name} is {wanted}"), BOUND, || (status(world, name) == wanted).then_some(()));
}

/// Whole command lines.
fn commands(world: &World, name: &str) -> Vec<String> {
    let top = world.cc(&["top", name, "--json"]).json();
    let all = top[0]["processes"].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|process| process["command"].as_str().map(str::to_owned)).collect()
}

/// The image of that name with something else in its configuration, as an OCI layout.
fn changed_image(world: &World, name: &str, change: impl FnOnce(&mut Value)) -> String {
    let (from, to) = (images::build("busybox").expect("it can be made"), world.path(name));
    let ran = std::process::Command::new("cp").arg("-r").arg(&from).arg(&to).status().expect("cp can be run");
    assert!(ran.success());
    let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let blob = |of: &Value| to.join("blobs/sha256").join(&of["digest"].as_str().unwrap()["sha256:".len()..]);
    let put = |value: &Value| {
        let text = value.to_string();
        let digest: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(to.join("blobs/sha256").join(&digest), &text).unwrap();
        (format!("sha256:{digest}"), text.len())
    };
    let mut index = read(&to.join("index.json"));
    let mut manifest = read(&blob(&index["manifests"][0]));
    let mut config = read(&blob(&manifest["config"]));
    change(&mut config["config"]);
    let (digest, size) = put(&config);
    (manifest["config"]["digest"], manifest["config"]["size"]) = (digest.into(), size.into());
    let (digest, size) = put(&manifest);
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (digest.into(), size.into());
    std::fs::write(to.join("index.json"), index.to_string()).unwrap();
    format!("oci:{}:latest", to.display())
}

#[test]
fn what_probes_say_is_told_and_how_it_changes() {
    let world = World::new();
    let line = "id -un; test -e /tmp/up";
    let flags = ["--health-cmd", line, "--health-interval", "1s", "--health-retries", "2"];
    let id = world.run("busybox", &[&["--name", "web", "-u", "app"], &flags[..]].concat(), REAPS);
    assert_eq!(status(&world, "web"), "starting");
    assert!(world.cc(&["ps"]).ok().stdout.contains("running (starting)"));
    becomes(&world, "web", "unhealthy");
    let ill = world.inspect("web")["health"].clone();
    assert!(ill["failing_streak"].as_u64() >= Some(2) && ill["probes"][0]["code"] == 1, "{ill}");
    assert_eq!(ill["probes"][0]["output"], "app\n", "by its own user");
    assert_eq!(ill["check"]["program"], json!(["/bin/sh", "-c", line]));
    assert_eq!((&ill["check"]["timeout_ms"], &ill["check"]["retries"]), (&json!(30_000), &json!(2)));
    world.cc(&["exec", "web", "touch", "/tmp/up"]).ok();
    becomes(&world, "web", "healthy");
    assert!(world.cc(&["ps"]).ok().stdout.contains("running (healthy)"));
    eventually("the last five are kept", BOUND, || {
        let health = world.inspect("web")["health"].clone();
        let probes = health["probes"].as_array().cloned().unwrap_or_default();
        assert!(probes.len() <= 5 && health["failing_streak"] == 0, "{health}");
        (probes.len() == 5 && probes.iter().all(|probe| probe["code"] == 0)).then_some(())
    });
    let kinds: Vec<String> = world.events_of(&id).into_iter().map(|(kind, _)| kind).collect();
    let told: Vec<&str> = kinds.iter().map(String::as_str).filter(|kind| kind.ends_with("healthy")).collect();
    assert_eq!(told, ["container.unhealthy", "container.healthy"]);
    world.cc(&["stop", "-t", "0", "web"]).ok();
    assert_eq!(world.inspect("web")["health"], Value::Null);
    // It begins anew.
    world.cc(&["start", "web"]).ok();
    assert_eq!(status(&world, "web"), "starting");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn one_that_hangs_is_killed_and_one_that_cannot_be_run_has_failed() {
    let world = World::new();
    let every = ["--health-interval", "1s", "--health-retries", "1", "--health-timeout", "300ms"];
    let run = |name: &str, line: &str| {
        world.run("busybox", &[&["--name", name, "--health-cmd", line], &every[..]].concat(), REAPS);
        becomes(&world, name, "unhealthy");
        world.inspect(name)["health"]["probes"][0].clone()
    };
    let hung = run("hung", "echo begun; sleep 601 & sleep 602");
    assert_eq!(hung["code"], -1);
    assert_eq!(hung["output"], "it did not end within 300 ms\nbegun\n");
    // All of it goes, each time.
    eventually("three have hung", BOUND, || {
        let health = world.inspect("hung")["health"].clone();
        let left = commands(&world, "hung").iter().filter(|line| line.contains("sleep 60")).count();
        assert!(left <= 3, "{left} of them are there");
        (health["failing_streak"].as_u64() >= Some(3)).then_some(())
    });
    eventually("between probes nothing is there", BOUND, || {
        (!commands(&world, "hung").iter().any(|line| line.contains("sleep 60"))).then_some(())
    });
    let flood = run("flood", "yes");
    assert!(flood["code"] == -1 && flood["output"].as_str().unwrap().len() == 4096, "{flood}");
    assert_eq!(run("dies", "kill -9 $$")["code"], 137);
    let layout = changed_image(&world, "nothing", |config| {
        config["Healthcheck"] =
            json!({ "Test": ["CMD", "/no/such/program"], "Interval": 1_000_000_000_u64, "Retries": 1 });
    });
    world.cc(&[&["run", "-d", "--name", "lacks", "--image", &layout], REAPS].concat()).ok();
    becomes(&world, "lacks", "unhealthy");
    assert_eq!(world.inspect("lacks")["health"]["probes"][0]["code"], 127);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn the_image_says_how_and_flags_say_otherwise() {
    let world = World::new();
    let check = json!({
        "Test": ["CMD-SHELL", "echo of the image"], "Interval": 1_000_000_000_u64, "Timeout": 2_000_000_000_u64,
        "StartPeriod": 60_000_000_000_u64, "StartInterval": 1_500_000_000_u64, "Retries": 7,
    });
    let layout = changed_image(&world, "asked", |config| config["Healthcheck"] = check);
    let run = |name: &str, flags: &[&str]| {
        world.cc(&[&["run", "-d", "--name", name, "--image", &layout], flags, REAPS].concat()).ok();
        world.inspect(name)["health"]["check"].clone()
    };
    let as_is = run("as-is", &[]);
    let of = |check: &Value| {
        ["interval_ms", "timeout_ms", "start_period_ms", "start_interval_ms", "retries"].map(|key| check[key].as_u64())
    };
    assert_eq!(of(&as_is), [1_000, 2_000, 60_000, 1_500, 7].map(Some));
    becomes(&world, "as-is", "healthy");
    assert_eq!(world.inspect("as-is")["health"]["probes"][0]["output"], "of the image\n");
    let other = run("other", &["--health-retries", "2", "--health-cmd", "false", "--health-start-interval", "1s"]);
    assert_eq!((of(&other)[4], &other["program"][2]), (Some(2), &json!("false")));
    // Failures of its start do not count.
    eventually("it was asked three times", BOUND, || {
        let health = world.inspect("other")["health"].clone();
        assert_eq!((&health["status"], &health["failing_streak"]), (&json!("starting"), &json!(0)));
        (health["probes"].as_array().unwrap().len() >= 3).then_some(())
    });
    assert_eq!(run("never", &["--no-healthcheck"]), Value::Null);
    world.run_rm("busybox", &["--health-interval", "5s"], &["true"]).fails(125, "neither it nor the image");
    world.run_rm("busybox", &["--health-cmd", "x", "--health-interval", "5ms"], &["true"]).fails(125, "1 s to 24 h");
    world.run_rm("busybox", &["--health-cmd", "x", "--no-healthcheck"], &["true"]).fails(125, "--no-healthcheck");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn the_next_daemon_goes_on_asking_and_inherits_no_probe() {
    let mut world = World::new();
    let every = ["--health-interval", "1s", "--health-timeout", "1h"];
    let line = "echo x >> /tmp/asked; test -e /tmp/hang && sleep 603; true";
    world.run("busybox", &[&["--name", "web", "--health-cmd", line], &every[..]].concat(), REAPS);
    becomes(&world, "web", "healthy");
    for how in [Leave::Killed, Leave::Stopped] {
        world.cc(&["exec", "web", "touch", "/tmp/hang"]).ok();
        let hangs = |world: &World| commands(world, "web").iter().filter(|line| *line == "sleep 603").count();
        eventually("a probe hangs", BOUND, || (hangs(&world) == 1).then_some(()));
        let asked = |world: &World| world.cc(&["exec", "web", "cat", "/tmp/asked"]).ok().stdout.len();
        world.leave(how);
        world.start();
        // What was known is known, and what hung is gone.
        assert_eq!(status(&world, "web"), "healthy", "{how:?}");
        assert_eq!(hangs(&world), 0, "{how:?}");
        world.cc(&["exec", "web", "rm", "/tmp/hang"]).ok();
        let before = asked(&world);
        eventually("it is asked again", BOUND, || (asked(&world) > before + 2).then_some(()));
    }
    world.remove_all();
    world.assert_clean();
}

/// A hundred, and a thousand in the soak.
#[test]
fn probes_leave_no_zombie() {
    let world = World::new();
    let wanted = if std::env::var_os("CC_SOAK").is_some() { 1000 } else { 100 };
    let names: Vec<String> = (0..10).map(|number| format!("web-{number}")).collect();
    for name in &names {
        let flags =
            ["--name", name, "--health-interval", "1s", "--health-cmd", "echo x >> /asked; (true; false) | cat"];
        // It reaps nobody.
        world.run("busybox", &flags, &["sleep", "600"]);
    }
    let asked =
        |name: &String| world.cc(&["exec", name, "sh", "-c", "cat /asked | wc -l"]).line().parse::<u64>().unwrap_or(0);
    let bound = Duration::from_secs(60 + wanted / 4);
    eventually("they were asked", bound, || (names.iter().map(asked).sum::<u64>() >= wanted).then_some(()));
    let mut parents: Vec<String> = names.iter().map(|name| world.pid(name).to_string()).collect();
    let parent = |pid: &str| field(pid, 1);
    parents.extend(parents.clone().iter().filter_map(|pid| parent(pid)));
    parents.push(world.daemon().pid().to_string());
    assert_eq!(parents.len(), 21);
    eventually("there is no zombie", BOUND, || {
        let all =
            std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let zombies = all.filter(|pid| {
            field(pid, 0).as_deref() == Some("Z") && parent(pid).is_some_and(|parent| parents.contains(&parent))
        });
        (zombies.count() == 0).then_some(())
    });
    println!("soak: {wanted} probes, no zombie");
    world.remove_all();
    world.assert_clean();
}

/// Of /proc/PID/stat, counted from the state.
fn field(pid: &str, index: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(index).map(str::to_owned)
}
