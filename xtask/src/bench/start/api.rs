//! From the daemon's hearing of a container to its program's running, by the daemon's own clock: the line that it logs for each start names
//! what each step took, the last being that the shim has seen init execute the program. Refuses to count what follows it, above all the
//! record's way to the disk.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::QUANTILES;
use crate::bench::report::Figure;
use crate::host::Host;

pub fn figures(hosts: &[(&str, &Host)]) -> Result<Vec<Figure>> {
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, host) in hosts {
        let millis: Vec<f64> = host.log().lines().filter_map(millis_to_program).collect();
        ensure!(!millis.is_empty(), "{name} has logged no start");
        samples.insert((*name).to_owned(), millis);
    }
    let figure = |(name, quantile): (&str, f64)| {
        Figure::from_samples(&format!("from the daemon's hearing of it to execve, {name}"), "ms", quantile, &samples)
    };
    Ok(QUANTILES.map(figure).into())
}

/// Of a line such as `start in µs: create=210 files=80 program=900 record=1200`.
fn millis_to_program(line: &str) -> Option<f64> {
    let (head, steps) = line.split_once(" in µs: ")?;
    if !head.contains("start") {
        return None;
    }
    let mut micros = 0.0;
    for step in steps.split_whitespace() {
        let (name, took) = step.split_once('=')?;
        micros += took.parse::<f64>().ok()?;
        if name == "program" {
            return Some(micros / 1000.0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_counts_to_its_program() {
        let line = "2026 DEBUG cc_host::container::pace: start of a parked one in µs: create=210 files=90 program=700 record=5";
        assert_eq!(millis_to_program(line), Some(1.0));
        assert_eq!(millis_to_program("DEBUG end in µs: silence=3 program=4"), None);
        assert_eq!(millis_to_program("DEBUG start in µs: create=3"), None);
    }
}
