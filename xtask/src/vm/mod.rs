//! `cargo xtask test --vm`: the end-to-end tests on Debian's kernels, each in an emulated machine with a pure cgroup v2. Refuses KVM: not
//! every machine has one that boots them, and what an emulated one finds does not depend on the host's kernel.
//!
//! In the order of a run: `kernel` (found and unpacked), `suites` (built), `initramfs` and `machine` (booted), inside it `guest` and `checks`,
//! which tell by `told`; then `report`.

mod checks;
pub mod guest;
mod initramfs;
mod kernel;
mod machine;
mod report;
mod suites;
mod told;
mod udev;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::kernel::{Kernel, Series};
pub use self::machine::virtiofsd;
use self::machine::{Machine, Threads};
use self::report::Outcome;
use self::suites::build;
pub use self::suites::{Choice, ONLY_HERE, once_more};
pub use self::told::With;
use self::told::{Plan, Suite, Told};
use crate::build::tested_dir;
use crate::interrupt;
use crate::tally::Tally;

/// The oldest that is supported, the newest that there is, and one that is refused.
const KERNELS: [&str; 3] = ["6.12", "newest", "6.1"];
/// Older ones are only asked for the words of the refusal; as `kernel/check.rs` of the daemon has it.
const SUPPORTED_FROM: (u64, u64) = (6, 12);
/// How much slower an emulated machine is, at worst.
const PATIENCE: u32 = 10;
const SUITE_LIMIT_SECONDS: u64 = 1800;
/// It says something in each round.
const BENCH_LIMIT_SECONDS: u64 = 3 * 60 * 60;
/// More than the limit of a file: the guest ends that itself, and says so.
const SILENCE_MAX: Duration = Duration::from_secs(SUITE_LIMIT_SECONDS + 120);

/// The release builds and the images are there already. An error is one of ours; what failed in a guest is in the answer.
pub fn run(
    root: &Path,
    kernels: &[String],
    choice: &Choice,
    with: Option<With>,
    seed: u64,
) -> Result<(Tally, Vec<String>)> {
    let kernels: Vec<&str> =
        if kernels.is_empty() { KERNELS.to_vec() } else { kernels.iter().map(String::as_str).collect() };
    let kernels = kernels.into_iter().map(Series::parse).collect::<Result<Vec<_>>>()?;
    let once_more = |with: With| suites::once_more(with).iter().map(move |&name| (name.to_owned(), Some(with)));
    let files: Vec<(String, Option<With>)> = match (choice, with) {
        (Choice::Required, Some(with)) => once_more(with).collect(),
        (Choice::One(name), None) if name == suites::NETKIT_ALONE => vec![(name.clone(), Some(With::Netkit))],
        (Choice::One(_), _) | (_, Some(_)) => choice.names(root)?.into_iter().map(|name| (name, with)).collect(),
        (_, None) => {
            let usual = choice.names(root)?.into_iter().map(|name| (name, None));
            usual.chain(With::ALL.into_iter().flat_map(once_more)).collect()
        }
    };
    let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    let mut suites = build(root, &names)?;
    suites.iter_mut().zip(&files).for_each(|(suite, (_, with))| suite.with = *with);
    let each = kernels.into_iter().map(|series| (series, suites.clone())).collect();
    on_each(root, each, seed, Run::Whole)
}

/// A part of what is required, within a quarter of an hour, on the oldest kernel, which lacks the most; and the refusal. Not on the newest: what
/// Debian brings out today is to break nothing that has not changed.
pub struct Brief(Vec<(Series, Vec<Suite>)>);

impl Brief {
    /// Builds and downloads all that it needs: once a machine runs, neither cargo nor a package manager changes the files that it reads.
    pub fn make(root: &Path) -> Result<Brief> {
        let names: Vec<String> = suites::BRIEFLY.iter().map(|(name, _)| (*name).to_owned()).collect();
        let built = build(root, &names)?;
        let [oldest, _, refused] = KERNELS;
        let (oldest, refused) = (Series::parse(oldest)?, Series::parse(refused)?);
        for series in [&oldest, &refused] {
            kernel::fetch(root, series)?;
        }
        Ok(Brief(vec![(oldest, suites::chosen(&built, suites::BRIEFLY)?), (refused, Vec::new())]))
    }

    pub fn run(self, root: &Path, seed: u64) -> Result<(Tally, Vec<String>)> {
        on_each(root, self.0, seed, Run::Brief)
    }
}

/// Of which of the two commands. A brief one must not fail but for what it tests, and docs/kernels.md is not to say what came of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Whole,
    Brief,
}

impl Run {
    fn threads(self) -> Threads {
        match self {
            Run::Whole => Threads::Each,
            Run::Brief => Threads::One,
        }
    }
}

fn on_each(root: &Path, kernels: Vec<(Series, Vec<Suite>)>, seed: u64, run: Run) -> Result<(Tally, Vec<String>)> {
    interrupt::catch()?;
    let (mut tally, mut failures) = (Tally::default(), Vec::new());
    for (series, suites) in &kernels {
        let kernel = kernel::fetch(root, series)?;
        let mut outcome = Outcome { release: kernel.release.clone(), ..Outcome::default() };
        let ended =
            plan(root, &kernel, suites, seed).and_then(|plan| boot(root, &kernel, plan, run.threads(), &mut outcome));
        tally += outcome.tally();
        failures.extend(outcome.failures().into_iter().map(|failure| format!("{}: {failure}", series.name())));
        // What was told is so, however it ended.
        if run == Run::Whole && !outcome.checks.is_empty() {
            write(root, series.name(), &outcome)?;
        }
        interrupt::check()?;
        if let Err(error) = ended {
            println!("{}: {error:#}", series.name());
            failures.push(format!("{}: {error:#}", series.name()));
        }
    }
    Ok((tally, failures))
}

/// This program with these arguments, in a machine of that kernel.
pub fn bench(root: &Path, kernel: &str, args: &[&str]) -> Result<()> {
    interrupt::catch()?;
    let kernel = kernel::fetch(root, &Series::parse(kernel)?)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let instead = Some((program, args.iter().map(|&arg| arg.to_owned()).collect()));
    let mut outcome = Outcome::default();
    boot(
        root,
        &kernel,
        Plan { instead, suite_limit_seconds: BENCH_LIMIT_SECONDS, ..plan(root, &kernel, &[], 0)? },
        Threads::Each,
        &mut outcome,
    )?;
    match outcome.failures().is_empty() {
        true => Ok(()),
        false => bail!("it failed in the machine"),
    }
}

fn plan(root: &Path, kernel: &Kernel, suites: &[Suite], seed: u64) -> Result<Plan> {
    Ok(Plan {
        tree: kernel.tree.clone(),
        bin_dir: tested_dir(root),
        root: root.to_owned(),
        seed,
        patience: PATIENCE,
        suite_limit_seconds: SUITE_LIMIT_SECONDS,
        refused: kernel.series() < SUPPORTED_FROM,
        suites: suites.to_vec(),
        clean: suites::clean(root, suites, &tested_dir(root))?,
        udev: if suites.iter().any(|suite| suite.with == Some(With::Udev)) {
            udev::packages(root)?
        } else {
            Vec::new()
        },
        instead: None,
    })
}

fn boot(root: &Path, kernel: &Kernel, plan: Plan, threads: Threads, outcome: &mut Outcome) -> Result<()> {
    println!("--- Linux {}", kernel.release);
    let dir = root.join("target/vm/run");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join("plan.json");
    std::fs::write(&path, serde_json::to_vec(&plan).context("cannot write a plan")?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let guest = std::env::current_exe().context("cannot find this program")?;
    let began = Instant::now();
    let mut machine = Machine::start(&dir, kernel, &initramfs::make(kernel, &guest, &path)?, threads)?;
    machine.listen(SILENCE_MAX, |told| {
        show(&told);
        outcome.hear(told);
    })?;
    println!("--- {} s with Linux {}", began.elapsed().as_secs(), kernel.release);
    Ok(())
}

fn show(told: &Told) {
    match told {
        Told::Output(line) => println!("    {line}"),
        Told::Check(check) => println!("{}: {}: {}", check.name, if check.ok { "yes" } else { "no" }, check.found),
        Told::Program(program) => {
            println!("{}: {} instructions, {} looked at", program.name, program.instructions, program.verified);
        }
        Told::Ran(ran) => {
            println!(
                "{}: {}; {} passed, {} failed, {} s",
                ran.suite,
                report::result(ran),
                ran.passed,
                ran.failed,
                ran.seconds
            );
        }
        Told::Done | Told::Failed(_) => {}
    }
}

fn write(root: &Path, name: &str, outcome: &Outcome) -> Result<()> {
    let path = root.join("docs/kernels.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = report::placed(&text, name, outcome);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
