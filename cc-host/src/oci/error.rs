//! Why a command of `cc-oci` could not be carried out, in words for whoever called it. Refuses to be printed without its causes.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// A part of config.json that is not done here, which is never passed over.
    #[error("{field} is not supported: {why}")]
    Unsupported { field: String, why: &'static str },
    #[error("{field} is not valid: {why}")]
    Invalid { field: String, why: String },
}
