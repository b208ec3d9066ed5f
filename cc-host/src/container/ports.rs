//! Publishing ports of a container, and taking them back. Refuses to know how a packet finds its way: the outside room does.

use std::sync::Arc;

use super::error::ContainerError;
use super::record::ContainerRecord;
use super::room::Containers;
use crate::ids::Project;
use crate::outside::{OutsideError, PortMapping};

/// Of one container, as its record has room for them.
pub const PORTS_MAX: usize = 256;

impl Containers {
    /// Whether a project's operators may: a port of the host's reaches beyond the project.
    pub fn may_publish(&self, project: &Project) -> bool {
        self.rooms.config.publish_projects.iter().any(|granted| granted == project.as_str())
    }

    /// Whether a project's operators may give containers more than everybody's have.
    pub fn may_be_privileged(&self, project: &Project) -> bool {
        self.rooms.config.privileged_projects.iter().any(|granted| granted == project.as_str())
    }

    /// All of them, or none, of a container that runs. In force when this returns.
    pub async fn publish_ports(
        self: &Arc<Self>,
        record: &ContainerRecord,
        ports: &[PortMapping],
    ) -> Result<ContainerRecord, ContainerError> {
        let _allocation = self.allocation().await;
        let mut record = self.find(&record.project, record.id.as_str())?;
        let name = || record.name.to_string();
        if record.vpc.is_none() {
            let why = "it has no network that a port could lead to";
            return Err(ContainerError::BadField { field: "container", value: name(), why });
        }
        if record.spec.publish.len() + ports.len() > PORTS_MAX {
            let why = "a container publishes at most 256 ports";
            return Err(ContainerError::BadField { field: "--publish", value: ports.len().to_string(), why });
        }
        // What is there already needs no telling twice.
        let new: Vec<PortMapping> = ports.iter().filter(|port| !record.spec.publish.contains(port)).copied().collect();
        let owner = record.owner();
        if self.live(&record.id).is_none() {
            return Err(ContainerError::NotRunning { name: name() });
        }
        self.rooms.outside.publish(&owner, &new).await?;
        record.spec.publish.extend(&new);
        if let Err(error) = self.update(&record).await {
            self.rooms.outside.unpublish(&owner, &new).await?;
            return Err(error);
        }
        // It may have ended meanwhile: what it had was given back before these came.
        if self.live(&record.id).is_none() {
            self.rooms.outside.withdraw(&record.id).await;
        }
        Ok(record)
    }

    /// All of them, or none. Conversations by them end with their next packet.
    pub async fn unpublish_ports(
        &self,
        record: &ContainerRecord,
        ports: &[PortMapping],
    ) -> Result<ContainerRecord, ContainerError> {
        // Whoever starts it would write what it found.
        let _claim = match self.live(&record.id) {
            Some(_) => None,
            None => Some(self.claims.of(&record.id).await),
        };
        let _allocation = self.allocation().await;
        let mut record = self.find(&record.project, record.id.as_str())?;
        if let Some(&mapping) = ports.iter().find(|port| !record.spec.publish.contains(port)) {
            return Err(OutsideError::NotPublished { mapping, name: record.name.to_string() }.into());
        }
        record.spec.publish.retain(|port| !ports.contains(port));
        self.update(&record).await?;
        self.rooms.outside.unpublish(&record.owner(), ports).await?;
        Ok(record)
    }
}
