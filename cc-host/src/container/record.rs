//! A container as the store keeps it. Refuses to hold what can be derived: the interface's name, the paths, the range of ids.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::datapath::Endpoint;
use crate::firewall::Membership;
use crate::ids::{ContainerId, Name, Project, VpcId};
use crate::kernel::link::EndpointAddress;
use crate::vpc::Gateway;

/// What the user asked for, parsed at the door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    pub image: String,
    pub vpc: Option<String>,
    pub memory_bytes: Option<u64>,
    pub cpu_shares: Option<u32>,
    pub pids_max: Option<u32>,
    pub user: Option<String>,
    pub env: Vec<String>,
    pub dir: Option<String>,
    pub hostname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub command: Vec<String>,
    pub mtu: Option<u16>,
    /// Names or ids of its groups; none means the VPC's default group.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Name servers to ask instead of the VPC's.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    pub auto_remove: bool,
    pub stdin: bool,
}

/// A container's place in a VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub vpc: VpcId,
    pub vpc_name: Name,
    pub vni: u32,
    pub ipv4: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    pub mac: [u8; 6],
    /// Its groups, and the number of their rule set: 0 until it starts.
    #[serde(default)]
    pub membership: Membership,
}

impl Attachment {
    /// As its interface has them inside.
    pub(super) fn addresses(&self) -> Vec<EndpointAddress> {
        let &Attachment { ipv4, prefix_len, gateway, .. } = self;
        vec![EndpointAddress { address: ipv4.into(), prefix_len, gateway: Some(gateway.into()) }]
    }

    /// As the datapath is told of it.
    pub(super) fn endpoint(&self, slot: u32, ifindex: u32) -> Endpoint {
        let &Attachment { vni, mac, ipv4, .. } = self;
        let rule_set = self.membership.rule_set;
        Endpoint { id: slot, vni, rule_set, ifindex, mac, ipv4, ipv6: None, queued: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell gives it: 128 + n for signal n.
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub finished_ms: u64,
    /// For people; empty when the program simply ended.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// Being made; nobody has been told its id as a running container yet.
    Created,
    Running {
        pid: i32,
        since_ms: u64,
    },
    Stopped {
        started_ms: Option<u64>,
        exit: Exit,
    },
}

impl State {
    pub fn name(&self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running { .. } => "running",
            State::Stopped { .. } => "stopped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: ContainerId,
    pub project: Project,
    pub name: Name,
    /// Decides the endpoint's number and the range of ids; unique on the host while the record exists.
    pub slot: u32,
    pub spec: RunSpec,
    pub image_reference: String,
    pub image_digest: String,
    /// What `stop` sends first; the image may ask for another one than SIGTERM.
    pub stop_signal: i32,
    pub vpc: Option<Attachment>,
    pub created_ms: u64,
    pub state: State,
}

pub(super) const CONTAINERS: &str = "containers/";

impl ContainerRecord {
    pub(super) fn key(&self) -> String {
        format!("{CONTAINERS}{}", self.id)
    }

    /// Exists while a container of this name does: what makes names unique within a project.
    pub(super) fn name_key(&self) -> String {
        format!("container-names/{}/{}", self.project, self.name)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record of strings and numbers is JSON")
    }

    /// The host side of its veth pair: at most 15 characters, and found again from the id alone.
    pub fn interface(&self) -> String {
        format!("cc{}", &self.id.as_str()[..12])
    }

    /// Where it asks for names.
    pub(super) fn gateway(&self) -> Option<Gateway> {
        let Attachment { vpc, vpc_name, vni, gateway, prefix_len, .. } = self.vpc.clone()?;
        let (name, project) = (vpc_name, self.project.clone());
        Some(Gateway { vpc, name, project, vni, ipv4: (gateway, prefix_len), ipv6: None })
    }

    pub fn hostname(&self) -> &str {
        self.spec.hostname.as_deref().unwrap_or(self.name.as_str())
    }
}
