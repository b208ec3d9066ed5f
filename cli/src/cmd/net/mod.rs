//! `cc net`: what the datapath does with the packets of containers. Refuses to change anything.

mod drops;
mod flows;
mod inspect;

use clap::{Args, Subcommand};

use super::Context;
use crate::error::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc net flows\n  cc net drops --watch web")]
pub struct NetArgs {
    #[command(subcommand)]
    command: NetCommand,
}

#[derive(Debug, Subcommand)]
enum NetCommand {
    /// List conversations: both ends, state, traffic, and the rules that allowed them
    Flows(flows::FlowsArgs),
    /// Show what was dropped and why: counted, or packet by packet
    Drops(drops::DropsArgs),
    /// Show everything that is attached, pinned and mapped for a container
    Inspect(inspect::InspectArgs),
}

pub async fn run(context: &Context, args: NetArgs) -> Result<i32, Failure> {
    match args.command {
        NetCommand::Flows(args) => flows::run(context, args).await,
        NetCommand::Drops(args) => drops::run(context, args).await,
        NetCommand::Inspect(args) => inspect::run(context, args).await,
    }
}
