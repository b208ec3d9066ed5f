//! `pause`, `resume` and `update`. Refuses a container in another state than each is for.

use std::io::Read as _;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::config;
use super::error::OciError;
use super::state::{Status, Store};

pub fn pause(store: &Store, id: &str) -> Result<(), OciError> {
    let entry = store.lock(id)?;
    match entry.record.status() {
        Status::Created | Status::Running => entry.record.cgroup.freeze(true),
        other => Err(OciError::Status { operation: "pause", id: id.to_owned(), status: other.name() }),
    }
}

pub fn resume(store: &Store, id: &str) -> Result<(), OciError> {
    let entry = store.lock(id)?;
    match entry.record.status() {
        Status::Paused => entry.record.cgroup.freeze(false),
        other => Err(OciError::Status { operation: "resume", id: id.to_owned(), status: other.name() }),
    }
}

/// `linux.resources` as JSON in a file, or on standard input for `-`.
pub fn update(store: &Store, id: &str, resources: &Path) -> Result<(), OciError> {
    let text = match resources == Path::new("-") {
        false => config::read(resources)?,
        true => {
            let mut bytes = Vec::new();
            let bounded = std::io::stdin().take(crate::shim::spec::SPEC_BYTES_MAX).read_to_end(&mut bytes);
            bounded.map_err(|e| OciError::step("read standard input", e))?;
            bytes
        }
    };
    let wanted: LinuxResources =
        serde_json::from_slice(&text).map_err(|source| OciError::Json { path: resources.into(), source })?;
    let entry = store.lock(id)?;
    match entry.record.status() {
        Status::Stopped | Status::Creating => {
            let status = entry.record.status().name();
            Err(OciError::Status { operation: "update", id: id.to_owned(), status })
        }
        _ => entry.record.cgroup.update(&wanted),
    }
}
