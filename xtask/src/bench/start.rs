//! `bench start`: the wall clock of a container that runs `true`, ours with its VPC against crun, runc and podman without a
//! network, each in its best working set-up here. Refuses to leave a peer's state behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::peers::{self, CgroupV2Thread};
use super::report::{self, Figure, OURS};
use crate::build::{self, Profile};
use crate::host::Host;
use crate::interrupt;
use crate::process::{output, shown};

const ROUNDS: usize = 30;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
}

/// Makes the command of one start; the number keeps names apart.
type Start<'a> = Box<dyn Fn(usize) -> Command + 'a>;

struct Contender<'a> {
    name: &'static str,
    setup: String,
    start: Start<'a>,
    /// crun wants a mount namespace that the others do not.
    in_cgroup_v2: bool,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    let layout = build::image(root, Profile::Release, "busybox")?;
    let host = if options.common.peers { None } else { Some(Host::start(root, Profile::Release, "start")?) };
    let dir = peers::Dir::make()?;
    let mut contenders = Vec::new();
    if let Some(host) = &host {
        output(host.cc().args(["vpc", "create", "--cidr", "10.77.0.0/24", "--name", "bench"]))?;
        let image = host.load(&layout)?;
        let start = move |_| {
            let mut command = host.cc();
            command.args(["run", "--rm", "--image", &image, "--vpc", "bench", "true"]);
            command
        };
        let setup = "cc run --rm --image busybox --vpc bench true".to_owned();
        contenders.push(Contender { name: OURS, setup, start: Box::new(start), in_cgroup_v2: false });
    }
    let bundle = peers::bundle(&dir, &layout)?;
    for (name, in_cgroup_v2, note) in
        [("crun", true, "in a mount namespace with only cgroup2"), ("runc", false, "on the machine's own cgroups")]
    {
        let (bundle, state) = (bundle.clone(), dir.path().join(name));
        let start = move |number: usize| runtime(name, &state, &bundle, number);
        let setup = format!("{name} run, no network, no rlimits, no device rules, {note}");
        contenders.push(Contender { name, setup, start: Box::new(start), in_cgroup_v2 });
    }
    let podman = peers::Podman::prepare(&dir, &layout)?;
    let start = move |_| {
        let mut command = podman.command();
        command.args(["run", "--rm", "--net=none", peers::PODMAN_IMAGE, "true"]);
        command
    };
    let setup = "podman run --rm --net=none, runc below it, low default_ulimits".to_owned();
    contenders.push(Contender { name: "podman", setup, start: Box::new(start), in_cgroup_v2: false });

    let figures = compare(&contenders, options.common.rounds.unwrap_or(ROUNDS))?;
    report::print(&figures, options.common.json)
}

fn runtime(program: &str, state: &Path, bundle: &PathBuf, number: usize) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(state).arg("run").arg("--bundle").arg(bundle);
    command.arg(format!("cct-{program}-{}-{number}", std::process::id()));
    command
}

fn compare(contenders: &[Contender], rounds: usize) -> Result<Vec<Figure>> {
    let aside = CgroupV2Thread::spawn()?;
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    // Round 0 warms caches and is not counted.
    for round in 0..=rounds {
        for contender in contenders {
            interrupt::check()?;
            let command = (contender.start)(round);
            let millis = if contender.in_cgroup_v2 { aside.time(command)? } else { time(command)? };
            if round > 0 {
                samples.entry(contender.name.to_owned()).or_default().push(millis);
            }
        }
    }
    let figure = |name: &str, quantile: f64| {
        let mut figure = Figure::from_samples(name, "ms", quantile, &samples);
        figure.setup = contenders.iter().map(|it| (it.name.to_owned(), it.setup.clone())).collect();
        figure
    };
    Ok(vec![figure("start of `true`, p50", 0.5), figure("start of `true`, p90", 0.9)])
}

/// Milliseconds from the spawn to the exit.
pub fn time(mut command: Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let out = command.output().with_context(|| format!("cannot start {}", shown(&command)))?;
    let millis = began.elapsed().as_secs_f64() * 1000.0;
    ensure!(
        out.status.success(),
        "{}: {}: {}",
        shown(&command),
        out.status,
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(millis)
}
