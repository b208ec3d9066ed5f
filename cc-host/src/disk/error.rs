//! What can go wrong with a container's disk, and how a person is told. Refuses to act on it.

use cc_common::api::fault::Fault;
use tonic::Code;

use crate::volume::NoSpace;
use crate::volume::backend::BackendError;
use crate::volume::tool::ToolError;

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot keep {bytes} bytes for a writable layer")]
    Full { bytes: u64, free_bytes: u64 },
    #[error("cannot look for room for a writable layer")]
    Pool { source: NoSpace },
    #[error("cannot {operation} disk {name}")]
    File { operation: &'static str, name: String, source: BackendError },
    #[error("cannot {operation} disk {name}")]
    Mount { operation: &'static str, name: String, source: std::io::Error },
    #[error("cannot {operation} disk {name}")]
    Tool { operation: &'static str, name: String, source: ToolError },
    #[error("what is in the place of disk {name} is not its file system")]
    NotIts { name: String, why: String },
    #[error("disk {name} needs repair")]
    NeedsRepair { name: String, why: String },
}

impl DiskError {
    pub(super) fn mount(operation: &'static str, name: &str) -> impl FnOnce(std::io::Error) -> DiskError {
        let name = name.to_owned();
        move |source| DiskError::Mount { operation, name, source }
    }

    pub(super) fn file(operation: &'static str, name: &str) -> impl FnOnce(BackendError) -> DiskError {
        let name = name.to_owned();
        move |source| DiskError::File { operation, name, source }
    }

    pub(super) fn tool(operation: &'static str, name: &str) -> impl FnOnce(ToolError) -> DiskError {
        let name = name.to_owned();
        move |source| DiskError::Tool { operation, name, source }
    }
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Fault {
        use DiskError as E;
        let (what, chain) = (error.to_string(), crate::error_chain(&error));
        let fault = |kind, code, why: String, next: &str| Fault::new(kind, code, what.clone(), why).next(next);
        let make_room =
            "choose a smaller --disk, remove what is not used (cc prune, cc volume prune), or raise volumes.pool_bytes";
        match error {
            E::Full { free_bytes, .. } => fault(
                Code::ResourceExhausted,
                "disk.pool_full",
                format!("the pool has {free_bytes} bytes left, and promises no more than it has"),
                make_room,
            ),
            E::File { source: BackendError::Full { .. }, .. } => {
                fault(Code::ResourceExhausted, "disk.pool_full", chain, make_room)
            }
            E::Tool { source: ToolError::Missing(_), .. } => {
                fault(Code::FailedPrecondition, "disk.no_tools", chain, "install the package e2fsprogs on the host")
            }
            E::NotIts { why, .. } => fault(
                Code::DataLoss,
                "disk.wrong_file_system",
                why,
                "put its own back in its place, or remove the container: cc rm",
            ),
            E::NeedsRepair { why, .. } => fault(
                Code::FailedPrecondition,
                "disk.needs_repair",
                why,
                "repair it with e2fsck on the host, which may lose what is damaged, or remove the container: cc rm",
            ),
            E::Pool { .. } | E::File { .. } | E::Mount { .. } | E::Tool { .. } => {
                fault(Code::Internal, "disk.failed", chain, "see the daemon's log; cc-host check names what is missing")
            }
        }
    }
}
