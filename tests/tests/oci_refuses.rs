//! What `cc-oci` does not do it refuses by its name, before anything is made.

use cc_tests::oci::Oci;
use serde_json::{Value, json};

/// Sets `value` at a path of names and numbers.
fn with(mut config: Value, path: &str, value: Value) -> Value {
    let mut place = &mut config;
    for part in path.split('/') {
        place = match part.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[part],
        };
    }
    *place = value;
    config
}

#[test]
fn each_field_is_named_and_nothing_is_left() {
    let oci = Oci::new();
    let cases = [
        ("ociVersion", json!("2.0.0"), "ociVersion"),
        ("windows", json!({"layerFolders": []}), "windows"),
        ("solaris", json!({}), "solaris"),
        ("vm", json!({"kernel": {"path": "/k"}}), "vm"),
        ("linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        ("linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}), "linux.memoryPolicy"),
        ("linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
        ("linux/mountLabel", json!("system_u:object_r:x"), "linux.mountLabel"),
        ("linux/sysctl", json!({"kernel.panic": "1"}), "linux.sysctl (kernel.panic)"),
        ("linux/sysctl", json!({"kernel.hostname": "x"}), "use hostname"),
        ("linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation"),
        ("linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces (mount)"),
        ("linux/namespaces", json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]), "linux.namespaces (mount)"),
        ("linux/uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}]), "linux.uidMappings"),
        ("linux/timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets"),
        ("linux/personality", json!({"domain": "LINUX", "flags": ["x"]}), "linux.personality.flags"),
        ("linux/devices", json!([{"path": "x", "type": "c", "major": 1, "minor": 3}]), "linux.devices"),
        ("mounts/0/options", json!(["remount"]), "mounts[0].options"),
        ("mounts/0", json!({"destination": "proc", "type": "proc"}), "mounts[0].destination"),
        (
            "mounts/0",
            json!({"destination": "/x", "source": "/", "options": ["bind", "size=1"]}),
            "size=1 is no option of a bind mount",
        ),
        ("mounts/0", json!({"destination": "/x", "type": "no-such-fs", "source": "x"}), "no-such-fs"),
        (
            "mounts/0",
            json!({"destination": "/x", "type": "tmpfs", "source": "x", "options": ["no-such-option=1"]}),
            "no-such-option",
        ),
        ("mounts/0", json!({"destination": "/x", "source": "/no/such/source", "options": ["bind"]}), "/no/such/source"),
        ("process/args", json!([]), "process.args"),
        ("process/cwd", json!("x"), "process.cwd"),
        ("process/env", json!(["x"]), "process.env"),
        ("process/commandLine", json!("x"), "process.commandLine"),
        ("process/user/username", json!("x"), "process.user.username"),
        ("process/user/uid", json!(u32::MAX), "process.user.uid"),
        ("process/user/gid", json!(u32::MAX), "process.user.gid"),
        ("process/user/additionalGids", json!([u32::MAX]), "process.user.additionalGids"),
        ("process/oomScoreAdj", json!(2000), "process.oomScoreAdj"),
        ("process/scheduler", json!({"policy": "SCHED_ISO"}), "process.scheduler"),
        ("process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 9}), "process.ioPriority"),
        ("process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]), "RLIMIT_CORE"),
        ("process/rlimits", json!([{"type": "RLIMIT_NONE", "soft": 2, "hard": 1}]), "RLIMIT_NONE"),
        ("process/capabilities/effective", json!(["CAP_NONE"]), "CAP_NONE"),
        ("hooks", json!({"poststop": [{"path": "x"}]}), "hooks.poststop.path"),
        ("hooks", json!({"poststop": [{"path": "/x", "timeout": 0}]}), "hooks.poststop.timeout"),
        ("root/path", json!("nowhere"), "nowhere"),
    ];
    for (path, value, words) in cases {
        let config = with(oci.config("c", "true"), path, value);
        oci.create("c", &config, &[]).fails(1, words);
        oci.run(&["state", "c"]).fails(1, "does not exist");
        oci.assert_clean();
    }
}

#[test]
fn labels_are_refused_where_nothing_enforces_them() {
    let oci = Oci::new();
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let config = with(oci.config("c", "true"), "process/apparmorProfile", json!("some"));
        oci.create("c", &config, &[]).fails(1, "process.apparmorProfile");
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        let config = with(oci.config("c", "true"), "process/selinuxLabel", json!("some"));
        oci.create("c", &config, &[]).fails(1, "process.selinuxLabel");
    }
    oci.assert_clean();
}

#[test]
fn commands_that_are_not_done_say_so() {
    let oci = Oci::new();
    for command in ["checkpoint", "restore", "events", "spec"] {
        oci.run(&[command, "--some", "c"]).fails(1, "is not supported");
    }
    oci.run(&["--systemd-cgroup", "create", "c"]).fails(1, "--systemd-cgroup is not supported");
    oci.run(&["--rootless", "true", "list"]).fails(1, "rootless");
    // A copy, where somebody else may reach it.
    let dir = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).unwrap();
    let copy = dir.path().join("cc-oci");
    std::fs::copy(cc_tests::daemon::bin_dir().join("cc-oci"), &copy).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "1000", "--clear-groups"]).arg(copy).arg("list");
    oci.finish(command).fails(1, "cc-oci has to be run as root");
    oci.assert_clean();
}
