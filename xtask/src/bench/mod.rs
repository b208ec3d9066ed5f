//! Comparisons with others on this machine, alternated in one run because its timings are noisy. Refuses to judge: aims
//! are in PROMISES.md.

pub mod bpf;
mod cost;
mod density;
mod frames;
mod guard;
mod nat;
mod net;
mod packets;
mod pairs;
mod peers;
mod report;
pub mod rig;
mod rules;
mod seccomp;
mod shim;
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
    /// Out by the host's address and in by a published port, against MASQUERADE and DNAT of iptables and nftables
    Nat(nat::Options),
    /// Containers on netkit pairs against containers on veth pairs
    Pairs(pairs::Options),
    /// What the guard drops at the uplink in a second, against nftables with the same list
    Guard(guard::Options),
    /// Nanoseconds that the programs take for a packet
    Cost(cost::Options),
    /// From nothing to a finished container, against crun, runc and podman
    Start(start::Options),
    /// What many running containers take of memory and time, beside their own processes
    Density(density::Options),
    /// The memory of a container's shim, against podman's conmon
    Shim(shim::Options),
    /// The filter of system calls, as a tree, against seccompiler's list
    Seccomp(seccomp::Options),
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

/// Runs `work` as if inside that network namespace.
fn within<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        traffic::enter(netns)?;
        work()
    };
    // A thread of its own, so that ours stays where it is.
    std::thread::scope(|scope| scope.spawn(run).join()).map_err(|_| anyhow::anyhow!("the work has panicked"))?
}

pub fn run(root: &Path, which: Bench) -> Result<()> {
    if let Bench::Seccomp(options) = &which {
        // It needs neither root nor images.
        return seccomp::run(root, options);
    }
    if !is_root() {
        anyhow::bail!("benchmarks make namespaces and containers: run them as root (sudo -E cargo xtask bench …)");
    }
    let setup = match &which {
        Bench::Pairs(options) if options.vm.is_some() => setup::For::Kernels,
        _ => setup::For::Tests,
    };
    let as_built = matches!(&which, Bench::Pairs(options) if options.as_built);
    if !as_built {
        setup::run(root, setup)?;
    }
    match &which {
        Bench::Pairs(_) if as_built => {}
        Bench::Pairs(_) => drop(build::tested(root, build::Programs::Released, &[])?),
        Bench::Net(net::Options { common, .. })
        | Bench::Nat(nat::Options { common, .. })
        | Bench::Guard(guard::Options { common, .. })
            if common.peers => {}
        Bench::Start(start::Options { common, .. }) | Bench::Shim(shim::Options { common }) if common.peers => {
            build::images_only(root)?;
        }
        _ => build::run_with_images(root, Profile::Release)?,
    }
    interrupt::catch()?;
    match which {
        Bench::Nat(options) => nat::run(root, &options),
        Bench::Net(options) => net::run(root, &options),
        Bench::Guard(options) => guard::run(root, &options),
        Bench::Pairs(options) => pairs::run(root, &options),
        Bench::Cost(options) => cost::run(root, &options),
        Bench::Start(options) => start::run(root, &options),
        Bench::Shim(options) => shim::run(root, &options),
        Bench::Density(options) => density::run(root, &options),
        Bench::Seccomp(options) => seccomp::run(root, &options),
    }
}
