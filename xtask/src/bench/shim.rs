//! `bench shim`: what a container's supervisor takes of the host's memory for itself, ours beside podman's conmon. Idle containers, and
//! those that have written a log. Refuses to count what is shared: the program's own pages are there once, however many run.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::peers::{self, Podman};
use super::report::{self, Figure, OURS};
use crate::build::{self, Profile};
use crate::host::Host;
use crate::interrupt;
use crate::process::{ask, output};

/// For podman's last processes.
const GONE_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Containers of each kind, of each contender.
const CONTAINERS: usize = 10;
const IDLE: &str = "sleep 1000";
/// 4 MiB of lines, and nothing more.
const WRITTEN: &str = "yes 0123456789abcdef0123456789abcdef | head -c 4194304; echo; sleep 1000";

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    let layout = build::image(root, Profile::Release, "busybox")?;
    let host = if options.common.peers { None } else { Some(Host::start(root, Profile::Release, "shim")?) };
    let image = host.as_ref().map(|host| host.load(&layout)).transpose()?;
    let dir = peers::Dir::make()?;
    let podman = Conmons { podman: Podman::prepare(&dir, &layout)?, dir: dir.path().display().to_string() };
    let containers = options.common.rounds.unwrap_or(CONTAINERS);
    let mut figures = Vec::new();
    for (what, script) in [("idle", IDLE), ("after 4 MiB of log", WRITTEN)] {
        let mut pids: Vec<(&str, i64)> = Vec::new();
        for _ in 0..containers {
            interrupt::check()?;
            if let (Some(host), Some(image)) = (&host, &image) {
                pids.push((OURS, shim(host, image, script)?));
            }
            pids.push(("conmon", podman.conmon(script)?));
        }
        // Of all that run together: the pages of a program that runs once are its own, however clean.
        let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (who, pid) in pids {
            samples.entry(who.to_owned()).or_default().push(settled_kib(pid)?);
        }
        let mut figure = Figure::from_samples(&format!("private memory of a shim, {what}"), "KiB", 0.5, &samples);
        figure.setup = BTreeMap::from([
            (OURS.to_owned(), format!("cc run -d --image busybox sh -c '{script}'")),
            ("conmon".to_owned(), "podman run -d --net=none, its log driver k8s-file".to_owned()),
        ]);
        figures.push(figure);
    }
    report::print(&figures, options.common.json)
}

/// Its pid.
fn shim(host: &Host, image: &str, script: &str) -> Result<i64> {
    let id = output(host.cc().args(["run", "-d", "--image", image, "sh", "-c", script]))?;
    let file = host.file("run/containers").join(id.trim()).join("state.json");
    let state = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let state: Value = serde_json::from_slice(&state).context("the shim wrote a state that is no JSON")?;
    state["shim"]["pid"].as_i64().context("the state names no shim")
}

/// podman's containers, which go with their guard.
struct Conmons {
    podman: Podman,
    /// Its processes name it.
    dir: String,
}

impl Conmons {
    fn conmon(&self, script: &str) -> Result<i64> {
        let mut run = self.podman.command();
        run.args(["run", "-d", "--net=none", "--log-driver=k8s-file", peers::PODMAN_IMAGE, "sh", "-c", script]);
        let id = output(&mut run)?;
        let pid = self.asked(&["inspect", "--format", "{{.State.ConmonPid}}", id.trim()])?;
        pid.trim().parse().context("podman names no conmon")
    }

    fn asked(&self, args: &[&str]) -> Result<String> {
        let mut command: Command = self.podman.command();
        output(command.args(args))
    }
}

impl Drop for Conmons {
    fn drop(&mut self) {
        if let Err(error) = self.asked(&["rm", "--all", "--force", "--time", "0"]) {
            eprintln!("xtask: cannot remove podman's containers: {error:#}");
        }
        // Each conmon has a podman clean up after it, which mounts the storage once more.
        let began = Instant::now();
        while ask("ps", &["-eo", "args="]).is_some_and(|all| all.contains(&self.dir)) && began.elapsed() < GONE_WITHIN {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Once its container rests: when two looks are the same.
fn settled_kib(pid: i64) -> Result<f64> {
    const LOOKS_MAX: usize = 100;
    let mut before = f64::NAN;
    for _ in 0..LOOKS_MAX {
        std::thread::sleep(LOOK_EVERY);
        let now = private_kib(pid)?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
    anyhow::bail!("the memory of process {pid} does not settle")
}

/// Pages that no other process has.
fn private_kib(pid: i64) -> Result<f64> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let private = text.lines().filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"));
    let kib: Vec<f64> = private.filter_map(|line| line.split_whitespace().nth(1)?.parse().ok()).collect();
    ensure!(kib.len() == 2, "{file} does not tell of private memory");
    Ok(kib.iter().sum())
}
