//! `cc net drops`: what was dropped and why, counted or told packet by packet. Refuses to explain one packet: it tells what happened.

use cc_common::api::v1::DropsRequest;
use cc_common::api::v1::drop_news::News;
use cc_common::api::v1::net_service_client::NetServiceClient;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::drops::{Dropped, Drops, Lost};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cc net drops\n  cc net drops --watch web\n  cc net drops --watch --json | jq -r .reason\n\n\
    An egress drop is of what the container sent, an ingress drop of what was on its way to it: the side whose rules or\n\
    limits decided is the side that counts. While nobody watches, packets are counted only. With --watch, each container may\n\
    cause 50 records a second; what is not told is counted, and told as lost."
)]
pub struct DropsArgs {
    /// Only of this container: its name or id
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    /// Tell of each dropped packet, until stopped
    #[arg(short, long)]
    watch: bool,
}

pub async fn run(context: &Context, args: DropsArgs) -> Result<i32, Failure> {
    let request = DropsRequest { container: args.container.unwrap_or_default() };
    let mut client = NetServiceClient::new(context.connection().await?);
    if !args.watch {
        let drops = client.drops(request).await?.into_inner().containers;
        context.ui.show(&Drops(drops.into_iter().map(Into::into).collect()))?;
        return Ok(0);
    }
    let mut news = client.watch_drops(request).await?.into_inner();
    while let Some(message) = news.message().await? {
        match message.news {
            Some(News::Dropped(packet)) => {
                let dropped = Dropped::from(packet);
                context.ui.line(&dropped, &dropped.line())?;
            }
            Some(News::Lost(lost)) => {
                let lost = Lost::from(lost);
                context.ui.line(&lost, &lost.line())?;
            }
            None => {}
        }
    }
    Ok(0)
}
