//! `cc metrics`: what containers use, and their traffic and drops. Refuses to compute rates: two calls and `at` do.

use cc_common::api::v1::ContainerIds;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::metrics::AllMetrics;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc metrics web\n  cc metrics --json web db")]
pub struct MetricsArgs {
    /// Names or ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(context: &Context, args: MetricsArgs) -> Result<i32, Failure> {
    let answer = context.containers().await?.metrics(ContainerIds { ids: args.ids }).await?.into_inner();
    context.ui.show(&AllMetrics(answer.metrics.into_iter().map(Into::into).collect()))?;
    Ok(0)
}
