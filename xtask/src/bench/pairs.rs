//! `bench pairs`: our path between two containers, and their starts, on netkit pairs against veth pairs, in one run on one kernel. Where this one has
//! no netkit, in an emulated machine of another. Refuses to say anything of a real machine by that: there, only the ratios are of use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::net::{measure, serve};
use super::report::{self, Figure, OURS};
use super::rig::{self, Rig};
use super::traffic::Test;
use crate::build::{Profile, tested_dir};
use crate::host::{Host, Variety};
use crate::process::{Beside, output};
use crate::{interrupt, vm};

const ROUNDS: u64 = 5;
const VETH: &str = "cc-veth";
/// Of each kind, in a round.
const STARTS: u32 = 5;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// How often everyone has a turn
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    #[arg(long)]
    json: bool,
    /// Length of one test
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// In an emulated machine with that kernel of Debian's, such as 6.12
    #[arg(long, value_name = "KERNEL")]
    pub(super) vm: Option<String>,
    /// The programs as they were built last
    #[arg(long)]
    pub(super) as_built: bool,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    match &options.vm {
        Some(kernel) => {
            let json = if options.json { &["--json"][..] } else { &[] };
            let (rounds, millis) = (options.rounds.to_string(), options.millis.to_string());
            let args = ["bench", "pairs", "--as-built", "--rounds", &rounds, "--millis", &millis];
            vm::bench(root, kernel, &[&args, json].concat())
        }
        None => here(root, options),
    }
}

fn here(root: &Path, options: &Options) -> Result<()> {
    let bin = tested_dir(root);
    // Without inits that wait, which would hide what an interface costs a start.
    let host = |kind: &'static str| {
        let config = format!("interfaces = \"{kind}\"\nparked_max = 0");
        Host::start_as(root, Profile::Release, kind, Variety { config: &config, bin: Some(&bin), ..Variety::default() })
            .with_context(|| {
                format!("no host with {kind} pairs starts (`cargo xtask bench pairs --vm 6.12` has another kernel)")
            })
    };
    let hosts = [(OURS, "netkit", host("netkit")?), (VETH, "veth", host("veth")?)];
    let layout = PathBuf::from(output(Command::new(bin.join("make-image")).arg("busybox"))?.trim());
    let (mut rigs, mut images) = (Vec::new(), Vec::new());
    for (name, kind, host) in &hosts {
        let image = host.load(&layout)?;
        rigs.push(rig::two(host, &image, name, &format!("two containers of one VPC, on {kind} pairs"))?);
        images.push((*name, host, image));
    }
    rigs.push(rig::veth()?);
    let servers: Vec<Beside> = rigs.iter().map(serve).collect::<Result<_>>()?;

    let mut samples: BTreeMap<&str, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    let mut add = |figure: &'static str, of: &str, value: f64| {
        samples.entry(figure).or_default().entry(of.to_owned()).or_default().push(value);
    };
    for round in 0..options.rounds {
        for test in [Test::Tcp, Test::Udp, Test::Rr, Test::Connect] {
            for rig in &rigs {
                interrupt::check()?;
                add(test.name(), &rig.name, measure(rig, test, options.millis)?);
            }
        }
        for (name, host, image) in &images {
            add(START, name, starts(host, image)?);
        }
        eprintln!("round {} of {}", round + 1, options.rounds);
    }
    drop(servers);
    report::print(&figures(&rigs, &samples), options.json)
}

const START: &str = "start";

fn figures(rigs: &[Rig], samples: &BTreeMap<&str, BTreeMap<String, Vec<f64>>>) -> Vec<Figure> {
    let of = |(name, figure, unit, scale): (&str, &str, &'static str, f64)| {
        let scaled = |(name, values): (&String, &Vec<f64>)| (name.clone(), values.iter().map(|v| v * scale).collect());
        let mut figure = Figure::from_samples(figure, unit, 0.5, &samples[name].iter().map(scaled).collect());
        figure.setup = rigs.iter().map(|rig| (rig.name.clone(), format!("{}, MTU {}", rig.setup, rig::MTU))).collect();
        figure
    };
    [
        (Test::Tcp.name(), "TCP throughput, one stream", "Gb/s", 1e-9),
        (Test::Udp.name(), "UDP packets of 64 bytes, received", "kpps", 1e-3),
        (Test::Rr.name(), "TCP request/response, 1 byte, one CPU", "1/s", 1.0),
        (Test::Connect.name(), "TCP connections, one after the other, one CPU", "1/s", 1.0),
        (START, "containers run to their end, one after the other, none parked", "1/s", 1.0),
    ]
    .map(of)
    .into()
}

/// In a second.
fn starts(host: &Host, image: &str) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..STARTS {
        output(host.cc().args(["run", "--rm", "--image", image, "--vpc", "bench", "true"]))?;
    }
    Ok(f64::from(STARTS) / began.elapsed().as_secs_f64())
}
