//! What can go wrong with the guard, and how a person is told. Refuses to act on it.

use cc_common::api::fault::Fault;
use cc_common::limits::GUARD_LINES_MAX;
use tonic::Code;

use crate::datapath::DatapathError;
use crate::firewall::{FirewallError, LineError};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("cannot deny {text:?}")]
    BadCidr { text: String, source: LineError },
    #[error("cannot deny {what}: it is everybody")]
    Everybody { what: String },
    #[error("the deny list has {GUARD_LINES_MAX} lines already")]
    TooMany,
    #[error("cannot change prefix list {name}: the guard names it")]
    ListInUse { name: String },
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    #[error("the datapath refused the guard")]
    Datapath(#[from] DatapathError),
    #[error("the deny list cannot be kept")]
    Store(#[from] StoreError),
}

impl From<GuardError> for Fault {
    fn from(error: GuardError) -> Fault {
        let what = error.to_string();
        match error {
            GuardError::Firewall(inner) => inner.into(),
            GuardError::Datapath(inner) => Fault { what, ..Fault::from(inner) },
            GuardError::BadCidr { source, .. } => {
                Fault::new(Code::InvalidArgument, "guard.bad_cidr", what, source.to_string())
                    .next("write a CIDR such as 198.51.100.0/24, or the name of a prefix list")
            }
            GuardError::Everybody { .. } => {
                Fault::new(Code::InvalidArgument, "guard.everybody", what, "whoever did that could not take it back")
                    .next("name the ranges that are meant")
            }
            GuardError::TooMany => Fault::new(Code::ResourceExhausted, "guard.too_many", what, "that is the limit")
                .next("put ranges into a prefix list: cc prefixes create, cc guard deny LIST"),
            GuardError::ListInUse { .. } => {
                Fault::new(Code::FailedPrecondition, "guard.list_in_use", what, "nothing was changed")
                    .next("take it off the guard first: cc guard allow LIST")
            }
            GuardError::Store(_) => Fault::new(Code::Internal, "guard.internal", what, crate::error_chain(&error))
                .next("see the daemon's log; cc-host check names what is missing"),
        }
    }
}
