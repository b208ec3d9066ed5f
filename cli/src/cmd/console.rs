//! `cc console`: the link that opens the web console, once. Refuses to start a browser: who reads this may be elsewhere.

use std::io::{self, Write};

use cc_common::api::fault::Fault;
use cc_common::api::v1::TicketRequest;
use cc_common::api::v1::host_service_client::HostServiceClient;
use clap::Args;
use serde::Serialize;
use tonic::Code;

use super::Context;
use crate::client::Endpoint;
use crate::error::Failure;
use crate::render::View;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cc console\n\n\
    The link is good once, for five minutes, and opens the console as whoever asked for it: with the same project and role, for twelve\n\
    hours, or until the key is revoked or the daemon starts anew. Whoever has it first has it: do not paste it where others read.")]
pub struct ConsoleArgs {}

#[derive(Serialize)]
struct Link {
    url: String,
    expires_ms: u64,
}

pub async fn run(context: &Context, _: ConsoleArgs) -> Result<i32, Failure> {
    let mut client = HostServiceClient::new(context.connection().await?);
    let ticket = client.ticket(TicketRequest {}).await?.into_inner();
    let base = match Endpoint::parse(&context.options.endpoint) {
        // By the name that this machine knows it by.
        Ok(Endpoint::Tls { host, port, .. }) if host.contains(':') => format!("https://[{host}]:{port}"),
        Ok(Endpoint::Tls { host, port, .. }) => format!("https://{host}:{port}"),
        _ if !ticket.local_url.is_empty() => ticket.local_url,
        _ if !ticket.tls_url.is_empty() => ticket.tls_url,
        _ => return Err(nowhere().into()),
    };
    // Behind the '#': a browser sends that to nobody, and the page takes it out of its history.
    let link = Link { url: format!("{base}/console/#ticket={}", ticket.ticket), expires_ms: ticket.expires_ms };
    context.ui.show(&link)?;
    Ok(0)
}

fn nowhere() -> Fault {
    let why = "the daemon serves it nowhere: console_listen is off or its address was taken, and listen is not set";
    Fault::new(Code::FailedPrecondition, "console.nowhere", "cannot open the console", why)
        .next("set console_listen or listen in the daemon's configuration, and start it again")
}

impl View for Link {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.url)
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.url]
    }
}
