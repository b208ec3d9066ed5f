//! `cc net log`: what rules that were made with `--log` have decided. Refuses to tell of other rules.

use cc_common::api::v1::LogRequest;
use cc_common::api::v1::log_news::News;
use cc_common::api::v1::net_service_client::NetServiceClient;
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::drops::Lost;
use crate::render::log::{Decision, Log};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc group deny db ingress --from 10.0.0.0/24 --log\n  cc net log db\n  \
    cc net log --watch --json | jq 'select(.action == \"deny\")'\n\n\
    A rule with --log tells of each conversation that it lets begin, once, and of each packet that it refuses; conversations\n\
    that stand are not told. In memory the daemon keeps the last 128 of each container, and lists the newest 1,000. A\n\
    container may cause 50 records a second; what is beyond that is counted, and told as lost.")]
pub struct LogArgs {
    /// Only of this container: its name or id
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    /// Tell of each decision, until stopped
    #[arg(short, long)]
    watch: bool,
}

pub async fn run(context: &Context, args: LogArgs) -> Result<i32, Failure> {
    let request = LogRequest { container: args.container.unwrap_or_default() };
    let mut client = NetServiceClient::new(context.connection().await?);
    if !args.watch {
        let log = client.log(request).await?.into_inner();
        context.ui.show(&Log::from(log))?;
        return Ok(0);
    }
    let mut news = client.watch_log(request).await?.into_inner();
    while let Some(message) = news.message().await? {
        match message.news {
            Some(News::Decided(decision)) => {
                let decision = Decision::from(decision);
                context.ui.line(&decision, &decision.line())?;
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
