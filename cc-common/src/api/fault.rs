//! The error that a person sees: what failed, why, and what to do next, with a stable code. It crosses the wire in the
//! details of a gRPC status. Refuses to know which rooms exist; each names its own codes.

use prost::Message;
use tonic::{Code, Status};

use super::v1::FaultDetail;

/// A failure in the words of whoever has to act on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Fault {
    /// The class of the failure, as gRPC names it.
    pub kind: Code,
    /// Stable, lower case, dotted: `vpc.in_use`.
    pub code: String,
    /// What failed, naming the object: "cannot delete VPC blue".
    pub what: String,
    /// Why, in one clause: "2 containers are attached to it".
    pub why: String,
    /// What to do next, as an imperative; may hold a command. Empty when there is nothing to do.
    pub next: String,
}

impl Fault {
    pub fn new(kind: Code, code: impl Into<String>, what: impl Into<String>, why: impl Into<String>) -> Self {
        Fault { kind, code: code.into(), what: what.into(), why: why.into(), next: String::new() }
    }

    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Status {
        let message = fault.to_string();
        let detail = FaultDetail { code: fault.code, what: fault.what, why: fault.why, next: fault.next };
        Status::with_details(fault.kind, message, detail.encode_to_vec().into())
    }
}

impl From<Status> for Fault {
    /// A status that did not come from us (a broken connection, a proxy) becomes a fault under the code `transport`.
    fn from(status: Status) -> Fault {
        match FaultDetail::decode(status.details()) {
            Ok(detail) if !detail.code.is_empty() => {
                Fault { kind: status.code(), code: detail.code, what: detail.what, why: detail.why, next: detail.next }
            }
            _ => Fault::new(status.code(), "transport", "the call failed", status.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_the_wire() {
        let fault = Fault::new(Code::FailedPrecondition, "vpc.in_use", "cannot delete VPC blue", "2 containers use it")
            .next("remove them first: cc rm -f a b");
        assert_eq!(Fault::from(Status::from(fault.clone())), fault);
    }

    #[test]
    fn a_foreign_status_is_a_transport_fault() {
        let fault = Fault::from(Status::unavailable("connection refused"));
        assert_eq!((fault.code.as_str(), fault.why.as_str()), ("transport", "connection refused"));
    }
}
