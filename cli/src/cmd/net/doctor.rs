//! `cc doctor`, and `cc net doctor`: what is not as it should be on the host. Refuses to look by itself: the daemon does.

use cc_common::api::v1::DoctorRequest;
use cc_common::api::v1::net_service_client::NetServiceClient;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::doctor::Findings;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc doctor\n  cc doctor --fix\n\n\
    Ends with 1 if something does not work and was not fixed. Programs of others are named, and left to you.")]
pub struct DoctorArgs {
    /// Put right what is ours
    #[arg(long)]
    fix: bool,
}

pub async fn run(context: &Context, args: DoctorArgs) -> Result<i32, Failure> {
    let mut client = NetServiceClient::new(context.connection().await?);
    let report = client.doctor(DoctorRequest { fix: args.fix }).await?.into_inner();
    let findings = Findings::from(report);
    context.ui.show(&findings)?;
    Ok(if findings.is_ill() { 1 } else { 0 })
}
