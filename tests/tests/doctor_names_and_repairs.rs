//! `cc net doctor` names what is not as it should be on the host, and puts right what is ours.

use std::process::Stdio;

use cc_tests::World;
use cc_tests::beyond::Beyond;

fn findings(world: &World, args: &[&str], code: i32) -> Vec<serde_json::Value> {
    let ran = world.cc(&[&["net", "doctor", "--json"], args].concat());
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Those that are not the machine's own, which differ from one to another.
fn ours(findings: Vec<serde_json::Value>, subject: &str) -> Vec<(String, bool, bool)> {
    let of_subject = findings.into_iter().filter(|finding| finding["subject"] == subject);
    of_subject
        .map(|finding| {
            let text = finding["problem"].as_str().unwrap().to_owned();
            (text, finding["grave"].as_bool().unwrap(), finding["fixed"].as_bool().unwrap())
        })
        .collect()
}

#[test]
fn a_detached_link_is_found_and_attached_again() {
    let (world, _beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run("busybox", &["--vpc", "blue", "--name", "web", "--mtu", "1500"], &["sleep", "600"]);
    assert!(ours(findings(&world, &[], 0), "web").is_empty(), "nothing is wrong with it");
    let pin = world.pins().join(format!("links/{id}-cgout"));
    let bpftool = |args: &[&str]| {
        let output = std::process::Command::new("bpftool").args(["-j"]).args(args).arg(&pin).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    bpftool(&["link", "detach", "pinned"]);
    let found = ours(findings(&world, &[], 1), "web");
    assert!(
        matches!(&found[..], [(problem, true, false)] if problem.contains("cgout") && problem.contains("detached"))
    );
    let found = ours(findings(&world, &["--fix"], 0), "web");
    assert!(matches!(&found[..], [(_, true, true)]), "{found:?}");
    let link: serde_json::Value = serde_json::from_str(&bpftool(&["link", "show", "pinned"])).unwrap();
    assert!(link["cgroup_id"].as_u64().is_some_and(|cgroup| cgroup > 0), "{link}");
    assert!(ours(findings(&world, &[], 0), "web").is_empty());
    // What is somebody else's is named, with how to remove it, and stays.
    let interface = world.inspect(&id)["interface"].as_str().unwrap().to_owned();
    let program = world.pins().join("programs/cc_to_ep");
    let args = ["filter", "add", "dev", &interface, "egress", "pref", "77", "bpf", "da", "object-pinned"];
    let added = world.netns.command("tc").args(args).arg(&program).status().unwrap();
    assert!(added.success());
    let found = ours(findings(&world, &["--fix"], 0), "web");
    assert!(matches!(&found[..], [(problem, false, false)] if problem.contains("priority 77")), "{found:?}");
    let removed = world.netns.command("tc").args(["filter", "del", "dev", &interface, "egress", "pref", "77"]).status();
    assert!(removed.unwrap().success());
    // An uplink that takes less than the container believes.
    assert!(world.netns.command("ip").args(["link", "set", "up0", "mtu", "1400"]).status().unwrap().success());
    let found = ours(findings(&world, &[], 0), "web");
    assert!(matches!(&found[..], [(problem, false, false)] if problem.contains("1400")), "{found:?}");
    // What an interface leaves to the CPU: a container's, and the uplink.
    for (subject, name) in [("web", interface.as_str()), ("host", "up0")] {
        let told =
            || ours(findings(&world, &[], 0), subject).iter().any(|(problem, _, _)| problem.contains("tx checks"));
        let ethtool = |on| {
            let status = world.netns.command("ethtool").args(["-K", name, "tx", on]).stdout(Stdio::null()).status();
            assert!(status.unwrap().success());
        };
        assert!(!told(), "{name}");
        ethtool("off");
        assert!(told(), "{name}");
        ethtool("on");
        assert!(!told(), "{name}");
    }
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_host_without_a_way_out_is_told_so() {
    let world = World::new();
    let found = ours(findings(&world, &[], 0), "host");
    assert!(found.iter().any(|(problem, grave, _)| problem.contains("no interface leads out") && !grave), "{found:?}");
}
