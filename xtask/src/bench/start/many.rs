//! Many containers at a time, each by a command of its own, while those before them run. Refuses to stop any before the last was started.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::Ours;
use crate::bench::report::Figure;
use crate::interrupt;
use crate::process::{output, shown};

pub fn figures(hosts: &[(&str, &Ours)], parallel: usize, batches: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for batch in 0..batches {
        let mut samples = BTreeMap::new();
        for (name, ours) in hosts {
            interrupt::check()?;
            let rate = start_at_once(parallel, || ours.run(&["-d"], &["sleep", "1000"]))?;
            samples.insert((*name).to_owned(), vec![rate]);
            rates.entry(name).or_default().push(rate);
        }
        let what = format!("{parallel} at once, beside {} that run", batch * parallel);
        let mut figure = Figure::from_samples(&what, "containers/s", 0.5, &samples);
        let setup =
            |name: &&str| ((*name).to_owned(), format!("{parallel} times cc run -d, with network, rules and limits"));
        figure.setup = hosts.iter().map(|(name, _)| setup(name)).collect();
        figures.push(figure);
    }
    let slope: BTreeMap<String, Vec<f64>> = rates
        .iter()
        .filter_map(|(name, rates)| Some(((*name).to_owned(), vec![rates.last()? / rates.first()?])))
        .collect();
    figures.push(Figure::from_samples("the last so many against the first", "×", 0.5, &slope));
    for (_, ours) in hosts {
        let all = output(ours.host.cc().args(["ps", "-q"]))?;
        output(ours.host.cc().args(["rm", "-f"]).args(all.split_whitespace()))?;
    }
    Ok(figures)
}

/// In a second.
fn start_at_once(count: usize, command: impl Fn() -> Command) -> Result<f64> {
    let began = Instant::now();
    let mut children: Vec<(Child, String)> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut command = command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let name = shown(&command);
        children.push((command.spawn().with_context(|| format!("cannot start {name}"))?, name));
    }
    for (mut child, name) in children {
        let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
        ensure!(status.success(), "{name}: {status}");
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
