//! `bench net`: our path between two containers, with few rules and with many, against a bare veth pair and against bridges
//! with iptables rules. Refuses
//! to compare figures of different rounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::report::{self, Figure};
use super::rig::{self, Rig};
use super::rules::Forced;
use super::traffic::Test;
use crate::build::{self, Profile};
use crate::host::Host;
use crate::interrupt;
use crate::process::{Beside, output};

const ROUNDS: usize = 5;
pub(super) const PORT: u16 = 5001;
/// Streams and packets: client and server apart, where there are two CPUs. Request/response and connections: both on the server's, because
/// between CPUs the wake-ups of a virtual machine are what is measured.
const CLIENT_CPU: usize = 0;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
    /// Length of one test
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    // Declared first, so that it goes last: the containers are its.
    let host = if options.common.peers { None } else { Some(Host::start(root, Profile::Release, "net")?) };
    let mut rigs = Vec::new();
    let mut forced = None;
    if let Some(host) = &host {
        let image = host.load(&build::image(root, Profile::Release, "busybox")?)?;
        let ours = rig::ours(host, &image)?;
        rigs.extend(ours.rigs);
        forced = Some(ours.forced);
    }
    rigs.push(rig::veth()?);
    for rules in [0, 1_000, 10_000] {
        rigs.push(rig::bridge(rules)?);
    }
    let servers: Vec<Beside> = rigs.iter().map(serve).collect::<Result<_>>()?;

    let rounds = options.common.rounds.unwrap_or(ROUNDS);
    let mut samples: BTreeMap<&str, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    for round in 0..rounds {
        for test in [Test::Tcp, Test::Udp, Test::Rr, Test::Connect] {
            for rig in &rigs {
                interrupt::check()?;
                let value = measure(rig, test, options.millis)?;
                samples.entry(test.name()).or_default().entry(rig.name.clone()).or_default().push(value);
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    drop(servers);

    let mut figures = Vec::new();
    for (test, figure, unit, scale) in [
        (Test::Tcp, "TCP throughput, one stream", "Gb/s", 1e-9),
        (Test::Udp, "UDP packets of 64 bytes, received", "kpps", 1e-3),
        (Test::Rr, "TCP request/response, 1 byte, one CPU", "1/s", 1.0),
        (Test::Connect, "TCP connections, one after the other, one CPU", "1/s", 1.0),
    ] {
        let scaled = samples[test.name()]
            .iter()
            .map(|(name, values)| (name.clone(), values.iter().map(|value| value * scale).collect()))
            .collect();
        let mut figure = Figure::from_samples(figure, unit, 0.5, &scaled);
        figure.setup = rigs.iter().map(|rig| (rig.name.clone(), format!("{}, MTU {}", rig.setup, rig::MTU))).collect();
        figures.push(figure);
    }
    figures.extend(forced.iter().flat_map(Forced::figures));
    report::print(&figures, options.common.json)
}

fn tool(netns: &Path, cpu: usize) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.arg("traffic").arg("--netns").arg(netns).args(["--cpu", &cpu.to_string()]);
    Ok(command)
}

fn server_cpu() -> usize {
    usize::from(std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1))
}

pub(super) fn serve(rig: &Rig) -> Result<Beside> {
    let mut command = tool(&rig.server_netns, server_cpu())?;
    Beside::start(command.args(["server", &PORT.to_string()]), "ready")
        .with_context(|| format!("the server of {}", rig.name))
}

pub(super) fn measure(rig: &Rig, test: Test, millis: u64) -> Result<f64> {
    let cpu = if matches!(test, Test::Rr | Test::Connect) { server_cpu() } else { CLIENT_CPU };
    let mut command = tool(&rig.client_netns, cpu)?;
    command.args(["client", test.name(), &rig.address.to_string(), &PORT.to_string(), &millis.to_string()]);
    let text = output(&mut command).with_context(|| format!("{} over {}", test.name(), rig.name))?;
    text.trim().parse().with_context(|| format!("{text:?} is no figure"))
}
