//! Somebody takes away what guards a container, while the daemon runs: it is back within a second, and an event says so.

use std::path::Path;
use std::time::{Duration, Instant};

use cc_tests::beyond::{Beyond, FAR};
use cc_tests::netns::Netns;
use cc_tests::{World, eventually};

/// Until it is noticed and repaired.
const WITHIN: Duration = Duration::from_secs(1);

fn pings(world: &World, id: &str, to: &str) -> bool {
    let netns = Netns::of_pid(world.pid(id)).unwrap();
    netns.command("busybox").args(["ping", "-c", "1", "-W", "1", to]).output().unwrap().status.success()
}

/// Our filters on an interface, of both directions.
fn filters(world: &World, interface: &str) -> usize {
    let shown = |hook| {
        let args = ["filter", "show", "dev", interface, hook];
        let output = world.netns.command("tc").args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).matches("direct-action").count()
    };
    shown("ingress") + shown("egress")
}

fn back(what: &str, took: Instant, check: impl Fn() -> bool) {
    eventually(what, WITHIN, || check().then_some(()));
    println!("{what}: {:?}", took.elapsed());
}

fn repairs(world: &World, id: &str) -> usize {
    world.events_of(id).iter().filter(|(kind, _)| kind == "datapath.repaired").count()
}

#[test]
fn filters_and_interfaces() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let [a, b] = ["a", "b"].map(|name| world.run("busybox", &["--vpc", "blue", "--name", name], &["sleep", "600"]));
    let interface = world.inspect(&a)["interface"].as_str().unwrap().to_owned();
    let address = world.address(&b);
    assert!(pings(&world, &a, &address) && filters(&world, &interface) == 2);
    for (count, (program, words)) in [
        ("tc", format!("qdisc del dev {interface} clsact")),
        ("tc", format!("filter del dev {interface} ingress")),
        ("tc", format!("filter del dev {interface} egress")),
        ("ip", format!("link set {interface} down")),
    ]
    .into_iter()
    .enumerate()
    {
        let done = world.netns.command(program).args(words.split(' ')).status().unwrap();
        let took = Instant::now();
        assert!(done.success(), "{words}");
        back(&words, took, || filters(&world, &interface) == 2 && repairs(&world, &a) > count);
        assert!(pings(&world, &a, &address), "{words}");
    }
    // Nothing of that is told of a container that ends by itself, or is ended.
    world.cc(&["stop", "-t", "0", &b]).ok();
    assert_eq!(repairs(&world, &b), 0);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn pins_and_what_hangs_on_them() {
    let (world, _beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run("busybox", &["--vpc", "blue", "-p", "8080:80"], &["sleep", "600"]);
    let pins = world.pins();
    let all_links = || -> Vec<String> {
        let names = std::fs::read_dir(pins.join("links")).unwrap();
        names.map(|entry| format!("links/{}", entry.unwrap().file_name().to_string_lossy())).collect()
    };
    // Without those of inits that are parked.
    let links = || -> Vec<String> {
        let is_parked = |name: &String| name.contains("-cg") && !name.contains(&id);
        all_links().into_iter().filter(|name| !is_parked(name)).collect()
    };
    let all: Vec<String> = links()
        .into_iter()
        .chain(["CC_FLOWS", "CC_SETTINGS", "programs/cc_from_ep", "programs/cc_connect4"].map(str::to_owned))
        .collect();
    assert!(all.len() >= 2 + 1 + 8 + 4, "{all:?}");
    for name in &all {
        let path = pins.join(name);
        std::fs::remove_file(&path).unwrap();
        back(name, Instant::now(), || path.exists());
    }
    assert!(pings(&world, &id, FAR), "what comes back by the uplink is let in again");
    let program = |path: &Path| {
        let output = std::process::Command::new("bpftool").args(["-j", "link", "show", "pinned"]).arg(path).output();
        let shown: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        (shown["prog_id"].as_u64().unwrap(), shown["cgroup_id"].as_u64())
    };
    for name in links().iter().filter(|name| name.contains("-cg")) {
        let (program, cgroup) = program(&pins.join(name));
        assert!(program > 0 && cgroup.is_some_and(|cgroup| cgroup > 0), "{name} hangs on its cgroup");
    }
    // The next daemon finds everything where it looks for it.
    let mut world = world;
    world.leave(cc_tests::Leave::Killed);
    world.start();
    assert!(pings(&world, &id, FAR));
    assert_eq!(world.inspect(&id)["state"], "running");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn no_container_is_made_of_an_init_that_has_lost_its_programs() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let links = world.pins().join("links");
    let parked = || {
        let mut names = std::fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().file_name());
        names.find_map(|name| name.to_string_lossy().strip_suffix("-cgout").map(str::to_owned))
    };
    let parks = Duration::from_secs(10);
    let first = eventually("an init is parked", parks, parked);
    std::fs::remove_file(links.join(format!("{first}-cgout"))).unwrap();
    back("it goes", Instant::now(), || !links.join(format!("{first}-cgin")).exists());
    eventually("another is parked", parks, parked);
    let id = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    assert_ne!(id, first);
    assert!(["cgin", "cgout"].iter().all(|hook| links.join(format!("{id}-{hook}")).exists()));
    world.remove_all();
    world.assert_clean();
}
