//! `cc ps`: the containers of the project. Refuses to filter beyond running or all.

use cc_common::api::v1::ListContainersRequest;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::container::Containers;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc ps\n  cc ps -a --json\n  cc rm -f $(cc ps -aq)")]
pub struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
}

pub async fn run(context: &Context, args: PsArgs) -> Result<i32, Failure> {
    let list = context.containers().await?.list(ListContainersRequest { all: args.all }).await?.into_inner();
    context.ui.show(&Containers(list.containers.into_iter().map(Into::into).collect()))?;
    Ok(0)
}
