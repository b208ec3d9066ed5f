//! `cc system`: what the daemon's data takes on the disk. Refuses to remove any of it: `cc prune` does.

use cc_common::api::v1::DiskUsageRequest;
use cc_common::api::v1::host_service_client::HostServiceClient;
use clap::{Args, Subcommand};

use super::Context;
use crate::error::Failure;
use crate::render::host::DiskView;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cc system df")]
pub struct SystemArgs {
    #[command(subcommand)]
    command: SystemCommand,
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    /// What lies on the disk, and what of it could go
    #[command(after_help = "Examples:\n  cc system df\n  cc system df --json\n\n\
        The sum is what du says of the daemon's state directory. RECLAIMABLE is what cc prune --all would free.")]
    Df,
}

pub async fn run(context: &Context, args: SystemArgs) -> Result<i32, Failure> {
    let SystemCommand::Df = args.command;
    let mut client = HostServiceClient::new(context.connection().await?);
    let report = client.disk_usage(DiskUsageRequest {}).await?.into_inner();
    context.ui.show(&DiskView::from(report))?;
    Ok(0)
}
