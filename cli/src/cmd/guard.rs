//! `cc guard`: who is denied at the host's uplinks. Refuses to judge a CIDR: the daemon does.

use cc_common::api::v1::guard_service_client::GuardServiceClient;
use cc_common::api::v1::{GuardChange, ListGuardRequest};
use clap::{Args, Subcommand};

use super::Context;
use crate::error::Failure;
use crate::render::guard::Guard;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc guard deny 198.51.100.0/24\n  cc prefixes load bad-ones ./bad.txt\n  \
    cc guard deny bad-ones\n  cc guard list\n\n\
    For admins. Beside denied sources, packets that no honest host sends are dropped, while anything is denied or the\n\
    configuration says guard = true.")]
pub struct GuardArgs {
    #[command(subcommand)]
    command: GuardCommand,
}

#[derive(Debug, Subcommand)]
enum GuardCommand {
    /// Deny sources: CIDRs, or prefix lists, whose later changes count too
    #[command(after_help = "Examples:\n  cc guard deny 198.51.100.0/24 2001:db8:bad::/48\n  cc guard deny bad-ones")]
    Deny {
        #[arg(required = true, value_name = "CIDR|PREFIXLIST")]
        sources: Vec<String>,
    },
    /// Take sources off the list; those that are not on it are fine
    #[command(after_help = "Example:\n  cc guard allow 198.51.100.0/24")]
    Allow {
        #[arg(required = true, value_name = "CIDR|PREFIXLIST")]
        sources: Vec<String>,
    },
    /// Show who is denied, which uplinks are guarded, and what was dropped
    #[command(visible_alias = "ls", after_help = "Example:\n  cc guard list")]
    List,
}

pub async fn run(context: &Context, args: GuardArgs) -> Result<i32, Failure> {
    let mut client = GuardServiceClient::new(context.connection().await?);
    let state = match args.command {
        GuardCommand::Deny { sources } => client.deny(GuardChange { sources }).await?,
        GuardCommand::Allow { sources } => client.allow(GuardChange { sources }).await?,
        GuardCommand::List => client.list(ListGuardRequest {}).await?,
    };
    context.ui.show(&Guard::from(state.into_inner()))?;
    Ok(0)
}
