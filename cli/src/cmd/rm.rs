//! `cc rm`: removes containers and all they left. Refuses running ones without `-f`.

use cc_common::api::v1::RemoveRequest;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::Ids;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc rm web\n  cc rm -f $(cc ps -q)")]
pub struct RmArgs {
    /// Kill what still runs
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: RmArgs) -> Result<i32, Failure> {
    let request = RemoveRequest { ids: args.ids, force: args.force, unless_it_pauses: false };
    let done = context.containers().await?.remove(request).await?.into_inner();
    context.ui.show(&Ids(done.ids))?;
    Ok(0)
}
