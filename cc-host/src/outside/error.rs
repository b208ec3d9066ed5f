//! What can go wrong between the host and the world, and how a person is told. Refuses to act on it.

use std::net::IpAddr;

use cc_common::api::fault::Fault;
use tonic::Code;

use super::published::PortMapping;
use crate::datapath::{DatapathError, NatPorts};
use crate::firewall::FirewallError;
use crate::kernel::link::LinkError;

#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    #[error("cannot publish {mapping}")]
    Taken { mapping: PortMapping, owner: String },
    #[error("cannot publish {mapping}: the port is in use")]
    InUse { mapping: PortMapping, program: Option<String> },
    #[error("cannot publish {mapping}: {address} is no address of this host")]
    NoAddress { mapping: PortMapping, address: IpAddr },
    #[error("cannot publish {mapping}: the container has no IPv6 address")]
    NoIpv6 { mapping: PortMapping },
    #[error("cannot publish {mapping}: ports {} to {} are leased to conversations that leave", ports.first(), ports.last())]
    Leased { mapping: PortMapping, ports: NatPorts },
    #[error("cannot publish {mapping}")]
    Hold { mapping: PortMapping, source: std::io::Error },
    #[error("{mapping} is not published by {name}")]
    NotPublished { mapping: PortMapping, name: String },
    #[error("nat_ports {first}-{last} are not whole blocks of 64 ports between 1024 and 65535")]
    BadNatPorts { first: u16, last: u16 },
    #[error("cannot tell the host's network namespace from others")]
    Cookie { source: std::io::Error },
    #[error("cannot make ready for the world outside")]
    Link(#[from] LinkError),
    #[error("the datapath refused")]
    Datapath(#[from] DatapathError),
    #[error("the firewall refused")]
    Firewall(#[from] FirewallError),
}

impl From<OutsideError> for Fault {
    fn from(error: OutsideError) -> Fault {
        use OutsideError as E;
        let what = error.to_string();
        let fault = |code, kind, why: String, next: &str| Fault::new(code, kind, what.clone(), why).next(next);
        match error {
            E::Taken { owner, .. } => fault(
                Code::AlreadyExists,
                "publish.taken",
                format!("the port is {owner}'s"),
                "choose another port or address, or take it back: cc unpublish",
            ),
            E::InUse { program, .. } => fault(
                Code::AlreadyExists,
                "publish.in_use",
                match program {
                    Some(program) => format!("program {program} of this host has it"),
                    None => "a program of this host has it".to_owned(),
                },
                "choose another port, or stop that program",
            ),
            E::NoAddress { .. } => fault(
                Code::InvalidArgument,
                "publish.no_address",
                "none of its interfaces has it".to_owned(),
                "leave the address out to publish at all of them; see them with: ip address",
            ),
            E::NoIpv6 { .. } => fault(
                Code::InvalidArgument,
                "publish.no_ipv6",
                "its VPC has no IPv6 range".to_owned(),
                "publish at an IPv4 address, or create the VPC with --cidr6",
            ),
            E::Leased { .. } => fault(
                Code::InvalidArgument,
                "publish.leased",
                "a published one would meet them".to_owned(),
                "choose another port, or configure nat_ports otherwise",
            ),
            E::NotPublished { .. } => fault(
                Code::NotFound,
                "publish.not_found",
                "nothing is to be taken back".to_owned(),
                "see its ports with: cc inspect",
            ),
            E::BadNatPorts { .. } => fault(
                Code::FailedPrecondition,
                "outside.bad_nat_ports",
                "ports are leased by blocks".to_owned(),
                "configure nat_ports as in \"61056-65535\"",
            ),
            E::Datapath(source) => source.into(),
            E::Firewall(source) => source.into(),
            E::Link(source) => source.into(),
            E::Cookie { source } => fault(
                Code::FailedPrecondition,
                "outside.no_cookie",
                source.to_string(),
                "cc-host check names what this host lacks",
            ),
            E::Hold { source, .. } => {
                fault(Code::Internal, "publish.failed", source.to_string(), "look at the daemon's log")
            }
        }
    }
}
