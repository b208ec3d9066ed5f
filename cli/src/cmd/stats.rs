//! `cc stats`: what containers use, each second anew. Refuses to keep a history: that is what the metrics' listener is for.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::Duration;

use cc_common::api::v1::{ContainerIds, ListContainersRequest, Metrics};
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::View as _;
use crate::render::stats::{Stat, Stats};

const EVERY: Duration = Duration::from_secs(1);
/// To the first line and first column, and all behind it away.
const HOME: &str = "\x1b[H\x1b[J";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc stats\n  cc stats --once web db\n  cc stats --json web")]
pub struct StatsArgs {
    /// Once, after a second, instead of until stopped
    #[arg(long)]
    once: bool,
    /// Names or ids (default: all that run)
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: StatsArgs) -> Result<i32, Failure> {
    let mut client = context.containers().await?;
    let mut before: HashMap<String, Metrics> = HashMap::new();
    let mut first = true;
    loop {
        let ids = match args.ids.is_empty() {
            true => {
                let running = client.list(ListContainersRequest { all: false }).await?.into_inner().containers;
                running.into_iter().map(|container| container.id).collect()
            }
            false => args.ids.clone(),
        };
        let now = match client.metrics(ContainerIds { ids }).await {
            Ok(answer) => answer.into_inner().metrics,
            // One of those that ran has gone since they were listed: the next time it is not among them.
            Err(_) if args.ids.is_empty() && !first => Vec::new(),
            Err(status) => return Err(status.into()),
        };
        if !first {
            let stats = Stats(now.iter().map(|metrics| Stat::between(before.get(&metrics.id), metrics)).collect());
            if context.ui.json || context.ui.quiet || args.once || !stdout().is_terminal() {
                context.ui.show(&stats)?;
            } else {
                // Into one write, so that nothing flickers.
                let mut screen = HOME.as_bytes().to_vec();
                stats.print_into(&mut screen)?;
                stdout().write_all(&screen)?;
                stdout().flush()?;
            }
            if args.once {
                return Ok(0);
            }
        }
        first = false;
        before = now.into_iter().map(|metrics| (metrics.id.clone(), metrics)).collect();
        tokio::time::sleep(EVERY).await;
    }
}
