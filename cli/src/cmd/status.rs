//! `cc status`: the state of some containers. Refuses to show their whole specification; `inspect` does.

use cc_common::api::v1::ContainerIds;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::container::Statuses;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cc status web db")]
pub struct StatusArgs {
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: StatusArgs) -> Result<i32, Failure> {
    let list = context.containers().await?.get(ContainerIds { ids: args.ids }).await?.into_inner();
    context.ui.show(&Statuses(list.containers.into_iter().map(Into::into).collect()))?;
    Ok(0)
}
