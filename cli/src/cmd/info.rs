//! `cc info`: the daemon and its host. Refuses to check anything; `cc-host check` does.

use cc_common::api::v1::InfoRequest;
use cc_common::api::v1::host_service_client::HostServiceClient;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::host::HostView;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cc info --json")]
pub struct InfoArgs {}

pub async fn run(context: &Context, _: InfoArgs) -> Result<i32, Failure> {
    let info = HostServiceClient::new(context.connection().await?).info(InfoRequest {}).await?.into_inner();
    context.ui.show(&HostView::from(info))?;
    Ok(0)
}
