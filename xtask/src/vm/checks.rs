//! What the guest's kernel is asked beside the tests: that there is no cgroup v1, which modules it has, whether LVM's thin volumes work, what
//! the daemon says of it, and what its verifier made of each program. Refuses to go on past what a check needs: it says what was missing.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::told::{Check, Plan, Program};
use crate::bench::bpf;
use crate::process::{Said, within};

/// What the datapath, volumes and networks across hosts use, or may.
const MODULES: [&str; 11] = [
    "veth",
    "overlay",
    "sch_ingress",
    "cls_bpf",
    "sch_tbf",
    "sch_fq",
    "netkit",
    "vxlan",
    "dm-thin-pool",
    "nbd",
    "loop",
];
const DIR: &str = "/tmp/cct-checks";
const VOLUMES: &str = "cct-thin";
/// Of one command, before the tests' patience.
const LIMIT: Duration = Duration::from_secs(10);
/// What is not the daemon's own: the kernel's test of device filters, say.
const OURS: &str = "cc_";

/// What was found, or what is wrong.
type Ask = fn(&Plan) -> Result<String>;

pub fn all(plan: &Plan) -> Vec<Check> {
    let checks: [(&str, Ask); 5] = [
        ("cgroup v2 only", cgroups),
        ("modules", modules),
        ("fq on an interface", fq),
        ("thin volumes of LVM", thin),
        ("cc-host check", daemon),
    ];
    let run = |(name, check): (&str, Ask)| match check(plan) {
        Ok(found) => Check { name: name.to_owned(), ok: true, found },
        Err(error) => Check { name: name.to_owned(), ok: false, found: format!("{error:#}") },
    };
    checks.into_iter().map(run).collect()
}

/// The daemon says which kernel it wants, and does not start.
pub fn refusal(plan: &Plan) -> Result<Check> {
    let config = config()?;
    let said = within(host(plan).arg("serve").arg("--config").arg(&config), limit(plan))?;
    let words = said.text.lines().find(|line| line.contains("kernel")).unwrap_or(&said.text).trim().to_owned();
    let ok = !said.success && words.contains("kernel: ") && said.text.contains("boot Linux");
    Ok(Check { name: "the daemon refuses".to_owned(), ok, found: said.text.trim().replace('\n', " ") })
}

/// Whether a daemon starts, and what it has loaded then.
pub fn loaded(plan: &Plan) -> (Check, Vec<Program>) {
    let name = "programs load".to_owned();
    match programs(plan) {
        Ok(programs) => (Check { name, ok: true, found: format!("{} of them", programs.len()) }, programs),
        Err(error) => (Check { name, ok: false, found: format!("{error:#}").replace('\n', " ") }, Vec::new()),
    }
}

fn programs(plan: &Plan) -> Result<Vec<Program>> {
    let config = config()?;
    let log = Path::new(DIR).join("log");
    let out = File::create(&log).context("cannot make a log")?;
    let mut command = host(plan);
    command.arg("serve").arg("--config").arg(&config).stdin(Stdio::null());
    command.stdout(out.try_clone().context("cannot copy a descriptor")?).stderr(out);
    let mut daemon = Daemon(command.spawn().context("cannot start cc-host")?);
    let began = Instant::now();
    while UnixStream::connect(Path::new(DIR).join("run/cc.sock")).is_err() {
        let ended = daemon.0.try_wait().context("cannot wait for cc-host")?.is_some();
        if ended || began.elapsed() > limit(plan) {
            bail!("cc-host does not start:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let shown = said(plan, "bpftool", &["-j", "prog", "show"])?;
    let shown: Vec<Value> = serde_json::from_str(&shown).context("bpftool printed no JSON")?;
    let named = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let ours = shown.iter().filter(|program| named(program, "name").starts_with(OURS));
    let mut programs = Vec::new();
    for program in ours {
        let id = program["id"].as_u64().and_then(|id| u32::try_from(id).ok()).context("a program has no id")?;
        programs.push(Program {
            name: named(program, "name"),
            kind: named(program, "type"),
            instructions: program["bytes_xlated"].as_u64().unwrap_or_default() / 8,
            verified: bpf::verified_instructions(id)?,
        });
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name).then(a.instructions.cmp(&b.instructions)));
    programs.dedup();
    if programs.is_empty() {
        bail!("the daemon has started, and there is no program");
    }
    Ok(programs)
}

/// Ended as a stop in order, so that its mounts go with it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn host(plan: &Plan) -> Command {
    Command::new(plan.bin_dir.join("cc-host"))
}

fn config() -> Result<PathBuf> {
    std::fs::create_dir_all(DIR).with_context(|| format!("cannot make {DIR}"))?;
    let path = Path::new(DIR).join("config.toml");
    let text = format!(
        "state_dir = \"{DIR}/state\"\nrun_dir = \"{DIR}/run\"\nbpffs_dir = \"{DIR}/bpf\"\ncgroup_dir = \"cct-checks\"\n"
    );
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn cgroups(_: &Plan) -> Result<String> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read the mounts")?;
    if let Some(old) = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup")) {
        bail!("there is cgroup v1: {old}");
    }
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").context("there is no cgroup v2")?;
    Ok(controllers.trim().to_owned())
}

fn modules(plan: &Plan) -> Result<String> {
    let missing: Vec<&str> = MODULES.into_iter().filter(|name| said(plan, "modprobe", &[*name]).is_err()).collect();
    if missing.is_empty() { Ok(MODULES.join(" ")) } else { bail!("it has no {}", missing.join(", ")) }
}

fn fq(plan: &Plan) -> Result<String> {
    said(plan, "ip", &["link", "add", "cctfq0", "type", "veth", "peer", "name", "cctfq1"])?;
    let done = said(plan, "tc", &["qdisc", "add", "dev", "cctfq0", "root", "fq", "horizon", "2s"]);
    let shown = done.and_then(|_| said(plan, "tc", &["qdisc", "show", "dev", "cctfq0"]));
    said(plan, "ip", &["link", "del", "cctfq0"])?;
    Ok(shown?.lines().next().unwrap_or_default().split(" refcnt").next().unwrap_or_default().to_owned())
}

/// Without udev: LVM makes its nodes itself.
fn thin(plan: &Plan) -> Result<String> {
    const CONFIG: &str = "activation { udev_sync=0 udev_rules=0 verify_udev_operations=1 } devices { scan=[\"/dev\"] } global { thin_check_executable=\"\" }";
    std::fs::create_dir_all(DIR).with_context(|| format!("cannot make {DIR}"))?;
    let disk = format!("{DIR}/disk");
    File::create(&disk).and_then(|file| file.set_len(512 << 20)).with_context(|| format!("cannot make {disk}"))?;
    let device = said(plan, "losetup", &["--find", "--show", &disk])?;
    let device = device.trim();
    let lvm = |args: &[&str]| said(plan, "lvm", &[args, &["--config", CONFIG]].concat());
    let volume = |name: &str| format!("{VOLUMES}/{name}");
    let steps = || -> Result<String> {
        lvm(&["vgcreate", VOLUMES, device])?;
        lvm(&["lvcreate", "--size", "256M", "--thinpool", "pool", VOLUMES])?;
        lvm(&["lvcreate", "--virtualsize", "1G", "--thinpool", "pool", "--name", "one", VOLUMES])?;
        let node = format!("/dev/{VOLUMES}/one");
        said(plan, "mke2fs", &["-q", "-F", "-t", "ext4", &node])?;
        lvm(&["lvcreate", "--snapshot", "--name", "two", &volume("one")])?;
        let used = lvm(&["lvs", "--noheadings", "--options", "lv_size,data_percent", &volume("one")])?;
        Ok(format!(
            "a volume in a pool, and a snapshot; {}",
            used.split_whitespace().collect::<Vec<_>>().join(" of which % ")
        ))
    };
    let done = steps();
    let _ = lvm(&["vgremove", "--force", "--yes", VOLUMES]);
    said(plan, "losetup", &["--detach", device])?;
    std::fs::remove_file(&disk).with_context(|| format!("cannot remove {disk}"))?;
    done
}

/// What it says of what is not there; nothing that it requires may be missing.
fn daemon(plan: &Plan) -> Result<String> {
    let config = config()?;
    let said = within(host(plan).arg("check").arg("--config").arg(&config), limit(plan))?;
    let lacks: Vec<&str> = said.text.lines().filter(|line| !line.starts_with("ok")).map(str::trim).collect();
    match (said.success, lacks.is_empty()) {
        (true, true) => Ok("all is there".to_owned()),
        (true, false) => Ok(lacks.join(" ")),
        (false, _) => bail!("{}", lacks.join(" ")),
    }
}

fn said(plan: &Plan, program: &str, args: &[&str]) -> Result<String> {
    let Said { text, success } = within(Command::new(program).args(args), limit(plan))?;
    if success { Ok(text) } else { bail!("{program} {}: {}", args.join(" "), text.trim()) }
}

fn limit(plan: &Plan) -> Duration {
    LIMIT * plan.patience
}
