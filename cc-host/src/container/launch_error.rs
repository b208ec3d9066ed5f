//! Why a container's shim, or a program of it, was not to be had. Refuses to know what the container is called.

use std::path::PathBuf;

use cc_common::api::fault::Fault;
use tonic::Code;

use super::shim_client::ClientError;
use crate::shim::protocol::{FailureKind, StartFailure};
use crate::shim::spec::SpecError;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot {operation} {path}")]
    Directory { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot write the container's specification")]
    Spec(#[from] SpecError),
    #[error("cannot run the shim {path}")]
    Spawn { path: PathBuf, source: std::io::Error },
    #[error("the shim {path} ended before it was ready: {stderr}")]
    NotReady { path: PathBuf, stderr: String },
    #[error("cannot talk to the container's shim")]
    Client(#[from] ClientError),
    #[error("cannot open process {pid}")]
    OpenProcess { pid: i32, source: std::io::Error },
    #[error("process {pid} of a container that was left behind does not end")]
    Unkillable { pid: i32 },
    #[error("the container could not be created")]
    Failed(#[source] StartFailure),
    #[error("the program could not be run")]
    Exec(#[source] StartFailure),
}

impl From<LaunchError> for Fault {
    fn from(error: LaunchError) -> Fault {
        let mut why = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            why.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        let what = "cannot run the container";
        match error {
            LaunchError::Failed(failure) | LaunchError::Exec(failure) => failure.into(),
            LaunchError::Spec(SpecError::Invalid(_)) => Fault::new(Code::InvalidArgument, "container.spec", what, why),
            LaunchError::Spawn { .. } | LaunchError::NotReady { .. } => {
                Fault::new(Code::FailedPrecondition, "container.shim", what, why)
                    .next("check that cc-shim is beside cc-host, or set shim in its configuration")
            }
            LaunchError::Client(ClientError::TooOld) => {
                Fault::new(Code::FailedPrecondition, "container.old_shim", "cannot do this with the container", why)
                    .next("restart it: cc restart ID")
            }
            LaunchError::Client(_) => {
                Fault::new(Code::Unavailable, "container.shim_gone", "cannot reach the container", why)
            }
            LaunchError::Directory { .. }
            | LaunchError::Spec(_)
            | LaunchError::OpenProcess { .. }
            | LaunchError::Unkillable { .. } => Fault::new(Code::Internal, "container.launch", what, why),
        }
    }
}

impl From<StartFailure> for Fault {
    fn from(failure: StartFailure) -> Fault {
        let (kind, code, next) = match failure.kind {
            FailureKind::NotFound => (Code::NotFound, "container.not_found", "name a program that the image has"),
            FailureKind::NotExecutable => (Code::FailedPrecondition, "container.not_executable", ""),
            FailureKind::BadUser => {
                (Code::InvalidArgument, "container.bad_user", "use a uid, or a name of the image's /etc/passwd")
            }
            FailureKind::BadDir => (Code::InvalidArgument, "container.bad_dir", "name a directory with --dir"),
            FailureKind::Mount => (Code::FailedPrecondition, "container.mount", "see what is missing: cc-host check"),
            FailureKind::Other => (Code::Internal, "container.start", ""),
        };
        Fault::new(kind, code, "cannot start the container", failure.message).next(next)
    }
}
