//! `cargo xtask conformance`: what runtime-spec asks of a runtime on Linux, asked of cc-oci, crun and runc alike, each check in a bundle of its own. Writes
//! docs/oci-conformance.md. Refuses to let pass what cc-oci fails and another does: that is an error, unless its reason stands below.
//!
//! The checks have the names of the programs of opencontainers/runtime-tools (validation/) that ask the same, and some more.

mod cgroups;
mod config;
mod lifecycle;
mod namespaces;
mod rig;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::build::{self, Profile};
use crate::netns::Netns;
use crate::process::{is_root, output, which};
use crate::residue::{self, PREFIX};
use crate::setup;
use rig::Rig;

/// What cc-oci fails and another passes, and why that stays so.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// Behind cc-oci on each layout.
const OTHERS: usize = 3;

const PAGE: &str = "docs/oci-conformance.md";

/// Which of this machine's cgroup hierarchies a runtime is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Own,
    V1,
    V2,
}

pub struct Check {
    name: &'static str,
    run: fn(&Rig<'_>) -> Result<()>,
}

const fn check(name: &'static str, run: fn(&Rig<'_>) -> Result<()>) -> Check {
    Check { name, run }
}

/// A runtime, and the mounts that it is shown.
pub struct Contender {
    title: &'static str,
    /// In ids and names of directories.
    tag: &'static str,
    program: PathBuf,
    layout: Layout,
    netns: Option<String>,
}

impl Contender {
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.netns.iter().map(|path| format!("--net={path}"))).arg("--");
        let others = match self.layout {
            Layout::Own => None,
            Layout::V1 => {
                Some("for m in $(grep cgroup2 /proc/mounts | cut -d ' ' -f 2); do umount -l $m || exit 1; done")
            }
            Layout::V2 => Some("umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"),
        };
        if let Some(others) = others {
            let script = format!("{others}; exec \"$@\"");
            command.args(["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]);
        }
        command.arg(&self.program);
        command
    }

    fn version(&self) -> String {
        let said = output(Command::new(&self.program).arg("--version"));
        said.unwrap_or_else(|error| format!("{error:#}")).lines().next().unwrap_or_default().to_owned()
    }
}

pub fn run(root: &Path, which: Option<&str>) -> Result<()> {
    ensure!(is_root(), "containers need root");
    setup::run(root, setup::For::Tests)?;
    // As for tests: where somebody has built it already.
    let bin_dir = std::env::var_os("CC_BIN_DIR").map(PathBuf::from);
    if bin_dir.is_none() {
        build::oci(root, Profile::Release)?;
    }
    let own = bin_dir.unwrap_or_else(|| Profile::Release.bin_dir(root)).join("cc-oci");
    crate::interrupt::catch()?;
    let before = residue::now();
    let netns = Netns::make("conformance")?;
    let contenders = contenders(own, &netns)?;
    let dir = std::env::temp_dir().join(format!("{PREFIX}-conformance-{}", std::process::id()));
    let results = template(&dir).and_then(|template| ask_all(&contenders, &dir, &template, which));
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    let results = results?;
    let page = page(&contenders, &results)?;
    println!("{page}");
    if which.is_none() {
        let file = root.join(PAGE);
        std::fs::write(&file, &page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    drop(netns);
    let left: Vec<String> = residue::now().difference(&before).cloned().collect();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    judge(&results)
}

fn contenders(own: PathBuf, netns: &Netns) -> Result<Vec<Contender>> {
    let there = |name: &str| which(name).with_context(|| format!("{name} is not installed"));
    let netns = Some(netns.path().display().to_string());
    let of = |title, tag, program, layout| Contender { title, tag, program, layout, netns: netns.clone() };
    Ok(vec![
        of("cc-oci", "cc", own.clone(), Layout::Own),
        of("cc-oci, v1 alone", "cc1", own.clone(), Layout::V1),
        of("cc-oci, v2 alone", "cc2", own, Layout::V2),
        of("crun, v2 alone", "crun", there("crun")?, Layout::V2),
        of("runc", "runc", there("runc")?, Layout::Own),
    ])
}

/// A root file system of busybox.
fn template(dir: &Path) -> Result<PathBuf> {
    let template = dir.join("template");
    for name in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        std::fs::create_dir_all(template.join(name)).context("cannot make a root file system")?;
    }
    let busybox = which("busybox").context("busybox is not installed")?;
    std::fs::copy(&busybox, template.join("bin/busybox")).context("cannot copy busybox")?;
    for name in output(Command::new(&busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", template.join("bin").join(name)).context("cannot make a link")?;
    }
    Ok(template)
}

/// By check, one for each contender.
type Results = Vec<(&'static str, Vec<Result<(), String>>)>;

fn ask_all(contenders: &[Contender], dir: &Path, template: &Path, which: Option<&str>) -> Result<Results> {
    let mut results = Results::new();
    let checks = [lifecycle::CHECKS, config::CHECKS, namespaces::CHECKS, cgroups::CHECKS].into_iter().flatten();
    for check in checks.filter(|check| which.is_none_or(|which| check.name.contains(which))) {
        let mut row = Vec::new();
        for contender in contenders {
            crate::interrupt::check()?;
            let rig = Rig::new(contender, &dir.join(contender.tag), template, check.name)?;
            row.push((check.run)(&rig).map_err(|error| format!("{error:#}")));
        }
        let shown: Vec<&str> = row.iter().map(|result| if result.is_ok() { "ok" } else { "not ok" }).collect();
        println!("{}: {}", check.name, shown.join(", "));
        results.push((check.name, row));
    }
    Ok(results)
}

fn page(contenders: &[Contender], results: &Results) -> Result<String> {
    // What its builder calls it says nothing to anybody else.
    let kernel = output(Command::new("uname").arg("-r"))?;
    let mut text = format!(
        "# Conformance of `cc-oci`\n\nWritten by `cargo xtask conformance` on {}, Linux {}. A check has the name of the program of \
         opencontainers/runtime-tools that asks the same, where there is one; the checks themselves are in xtask/src/conformance. *v1 alone* and *v2 alone*: \
         the runtime sees those hierarchies of a hybrid machine and no others; what its v2 tree has no controller for fails on v2 alone.\n\n",
        output(Command::new("sh").args(["-c", ". /etc/os-release; printf %s \"$PRETTY_NAME\""]))?,
        kernel.trim().split('-').next().unwrap_or_default(),
    );
    for contender in contenders {
        text += &format!("- {}: {}\n", contender.title, contender.version());
    }
    let titles: Vec<&str> = contenders.iter().map(|contender| contender.title).collect();
    text += &format!("\n| check | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, row) in results {
        let cells: Vec<&str> = row.iter().map(|result| if result.is_ok() { "ok" } else { "**not ok**" }).collect();
        text += &format!("| {name} | {} |\n", cells.join(" | "));
        for (contender, result) in contenders.iter().zip(row) {
            if let Err(error) = result {
                let line = error.lines().map(str::trim).collect::<Vec<_>>().join(" ");
                let short: String = line.chars().take(220).collect();
                reasons.entry(name).or_default().push(format!("{}: {}", contender.title, short.replace('`', "'")));
            }
        }
    }
    let count = |at: usize| results.iter().filter(|(_, row)| row[at].is_ok()).count();
    let counts: Vec<String> = (0..contenders.len()).map(|at| format!("{} of {}", count(at), results.len())).collect();
    text += &format!("| **all** | {} |\n", counts.join(" | "));
    if !reasons.is_empty() {
        text += "\n## What is not ok\n\n";
        for (name, all) in reasons {
            text += &format!("- {name}\n{}", all.iter().map(|one| format!("    - {one}\n")).collect::<String>());
        }
    }
    if !EXCEPTIONS.is_empty() {
        text += "\n## What cc-oci does otherwise\n\n";
        text += &EXCEPTIONS.iter().map(|(name, why)| format!("- {name}: {why}\n")).collect::<String>();
    }
    Ok(text)
}

/// The first contender is ours on this machine's own layout.
fn judge(results: &Results) -> Result<()> {
    let is_explained = |name: &str| EXCEPTIONS.iter().any(|(known, _)| *known == name);
    let worse = results
        .iter()
        .filter(|(name, row)| row[0].is_err() && row[OTHERS..].iter().any(Result::is_ok) && !is_explained(name));
    let names: Vec<&str> = worse.map(|(name, _)| *name).collect();
    if names.is_empty() { Ok(()) } else { bail!("others pass what cc-oci fails: {}", names.join(", ")) }
}
