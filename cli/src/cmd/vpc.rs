//! `cc vpc`: create, list and delete private subnets. Refuses to judge a CIDR: the daemon does, for every client.

use cc_common::api::fault::Fault;
use cc_common::api::v1::vpc_service_client::VpcServiceClient;
use cc_common::api::v1::{CreateVpcRequest, DeleteVpcsRequest, ListVpcsRequest};
use clap::{Args, Subcommand};

use super::Context;
use crate::error::{Failure, usage};
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
    #[command(after_help = "Examples:\n  cc vpc create --cidr 10.0.0.0/24 --name blue\n  \
        cc vpc create --cidr 10.0.0.0/24 --cidr6 fd00:1::/64 --name green\n\n\
        Two VPCs may use the same CIDRs; they never hear each other.")]
    Create {
        /// The subnet, without host bits; a second time for IPv6, as --cidr6
        #[arg(long, required = true)]
        cidr: Vec<String>,
        /// An IPv6 subnet beside it
        #[arg(long, value_name = "CIDR")]
        cidr6: Option<String>,
        /// Let its containers begin conversations within it only
        #[arg(long)]
        no_internet: bool,
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

/// One of each family at most; what is not given is empty.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ranges {
    cidr: String,
    cidr6: String,
}

impl Ranges {
    /// Those of `--cidr` in any order: a colon tells them apart.
    fn of(cidrs: Vec<String>, cidr6: Option<String>) -> Result<Self, Fault> {
        let mut ranges = Ranges { cidr6: cidr6.unwrap_or_default(), ..Ranges::default() };
        for text in cidrs {
            let (family, place) = match text.contains(':') {
                true => ("IPv6", &mut ranges.cidr6),
                false => ("IPv4", &mut ranges.cidr),
            };
            if !place.is_empty() {
                let why = format!("a VPC has one {family} range, and {place} is one already");
                return Err(usage(format!("cannot use {text}"), why));
            }
            *place = text;
        }
        Ok(ranges)
    }
}

pub async fn run(context: &Context, args: VpcArgs) -> Result<i32, Failure> {
    let mut client = VpcServiceClient::new(context.connection().await?);
    match args.command {
        VpcCommand::Create { cidr, cidr6, no_internet, name } => {
            let Ranges { cidr, cidr6 } = Ranges::of(cidr, cidr6)?;
            let vpc = client.create(CreateVpcRequest { name, cidr, cidr6, no_internet }).await?.into_inner();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(cidrs: &[&str], cidr6: Option<&str>) -> Result<Ranges, Fault> {
        Ranges::of(cidrs.iter().map(|&text| text.to_owned()).collect(), cidr6.map(str::to_owned))
    }

    #[test]
    fn ranges_are_told_apart_by_family() {
        let both = Ranges { cidr: "10.0.0.0/24".into(), cidr6: "fd00:1::/64".into() };
        assert_eq!(ranges(&["10.0.0.0/24", "fd00:1::/64"], None).unwrap(), both);
        assert_eq!(ranges(&["fd00:1::/64", "10.0.0.0/24"], None).unwrap(), both);
        assert_eq!(ranges(&["10.0.0.0/24"], Some("fd00:1::/64")).unwrap(), both);
        // What is no range at all is the daemon's to say.
        assert_eq!(ranges(&["nonsense"], None).unwrap(), Ranges { cidr: "nonsense".into(), ..Ranges::default() });
        for (first, second) in [("10.0.0.0/24", "10.1.0.0/24"), ("fd00:1::/64", "fd00:2::/64")] {
            let fault = ranges(&[first, second], None).unwrap_err();
            assert!(fault.what.contains(second) && fault.why.contains(first), "{fault:?}");
        }
        assert!(ranges(&["fd00:2::/64"], Some("fd00:1::/64")).is_err());
    }
}
