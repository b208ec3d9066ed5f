//! `cc net inspect`: what there is in the kernel of one container's network. Refuses to judge it.

use cc_common::api::v1::InspectNetRequest;
use cc_common::api::v1::net_service_client::NetServiceClient;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::inspection::Inspection;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc net inspect web\n  cc net inspect web --json | jq '.filters[].program'\n\n\
    A filter is ours if it is at our place and its program has our name; equal tags are equal programs.")]
pub struct InspectArgs {
    /// Its name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub async fn run(context: &Context, args: InspectArgs) -> Result<i32, Failure> {
    let mut client = NetServiceClient::new(context.connection().await?);
    let seen = client.inspect(InspectNetRequest { container: args.container }).await?.into_inner();
    context.ui.show(&Inspection::from(seen))?;
    Ok(0)
}
