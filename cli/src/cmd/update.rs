//! `cc update`: other limits and another restart policy for containers that are there. Refuses to change anything else of them.

use cc_common::api::v1::UpdateRequest;
use clap::Args;

use super::Context;
use super::run::cpus;
use crate::error::{Failure, usage};
use crate::render::Ids;
use crate::size;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc update --memory 1GiB web\n  cc update --cpus 0 --restart always web db\n\n\
    In force at once where the container runs, and at each later start. 0 takes a limit back.")]
pub struct UpdateArgs {
    /// The most memory it may use, swap included; 0: as much as there is
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// CPU shares, where CPUs are short; 0: 1024
    #[arg(long, value_name = "SHARES")]
    cpu: Option<u32>,
    /// CPUs at most, also when others are idle; 0: all
    #[arg(long, value_name = "N", value_parser = cpus_or_none)]
    cpus: Option<u32>,
    /// The most processes; 0: the daemon's default
    #[arg(long, value_name = "N")]
    pids_limit: Option<u32>,
    /// Refused: a writable layer keeps its size
    #[arg(long, hide = true, value_name = "SIZE")]
    disk: Option<String>,
    /// no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "", hide_default_value = true)]
    restart: String,
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

fn cpus_or_none(text: &str) -> Result<u32, String> {
    if text == "0" { Ok(0) } else { cpus(text) }
}

pub async fn run(context: &Context, args: UpdateArgs) -> Result<i32, Failure> {
    let UpdateArgs { memory, cpu, cpus, pids_limit, disk, restart, ids } = args;
    if disk.is_some() {
        let fault = usage("cannot update --disk", "a writable layer keeps the size that its container was run with");
        return Err(fault.next("run another with --disk, or keep what grows in a volume: cc volume resize").into());
    }
    if (memory, cpu, cpus, pids_limit) == (None, None, None, None) && restart.is_empty() {
        let fault = usage("nothing to update", "no limit and no policy is named");
        return Err(fault.next("name one: --memory, --cpu, --cpus, --pids-limit or --restart").into());
    }
    let request =
        UpdateRequest { ids, memory_bytes: memory, cpu_shares: cpu, cpu_milli: cpus, pids_max: pids_limit, restart };
    let done = context.containers().await?.update(request).await?.into_inner();
    context.ui.show(&Ids(done.ids))?;
    Ok(0)
}
