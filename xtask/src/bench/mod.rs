//! Comparisons with others on this machine, alternated in one run because its timings are noisy. Refuses to judge: aims
//! are in PROMISES.md.

mod nat;
mod net;
mod packets;
mod peers;
mod report;
pub mod rig;
mod start;
pub mod traffic;

use std::path::Path;

use anyhow::Result;

use crate::build::{self, Profile};
use crate::process::is_root;
use crate::{interrupt, setup};

#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Throughput, packets and transactions between two containers, against veth and bridges with iptables rules
    Net(net::Options),
    /// Out by the host's address and in by a published port, against iptables' MASQUERADE and DNAT
    Nat(nat::Options),
    /// From nothing to a finished container, against crun, runc and podman
    Start(start::Options),
}

/// What every benchmark takes.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// How often everyone has a turn
    #[arg(long)]
    rounds: Option<usize>,
    #[arg(long)]
    json: bool,
    /// Measure the others only
    #[arg(long)]
    peers: bool,
}

pub fn run(root: &Path, which: Bench) -> Result<()> {
    if !is_root() {
        anyhow::bail!("benchmarks make namespaces and containers: run them as root (sudo -E cargo xtask bench …)");
    }
    setup::run(root, setup::For::Tests)?;
    match &which {
        Bench::Net(net::Options { common, .. }) | Bench::Nat(nat::Options { common, .. }) if common.peers => {}
        Bench::Start(options) if options.common.peers => build::images_only(root)?,
        _ => build::run_with_images(root, Profile::Release)?,
    }
    interrupt::catch()?;
    match which {
        Bench::Nat(options) => nat::run(root, &options),
        Bench::Net(options) => net::run(root, &options),
        Bench::Start(options) => start::run(root, &options),
    }
}
