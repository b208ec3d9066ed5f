//! Questions that have no packet. Refuses to know what became of one.

use std::net::IpAddr;

use cc_common::api::fault::Fault;
use tonic::Code;

use crate::container::ContainerError;
use crate::datapath::DatapathError;

#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error("container {name} does not run")]
    NotRunning { name: String },
    #[error("container {name} is in no VPC")]
    NoNetwork { name: String },
    #[error("container {name} has no {family} address")]
    NoFamily { name: String, family: &'static str },
    #[error("the host has no {family} address that ports are published at")]
    HostFamily { family: &'static str },
    #[error("{one} and {other} are not of one family")]
    Families { one: IpAddr, other: IpAddr },
    #[error("{address} is the address of {}", names.join(" and of "))]
    Ambiguous { address: IpAddr, names: Vec<String> },
    #[error("neither end is a container of this project")]
    NotOurs,
    #[error("{field} {value:?}: {why}")]
    BadField { field: &'static str, value: String, why: &'static str },
}

impl From<WhyError> for Fault {
    fn from(error: WhyError) -> Fault {
        use WhyError as E;
        let why = error.to_string();
        let (kind, code, next) = match error {
            E::Container(source) => return source.into(),
            E::Datapath(source) => return source.into(),
            E::NotRunning { .. } => {
                (Code::FailedPrecondition, "why.not_running", "only a running container sends packets: see cc ps")
            }
            E::NoNetwork { .. } => (Code::FailedPrecondition, "why.no_network", "run it with --vpc"),
            E::NoFamily { .. } | E::HostFamily { .. } => {
                (Code::FailedPrecondition, "why.no_family", "ask of the other family: with -6, or without")
            }
            E::Families { .. } => (Code::InvalidArgument, "why.families", "name addresses of one family"),
            E::Ambiguous { .. } => (Code::InvalidArgument, "why.ambiguous", "name the container instead"),
            E::NotOurs => (
                Code::InvalidArgument,
                "why.not_ours",
                "name one of your containers, or an address and port of the host that one of them publishes",
            ),
            E::BadField { .. } => (Code::InvalidArgument, "why.bad_field", "see cc net why --help"),
        };
        Fault::new(kind, code, "cannot tell what would become of the packet", why).next(next)
    }
}
