//! Namespaces of a container: new ones, ours, and others'. Refuses user namespaces, which are about ids.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::config::{add_mount, prints};
use super::rig::Rig;
use super::{Check, check};

pub const CHECKS: &[Check] = &[
    check("linux_ns_nopath", linux_ns_nopath),
    check("linux_ns_itype", linux_ns_itype),
    check("linux_ns_path", linux_ns_path),
    check("linux_ns_path_type", linux_ns_path_type),
    check("linux_ns_twice", linux_ns_twice),
    check("linux_ns_cgroup", linux_ns_cgroup),
    check("linux_ns_time", linux_ns_time),
];

const KINDS: [(&str, &str); 6] =
    [("ipc", "ipc"), ("mount", "mnt"), ("network", "net"), ("pid", "pid"), ("uts", "uts"), ("cgroup", "cgroup")];

fn of(pid: i64, name: &str) -> Result<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}"))
        .with_context(|| format!("cannot read namespace {name}"))?;
    Ok(link.display().to_string())
}

fn with_namespaces(rig: &Rig<'_>, namespaces: Value) -> Value {
    let mut config = rig.config("while :; do sleep 0.1; done");
    config["linux"]["namespaces"] = namespaces;
    config
}

fn linux_ns_nopath(rig: &Rig<'_>) -> Result<()> {
    let all: Vec<Value> = KINDS.iter().map(|(kind, _)| json!({"type": kind})).collect();
    rig.create(&with_namespaces(rig, json!(all)))?;
    let (pid, own) = (rig.pid()?, i64::from(std::process::id()));
    for (kind, name) in KINDS {
        ensure!(of(pid, name)? != of(own, name)?, "it shares our {kind} namespace");
    }
    Ok(())
}

/// A kind that is not named is the runtime's own.
fn linux_ns_itype(rig: &Rig<'_>) -> Result<()> {
    let mut config = with_namespaces(rig, json!([{"type": "mount"}, {"type": "pid"}]));
    config.as_object_mut().context("it is an object")?.remove("hostname");
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "sysfs" && mount["type"] != "mqueue");
    }
    config["linux"].as_object_mut().context("it is an object")?.remove("readonlyPaths");
    rig.create(&config)?;
    let (pid, own) = (rig.pid()?, i64::from(std::process::id()));
    for name in ["ipc", "uts"] {
        ensure!(of(pid, name)? == of(own, name)?, "it has a {name} namespace of its own");
    }
    Ok(())
}

/// A process in new namespaces of these kinds, ended with its guard.
struct Holder(std::process::Child);

impl Holder {
    fn new(options: &[&str]) -> Result<Holder> {
        let child = Command::new("unshare")
            .args(options)
            .args(["sh", "-c", "echo; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = Holder(child.context("cannot run unshare")?);
        let mut out = holder.0.stdout.take().context("it is piped")?;
        std::io::Read::read(&mut out, &mut [0]).context("cannot read from unshare")?;
        Ok(holder)
    }

    fn pid(&self) -> i64 {
        self.0.id().into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn linux_ns_path(rig: &Rig<'_>) -> Result<()> {
    let holder = Holder::new(&["--net", "--ipc", "--uts"])?;
    let path = |name: &str| format!("/proc/{}/ns/{name}", holder.pid());
    let namespaces = json!([{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": path("net")}, {"type": "ipc", "path": path("ipc")}, {"type": "uts", "path": path("uts")}]);
    rig.create(&with_namespaces(rig, namespaces))?;
    for name in ["net", "ipc", "uts"] {
        ensure!(
            of(rig.pid()?, name)? == of(holder.pid(), name)?,
            "it is not in the {name} namespace that it was given"
        );
    }
    Ok(())
}

fn linux_ns_path_type(rig: &Rig<'_>) -> Result<()> {
    let holder = Holder::new(&["--net"])?;
    let namespaces =
        json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts", "path": format!("/proc/{}/ns/net", holder.pid())}]);
    ensure!(rig.create(&with_namespaces(rig, namespaces)).is_err(), "a namespace of another kind was taken");
    let namespaces = json!([{"type": "mount"}, {"type": "network", "path": "/no/such/namespace"}]);
    ensure!(rig.create(&with_namespaces(rig, namespaces)).is_err(), "a namespace that is not there was taken");
    Ok(())
}

fn linux_ns_twice(rig: &Rig<'_>) -> Result<()> {
    let namespaces = json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]);
    ensure!(rig.create(&with_namespaces(rig, namespaces)).is_err(), "two of a kind were taken");
    Ok(())
}

fn linux_ns_cgroup(rig: &Rig<'_>) -> Result<()> {
    let change = |config: &mut Value| {
        if let Some(all) = config["linux"]["namespaces"].as_array_mut() {
            all.push(json!({"type": "cgroup"}));
        }
        add_mount(
            config,
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]}),
        );
    };
    let script = "cut -d : -f 3 /proc/self/cgroup | sort -u; test -n \"$(ls /sys/fs/cgroup)\" && echo mounted; mkdir /sys/fs/cgroup/made 2>/dev/null || echo readonly";
    prints(rig, script, change, "/\nmounted\nreadonly\n")
}

fn linux_ns_time(rig: &Rig<'_>) -> Result<()> {
    let change = |config: &mut Value| {
        if let Some(all) = config["linux"]["namespaces"].as_array_mut() {
            all.push(json!({"type": "time"}));
        }
        config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000, "nanosecs": 0}});
    };
    prints(rig, "cut -c 1 /proc/uptime", change, "1\n")
}
