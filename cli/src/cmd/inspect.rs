//! `cc inspect`: everything the daemon knows of containers, always as JSON. Refuses to be a table.

use cc_common::api::v1::ContainerIds;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::container::Containers;
use crate::ui::Ui;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cc inspect web")]
pub struct InspectArgs {
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: InspectArgs) -> Result<i32, Failure> {
    let list = context.containers().await?.get(ContainerIds { ids: args.ids }).await?.into_inner();
    let ui = Ui { json: !context.ui.quiet, ..context.ui };
    ui.show(&Containers(list.containers.into_iter().map(Into::into).collect()))?;
    Ok(0)
}
