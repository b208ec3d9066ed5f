//! `cc net`: what the datapath does with the packets of containers. Refuses to change anything, but for
//! what `doctor --fix` does.

pub mod doctor;
mod drops;
mod flows;
mod inspect;
mod log;
pub mod why;

use clap::{Args, Subcommand};

use super::Context;
use crate::error::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc net flows\n  cc net drops --watch web\n  cc net why web internet:443")]
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
    /// Show what rules with --log have decided
    Log(log::LogArgs),
    /// Show everything that is attached, pinned and mapped for a container
    Inspect(inspect::InspectArgs),
    /// Look for what is not as it should be on the host; for admins
    Doctor(doctor::DoctorArgs),
    /// Tell what would become of a packet, step by step, and what would allow it
    Why(why::WhyArgs),
}

pub async fn run(context: &Context, args: NetArgs) -> Result<i32, Failure> {
    match args.command {
        NetCommand::Flows(args) => flows::run(context, args).await,
        NetCommand::Drops(args) => drops::run(context, args).await,
        NetCommand::Log(args) => log::run(context, args).await,
        NetCommand::Inspect(args) => inspect::run(context, args).await,
        NetCommand::Doctor(args) => doctor::run(context, args).await,
        NetCommand::Why(args) => why::run(context, args).await,
    }
}
