//! `cargo xtask fuzz`: builds the fuzz targets as cargo-fuzz does, but that no nightly compiler and no sanitizer is needed, and runs them for
//! a while each. Refuses to call a target good that found anything: the input is kept, and the command that repeats it is named.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::build::{self, Profile};
use crate::process::{ask, cargo, nicely, run as run_command, shown};
use crate::{build_ebpf, interrupt, setup};

/// What instruments code so that libFuzzer sees which branches an input takes, and what was compared with what.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0";
/// What is instrumented.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// Our own code: its dependencies are those of the tests and the programs, and are not compiled again.
    Ours,
    /// All of it, so that an input that takes another branch in a parser of somebody else's is kept too.
    All,
}

/// Adds the flags to what they are for: see there.
const WRAPPER: &str = "tests/fuzz/rustc-with-coverage";
/// What each packet and each byte goes through.
const FAST: &[&str] = &["cc-common", "fuzz", "programs"];

/// What takes longer for one input is a finding.
const INPUT_SECONDS_MAX: u32 = 10;
const INPUT_BYTES_MAX: u32 = 4096;
/// Lines of a target's output that are shown when it fails.
const SHOWN_LINES: usize = 60;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How many run at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Only our own code tells which way it went, as in CI
    #[arg(long)]
    ours: bool,
    /// Only these; all without
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

impl Options {
    /// Those targets, all if none is named; that many at a time.
    pub fn of(targets: Vec<String>, seconds: u64, jobs: usize) -> Self {
        Options { seconds, jobs, ours: false, targets }
    }
}

/// What a target came to.
pub struct Ran {
    pub target: String,
    pub executions: u64,
    pub seconds: u64,
    /// Why it is not clean, with what repeats it.
    pub found: Option<String>,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ran { target, executions, seconds, found } = self;
        let end = found.as_deref().unwrap_or("clean");
        write!(f, "fuzz {target}: {executions} executions in {seconds} s, {end}")
    }
}

pub fn setup_and_run(root: &Path, options: &Options) -> Result<()> {
    setup::run(root, setup::For::Tests)?;
    build_ebpf::run(root, build_ebpf::Layout::Own)?;
    run(root, options)
}

fn run(root: &Path, options: &Options) -> Result<()> {
    let ran = all(root, options, if options.ours { Coverage::Ours } else { Coverage::All })?;
    let crashes = ran.iter().filter(|ran| ran.found.is_some()).count();
    for ran in &ran {
        println!("{ran}");
    }
    println!("{} targets, {crashes} crashes", ran.len());
    if crashes > 0 { bail!("{crashes} fuzz targets are not clean") } else { Ok(()) }
}

/// Builds them and runs each, in the order of their names.
pub fn all(root: &Path, options: &Options, coverage: Coverage) -> Result<Vec<Ran>> {
    Built::make(root, &options.targets, coverage)?.run(root, options.seconds, options.jobs)
}

/// Targets that only have to be run.
pub struct Built {
    programs: PathBuf,
    targets: Vec<String>,
}

impl Built {
    /// Those targets, all if none is named.
    pub fn make(root: &Path, named: &[String], coverage: Coverage) -> Result<Built> {
        let known = targets(root)?;
        let unknown: Vec<&str> = named.iter().map(String::as_str).filter(|name| !known.contains(*name)).collect();
        if !unknown.is_empty() {
            bail!("no fuzz target is named {}; there are {}", unknown.join(", "), Vec::from_iter(known).join(", "));
        }
        let targets = known.into_iter().filter(|name| named.is_empty() || named.contains(name)).collect();
        let programs = match coverage {
            Coverage::Ours => build_ours(root)?,
            Coverage::All => build_all(root)?,
        };
        Ok(Built { programs, targets })
    }

    /// That many at a time.
    pub fn run(self, root: &Path, seconds: u64, jobs: usize) -> Result<Vec<Ran>> {
        let left = Mutex::new(self.targets.into_iter());
        let done = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(target) = next else { return };
                        let ran = one(root, &self.programs, &target, seconds);
                        done.lock().unwrap_or_else(PoisonError::into_inner).push(ran);
                    }
                });
            }
        });
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut ran = done.into_iter().collect::<Result<Vec<_>>>()?;
        ran.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(ran)
    }
}

/// A file each.
pub fn targets(root: &Path) -> Result<std::collections::BTreeSet<String>> {
    let dir = root.join("tests/fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".rs").map(str::to_owned)
    });
    Ok(names.collect())
}

/// Gives the directory of the programs. As nice as an emulated machine that may run beside it: that would stand still meanwhile. What it writes is
/// beside what such a machine reads, and nothing of that: cargo names what a wrapper compiles by the wrapper, too.
fn build_ours(root: &Path) -> Result<PathBuf> {
    let mut command = cargo(root);
    command.args(["build", "-p", "fuzz", "--bins"]);
    build::checked(&mut command);
    for name in FAST {
        command.arg("--config").arg(format!("profile.release.package.{name}.opt-level=3"));
    }
    command.env("RUSTC_WORKSPACE_WRAPPER", root.join(WRAPPER)).env("CC_COVERAGE_FLAGS", COVERAGE);
    run_command(&mut nicely(&command))?;
    Ok(Profile::Release.bin_dir(root))
}

/// Likewise. For a target that is named, cargo keeps the flags from build scripts and macros, which run here and would miss what the
/// coverage calls.
fn build_all(root: &Path) -> Result<PathBuf> {
    let version = ask("rustc", &["-vV"]).context("there is no rustc on PATH")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not say its host")?;
    let mut command = cargo(root);
    command.args(["build", "--profile", "fuzz", "-p", "fuzz", "--bins", "--target", host]);
    command.args(["--target-dir", "target/fuzz"]).env("RUSTFLAGS", COVERAGE);
    run_command(&mut command)?;
    Ok(root.join("target/fuzz").join(host).join("fuzz"))
}

/// What it finds worth keeping goes to a corpus in target/, which the next run begins with, beside the committed one.
fn one(root: &Path, programs: &Path, target: &str, seconds: u64) -> Result<Ran> {
    interrupt::check()?;
    let (corpus, artifacts) =
        (root.join("target/fuzz/corpus").join(target), root.join("target/fuzz/found").join(target));
    for dir in [&corpus, &artifacts] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let mut command = Command::new(programs.join(target));
    command.args([&corpus, &root.join("tests/fuzz/corpus").join(target)]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}")).args([
        "-print_final_stats=1",
        "-verbosity=0",
        "-rss_limit_mb=2048",
    ]);
    eprintln!("+ {}", shown(&command));
    let mut child = command
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(&command)))?;
    let said = child.stderr.take().context("the target's output was not piped")?;
    let mut lines = Vec::new();
    for line in BufReader::new(said).split(b'\n') {
        lines.push(String::from_utf8_lossy(&line.context("cannot read the target's output")?).into_owned());
    }
    let status = child.wait().context("cannot wait for the target")?;
    let number = |name: &str| lines.iter().rev().find_map(|line| stat(line, name)).unwrap_or(0);
    let executions = number("number_of_executed_units");
    // A target that has run nothing has shown nothing.
    let found = (!status.success() || executions == 0).then(|| {
        for line in lines.iter().rev().take(SHOWN_LINES).rev() {
            eprintln!("{line}");
        }
        let kept = lines.iter().find_map(|line| line.split_once("Test unit written to ").map(|(_, file)| file.trim()));
        match kept {
            Some(file) => format!("FOUND; repeat it by: {} {file}", programs.join(target).display()),
            None => format!("FAILED: {status}"),
        }
    });
    let ran = Ran { target: target.to_owned(), executions, seconds, found };
    eprintln!("{ran}");
    Ok(ran)
}

/// `stat::number_of_executed_units: 12345`
fn stat(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_of_what_a_target_says() {
        assert_eq!(stat("stat::number_of_executed_units: 5123", "number_of_executed_units"), Some(5123));
        assert_eq!(stat("stat::average_exec_per_sec:     170", "number_of_executed_units"), None);
        assert_eq!(stat("number_of_executed_units: 1", "number_of_executed_units"), None);
    }
}
