//! `cc start` and `cc restart`: containers that have ended, once more, in the background. Refuses to make one.

use cc_common::api::v1::{ContainerIds, StopRequest};
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::Ids;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc start web\n  cc start web && cc attach web")]
pub struct StartArgs {
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: StartArgs) -> Result<i32, Failure> {
    let done = context.containers().await?.start(ContainerIds { ids: args.ids }).await?.into_inner();
    context.ui.show(&Ids(done.ids))?;
    Ok(0)
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc restart web\n  cc restart -t 60 db")]
pub struct RestartArgs {
    /// Seconds until SIGKILL (default: as it was run with, or 10)
    #[arg(short = 't', long = "time", value_name = "SECONDS")]
    time: Option<u32>,
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn again(context: &Context, args: RestartArgs) -> Result<i32, Failure> {
    let request = StopRequest { ids: args.ids, timeout_s: args.time };
    let done = context.containers().await?.restart(request).await?.into_inner();
    context.ui.show(&Ids(done.ids))?;
    Ok(0)
}
