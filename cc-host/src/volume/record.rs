//! A volume as the store keeps it, and under which keys. Refuses to hold what the kernel knows: whether it is mounted, and by what device.

use serde::{Deserialize, Serialize};

use super::filesystem::Uuid;
use super::room::POOL_PERSISTENT;
use crate::ids::{Name, Project, VolumeId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// Being made: what there is of it is worth nothing yet.
    Creating,
    Ready,
    /// Being made larger; its file system may have either size.
    Resizing {
        to_bytes: u64,
    },
    /// Its file system is not mounted before somebody has looked at it.
    NeedsRepair {
        why: String,
    },
    /// Nobody finds it any more, and what is left of it goes.
    Deleting,
}

impl VolumeState {
    pub fn name(&self) -> &'static str {
        match self {
            VolumeState::Creating => "creating",
            VolumeState::Ready => "ready",
            VolumeState::Resizing { .. } => "resizing",
            VolumeState::NeedsRepair { .. } => "needs-repair",
            VolumeState::Deleting => "deleting",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub id: VolumeId,
    pub name: Name,
    pub project: Project,
    pub pool: String,
    pub size_bytes: u64,
    /// Of its file system: what is not this volume's is not mounted in its place.
    pub uuid: Uuid,
    pub created_ms: u64,
    pub state: VolumeState,
    /// Of a persistent one, the address of the object store that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

pub(super) const VOLUMES: &str = "volumes/";

/// By project first, so that one range lists a project's own.
pub(super) fn project_prefix(project: &Project) -> String {
    format!("{VOLUMES}{project}/")
}

impl VolumeRecord {
    pub(crate) fn key(&self) -> String {
        format!("{}{}", project_prefix(&self.project), self.id)
    }

    /// Exists while a volume of this name does: what makes names unique.
    pub(super) fn name_key(&self) -> String {
        format!("volume-names/{}/{}", self.project, self.name)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record of strings and numbers is JSON")
    }

    /// Whether it is in an object store, and takes nothing of this host's pool.
    pub fn is_persistent(&self) -> bool {
        self.pool == POOL_PERSISTENT
    }

    /// What it takes of the pool: what it is to have counts from the moment that it is promised.
    pub fn reserved_bytes(&self) -> u64 {
        match self.state {
            VolumeState::Resizing { to_bytes } => to_bytes.max(self.size_bytes),
            _ => self.size_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_as_they_are_written_and_a_promise_counts() {
        let record = VolumeRecord {
            id: VolumeId::random(),
            name: Name::parse("data").unwrap(),
            project: crate::ids::default_project(),
            pool: "default".into(),
            size_bytes: 1 << 24,
            uuid: Uuid::random(),
            created_ms: 1,
            state: VolumeState::Resizing { to_bytes: 1 << 25 },
            store: None,
        };
        assert_eq!(record.reserved_bytes(), 1 << 25);
        for state in [record.state.clone(), VolumeState::Ready, VolumeState::NeedsRepair { why: "x".into() }] {
            let written = VolumeRecord { state, ..record.clone() };
            assert_eq!(serde_json::from_slice::<VolumeRecord>(&written.encode()).unwrap(), written);
        }
    }
}
