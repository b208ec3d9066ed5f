//! Images: references per project, blobs and unpacked layers shared by content. Refuses to run anything but the unpacker.

use serde::{Deserialize, Serialize};

/// An image that a project can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The normalised reference: `docker.io/library/nginx:latest`, or what `load` was told.
    pub reference: String,
    /// The manifest's digest: `sha256:…`.
    pub digest: String,
    /// Diff ids of the layers, lowest first.
    pub layers: Vec<String>,
    /// Unpacked.
    pub size_bytes: u64,
    pub created_ms: u64,
    pub os: String,
    pub architecture: String,
    pub config: ImageConfig,
}

/// What an image says of how to run it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub stop_signal: String,
    pub labels: std::collections::BTreeMap<String, String>,
}

/// How far one layer has come, for a progress bar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    pub digest: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub state: LayerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    Waiting,
    Downloading,
    Unpacking,
    Exists,
    Done,
}
