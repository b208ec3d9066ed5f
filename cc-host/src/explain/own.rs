//! Which endpoints are a project's own, as they are at this moment. Refuses to know anything of others' but that they are others'.

use std::collections::HashMap;

use super::error::ExplainError;
use super::{Explain, rules::Rules};
use crate::container::State;
use crate::ids::{ContainerId, Name, Project};

/// A container of the project, as the datapath knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnContainer {
    pub id: ContainerId,
    pub name: Name,
    pub vni: u32,
    pub generation: u64,
}

/// The containers of a project that run, by endpoint, and its rules by number.
#[derive(Debug, Default)]
pub struct Own {
    pub containers: HashMap<u32, OwnContainer>,
    pub rules: Rules,
}

impl Own {
    /// The container behind an endpoint: a slot's former or next one is another.
    pub fn container(&self, endpoint: u32, generation: u64) -> Option<&OwnContainer> {
        self.containers.get(&endpoint).filter(|own| own.generation == generation)
    }
}

impl Explain {
    /// Blocks for a moment per container.
    pub(super) fn own(&self, project: &Project) -> Result<Own, ExplainError> {
        let mut own = Own { containers: HashMap::new(), rules: Rules::of(&self.firewall.groups(project)) };
        for record in self.containers.list(project) {
            if !matches!(record.state, State::Running { .. }) {
                continue;
            }
            let entry = self.datapath.endpoint_entry(record.slot)?;
            let is_its = u64::from_str_radix(record.id.as_str(), 16) == Ok(entry.container);
            // One that is ending has no traffic any more, and its row is on its way out.
            if is_its && entry.generation != 0 {
                let (id, name) = (record.id, record.name);
                let container = OwnContainer { id, name, vni: entry.vni, generation: entry.generation };
                own.containers.insert(record.slot, container);
            }
        }
        Ok(own)
    }
}
