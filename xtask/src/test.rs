//! README's second command: everything CI checks, in the order in which it fails soonest. Refuses to count a skipped
//! end-to-end test as a good one.

mod report;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use self::report::Report;
use crate::build;
use crate::build_ebpf::Layout;
use crate::process::{cargo, is_root, run as run_command};
use crate::tally::{self, Tally};
use crate::{build_ebpf, fuzz, interrupt, residue, setup, tidy, tools, vm, vold};

/// Of each target: what a branch costs in CI. The soak has ten minutes.
const FUZZ_SECONDS: u64 = 20;
/// At a time, where nothing else runs.
const FUZZ_JOBS: usize = 2;

/// The file of tests that need another daemon.
const UPGRADES: &str = "upgrades_lose_no_flow";
/// Those that need a daemon that dies where it is told.
const CRASHES: [&str; 2] = ["volumes_survive_crashes", "disks_survive_crashes"];

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only the unit tests
    #[arg(long, conflicts_with = "e2e")]
    unit: bool,
    /// Only the end-to-end tests; with a name, only the file of that name
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    e2e: Option<String>,
    /// On Debian's kernels, each in an emulated machine: a series such as 6.12, or newest; without a name 6.12, newest and 6.1, which is
    /// refused. What is required of each, or one file with --e2e NAME; writes docs/kernels.md
    #[arg(long, value_name = "KERNEL", num_args = 0.., conflicts_with = "unit")]
    vm: Option<Vec<String>>,
    /// Every file that an emulated machine can run
    #[arg(long, requires = "vm", conflicts_with = "e2e")]
    all: bool,
    /// With netkit pairs as containers' interfaces
    #[arg(long, requires = "vm", conflicts_with = "briefly")]
    netkit: bool,
    /// With volumes in a thin pool of LVM's
    #[arg(long, requires = "vm", conflicts_with_all = ["briefly", "netkit"])]
    lvm: bool,
    /// With udev
    #[arg(long, requires = "vm", conflicts_with_all = ["briefly", "netkit", "lvm"])]
    udev: bool,
    /// A part of what is required, on the oldest kernel, and the refusal of an older one: within a quarter of an hour
    #[arg(long, requires = "vm", conflicts_with_all = ["e2e", "all"])]
    briefly: bool,
    /// With the programs and images as they were built last
    #[arg(long, requires = "vm")]
    as_built: bool,
    /// End-to-end tests of the programs as they are released; without it, of what is built beside their own tests, with every assertion
    #[arg(long, conflicts_with_all = ["unit", "as_built"])]
    as_released: bool,
}

impl Options {
    fn programs(&self) -> build::Programs {
        if self.as_released { build::Programs::Released } else { build::Programs::Checked }
    }
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    let seed = seed();
    println!("seed: CC_TEST_SEED={seed} (set it to repeat this run)");
    let mut report = Report::default();
    match (&options.e2e, options.unit) {
        _ if options.vm.is_some() => emulated(root, seed, options, &mut report)?,
        (None, true) => {
            setup::run(root, setup::For::Demo)?;
            build_ebpf::run(root, Layout::Own)?;
            unit(root, seed, Built::Quickly, &mut report);
        }
        (Some(name), _) => {
            setup::run(root, setup::For::Tests)?;
            let programs = programs(root, options.programs(), name, &mut report)?;
            end_to_end(root, seed, &programs, name, &mut report)?;
        }
        (None, false) => everything(root, seed, options.programs(), &mut report)?,
    }
    if !report.laps.is_empty() {
        println!("minutes: {}", report.laps.join(", "));
    }
    for failure in &report.failures {
        println!("failed: {failure}");
    }
    let Tally { passed, failed, skipped } = report.tally;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if report.failures.is_empty() { Ok(()) } else { bail!("failed: {}", report.failures.join(", ")) }
}

/// An emulated machine wants one processor for long, and end-to-end tests mostly wait: they run side by side.
fn everything(root: &Path, seed: u64, made: build::Programs, report: &mut Report) -> Result<()> {
    // What the machine needs, too: no package manager runs beside tests.
    report.lap("setup", |_| setup::run(root, setup::For::Kernels))?;
    report.lap("eBPF programs", |_| build_ebpf::run(root, Layout::Own))?;
    lints(root, report);
    report.lap("unit tests", |report| unit(root, seed, Built::AsReleased, report));
    let programs = programs(root, made, "", report)?;
    let brief = report.lap("another kernel's files", |report| {
        // A test packs the programs.
        report.step("cargo-deb", tools::install_cargo_deb(root).map(drop));
        vm::Brief::make(root)
    });
    std::thread::scope(|scope| {
        let emulated = scope.spawn(move || another_kernel(root, seed, brief));
        let tested = end_to_end(root, seed, &programs, "", report);
        if tested.is_ok() {
            report.lap("fuzzing", |report| fuzz(root, || emulated.is_finished(), report));
        }
        match emulated.join() {
            Ok(emulated) => report.add(emulated),
            Err(_) => report.failures.push("another kernel".to_owned()),
        }
        tested
    })
}

/// The oldest that is supported, briefly.
fn another_kernel(root: &Path, seed: u64, brief: Result<vm::Brief>) -> Report {
    let mut report = Report::default();
    report.lap("another kernel, meanwhile", |report| match brief.and_then(|brief| brief.run(root, seed)) {
        Ok(outcome) => report.emulated(outcome),
        Err(error) => report.step("another kernel", Err(error)),
    });
    report
}

/// From the environment, to repeat a run; else from the clock.
pub fn seed() -> u64 {
    let given = std::env::var("CC_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| u64::from(now.subsec_nanos()) | 1)
    })
}

fn lints(root: &Path, report: &mut Report) {
    report.step("fmt", run_command(cargo(root).args(["fmt", "--all", "--check"])));
    report.step("tidy", tidy::run(root));
    report.step("fmt of the kernel programs", run_command(kernel_programs(root).args(["fmt", "--check"])));
    // For the host: their compiler has no clippy, and only what is linked must be for BPF.
    let plain = ["clippy", "--quiet", "--", "-D", "warnings"];
    report.step("clippy of the kernel programs", run_command(kernel_programs(root).args(plain)));
    report.lap("licences", |report| match tools::install_cargo_deny(root) {
        Ok(deny) => licences(root, &deny, report),
        Err(error) => report.step("deny", Err(error)),
    });
    // Fuzz targets and the code that only other features have are linted where they are built.
    report.lap("lints, and the tests' build", |report| {
        let mut all = selected(root, Built::AsReleased, &["cc-common", "cli", "xtask", "cc-host", "tests"], "");
        all.args(["--no-run", "--quiet", "--lib", "--bins"])
            .args(vm::ONLY_HERE.iter().chain(&[vold::WIRED]).flat_map(|name| ["--test", name]));
        report.step("clippy, or the build", run_command(&mut all));
    });
}

/// Cargo in their own workspace.
fn kernel_programs(root: &Path) -> Command {
    let mut command = cargo(&root.join("cc-ebpf"));
    command.env("CARGO_TARGET_DIR", root.join("target/ebpf/lint"));
    command
}

/// The advisories' database is on a git host: where that cannot be reached, it is said and not counted.
fn licences(root: &Path, deny: &Path, report: &mut Report) {
    let mut check = Command::new(deny);
    report.step(
        "deny",
        run_command(check.current_dir(root).args(["--log-level", "error", "check", "licenses", "bans", "sources"])),
    );
    if !crate::process::reachable("github.com", 443) {
        println!("advisories: not reachable, not checked");
        return;
    }
    let mut check = Command::new(deny);
    report
        .step("advisories", run_command(check.current_dir(root).args(["--log-level", "error", "check", "advisories"])));
}

/// Of what dependencies tests are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Built {
    /// Whoever edits builds for debugging anyway.
    Quickly,
    /// Those of the programs that are tested, which are compiled anyway.
    AsReleased,
}

/// Everything that needs no root: what is beside the code, and the test files of the crates other than the daemon.
fn unit(root: &Path, seed: u64, built: Built, report: &mut Report) {
    let mut command = selected(root, built, &["cc-common", "cli", "xtask"], "");
    command.args(["--lib", "--bins", "--quiet"]);
    report.tests("unit", tally::run(seeded(&mut command, seed), ""));
}

/// Always the whole workspace with test files by name: a choice of packages would choose other features of what they share,
/// and compile that again.
fn selected(root: &Path, built: Built, crates: &[&str], name: &str) -> Command {
    let mut command = cargo(root);
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if built == Built::AsReleased {
        build::checked(&mut command);
    }
    for file in crates.iter().flat_map(|dir| files(root, dir)).filter(|file| name.is_empty() || file == name) {
        command.arg("--test").arg(file);
    }
    command
}

/// The names of a crate's test files.
pub fn files(root: &Path, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(dir).join("tests")).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        file.strip_suffix(".rs").map(str::to_owned).or_else(|| entry.path().join("main.rs").is_file().then_some(file))
    };
    let mut names: Vec<String> = entries.filter_map(name).collect();
    names.sort();
    names
}

pub fn seeded(command: &mut Command, seed: u64) -> &mut Command {
    let seed = seed.to_string();
    command.env("CC_TEST_SEED", &seed).env("PROPTEST_RNG_SEED", &seed)
}

/// What the end-to-end tests of that name run, and where it is; all of them if it is empty.
fn programs(root: &Path, made: build::Programs, name: &str, report: &mut Report) -> Result<PathBuf> {
    if !is_root() {
        bail!(
            "the end-to-end tests make namespaces, mounts and eBPF programs: run them as root (sudo -E cargo xtask test --e2e)"
        );
    }
    if suites(root, name).is_empty() {
        bail!(
            "no test file is named {name}; there are {}",
            [files(root, "tests"), files(root, "cc-host")].concat().join(", ")
        );
    }
    let others = others(|file| name.is_empty() || name == file);
    report.lap("programs", |_| build::tested(root, made, &others))
}

/// Nothing is built by then: an emulated machine that runs beside them reads target/. Of what a machine makes, nothing has a name by which tests'
/// residue is known: it is in the guest, but for a directory in target/, qemu and virtiofsd.
fn end_to_end(root: &Path, seed: u64, programs: &Path, name: &str, report: &mut Report) -> Result<()> {
    let before = residue::now();
    let mut skipped = 0;
    for (label, mut command) in suites(root, name) {
        command.env("CC_BIN_DIR", programs).env("CC_NO_SKIP", "1");
        // Who packs them.
        if let Ok(own) = std::env::current_exe() {
            command.env("CC_XTASK", own);
        }
        let outcome = report.lap(&format!("end to end, {label}"), |_| tally::run(seeded(&mut command, seed), ""));
        skipped += outcome.as_ref().map_or(0, |outcome| outcome.tally.skipped);
        report.tests(label, outcome);
        // While a machine runs, a signal ends nothing by itself.
        interrupt::check()?;
    }
    // Every end-to-end test is a required one: a machine that cannot run it cannot vouch for it.
    if skipped > 0 {
        report.step("e2e", Err(anyhow::anyhow!("{skipped} required tests were skipped")));
    }
    let left: Vec<String> = residue::now().difference(&before).cloned().collect();
    if !left.is_empty() {
        report.step("residue", Err(anyhow::anyhow!("left behind: {}", left.join(", "))));
    }
    Ok(())
}

/// What those of these files that run need.
fn others(runs: impl Fn(&str) -> bool) -> Vec<build::Other> {
    let all = [(&[UPGRADES][..], build::Other::Next), (&CRASHES[..], build::Other::Faults)];
    all.into_iter().filter(|(files, _)| files.iter().any(|file| runs(file))).map(|(_, other)| other).collect()
}

/// On other kernels; each failure in a guest counts as one test's.
fn emulated(root: &Path, seed: u64, options: &Options, report: &mut Report) -> Result<()> {
    let choice = match (options.e2e.as_deref(), options.all) {
        (Some(name), _) if !name.is_empty() => vm::Choice::One(name.to_owned()),
        (_, true) => vm::Choice::All,
        (_, false) => vm::Choice::Required,
    };
    if !is_root() {
        bail!("an emulated machine has this one's files, root's too: run it as root (sudo -E cargo xtask test --vm)");
    }
    setup::run(root, setup::For::Kernels)?;
    if !options.as_built {
        let mut names = choice.names(root)?;
        if choice == vm::Choice::Required {
            names.extend(vm::With::ALL.into_iter().flat_map(vm::once_more).map(|&name| name.to_owned()));
        }
        build::tested(root, options.programs(), &others(|file| names.iter().any(|name| name == file)))?;
    }
    let asked = [(options.netkit, vm::With::Netkit), (options.lvm, vm::With::Lvm), (options.udev, vm::With::Udev)];
    let with = asked.into_iter().find_map(|(is_asked, with)| is_asked.then_some(with));
    report.emulated(match options.briefly {
        true => vm::Brief::make(root)?.run(root, seed)?,
        false => vm::run(root, options.vm.as_deref().unwrap_or_default(), &choice, with, seed)?,
    });
    Ok(())
}

/// Each target counts as a test. Whether nothing else runs is asked when they are built.
fn fuzz(root: &Path, is_alone: impl FnOnce() -> bool, report: &mut Report) {
    let built = fuzz::Built::make(root, &[], fuzz::Coverage::Ours);
    let jobs = if is_alone() { FUZZ_JOBS } else { 1 };
    match built.and_then(|built| built.run(root, FUZZ_SECONDS, jobs)) {
        Ok(ran) => {
            for ran in ran {
                match ran.found {
                    None => report.tally.passed += 1,
                    Some(_) => {
                        report.tally.failed += 1;
                        report.failures.push(ran.to_string());
                    }
                }
            }
        }
        Err(error) => report.step("fuzz", Err(error)),
    }
}

/// The daemon's own test files, which make kernel objects, then one file per promise.
fn suites(root: &Path, name: &str) -> Vec<(&'static str, Command)> {
    let wanted = |dir: &&str| files(root, dir).iter().any(|file| name.is_empty() || file == name);
    let labels = ["cc-host", "tests"].into_iter().filter(wanted);
    labels.map(|dir| (dir, selected(root, Built::AsReleased, &[dir], name))).collect()
}
