//! `cc net inspect` shows what the kernel has: the programs that `bpftool` shows, and a stranger's among them.

use std::process::Command;

use cc_tests::World;
use serde_json::Value;

const SLEEP: &[&str] = &["sleep", "600"];

/// Name and tag of a loaded program.
fn program(id: &Value) -> (String, String) {
    let output = Command::new("bpftool").args(["-j", "prog", "show", "id", &id.to_string()]).output();
    let output = output.expect("bpftool can be run; run `cargo xtask setup`");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("bpftool prints JSON");
    let text = |field: &str| shown[field].as_str().unwrap_or_default().to_owned();
    (text("name"), text("tag"))
}

#[test]
fn what_is_attached_pinned_and_mapped_is_shown() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let options = ["--vpc", "blue", "--name", "web", "--egress-bandwidth", "1MiB"];
    let id = world.run("busybox", &options, SLEEP);
    let seen = world.cc(&["net", "inspect", "web", "--json"]).json();
    assert_eq!(
        (&seen["id"], &seen["vpc"], &seen["groups"]),
        (&id.as_str().into(), &"blue".into(), &serde_json::json!(["blue"]))
    );
    assert_eq!(seen["interface"]["ipv4"], world.address(&id).as_str());
    let ip = world
        .netns
        .command("ip")
        .args(["-json", "link", "show", "dev", seen["interface"]["name"].as_str().unwrap()])
        .output();
    let link: Value = serde_json::from_slice(&ip.unwrap().stdout).unwrap();
    assert_eq!(link[0]["ifindex"], seen["interface"]["ifindex"]);

    let filters = seen["filters"].as_array().unwrap();
    let names: Vec<_> =
        filters.iter().map(|f| (f["hook"].as_str().unwrap(), f["program"]["name"].as_str().unwrap())).collect();
    assert_eq!(names, [("ingress", "cc_from_ep"), ("egress", "cc_to_ep")], "{seen}");
    let links = seen["links"].as_array().unwrap();
    assert_eq!(links.len(), 2, "{seen}");
    for of in filters.iter().chain(links) {
        let (name, tag) = program(&of["program"]["id"]);
        assert_eq!((of["program"]["name"].as_str().unwrap(), of["program"]["tag"].as_str().unwrap()), (&*name, &*tag));
    }
    assert!(filters.iter().all(|filter| filter["ours"] == true), "{seen}");
    assert!(links.iter().all(|link| std::path::Path::new(link["pin"].as_str().unwrap()).exists()), "{seen}");

    let rows: Vec<_> = seen["rows"].as_array().unwrap().iter().map(|row| row["map"].as_str().unwrap()).collect();
    for map in ["CC_ENDPOINTS", "CC_PORTS", "CC_ROUTES", "CC_RULESETS", "CC_RATES"] {
        assert!(rows.contains(&map), "{map} of {rows:?}");
    }
    assert!(seen["rule_set"]["generation"].as_u64().unwrap() > 0 && seen["flows"]["flows_max"].as_u64().unwrap() > 0);
    assert_eq!(seen["egress_limit"]["bytes_per_s"], 1 << 20);
    let block = world.cc(&["net", "inspect", "web"]).ok().stdout;
    assert!(block.starts_with("container:") && block.contains("cc_cg_out"), "{block}");

    // Somebody else's program on the same interface is shown, and is not called ours.
    let interface = seen["interface"]["name"].as_str().unwrap().to_owned();
    let pin = world.pins().join("programs/cc_to_ep").display().to_string();
    let spy = ["filter", "add", "dev", &interface, "ingress", "prio", "7", "handle", "9", "bpf", "da", "pinned", &pin];
    assert!(world.netns.command("tc").args(spy).status().expect("tc can be run").success());
    let seen = world.cc(&["net", "inspect", "web", "--json"]).json();
    let foreign: Vec<_> = seen["filters"].as_array().unwrap().iter().filter(|f| f["ours"] == false).collect();
    assert_eq!(foreign.len(), 1, "{seen}");
    assert_eq!((&foreign[0]["priority"], &foreign[0]["handle"]), (&7.into(), &9.into()));

    world.cc(&["net", "inspect", "web", "--cc-project", "other"]).fails(1, "no container");
    let alone = world.run("busybox", &["--name", "alone"], SLEEP);
    let seen = world.cc(&["net", "inspect", &alone, "--json"]).json();
    assert_eq!((&seen["interface"], &seen["vpc"], &seen["rule_set"]), (&Value::Null, &Value::Null, &Value::Null));
    world.cc(&["kill", "web"]).ok();
    world.cc(&["wait", "web"]);
    world.cc(&["net", "inspect", "web"]).fails(1, "not running");
}
