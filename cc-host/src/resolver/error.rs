//! What can go wrong with a VPC's resolver, and how a person is told. What goes wrong with a query is told to who asked.

use cc_common::api::fault::Fault;
use tonic::Code;

use crate::error_chain;
use crate::ids::Name;
use crate::kernel::netns::NetnsError;

#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    #[error("cannot make the network namespace of the resolver of VPC {vpc}")]
    Namespace { vpc: Name, source: NetnsError },
    #[error("cannot enter the network namespace of the resolver of VPC {vpc}")]
    Enter { vpc: Name, source: NetnsError },
    #[error("the resolver of VPC {vpc} cannot listen on {protocol} {address}")]
    Listen { vpc: Name, protocol: &'static str, address: std::net::SocketAddr, source: std::io::Error },
    #[error("the resolver of VPC {vpc} cannot use its sockets")]
    Register { vpc: Name, source: std::io::Error },
}

impl From<ResolverError> for Fault {
    fn from(error: ResolverError) -> Fault {
        let why = format!("{error}: {}", error_chain(&error));
        Fault::new(Code::Internal, "resolver.failed", "cannot start the resolver of a VPC", why)
            .next("run `cc-host check`, and look at the daemon's log")
    }
}
