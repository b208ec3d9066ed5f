//! What can go wrong with a VPC, and how a person is told. Refuses to act on it.

use cc_common::api::fault::Fault;
use tonic::Code;

use super::cidr::{Cidr, CidrError};
use super::cidr6::{Cidr6, Cidr6Error};
use super::room::{DELETE_MAX, VPCS_PER_PROJECT_MAX};
use crate::datapath::DatapathError;
use crate::firewall::FirewallError;
use crate::ids::{Name, NameError, Project, VpcId};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum VpcError {
    #[error("cannot create VPC {name:?}")]
    BadName { name: String, source: NameError },
    #[error("cannot create VPC {name}: CIDR {cidr:?}")]
    BadCidr { name: String, cidr: String, source: CidrError },
    #[error("cannot create VPC {name}: CIDR {cidr6:?}")]
    BadCidr6 { name: String, cidr6: String, source: Cidr6Error },
    #[error("cannot create VPC {name} without an IPv4 range")]
    NoIpv4 { name: String },
    #[error("cannot create VPC {name}: {cidr6} has fewer addresses than {cidr}")]
    Smaller { name: String, cidr: Cidr, cidr6: Cidr6 },
    #[error("cannot create VPC {name}: the name is taken by {id}")]
    NameTaken { name: Name, id: VpcId },
    #[error(
        "cannot create VPC {name}: a security group of that name exists, and the VPC's default group would bear it"
    )]
    GroupNameTaken { name: Name },
    #[error("the firewall refused")]
    Firewall(#[from] FirewallError),
    #[error("cannot create VPC {name}: project {project} has {VPCS_PER_PROJECT_MAX} already")]
    TooMany { name: Name, project: Project },
    #[error("cannot delete {count} VPCs at once")]
    TooManyAtOnce { count: usize },
    #[error("no VPC {wanted:?} in project {project}")]
    NotFound { wanted: String, project: Project },
    #[error("cannot delete VPC {name}: {users} containers are attached to it")]
    InUse { name: Name, users: usize, example: String },
    #[error("VPC {name} changed too often while it was being worked on")]
    Busy { name: String },
    #[error("the store failed while working on VPC {name}")]
    Store { name: String, source: StoreError },
    #[error("VPC record {key} cannot be read")]
    Decode { key: String, source: serde_json::Error },
    #[error("the datapath refused VPC {name}")]
    Datapath { name: String, source: DatapathError },
}

impl From<VpcError> for Fault {
    fn from(error: VpcError) -> Fault {
        let what = error.to_string();
        match error {
            VpcError::BadName { source, .. } => {
                Fault::new(Code::InvalidArgument, "vpc.bad_name", what, source.to_string())
                    .next("choose a name like web-1: lower-case letters, digits and hyphens")
            }
            VpcError::BadCidr { source, .. } => {
                let next = match source {
                    CidrError::HostBits(network) => format!("use --cidr {network}"),
                    CidrError::Ipv6 => "give it as --cidr6, beside --cidr 10.0.0.0/24".to_owned(),
                    _ => "use a private range such as --cidr 10.0.0.0/24".to_owned(),
                };
                Fault::new(Code::InvalidArgument, "vpc.bad_cidr", what, source.to_string()).next(next)
            }
            VpcError::BadCidr6 { source, .. } => {
                let next = match source {
                    Cidr6Error::HostBits(network) => format!("use --cidr6 {network}"),
                    Cidr6Error::Ipv4 => "give it as --cidr".to_owned(),
                    _ => "use a unique local range such as --cidr6 fd00:1::/64".to_owned(),
                };
                Fault::new(Code::InvalidArgument, "vpc.bad_cidr", what, source.to_string()).next(next)
            }
            VpcError::NoIpv4 { .. } => {
                let why = "every container has an IPv4 address, and an IPv6 address beside it";
                Fault::new(Code::InvalidArgument, "vpc.no_ipv4", what, why).next("add one: --cidr 10.0.0.0/24")
            }
            VpcError::Smaller { cidr, .. } => {
                let why = "a container's two addresses have the same host part";
                let next = format!("use an IPv6 range of /{} or shorter: a /64 is usual", 128 - cidr.host_bits());
                Fault::new(Code::InvalidArgument, "vpc.bad_cidr", what, why).next(next)
            }
            VpcError::NameTaken { .. } => {
                Fault::new(Code::AlreadyExists, "vpc.name_taken", what, "names are unique within a project")
                    .next("choose another name, or delete that VPC: cc vpc delete NAME")
            }
            VpcError::GroupNameTaken { .. } => {
                Fault::new(Code::AlreadyExists, "vpc.name_taken", what, "names are unique within a project")
                    .next("choose another name, or delete that group: cc group delete NAME")
            }
            VpcError::Firewall(source) => Fault::from(source),
            VpcError::TooMany { .. } => {
                Fault::new(Code::ResourceExhausted, "vpc.too_many", what, "that is the limit of a project")
                    .next("delete what is not used: cc vpc list, cc vpc delete ID")
            }
            VpcError::TooManyAtOnce { .. } => {
                Fault::new(Code::InvalidArgument, "vpc.too_many_at_once", what, format!("{DELETE_MAX} is the limit"))
                    .next("delete them in several calls")
            }
            VpcError::NotFound { .. } => {
                Fault::new(Code::NotFound, "vpc.not_found", what, "there is none of that name or id")
                    .next("see cc vpc list, or create it: cc vpc create --cidr CIDR --name NAME")
            }
            VpcError::InUse { ref example, .. } => {
                let next = format!("remove them first, for example: cc rm -f {example}");
                Fault::new(Code::FailedPrecondition, "vpc.in_use", what, "nothing was deleted").next(next)
            }
            VpcError::Busy { .. } => {
                Fault::new(Code::Aborted, "vpc.busy", what, "others are changing it").next("try again")
            }
            VpcError::Datapath { source, .. } => Fault { what, ..Fault::from(source) },
            VpcError::Store { .. } | VpcError::Decode { .. } => {
                Fault::new(Code::Internal, "vpc.internal", what, crate::error_chain(&error))
                    .next("see the daemon's log; cc-host check names what is missing")
            }
        }
    }
}
