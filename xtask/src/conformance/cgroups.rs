//! Limits of resources, as the kernel shows them of the container's cgroup, whose path is absolute or relative. Refuses to know more than files.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::rig::Rig;
use super::{Check, check};

/// By v1's name, v2's name, and what they show.
type Wanted = (&'static str, &'static str, [&'static str; 2]);

pub const CHECKS: &[Check] = &[
    check("linux_cgroups_memory", |rig| limits(rig, false, memory(), MEMORY)),
    check("linux_cgroups_cpus", |rig| limits(rig, false, cpus(), CPUS)),
    check("linux_cgroups_cpuset", |rig| limits(rig, false, json!({"cpu": {"cpus": "0", "mems": "0"}}), CPUSET)),
    check("linux_cgroups_pids", |rig| limits(rig, false, json!({"pids": {"limit": 1000}}), PIDS)),
    check("linux_cgroups_blkio", |rig| limits(rig, false, blkio(), BLKIO)),
    check("linux_cgroups_hugetlb", |rig| limits(rig, false, hugetlb(), HUGETLB)),
    check("linux_cgroups_unified", |rig| {
        limits(rig, false, json!({"unified": {"hugetlb.2MB.max": "4194304"}}), HUGETLB)
    }),
    check("linux_cgroups_network", network),
    check("linux_cgroups_devices", devices),
    check("linux_cgroups_relative_memory", |rig| limits(rig, true, memory(), MEMORY)),
    check("linux_cgroups_relative_cpus", |rig| limits(rig, true, cpus(), CPUS)),
    check("linux_cgroups_relative_pids", |rig| limits(rig, true, json!({"pids": {"limit": 1000}}), PIDS)),
    check("linux_cgroups_relative_blkio", |rig| limits(rig, true, blkio(), BLKIO)),
    check("linux_cgroups_relative_hugetlb", |rig| limits(rig, true, hugetlb(), HUGETLB)),
    check("update", update),
];

const MEMORY: &[Wanted] = &[
    ("memory.limit_in_bytes", "memory.max", ["50593792"; 2]),
    ("memory.soft_limit_in_bytes", "memory.low", ["25296896"; 2]),
    ("memory.memsw.limit_in_bytes", "memory.swap.max", ["101187584", "50593792"]),
];
const CPUS: &[Wanted] = &[
    ("cpu.shares", "cpu.weight", ["1024", "39"]),
    ("cpu.cfs_quota_us", "cpu.max", ["50000", "50000 100000"]),
    ("cpu.cfs_period_us", "cpu.max", ["100000", "50000 100000"]),
];
const CPUSET: &[Wanted] = &[("cpuset.cpus", "cpuset.cpus", ["0"; 2]), ("cpuset.mems", "cpuset.mems", ["0"; 2])];
const PIDS: &[Wanted] = &[("pids.max", "pids.max", ["1000"; 2])];
const BLKIO: &[Wanted] = &[("blkio.throttle.read_bps_device", "io.max", ["1048576", "1048576"])];
const HUGETLB: &[Wanted] = &[("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max", ["4194304"; 2])];

fn memory() -> Value {
    json!({"memory": {"limit": 50_593_792, "reservation": 25_296_896, "swap": 101_187_584}})
}

fn cpus() -> Value {
    json!({"cpu": {"shares": 1024, "quota": 50_000, "period": 100_000}})
}

fn hugetlb() -> Value {
    json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]})
}

/// Of the first disk that there is.
fn blkio() -> Value {
    let disks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let number = disks.filter_map(|disk| std::fs::read_to_string(disk.path().join("dev")).ok()).next();
    let (major, minor) = number.as_deref().and_then(|text| text.trim().split_once(':')).unwrap_or(("8", "0"));
    let parsed = |text: &str| text.parse::<u32>().unwrap_or(0);
    json!({"blockIO": {"throttleReadBpsDevice": [{"major": parsed(major), "minor": parsed(minor), "rate": 1_048_576}]}})
}

const LONG: &str = "while :; do sleep 0.1; done";

fn limits(rig: &Rig<'_>, relative: bool, resources: Value, wanted: &[Wanted]) -> Result<()> {
    let mut config = rig.config(LONG);
    if relative {
        config["linux"]["cgroupsPath"] = json!(format!("{}/inner", rig.cgroup));
    }
    config["linux"]["resources"] = resources;
    rig.create(&config)?;
    shown(rig, wanted)
}

fn shown(rig: &Rig<'_>, wanted: &[Wanted]) -> Result<()> {
    let pid = rig.pid()?;
    for (v1, v2, values) in wanted {
        let is = rig.cgroup_file(pid, &[v1, v2])?;
        ensure!(values.iter().any(|value| is == *value || is.contains(value)), "{v1} is {is}");
    }
    Ok(())
}

/// Only v1 has it; where it is not there, it has to be refused.
fn network(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config(LONG);
    config["linux"]["resources"]["network"] = json!({"classID": 255});
    if super::rig::cgroup_roots().iter().any(|root| root.join("net_cls.classid").exists()) {
        rig.create(&config)?;
        return shown(rig, &[("net_cls.classid", "net_cls.classid", ["255"; 2])]);
    }
    ensure!(rig.create(&config).is_err(), "a limit that nothing enforces was taken");
    Ok(())
}

fn devices(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("(exec 3</dev/given) 2>/dev/null && echo read; (exec 3>/dev/given) 2>/dev/null && echo written; (exec 3</dev/other) 2>/dev/null && echo other; (exec 3</dev/null) && echo null");
    config["linux"]["devices"] = json!([
        {"type": "c", "path": "/dev/given", "major": 10, "minor": 237, "fileMode": 0o666},
        {"type": "c", "path": "/dev/other", "major": 1, "minor": 11, "fileMode": 0o666}
    ]);
    config["linux"]["resources"]["devices"] = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 237, "access": "r"}
    ]);
    let printed = rig.once(&config)?;
    ensure!(printed == "read\nnull\n", "it printed {printed:?}");
    Ok(())
}

fn update(rig: &Rig<'_>) -> Result<()> {
    rig.create(&rig.config(LONG))?;
    let file = rig.dir.join("resources.json");
    std::fs::write(&file, json!({"pids": {"limit": 55}}).to_string())?;
    rig.ok(&["update", "--resources", &file.display().to_string(), &rig.id])?;
    shown(rig, &[("pids.max", "pids.max", ["55"; 2])])
}
