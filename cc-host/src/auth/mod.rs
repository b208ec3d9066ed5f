//! Who calls, and what they may do. Refuses to know what the calls do.

mod bearer;
pub mod keys;
mod layer;
mod nonces;
mod refusals;
mod tally;
pub mod tickets;
pub mod tokens;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use cc_common::api::fault::Fault;
use cc_common::api::signing::KeyId;

use crate::ids::Project;

pub use bearer::BearerGate;
pub use layer::{AuthConfig, AuthLayer};
pub(crate) use refusals::network_of;
pub use tally::{Door, Tally};
pub use tickets::Tickets;
pub use tokens::Scope;

/// Ordered: each may do all that the one before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Lists and reads.
    Viewer,
    /// Creates, starts, stops and removes the project's objects.
    Operator,
    /// Also what reaches beyond the project: privileged options, host-wide pruning.
    Admin,
}

/// The verified caller of a request; the auth layer puts it into the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub project: Project,
    pub role: Role,
    /// Came through the unix socket: root on this host.
    pub local: bool,
    /// What it was signed with; root on this host needs none.
    pub key: Option<KeyId>,
}

impl Caller {
    /// Whether this host may do for them what only it can do: they are root on it, or stand above projects.
    pub fn acts_as_host(&self) -> bool {
        self.local || self.role >= Role::Admin
    }

    /// The caller of this request. A request that reached a handler without one is a bug in the layer: refuse it.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
        request.extensions().get::<Caller>().cloned().ok_or_else(|| {
            Fault::new(Code::Unauthenticated, "auth.unsigned", "the call was refused", "it carries no identity").into()
        })
    }

    pub fn require(&self, role: Role) -> Result<(), Status> {
        if self.role >= role {
            return Ok(());
        }
        let why = format!("it needs the role {role:?}, and this key has {:?}", self.role).to_lowercase();
        Err(Fault::new(Code::PermissionDenied, "auth.role", "the call was refused", why)
            .next("use a key with that role: cc-host key create --role ROLE --project PROJECT")
            .into())
    }
}

/// Where a connection comes from; the server puts it into the extensions of each of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The unix socket, and the user that the kernel vouches for.
    Local { uid: u32 },
    /// TLS.
    Remote { address: std::net::SocketAddr },
}
