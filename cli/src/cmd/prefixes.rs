//! `cc prefixes`: named sets of CIDRs for rules. Files are read here and streamed. Refuses to judge a CIDR: the daemon does.

use std::io::Read as _;

use cc_common::api::v1::edit_prefixes_input::Input;
use cc_common::api::v1::firewall_service_client::FirewallServiceClient;
use cc_common::api::v1::{
    CreatePrefixListRequest, DeletePrefixListsRequest, EditPrefixesHeader, EditPrefixesInput, GetPrefixesRequest,
    ListPrefixListsRequest,
};
use clap::{Args, Subcommand};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Context;
use crate::client::Connection;
use crate::error::{Failure, usage};
use crate::render::Ids;
use crate::render::prefixes::{Edited, ListCreated, Lists};

/// Of a file at a time, and how many such pieces are on their way: a million lines never lie in memory here.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES_IN_FLIGHT: usize = 4;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cc prefixes create --name office\n  cc prefixes add office 192.0.2.0/24 2001:db8::/32\n  \
    cc group allow web ingress --proto tcp --port 443 --from office"
)]
pub struct PrefixesArgs {
    #[command(subcommand)]
    command: PrefixesCommand,
}

#[derive(Debug, Subcommand)]
enum PrefixesCommand {
    /// Create an empty list and print its id
    #[command(after_help = "Example:\n  cc prefixes create --name office")]
    Create {
        /// A name, unique in the project
        #[arg(long)]
        name: String,
    },
    /// Add CIDRs; those that are there already are fine
    #[command(after_help = "Example:\n  cc prefixes add office 192.0.2.0/24 198.51.100.7")]
    Add {
        #[arg(value_name = "LIST")]
        list: String,
        #[arg(required = true, value_name = "CIDR")]
        cidrs: Vec<String>,
    },
    /// Remove CIDRs; those that are not there are fine
    #[command(after_help = "Example:\n  cc prefixes remove office 198.51.100.7")]
    Remove {
        #[arg(value_name = "LIST")]
        list: String,
        #[arg(required = true, value_name = "CIDR")]
        cidrs: Vec<String>,
    },
    /// Replace a list by a file's lines, at once: one CIDR a line, # begins a comment, - is standard input
    #[command(
        after_help = "Examples:\n  cc prefixes load bad-ones ./bad.txt\n  curl -s https://… | cc prefixes load bad-ones -\n\n\
        At most 1,000,000 prefixes. No packet sees a part of the change."
    )]
    Load {
        #[arg(value_name = "LIST")]
        list: String,
        #[arg(value_name = "FILE")]
        file: String,
    },
    /// List prefix lists
    #[command(visible_alias = "ls", after_help = "Example:\n  cc prefixes list")]
    List,
    /// Print what is in a list, one CIDR a line
    #[command(after_help = "Example:\n  cc prefixes show office")]
    Show {
        #[arg(value_name = "LIST")]
        list: String,
    },
    /// Delete lists: all of them, or none if a rule names any
    #[command(visible_alias = "rm", after_help = "Example:\n  cc prefixes delete office")]
    Delete {
        #[arg(required = true, value_name = "LIST")]
        lists: Vec<String>,
    },
}

pub async fn run(context: &Context, args: PrefixesArgs) -> Result<i32, Failure> {
    let mut client = FirewallServiceClient::new(context.connection().await?);
    match args.command {
        PrefixesCommand::Create { name } => {
            let list = client.create_prefix_list(CreatePrefixListRequest { name }).await?.into_inner();
            context.ui.show(&ListCreated(list.into()))?;
        }
        PrefixesCommand::Add { list, cidrs } => edit(context, client, list, "add", lines(cidrs)).await?,
        PrefixesCommand::Remove { list, cidrs } => edit(context, client, list, "remove", lines(cidrs)).await?,
        PrefixesCommand::Load { list, file } => {
            let from: Box<dyn std::io::Read + Send> = if file == "-" {
                context.claim_stdin("-")?;
                Box::new(std::io::stdin())
            } else {
                Box::new(std::fs::File::open(&file).map_err(|error| {
                    usage(format!("cannot read {file}"), error.to_string()).next("name a file of one CIDR a line")
                })?)
            };
            edit(context, client, list, "replace", from).await?;
        }
        PrefixesCommand::List => {
            let lists = client.list_prefix_lists(ListPrefixListsRequest {}).await?.into_inner().lists;
            context.ui.show(&Lists(lists.into_iter().map(Into::into).collect()))?;
        }
        PrefixesCommand::Show { list } => {
            let mut stream = client.get_prefixes(GetPrefixesRequest { list }).await?.into_inner();
            let mut all = Vec::new();
            while let Some(piece) = stream.message().await? {
                let text = String::from_utf8_lossy(&piece.lines).into_owned();
                all.extend(text.lines().map(str::to_owned));
            }
            context.ui.show(&Ids(all))?;
        }
        PrefixesCommand::Delete { lists } => {
            let deleted = client.delete_prefix_lists(DeletePrefixListsRequest { lists }).await?.into_inner().deleted;
            context.ui.show(&Ids(deleted))?;
        }
    }
    Ok(0)
}

fn lines(cidrs: Vec<String>) -> Box<dyn std::io::Read + Send> {
    Box::new(std::io::Cursor::new(cidrs.join("\n").into_bytes()))
}

async fn edit(
    context: &Context,
    mut client: FirewallServiceClient<Connection>,
    list: String,
    edit: &str,
    mut from: Box<dyn std::io::Read + Send>,
) -> Result<(), Failure> {
    let (pieces, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
    let header = EditPrefixesHeader { list, edit: edit.to_owned() };
    let header = EditPrefixesInput { input: Some(Input::Header(header)) };
    pieces.try_send(header).expect("the channel is new and has room");
    // Ends when the file does, or when the daemon has refused and takes no more.
    let reader = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let length = from.read(&mut piece)?;
            piece.truncate(length);
            let input = EditPrefixesInput { input: Some(Input::Lines(piece)) };
            if length == 0 || pieces.blocking_send(input).is_err() {
                return Ok(());
            }
        }
    });
    let answer = client.edit_prefixes(ReceiverStream::new(receiver)).await;
    let read = reader.await.expect("reading a file does not panic");
    read.map_err(|error| usage("cannot read the list", error.to_string()))?;
    Ok(context.ui.show(&Edited::from(answer?.into_inner()))?)
}
