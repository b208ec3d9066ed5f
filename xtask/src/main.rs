//! `cargo xtask`: the one door to set-up, builds, tests, the demo and the benchmarks. Refuses to hold what a task does:
//! each is a file beside this one.

mod bench;
mod build;
mod build_ebpf;
mod conformance;
mod debian;
mod demo;
mod dist;
mod fuzz;
mod host;
mod interrupt;
mod mutate;
mod netns;
mod process;
mod regressions;
mod residue;
mod setup;
mod soak;
mod tally;
mod test;
mod tidy;
mod tools;
mod vm;
mod vold;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, eBPF build, tests, demo and benchmarks of Container cloud")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find, or install, what the build and the demo need; with --tests also what the tests need
    Setup {
        #[arg(long)]
        tests: bool,
    },
    /// Compile the eBPF object that cc-host embeds
    BuildEbpf,
    /// Make everything: the eBPF object, cc-host, its static cc-shim, cc-oci, and cc
    Build {
        /// Unoptimised, into target/debug
        #[arg(long)]
        debug: bool,
    },
    /// A Debian package of the release, in target/dist
    Dist(dist::Options),
    /// Two VPCs with the same CIDR, told in a dozen lines of real output; leaves nothing behind
    Demo,
    /// Everything CI checks: set-up, format, lints, licences, unit tests, then end-to-end as root
    Test(test::Options),
    /// Whatever bytes a stranger sends, made up by libFuzzer: every parser and decision that takes them, 20 seconds each
    Fuzz(fuzz::Options),
    /// What takes longer than CI has: more kills, more containers, fuzz targets for 10 minutes each; writes docs/soak.md
    Soak {
        /// Run only what starts with this, such as kill, churn, dist or fuzz; "fuzz NAME NAME" runs those targets
        which: Option<String>,
    },
    /// Switch each control of safety off, and require that its test fails; writes docs/mutations.md
    Mutate {
        /// Only this control, by its name in cc-host/src/mutation.rs
        which: Option<String>,
    },
    /// Ask of cc-oci, crun and runc what runtime-spec asks of a runtime; writes docs/oci-conformance.md
    Conformance {
        /// Only checks with this in their names; then nothing is written
        which: Option<String>,
    },
    /// Compare with others on this machine
    #[command(subcommand)]
    Bench(bench::Bench),
    /// The experiment with volumes in an object store, which no other task builds
    #[command(subcommand)]
    Vold(vold::Vold),
    /// Write the generated half of the API anew, after a change of cc-common/proto
    Proto,
    /// Sizes of files, and their opening lines
    Tidy,
    /// The traffic tool of `bench net`; the same for every peer
    #[command(hide = true)]
    Traffic(bench::traffic::Options),
    /// Where a clean Debian is, made if it is not there yet
    #[command(hide = true)]
    Debian,
    /// The first program of an emulated machine of `test --vm`
    #[command(hide = true)]
    Guest(vm::guest::Options),
}

fn main() -> ExitCode {
    if let Some(error) = build_ebpf::wrap() {
        eprintln!("xtask: cannot become the compiler: {error}");
        return ExitCode::FAILURE;
    }
    let root = root();
    let done = match Cli::parse().task {
        Task::Setup { tests } => setup::run(&root, if tests { setup::For::Tests } else { setup::For::Demo }),
        Task::BuildEbpf => build_ebpf::run(&root, build_ebpf::Layout::Own),
        Task::Build { debug } => build::run(&root, if debug { build::Profile::Debug } else { build::Profile::Release }),
        Task::Dist(options) => dist::run(&root, &options),
        Task::Demo => demo::run(&root),
        Task::Test(options) => test::run(&root, &options),
        Task::Fuzz(options) => fuzz::setup_and_run(&root, &options),
        Task::Soak { which } => soak::run(&root, which.as_deref()),
        Task::Mutate { which } => mutate::run(&root, which.as_deref()),
        Task::Conformance { which } => conformance::run(&root, which.as_deref()),
        Task::Bench(which) => bench::run(&root, which),
        Task::Vold(which) => vold::run(&root, &which),
        Task::Proto => build::proto(&root),
        Task::Tidy => tidy::run(&root),
        Task::Traffic(options) => bench::traffic::run(&options),
        Task::Debian => debian::root(&root).map(|dir| println!("{}", dir.display())),
        Task::Guest(options) => vm::guest::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository: xtask is always run by cargo from the tree it was built in.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}
