//! A VPC as the store keeps it, and under which keys. Refuses to be changed by anyone but this room and the container
//! room's allocation.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::cidr::Cidr;
use super::cidr6::Cidr6;
use crate::ids::{Name, Project, VpcId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpcRecord {
    pub id: VpcId,
    pub name: Name,
    pub project: Project,
    pub cidr: Cidr,
    /// Of a dual-stack VPC.
    #[serde(default)]
    pub cidr6: Option<Cidr6>,
    /// Whether its containers may begin conversations beyond it.
    #[serde(default = "reaches_out")]
    pub internet: bool,
    /// The VPC's number in the datapath, and later its VXLAN network identifier.
    pub vni: u32,
    pub created_ms: u64,
    /// The IPv4 address that was given last, so that the next one differs.
    pub last_address: Option<Ipv4Addr>,
}

/// What a VPC does that was made before one could be told not to.
fn reaches_out() -> bool {
    true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_ipv6_and_the_internet_is_one_without_and_with_it() {
        let old = r#"{"id":"vpc-0123456789ab","name":"blue","project":"default","cidr":"10.0.0.0/24","vni":7,
            "created_ms":1,"last_address":"10.0.0.9"}"#;
        let record: VpcRecord = serde_json::from_str(old).unwrap();
        assert_eq!((record.cidr6, record.last_address), (None, Some(Ipv4Addr::new(10, 0, 0, 9))));
        assert!(record.internet);
        let dual = VpcRecord { cidr6: Some(Cidr6::parse("fd00:1::/64").unwrap()), ..record };
        assert_eq!(serde_json::from_slice::<VpcRecord>(&serde_json::to_vec(&dual).unwrap()).unwrap(), dual);
    }
}
