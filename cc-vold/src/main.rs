//! The program: refuses to serve anything without `--experimental`, and ends with a code that says how it ended.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use cc_vold::args::{Cli, Command};
use cc_vold::remove::remove;
use cc_vold::said;
use cc_vold::serve::{End, serve};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

const NOT_SAFE_YET: &str = "this is an experiment, and refuses to work without --experimental. Not safe yet:
  - a host without memory: the kernel may wait for this program to write, and this program for memory; not tested
  - the object store is believed: what it acknowledged is not read back, and bytes are not encrypted before they go there
  - the formats of SlateDB 0.18 and of this program may change, and nothing converts them
  - nothing makes a volume larger, or takes a snapshot of it
See docs/design/persistent-volumes.md.";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("CC_VOLD_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(said::stderr).init();
    if !cli.experimental {
        eprintln!("cc-vold: {NOT_SAFE_YET}");
        return ExitCode::FAILURE;
    }
    // Before there are other threads, which have it of this one.
    if let Err(error) = cc_vold::sys::become_io_flusher() {
        tracing::warn!(%error, "without CAP_SYS_RESOURCE a host that is short of memory may come to a halt");
    }
    match run(cli.command) {
        Ok(End::Unmounted | End::Removed) => ExitCode::SUCCESS,
        Ok(End::Failed(failure)) => {
            eprintln!("cc-vold: {failure}");
            ExitCode::from(failure.exit_code())
        }
        Err(error) => {
            eprintln!("cc-vold: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<End> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let end = match command {
        Command::Serve(args) => runtime.block_on(serve(&args))?,
        Command::Remove(args) => runtime.block_on(remove(&args)).map(|()| End::Removed)?,
    };
    // What still waits for the store after a failure is not waited for.
    runtime.shutdown_background();
    Ok(end)
}
