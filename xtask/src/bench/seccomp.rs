//! `bench seccomp`: what the filter of system calls costs, as our tree and as a list of the same rules by seccompiler: until the kernel has
//! taken it, for a call that it always allows, and for one whose argument it looks at. Refuses to run in a container: a thread is enough.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::report::{self, Figure, OURS};
use crate::process::{cargo, output};

const ROUNDS: usize = 9;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    let rounds = options.common.rounds.unwrap_or(ROUNDS);
    let mut command = cargo(root);
    command.args(["run", "-q", "--release", "-p", "cc-host", "--example", "seccomp_cost", "--", &rounds.to_string()]);
    let text = output(&mut command)?;
    let lines: Vec<Value> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("seccomp_cost printed no JSON")?;
    let mut figures = Vec::new();
    for (key, figure, unit, filtered_only) in [
        ("load_us", "until the kernel has taken the filter", "µs", true),
        ("plain_ns", "getppid, always allowed", "ns", false),
        ("argument_ns", "personality, by its argument", "ns", false),
    ] {
        let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for who in [OURS, "seccompiler", "no filter"] {
            if filtered_only && who == "no filter" || options.common.peers && who == OURS {
                continue;
            }
            let values = lines.iter().map(|line| line[who][key].as_f64().context("a figure is missing"));
            samples.insert(who.to_owned(), values.collect::<Result<_>>()?);
        }
        let mut figure = Figure::from_samples(figure, unit, 0.5, &samples);
        let of = |who: &str| {
            format!("{} instructions", lines.first().map_or(0, |line| line[who]["instructions"].as_u64().unwrap_or(0)))
        };
        figure.setup =
            [OURS, "seccompiler"].map(|who| (who.to_owned(), format!("the default policy, {}", of(who)))).into();
        figures.push(figure);
    }
    report::print(&figures, options.common.json)
}
