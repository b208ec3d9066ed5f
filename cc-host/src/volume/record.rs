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
        /// Of one that was being made larger: what it is to have when it has been repaired.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to_bytes: Option<u64>,
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
    /// Of another one, the backend that has it, as that names itself. Records of former daemons have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
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

    /// Whether what there is of it is to go.
    pub(super) fn is_unfinished(&self) -> bool {
        matches!(self.state, VolumeState::Creating | VolumeState::Deleting)
    }

    /// What it is to have, where that is more than it has.
    pub(super) fn grows_to(&self) -> Option<u64> {
        match self.state {
            VolumeState::Resizing { to_bytes } => Some(to_bytes),
            VolumeState::NeedsRepair { to_bytes, .. } => to_bytes,
            _ => None,
        }
    }

    /// What it takes of the pool: what it is to have counts from the moment that it is promised.
    pub fn reserved_bytes(&self) -> u64 {
        self.grows_to().unwrap_or_default().max(self.size_bytes)
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
            place: Some("loop-files".into()),
        };
        let needs_repair = |to_bytes| VolumeState::NeedsRepair { why: "x".into(), to_bytes };
        let all = [record.state.clone(), needs_repair(Some(1 << 25)), needs_repair(None), VolumeState::Ready];
        for (state, reserved) in all.into_iter().zip([1 << 25, 1 << 25, 1 << 24, 1 << 24]) {
            let written = VolumeRecord { state, ..record.clone() };
            assert_eq!(written.reserved_bytes(), reserved);
            assert_eq!(serde_json::from_slice::<VolumeRecord>(&written.encode()).unwrap(), written);
        }
        // As a former daemon has written it.
        let old = r#"{"needs-repair":{"why":"x"}}"#;
        assert_eq!(serde_json::from_str::<VolumeState>(old).unwrap(), needs_repair(None));
    }
}
