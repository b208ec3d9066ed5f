//! `bench start`: the wall clock of a container that runs `true`, ours with its VPC, its rules and its limits against crun, runc and podman,
//! each in its best working set-up here; with and without parked inits. What of it passes between the daemon's hearing of a container and
//! its program's running; what a disk of its own adds; a further program in one that runs; and many at a time. Refuses to leave a peer's state
//! behind.

mod api;
mod disk;
mod exec;
mod many;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::peers::{self, CgroupV2Thread};
use super::report::{self, Figure, OURS};
use crate::build::{self, Profile};
use crate::host::{Host, Variety};
use crate::interrupt;
use crate::process::{output, shown};

const ROUNDS: usize = 30;
/// Ours without anything parked.
const UNPARKED: &str = "cc, nothing parked";
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
/// So that the daemon tells how long a start took.
const LOG: &str = "info,cc_host::container::pace=debug";
/// What a container of ours has, besides its network.
const LIMITS: [&str; 6] = ["--memory", "256m", "--cpus", "1", "--pids-limit", "100"];

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
    /// Containers that are started at a time
    #[arg(long, default_value_t = 64)]
    parallel: usize,
    /// How often so many, while those before them run
    #[arg(long, default_value_t = 4)]
    batches: usize,
}

/// Makes the command of one turn; the number keeps names apart.
type Turn<'a> = Box<dyn Fn(usize) -> Command + 'a>;

struct Contender<'a> {
    name: &'static str,
    setup: String,
    turn: Turn<'a>,
    /// crun wants a mount namespace that the others do not.
    in_cgroup_v2: bool,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    let layout = build::image(root, Profile::Release, "busybox")?;
    let dir = peers::Dir::make()?;
    let rounds = options.common.rounds.unwrap_or(ROUNDS);
    let ours = if options.common.peers {
        None
    } else {
        Some((Ours::start(root, &layout, true)?, Ours::start(root, &layout, false)?))
    };
    let aside = CgroupV2Thread::spawn()?;
    let mut contenders = Vec::new();
    if let Some((parked, unparked)) = &ours {
        contenders.push(parked.starts(OURS));
        contenders.push(unparked.starts(UNPARKED));
    }
    let bundle = peers::bundle(&dir, &layout)?;
    for (name, in_cgroup_v2, note) in
        [("crun", true, "in a mount namespace with only cgroup2"), ("runc", false, "on the machine's own cgroups")]
    {
        let (bundle, state) = (bundle.clone(), dir.path().join(name));
        let turn = move |number: usize| runtime(name, &state, &bundle, number);
        let setup = format!("{name} run, no network, no rlimits, no limits, no device rules, {note}");
        contenders.push(Contender { name, setup, turn: Box::new(turn), in_cgroup_v2 });
    }
    let podman = peers::Podman::prepare(&dir, &layout)?;
    let network = podman.network();
    let turn = move |_| {
        let mut command = podman.command();
        command.args(["run", "--rm", network, peers::PODMAN_IMAGE, "true"]);
        command
    };
    let setup = format!("podman run --rm {network}, runc below it, low default_ulimits");
    contenders.push(Contender { name: "podman", setup, turn: Box::new(turn), in_cgroup_v2: false });

    let mut figures = quantiles("start of `true`", &compare(&contenders, &aside, rounds)?, &contenders);
    drop(contenders);
    if let Some((parked, unparked)) = &ours {
        figures.extend(api::figures(&[(OURS, &parked.host), (UNPARKED, &unparked.host)])?);
        figures.extend(disk::figures(parked, &aside, rounds)?);
        figures.extend(exec::figures(parked, &dir, &layout, &aside, rounds)?);
        figures.extend(many::figures(&[(OURS, parked), (UNPARKED, unparked)], options.parallel, options.batches)?);
    }
    report::print(&figures, options.common.json)
}

/// A host of ours with a network whose rules let something in.
struct Ours {
    host: Host,
    image: String,
}

impl Ours {
    fn start(root: &Path, layout: &Path, parks: bool) -> Result<Ours> {
        let config = if parks { "" } else { "parked_max = 0" };
        let variety = Variety { ranges: 2048, config, log: Some(LOG), ..Variety::default() };
        let host = Host::start_as(root, Profile::Release, if parks { "start" } else { "start0" }, variety)?;
        output(host.cc().args(["vpc", "create", "--cidr", "10.77.0.0/16", "--name", "bench"]))?;
        output(host.cc().args(["group", "create", "--name", "web"]))?;
        for rule in
            [["ingress", "--port", "80", "--from", "10.77.0.0/16"], ["egress", "--port", "443", "--to", "0.0.0.0/0"]]
        {
            output(host.cc().args(["group", "allow", "web"]).args(rule).args(["--proto", "tcp"]))?;
        }
        let image = host.load(layout)?;
        Ok(Ours { host, image })
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Command {
        let mut run = self.host.cc();
        run.arg("run").args(options).args(["--image", &self.image, "--vpc", "bench", "--group", "web"]);
        run.args(LIMITS).args(command);
        run
    }

    fn starts(&self, name: &'static str) -> Contender<'_> {
        let setup = format!("cc run --rm --image busybox --vpc bench --group web {} true", LIMITS.join(" "));
        let turn = |_| self.run(&["--rm"], &["true"]);
        Contender { name, setup, turn: Box::new(turn), in_cgroup_v2: false }
    }
}

fn runtime(program: &str, state: &Path, bundle: &PathBuf, number: usize) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(state).arg("run").arg("--bundle").arg(bundle);
    command.arg(format!("cct-{program}-{}-{number}", std::process::id()));
    command
}

/// Milliseconds of each.
fn compare(contenders: &[Contender], aside: &CgroupV2Thread, rounds: usize) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    // Round 0 warms caches and is not counted.
    for round in 0..=rounds {
        for contender in contenders {
            interrupt::check()?;
            let command = (contender.turn)(round);
            let millis = if contender.in_cgroup_v2 { aside.time(command)? } else { time(command)? };
            if round > 0 {
                samples.entry(contender.name.to_owned()).or_default().push(millis);
            }
        }
    }
    Ok(samples)
}

fn quantiles(what: &str, samples: &BTreeMap<String, Vec<f64>>, contenders: &[Contender]) -> Vec<Figure> {
    let figure = |(name, quantile): (&str, f64)| {
        let mut figure = Figure::from_samples(&format!("{what}, {name}"), "ms", quantile, samples);
        figure.setup = contenders.iter().map(|it| (it.name.to_owned(), it.setup.clone())).collect();
        figure
    };
    QUANTILES.map(figure).into()
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
