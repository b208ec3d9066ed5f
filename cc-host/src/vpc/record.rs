//! A VPC as the store keeps it, and under which keys. Refuses to be changed by anyone but this room and the container
//! room's allocation.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::cidr::Cidr;
use crate::ids::{Name, Project, VpcId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpcRecord {
    pub id: VpcId,
    pub name: Name,
    pub project: Project,
    pub cidr: Cidr,
    /// The VPC's number in the datapath, and later its VXLAN network identifier.
    pub vni: u32,
    pub created_ms: u64,
    /// The address that was given last, so that the next one differs.
    pub last_address: Option<Ipv4Addr>,
}

pub(crate) const VPCS: &str = "vpcs/";

/// By project first, so that one range lists a project's own.
pub(crate) fn project_prefix(project: &Project) -> String {
    format!("{VPCS}{project}/")
}

impl VpcRecord {
    pub(crate) fn key(&self) -> String {
        format!("{}{}", project_prefix(&self.project), self.id)
    }

    /// Exists while a VPC of this name does: what makes names unique.
    pub(crate) fn name_key(&self) -> String {
        format!("vpc-names/{}/{}", self.project, self.name)
    }

    /// Exists while a VPC of this number does.
    pub(crate) fn vni_key(&self) -> String {
        format!("vnis/{:08}", self.vni)
    }
}
