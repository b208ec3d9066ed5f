//! Why a command of `cc-oci` could not be carried out, in words for whoever called it. Refuses to be printed without its causes.

use std::io;
use std::path::PathBuf;

use crate::shim::protocol::StartFailure;

#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// A part of config.json that is not done here, which is never passed over.
    #[error("{field} is not supported: {why}")]
    Unsupported { field: String, why: &'static str },
    #[error("{field} is not valid: {why}")]
    Invalid { field: String, why: String },
    #[error("cannot read {path} as JSON")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("cannot {step}")]
    Step { step: String, source: io::Error },
    /// Inside the container, before its program.
    #[error(transparent)]
    Start(#[from] StartFailure),
    /// Of a startContainer hook: the container goes, unlike one whose program alone is at fault.
    #[error(transparent)]
    Refused(StartFailure),
    #[error("{0:?} is not an id: letters, digits, _, +, - and . are, at most 1024, and neither . nor ..")]
    BadId(String),
    #[error("container {0} does not exist")]
    NoContainer(String),
    #[error("container {0} exists already; delete it first, or choose another id")]
    Exists(String),
    /// The words "container not running" are what containerd looks for.
    #[error("container not running: {id} is {status}")]
    NotRunning { id: String, status: &'static str },
    #[error("cannot {operation} container {id}: it is {status}")]
    Status { operation: &'static str, id: String, status: &'static str },
    #[error("{hook} hook {path} failed: {why}")]
    Hook { hook: &'static str, path: PathBuf, why: String },
    #[error("cc-oci has to be run as root: it does not do containers of other users (rootless)")]
    NotRoot,
    #[error("{0}")]
    Usage(String),
}

impl OciError {
    pub fn step(step: impl Into<String>, source: impl Into<io::Error>) -> OciError {
        OciError::Step { step: step.into(), source: source.into() }
    }

    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> OciError {
        OciError::Invalid { field: field.into(), why: why.into() }
    }

    pub fn unsupported(field: impl Into<String>, why: &'static str) -> OciError {
        OciError::Unsupported { field: field.into(), why }
    }

    /// With its causes, as one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    }
}
