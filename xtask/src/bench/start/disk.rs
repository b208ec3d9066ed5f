//! What a disk of its own, and what a volume adds to a container's start, ours side by side with itself. Refuses to count how long a disk takes to be made: before
//! each start one is ready, as it is on a host that does not do nothing but start containers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Contender, Ours, compare, quantiles};
use crate::bench::peers::CgroupV2Thread;
use crate::bench::report::{Figure, OURS};
use crate::process::output;

const WITH: &str = "cc --disk 64MiB";
/// The kernel mounts it for each start, after a look at it; and where another container has it already.
const IDLE: &str = "cc --volume, nobody else's";
const SHARED: &str = "cc --volume, in use";
/// For one to be ready.
const READY_WITHIN: Duration = Duration::from_secs(5);
const READY_LOOK: Duration = Duration::from_millis(10);
/// For what the start before has left behind.
const QUIET: Duration = Duration::from_millis(250);

pub fn figures(ours: &Ours, aside: &CgroupV2Thread, rounds: usize) -> Result<Vec<Figure>> {
    for name in ["idle", "shared"] {
        output(ours.host.cc().args(["volume", "create", "--size", "64MiB", "--name", name]))?;
    }
    output(&mut ours.run(&["-d", "--volume", "shared:/data"], &["sleep", "3600"]))?;
    let run = |flags: &[&str]| ours.run(&[&["--rm"], flags].concat(), &["true"]);
    // Alike before either: whoever comes after a pause finds more parked than whoever does not.
    let turn = |round: usize, flags: &[&str]| {
        // Nobody has asked for any before the first.
        if round > 0 {
            wait_for_one(ours);
        }
        std::thread::sleep(QUIET);
        run(flags)
    };
    let setup = "cc run --rm, with network, rules and limits, after a pause";
    let contenders = [
        Contender {
            name: OURS,
            setup: setup.to_owned(),
            turn: Box::new(|round| turn(round, &[])),
            in_cgroup_v2: false,
        },
        Contender {
            name: WITH,
            setup: format!("{setup}, and --disk 64MiB, of which one is ready"),
            turn: Box::new(|round| turn(round, &["--disk", "64MiB"])),
            in_cgroup_v2: false,
        },
        Contender {
            name: IDLE,
            setup: format!("{setup}, and a volume that no other container has"),
            turn: Box::new(|round| turn(round, &["--volume", "idle:/data"])),
            in_cgroup_v2: false,
        },
        Contender {
            name: SHARED,
            setup: format!("{setup}, and a volume that another container has"),
            turn: Box::new(|round| turn(round, &["--volume", "shared:/data"])),
            in_cgroup_v2: false,
        },
    ];
    let samples = compare(&contenders, aside, rounds)?;
    let mut figures =
        quantiles("start of `true`, with a disk of its own or a volume, and without", &samples, &contenders);
    for (name, what) in [
        (WITH, "what --disk adds to a start, by pairs"),
        (IDLE, "what a volume adds that nobody else has, by pairs"),
        (SHARED, "what a volume adds that another container has, by pairs"),
    ] {
        let pairs = samples[name].iter().zip(&samples[OURS]).map(|(with, without)| with - without);
        figures.push(median(what, pairs.collect()));
    }
    let log = ours.host.log();
    let taken: Vec<f64> = log.lines().filter_map(|line| millis_of(line, "ready-disk")).collect();
    ensure!(taken.len() >= rounds, "only {} of {rounds} starts found a disk ready", taken.len());
    figures.push(median("of that, until what was ready is the container's", taken));
    let made = log.lines().filter_map(|line| millis_of(line, "new-disk")).collect();
    figures.push(median("what it takes where none is ready", made));
    Ok(figures)
}

fn median(what: &str, samples: Vec<f64>) -> Figure {
    Figure::from_samples(&format!("{what}, p50"), "ms", 0.5, &BTreeMap::from([(OURS.to_owned(), samples)]))
}

fn wait_for_one(ours: &Ours) {
    let began = Instant::now();
    let any = || {
        let entries = std::fs::read_dir(ours.host.file("run/disks")).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("ready-"))
    };
    while !any() && began.elapsed() < READY_WITHIN {
        std::thread::sleep(READY_LOOK);
    }
}

/// A step of a start, in the line that the daemon logs for each.
fn millis_of(line: &str, step: &str) -> Option<f64> {
    let (_, steps) = line.split_once(" in µs: ")?;
    let found = steps.split_whitespace().filter_map(|step| step.split_once('=')).find(|(name, _)| *name == step)?;
    found.1.parse::<f64>().ok().map(|micros| micros / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_found_by_its_name() {
        let line = "DEBUG cc_host::container::pace: start in µs: create=210 ready-disk=90 program=700";
        assert_eq!(millis_of(line, "ready-disk"), Some(0.09));
        assert_eq!((millis_of(line, "new-disk"), millis_of("ready-disk=3", "ready-disk")), (None, None));
    }
}
