//! `bench net`: our path between two containers against a bare veth pair and against bridges with iptables rules. Refuses
//! to compare figures of different rounds.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::report::{self, Figure};
use super::rig::{self, Rig};
use super::traffic::Test;
use crate::build;
use crate::host::Host;
use crate::process::output;

const ROUNDS: usize = 5;
const PORT: u16 = 5001;
/// Client and server apart, where there are two CPUs.
const CLIENT_CPU: usize = 0;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
    /// Length of one test
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

/// The server's end of a rig, killed with its guard.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    // Declared first, so that it goes last: the containers are its.
    let host = if options.common.peers { None } else { Some(Host::start(root, "net")?) };
    let mut rigs = Vec::new();
    if let Some(host) = &host {
        let image = host.load(&build::image(root, "busybox")?, "busybox")?;
        rigs.push(rig::ours(host, &image)?);
    }
    rigs.push(rig::veth()?);
    for rules in [0, 1_000, 10_000] {
        rigs.push(rig::bridge(rules)?);
    }
    let servers: Vec<Server> = rigs.iter().map(serve).collect::<Result<_>>()?;

    let rounds = options.common.rounds.unwrap_or(ROUNDS);
    let mut samples: BTreeMap<&str, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    for round in 0..rounds {
        for test in [Test::Tcp, Test::Udp, Test::Rr] {
            for rig in &rigs {
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
        (Test::Rr, "TCP request/response, 1 byte", "1/s", 1.0),
    ] {
        let scaled = samples[test.name()]
            .iter()
            .map(|(name, values)| (name.clone(), values.iter().map(|value| value * scale).collect()))
            .collect();
        let mut figure = Figure::from_samples(figure, unit, 0.5, &scaled);
        figure.setup = rigs.iter().map(|rig| (rig.name.clone(), format!("{}, MTU {}", rig.setup, rig::MTU))).collect();
        figures.push(figure);
    }
    report::print(&figures, options.common.json)
}

fn tool(netns: &Path, cpu: usize) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.arg("traffic").arg("--netns").arg(netns).args(["--cpu", &cpu.to_string()]);
    Ok(command)
}

fn serve(rig: &Rig) -> Result<Server> {
    let server_cpu = usize::from(std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1));
    let mut command = tool(&rig.server_netns, server_cpu)?;
    let child = command.args(["server", &PORT.to_string()]).stdout(Stdio::piped()).spawn();
    let mut server = Server(child.context("cannot start the traffic server")?);
    let out = server.0.stdout.take().context("the server's output was not piped")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).context("cannot read the traffic server's output")?;
    ensure!(line.trim() == "ready", "the traffic server of {} did not start", rig.name);
    Ok(server)
}

fn measure(rig: &Rig, test: Test, millis: u64) -> Result<f64> {
    let mut command = tool(&rig.client_netns, CLIENT_CPU)?;
    command.args(["client", test.name(), &rig.address.to_string(), &PORT.to_string(), &millis.to_string()]);
    let text = output(&mut command).with_context(|| format!("{} over {}", test.name(), rig.name))?;
    text.trim().parse().with_context(|| format!("{text:?} is no figure"))
}
