//! `cc wait`: blocks until containers end, and prints how. Refuses to make their exit code its own.

use cc_common::api::v1::ContainerIds;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::container::ExitView;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc wait job\n  cc wait --json a b c\n\n\
    One id prints its exit code; several print `ID CODE`, in the order in which they end.")]
pub struct WaitArgs {
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: WaitArgs) -> Result<i32, Failure> {
    let alone = args.ids.len() == 1;
    let mut exits = context.containers().await?.wait(ContainerIds { ids: args.ids }).await?.into_inner();
    while let Some(exit) = exits.message().await? {
        let exit = ExitView::from(exit);
        let text = match (context.ui.quiet, alone) {
            (true, _) => exit.id.clone(),
            (false, true) => exit.code.to_string(),
            (false, false) => format!("{} {}", exit.id, exit.code),
        };
        context.ui.line(&exit, &text)?;
    }
    Ok(0)
}
