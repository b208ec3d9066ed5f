//! `cc kill`: one signal to the first process of containers. Refuses to wait for what it does.

use cc_common::api::v1::KillRequest;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::Ids;
use crate::signal;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc kill web\n  cc kill -s HUP web")]
pub struct KillArgs {
    /// A name or a number
    #[arg(short, long, default_value = "KILL", value_parser = signal::parse)]
    signal: i32,
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: KillArgs) -> Result<i32, Failure> {
    let request = KillRequest { ids: args.ids, signal: args.signal };
    let done = context.containers().await?.kill(request).await?.into_inner();
    context.ui.show(&Ids(done.ids))?;
    Ok(0)
}
