//! `cc net flows`: the conversations of containers, listed once or told as they begin and end. Refuses to sort: the youngest come
//! first.

use cc_common::api::v1::FlowsRequest;
use cc_common::api::v1::net_service_client::NetServiceClient;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::flow::{Change, Flows};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cc net flows\n  cc net flows --limit 100 web\n  cc net flows --watch --json | jq .flow.to\n\n\
    SOURCE is the end that began. PACKETS and BYTES are what it has sent, and what the other has. RULES are GROUP#NUMBER,\n\
    as cc group rules shows them. With --watch, a flow that ends within the second in which it began, because its\n\
    container or its rule went, is not told."
)]
pub struct FlowsArgs {
    /// Only conversations of this container: its name or id
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    /// At most so many, of 100,000 at the most
    #[arg(long, value_name = "N", default_value_t = 1_000, conflicts_with = "watch")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Tell of flows as they begin and end, until stopped
    #[arg(short, long)]
    watch: bool,
}

pub async fn run(context: &Context, args: FlowsArgs) -> Result<i32, Failure> {
    let request = FlowsRequest { container: args.container.unwrap_or_default(), limit: args.limit };
    let mut client = NetServiceClient::new(context.connection().await?);
    if args.watch {
        let mut changes = client.watch_flows(request).await?.into_inner();
        while let Some(change) = changes.message().await? {
            let change = Change::from(change);
            context.ui.line(&change, &change.line())?;
        }
        return Ok(0);
    }
    let mut parts = client.flows(request).await?.into_inner();
    let (mut flows, mut more) = (Vec::new(), false);
    while let Some(part) = parts.message().await? {
        flows.extend(part.flows.into_iter().map(Into::into));
        more |= part.more;
    }
    context.ui.show(&Flows { flows, more })?;
    Ok(0)
}
