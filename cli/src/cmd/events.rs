//! `cc events`: what happened on the host. Refuses to follow: the contract answers once.

use cc_common::api::v1::EventsRequest;
use cc_common::api::v1::host_service_client::HostServiceClient;
use clap::Args;

use super::Context;
use crate::error::{Failure, usage};
use crate::render::event::Events;
use crate::time;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc events\n  cc events --since 10m")]
pub struct EventsArgs {
    /// Only later ones: a duration back from now, RFC 3339, or Unix seconds
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

pub async fn run(context: &Context, args: EventsArgs) -> Result<i32, Failure> {
    let since = args.since.map(|text| time::parse_moment(&text, time::now_ms())).transpose();
    let since_ms = since.map_err(|source| usage("cannot read --since", source))?.unwrap_or(0);
    let mut client = HostServiceClient::new(context.connection().await?);
    let events = client.events(EventsRequest { since_ms }).await?.into_inner().events;
    context.ui.show(&Events(events.into_iter().map(Into::into).collect()))?;
    Ok(0)
}
