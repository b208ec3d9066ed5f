//! Where on the host a container will be: its range of ids and its cgroup. A shim with a place and no specification is parked: its init
//! waits in its namespaces for whatever will run there. Refuses to know anything of a container.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::spec::{Spec, SpecError, read_json, write_json};

pub const PLACE_FILE: &str = "place.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// First host id of the range, for uids and gids.
    pub id_base: u32,
    pub id_count: u32,
    /// The host's own ids, in no user namespace. Said twice, by this and by a base of 0: neither happens by accident.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_users: bool,
    /// The container's directory in the v2 hierarchy: init is born in it.
    pub cgroup_v2: PathBuf,
    /// The shim's own; without one it stays where the daemon is.
    pub cgroup_shim: Option<PathBuf>,
    /// `tasks` files of v1 hierarchies; empty where all controllers are on v2.
    pub cgroup_tasks: Vec<PathBuf>,
}

impl Place {
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        let place: Place = read_json(path)?;
        place.check()?;
        Ok(place)
    }

    pub fn store(&self, path: &Path) -> Result<(), SpecError> {
        self.check()?;
        write_json(path, self)
    }

    /// What cannot be another's: the host's own ids above all, unless they are meant.
    pub fn check(&self) -> Result<(), SpecError> {
        if (self.id_base == 0) != self.host_users
            || self.id_count == 0
            || self.id_base.checked_add(self.id_count).is_none()
        {
            return Err(SpecError::Invalid("the range of ids is empty, starts at the host's root, or leaves 32 bits"));
        }
        Ok(())
    }
}

impl Spec {
    pub fn place(&self) -> Place {
        Place {
            id_base: self.id_base,
            id_count: self.id_count,
            host_users: self.host_users,
            cgroup_v2: self.cgroup_v2.clone(),
            cgroup_shim: self.cgroup_shim.clone(),
            cgroup_tasks: self.cgroup_tasks.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_and_never_the_hosts_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PLACE_FILE);
        let place = Place {
            id_base: 0x1000_0000,
            id_count: 65_536,
            host_users: false,
            cgroup_v2: "/c".into(),
            cgroup_shim: None,
            cgroup_tasks: vec!["/t".into()],
        };
        place.store(&path).unwrap();
        assert_eq!(Place::load(&path).unwrap(), place);
        for (id_base, id_count) in [(0, 65_536), (1, 0), (u32::MAX, 2)] {
            let bad = Place { id_base, id_count, ..place.clone() };
            assert!(matches!(bad.store(&path), Err(SpecError::Invalid(_))), "{id_base} {id_count}");
        }
        let host = |id_base| Place { id_base, host_users: true, ..place.clone() };
        assert!(host(0).check().is_ok() && host(1).check().is_err());
    }
}
