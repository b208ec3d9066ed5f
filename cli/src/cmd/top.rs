//! `cc top`: the processes of containers. Refuses to look inside by itself: the daemon asks the kernel.

use cc_common::api::v1::ContainerIds;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::top::Top;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc top web\n  cc top --json web db")]
pub struct TopArgs {
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: TopArgs) -> Result<i32, Failure> {
    let answer = context.containers().await?.top(ContainerIds { ids: args.ids }).await?.into_inner();
    context.ui.show(&Top(answer.containers.into_iter().map(Into::into).collect()))?;
    Ok(0)
}
