//! A further program in a container that runs, ours beside crun's. Refuses to count how that container was started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Contender, Ours, compare, quantiles};
use crate::bench::peers::{self, CgroupV2Thread, Dir};
use crate::bench::report::{Figure, OURS};
use crate::process::output;

pub fn figures(ours: &Ours, dir: &Dir, layout: &Path, aside: &CgroupV2Thread, rounds: usize) -> Result<Vec<Figure>> {
    let id = output(&mut ours.run(&["-d"], &["sleep", "1000"]))?;
    let id = id.trim();
    let crun = Crun::start(dir, layout, aside)?;
    let exec = |_| {
        let mut command = ours.host.cc();
        command.args(["exec", id, "true"]);
        command
    };
    let contenders = [
        Contender { name: OURS, setup: "cc exec ID true".to_owned(), turn: Box::new(exec), in_cgroup_v2: false },
        Contender {
            name: "crun",
            setup: "crun exec ID true, of a container without a network".to_owned(),
            turn: Box::new(|_| crun.command(&["exec", &crun.id, "true"])),
            in_cgroup_v2: true,
        },
    ];
    let figures = quantiles("`true` in one that runs", &compare(&contenders, aside, rounds)?, &contenders);
    output(ours.host.cc().args(["rm", "-f", id]))?;
    Ok(figures)
}

/// A container of crun's, which goes with its guard.
struct Crun<'a> {
    state: PathBuf,
    id: String,
    aside: &'a CgroupV2Thread,
}

impl<'a> Crun<'a> {
    fn start(dir: &Dir, layout: &Path, aside: &'a CgroupV2Thread) -> Result<Crun<'a>> {
        let bundle = peers::bundle_of(dir, layout, "bundle-sleep", &["sleep", "1000"])?;
        let id = format!("cct-crun-exec-{}", std::process::id());
        let crun = Crun { state: dir.path().join("crun"), id, aside };
        let mut run = Command::new("sh");
        // What it leaves running keeps its streams, and whoever waits for their end would wait for that.
        run.args(["-c", "exec \"$@\" > /dev/null 2>&1", "sh", "crun", "--root"]).arg(&crun.state);
        run.args(["run", "--detach", "--bundle"]).arg(&bundle).arg(&crun.id);
        aside.time(run)?;
        Ok(crun)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("crun");
        command.arg("--root").arg(&self.state).args(args);
        command
    }
}

impl Drop for Crun<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.aside.time(self.command(&["delete", "--force", &self.id])) {
            eprintln!("xtask: cannot remove crun's container: {error:#}");
        }
    }
}
