//! `cc net`: what the datapath does, one file per command. Refuses to do any command's work.

pub mod why;

use clap::{Args, Subcommand};

use super::Context;
use crate::error::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cc net why web internet:443")]
pub struct NetArgs {
    #[command(subcommand)]
    command: NetCommand,
}

#[derive(Debug, Subcommand)]
enum NetCommand {
    /// Tell what would become of a packet, step by step, and what would allow it
    Why(why::WhyArgs),
}

pub async fn run(context: &Context, args: NetArgs) -> Result<i32, Failure> {
    match args.command {
        NetCommand::Why(args) => why::run(context, args).await,
    }
}
