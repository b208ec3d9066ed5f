//! `cc stop`: SIGTERM, and SIGKILL after a time. Refuses to remove anything.

use cc_common::api::v1::StopRequest;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::Ids;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc stop web\n  cc stop -t 60 db")]
pub struct StopArgs {
    /// Seconds until SIGKILL (default: as it was run with, or 10)
    #[arg(short = 't', long = "time", value_name = "SECONDS")]
    time: Option<u32>,
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: StopArgs) -> Result<i32, Failure> {
    let request = StopRequest { ids: args.ids, timeout_s: args.time };
    let done = context.containers().await?.stop(request).await?.into_inner();
    context.ui.show(&Ids(done.ids))?;
    Ok(0)
}
