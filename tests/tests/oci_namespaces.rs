//! `cc-oci` makes the namespaces that a config.json lists, joins those that it names, and leaves the others as they are.

use cc_tests::oci::Oci;
use serde_json::{Value, json};

const LONG: &str = "while :; do sleep 0.1; done";

fn namespace(config: &mut Value, kind: &str, path: Option<String>) {
    let all = config["linux"]["namespaces"].as_array_mut().unwrap();
    all.retain(|one| one["type"] != kind);
    all.push(match path {
        Some(path) => json!({"type": kind, "path": path}),
        None => json!({"type": kind}),
    });
}

fn map(config: &mut Value) {
    namespace(config, "user", None);
    for field in ["uidMappings", "gidMappings"] {
        config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    }
}

/// Its root has to be the container's to be written.
fn give(oci: &Oci, id: &str) {
    let root = oci.path(id).join("rootfs");
    let done = std::process::Command::new("chown").args(["-hR", "100000:100000"]).arg(root).status();
    assert!(done.is_ok_and(|status| status.success()));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(oci.path(""), mode).unwrap();
}

fn link(pid: i32, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn what_is_not_listed_is_the_hosts() {
    let oci = Oci::new();
    let mut config = oci.config("c", LONG);
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/sys");
    oci.start("c", &config);
    let own = std::process::id() as i32;
    for (kind, is_own) in
        [("net", true), ("ipc", true), ("pid", true), ("cgroup", true), ("user", true), ("mnt", false), ("uts", false)]
    {
        assert_eq!(link(oci.pid("c"), kind) == link(own, kind), is_own, "{kind}");
    }
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn namespaces_are_joined_by_their_path() {
    let oci = Oci::new();
    oci.start("first", &oci.config("first", LONG));
    let first = oci.pid("first");
    let mut config = oci.config("second", "tr '\\0' ' ' < /proc/1/cmdline | grep -q while && echo sees; sleep 1000");
    for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid"), ("cgroup", "cgroup")] {
        namespace(&mut config, kind, Some(format!("/proc/{first}/ns/{name}")));
    }
    oci.start("second", &config);
    let second = oci.pid("second");
    for kind in ["net", "ipc", "uts", "pid", "cgroup"] {
        assert_eq!(link(first, kind), link(second, kind), "{kind}");
    }
    assert_ne!(link(first, "mnt"), link(second, "mnt"));
    cc_tests::eventually("it sees the other's processes", cc_tests::oci::BOUND, || {
        (oci.text("second", "out") == "sees\n").then_some(())
    });
    assert_eq!(oci.run(&["exec", "second", "sh", "-c", "exit 6"]).code, 6);
    oci.run(&["kill", "second", "KILL"]).ok();
    oci.ended("second");
    assert_eq!(oci.status("first"), "running");
    oci.run(&["delete", "second"]).ok();
    oci.run(&["delete", "-f", "first"]).ok();
    oci.assert_clean();
}

#[test]
fn a_user_namespace_has_its_mappings_and_everything_works_in_it() {
    let oci = Oci::new();
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; touch /made; stat -c %u /made; echo x > /dev/null && stat -c '%a %u' /dev/zero; grep -c ' / / ' /proc/self/mountinfo; hostname; chown 5:6 /made; ls /sys > /dev/null && echo sys";
    let mut config = oci.config("c", script);
    config["hostname"] = json!("mapped");
    config["process"]["capabilities"]["effective"] = json!(["CAP_CHOWN"]);
    config["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/sys/firmware"]);
    config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    map(&mut config);
    oci.bundle("c", &config);
    give(&oci, "c");
    let ran = oci.once("c", &config).ok();
    assert!(ran.stdout.starts_with("0\n 0 100000 65536\n0\n666 0\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("mapped\n") && ran.stdout.ends_with("sys\n"), "{}", ran.stdout);
    let made = std::fs::metadata(oci.path("c/rootfs/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 100_005);

    config["process"]["args"] = json!(["sh", "-c", LONG]);
    oci.start("c", &config);
    assert_eq!(
        oci.run(&["exec", "c", "sh", "-c", "id -u; cat /proc/self/gid_map | tr -s ' '"]).ok().stdout,
        "0\n 0 100000 65536\n"
    );
    // Another one in the same user namespace.
    let mut second =
        oci.config("d", "id -u; cat /proc/self/uid_map | tr -s ' '; echo > /dev/null; stat -c %u /dev/null");
    namespace(&mut second, "user", Some(format!("/proc/{}/ns/user", oci.pid("c"))));
    oci.bundle("d", &second);
    give(&oci, "d");
    assert_eq!(oci.once("d", &second).ok().stdout, "0\n 0 100000 65536\n0\n");
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn ids_of_a_mount_are_mapped() {
    let oci = Oci::new();
    let mut config = oci.config("c", "stat -c %u /own /its");
    let given = oci.path("given");
    std::fs::create_dir(&given).unwrap();
    map(&mut config);
    let bind = |target: &str| json!({"destination": target, "source": given, "options": ["rbind", "ridmap"]});
    let mut mapped = bind("/its");
    mapped["uidMappings"] = json!([{"containerID": 0, "hostID": 100_077, "size": 10}]);
    mapped["gidMappings"] = mapped["uidMappings"].clone();
    config["mounts"].as_array_mut().unwrap().extend([bind("/own"), mapped]);
    oci.bundle("c", &config);
    give(&oci, "c");
    assert_eq!(oci.once("c", &config).ok().stdout, "0\n77\n");
    oci.assert_clean();
}

#[test]
fn clocks_are_offset_in_a_time_namespace() {
    let oci = Oci::new();
    let mut config = oci.config("c", "cut -d. -f1 /proc/uptime");
    namespace(&mut config, "time", None);
    config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 7}});
    let shown: u64 = oci.once("c", &config).ok().stdout.trim().parse().unwrap();
    assert!(shown >= 1_000_000, "{shown}");
    config["process"]["args"] = json!(["sh", "-c", LONG]);
    oci.start("c", &config);
    let shown = oci.run(&["exec", "c", "cut", "-d.", "-f1", "/proc/uptime"]).ok().stdout;
    assert!(shown.trim().parse::<u64>().unwrap() >= 1_000_000, "{shown}");
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn propagation_of_the_root_is_as_asked_for() {
    let oci = Oci::new();
    for (given, optional) in [("private", None), ("rshared", Some("shared:")), ("unbindable", Some("unbindable"))] {
        let mut config = oci.config("c", "grep ' / / \\| /rootfs / ' /proc/self/mountinfo || cat /proc/self/mountinfo");
        config["linux"]["rootfsPropagation"] = json!(given);
        let shown = oci.once("c", &config).ok().stdout;
        let root = shown.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap_or_else(|| panic!("{shown}"));
        match optional {
            Some(word) => assert!(root.contains(word), "{given}: {root}"),
            None => assert!(!root.contains("shared:") && !root.contains("master:"), "{given}: {root}"),
        }
    }
    oci.assert_clean();
}
