//! `cc vpc`: create, list and delete private subnets. Refuses to judge a CIDR: the daemon does, for every client.

use cc_common::api::v1::vpc_service_client::VpcServiceClient;
use cc_common::api::v1::{CreateVpcRequest, DeleteVpcsRequest, ListVpcsRequest};
use clap::{Args, Subcommand};

use super::Context;
use crate::error::Failure;
use crate::render::Ids;
use crate::render::vpc::{VpcCreated, Vpcs};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cc vpc create --cidr 10.0.0.0/24 --name blue")]
pub struct VpcArgs {
    #[command(subcommand)]
    command: VpcCommand,
}

#[derive(Debug, Subcommand)]
enum VpcCommand {
    /// Create a VPC and print its id
    #[command(after_help = "Example:\n  cc vpc create --cidr 10.0.0.0/24 --name blue\n\n\
        Two VPCs may use the same CIDR; they never hear each other.")]
    Create {
        /// The subnet, without host bits
        #[arg(long)]
        cidr: String,
        /// A name, unique in the project
        #[arg(long)]
        name: String,
    },
    /// List VPCs
    #[command(visible_alias = "ls", after_help = "Example:\n  cc vpc list --json")]
    List,
    /// Delete VPCs: all of them, or none if any is in use. Ids that do not exist are fine
    #[command(visible_alias = "rm", after_help = "Example:\n  cc vpc delete blue green")]
    Delete {
        /// Names or ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

pub async fn run(context: &Context, args: VpcArgs) -> Result<i32, Failure> {
    let mut client = VpcServiceClient::new(context.connection().await?);
    match args.command {
        VpcCommand::Create { cidr, name } => {
            let vpc = client.create(CreateVpcRequest { name, cidr }).await?.into_inner();
            context.ui.show(&VpcCreated(vpc.into()))?;
        }
        VpcCommand::List => {
            let vpcs = client.list(ListVpcsRequest {}).await?.into_inner().vpcs;
            context.ui.show(&Vpcs(vpcs.into_iter().map(Into::into).collect()))?;
        }
        VpcCommand::Delete { ids } => {
            let deleted = client.delete(DeleteVpcsRequest { ids }).await?.into_inner().deleted;
            context.ui.show(&Ids(deleted))?;
        }
    }
    Ok(0)
}
