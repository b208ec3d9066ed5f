//! Whether what a daemon says of its containers is what the kernel has. Refuses to ask the daemon about processes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::world::World;

/// What the daemon says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub id: String,
    pub state: String,
}

/// Every record that says "running" has its init, and a shim above it; every shim and every init has such a record. Gives what was told,
/// by name.
pub fn truth(world: &World) -> Result<BTreeMap<String, Told>, String> {
    let records = world.cc(&["ps", "-a", "--json"]).json();
    let records = records.as_array().expect("it is as the kernel, or the daemon, always says it");
    let shims = shims(world);
    let inits: BTreeSet<i32> = shims.values().flat_map(|shim| children(*shim)).collect();
    let mut running = BTreeSet::new();
    for record in records.iter().filter(|record| record["state"] == "running") {
        let (id, pid) =
            (record["id"].as_str().expect("it is as the kernel, or the daemon, always says it"), pid_of(record));
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
            let text = |record: &Value, key: &str| {
                record[key].as_str().expect("it is as the kernel, or the daemon, always says it").to_owned()
            };
            let told = |record: &Value| Told { id: text(record, "id"), state: text(record, "state") };
            Ok(records.iter().map(|record| (text(record, "name"), told(record))).collect())
        }
    }
}

fn pid_of(record: &Value) -> i32 {
    i32::try_from(record["pid"].as_i64().expect("it is as the kernel, or the daemon, always says it"))
        .expect("it is as the kernel, or the daemon, always says it")
}

/// Of this world's containers, by their ids, and not of what is parked; the kernel is asked, not the daemon.
pub fn shims(world: &World) -> BTreeMap<String, i32> {
    let (ours, parked) = (world.path("run/containers").display().to_string(), world.parked());
    let entries =
        std::fs::read_dir("/proc").expect("it is as the kernel, or the daemon, always says it").filter_map(Result::ok);
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
