//! A container as the store keeps it. Refuses to hold what can be derived: the interface's name, the paths, the range of ids.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::bandwidth::Bandwidth;
use super::health::{HealthCheck, HealthOptions};
use super::log_options::LogOptions;
use super::options::Capabilities;
use super::restart::Restart;
use super::volumes::{VolumeClaim, VolumeMount};
use crate::datapath::Endpoint;
use crate::disk::Disk;
use crate::firewall::Membership;
use crate::ids::{ContainerId, Name, Project, VpcId};
use crate::kernel::cgroup::CpuSet;
use crate::kernel::link::EndpointAddress;
use crate::outside::{Owner, PortMapping};
use crate::seccomp::Seccomp;
use crate::shim::spec::{DeviceSpec, RlimitSpec, TmpfsSpec};
use crate::shim::terminal::Size;
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
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// Ports of the host's that lead to it while it runs.
    #[serde(default)]
    pub publish: Vec<PortMapping>,
    /// Name servers to ask instead of the VPC's.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Absent of one from before there were any: then no other program may touch the log's files, for its shim expects nobody to.
    #[serde(default)]
    pub log: Option<LogOptions>,
    pub auto_remove: bool,
    /// Instead of the image's; empty: none.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// A name or number, instead of the image's.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Seconds from the stop signal to SIGKILL.
    #[serde(default)]
    pub stop_timeout_s: Option<u32>,
    /// Its root cannot be written.
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub tmpfs: Vec<TmpfsSpec>,
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Of its programs' system calls. One from before there was any gets the default when it is started again.
    #[serde(default)]
    pub seccomp: Seccomp,
    #[serde(default)]
    pub ulimits: Vec<RlimitSpec>,
    /// Of a CPU, in thousandths.
    #[serde(default)]
    pub cpu_milli: Option<u32>,
    /// What becomes of it when it has ended.
    #[serde(default)]
    pub restart: Restart,
    #[serde(default)]
    pub health: HealthOptions,
    /// A first process of ours.
    #[serde(default)]
    pub init: bool,
    #[serde(default)]
    pub devices: Vec<DeviceSpec>,
    /// The CPUs that it may use.
    #[serde(default)]
    pub cpuset: Option<CpuSet>,
    /// Its users are the host's, in no user namespace.
    #[serde(default)]
    pub host_users: bool,
    /// Of its writable layer.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// As they were asked for; those that it has are in its record.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    pub stdin: bool,
    /// In a terminal, of this size at first, instead of pipes.
    #[serde(default)]
    pub terminal: Option<Size>,
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
    /// In a dual-stack VPC.
    #[serde(default)]
    pub ipv6: Option<Ipv6Attachment>,
    /// Its groups, and the number of their rule set: 0 until it starts.
    #[serde(default)]
    pub membership: Membership,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Attachment {
    pub address: Ipv6Addr,
    pub prefix_len: u8,
    pub gateway: Ipv6Addr,
}

impl Attachment {
    /// As its interface has them inside.
    pub(super) fn addresses(&self) -> Vec<EndpointAddress> {
        let &Attachment { ipv4, prefix_len, gateway, .. } = self;
        let ipv4 = EndpointAddress { address: ipv4.into(), prefix_len, gateway: Some(gateway.into()) };
        let ipv6 = self.ipv6.map(|Ipv6Attachment { address, prefix_len, gateway }| EndpointAddress {
            address: address.into(),
            prefix_len,
            gateway: Some(gateway.into()),
        });
        std::iter::once(ipv4).chain(ipv6).collect()
    }

    /// As the datapath is told of it.
    pub(super) fn endpoint(&self, slot: u32, ifindex: u32, bandwidth: &Bandwidth, mtu: u16) -> Endpoint {
        let &Attachment { vni, mac, ipv4, .. } = self;
        let rule_set = self.membership.rule_set;
        let ipv6 = self.ipv6.map(|ipv6| ipv6.address);
        let (queued, egress_rate) = (bandwidth.ingress.is_some(), bandwidth.egress_rate(mtu));
        Endpoint { id: slot, vni, rule_set, ifindex, mac, ipv4, ipv6, queued, egress_rate }
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
    /// The volumes that nobody else may delete.
    #[serde(default)]
    pub volumes: Vec<VolumeClaim>,
    /// Its writable layer, where that is limited.
    #[serde(default)]
    pub disk: Option<Disk>,
    pub created_ms: u64,
    /// Since somebody started it, or it ran well.
    #[serde(default)]
    pub restarts: u32,
    #[serde(default)]
    pub stopped_by_hand: bool,
    /// How it is asked whether it is well, by what was said and what its image says.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    pub state: State,
}

pub(super) fn interface_of(id: &ContainerId) -> String {
    format!("cc{}", &id.as_str()[..12])
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
        interface_of(&self.id)
    }

    /// Where it asks for names.
    pub(super) fn gateway(&self) -> Option<Gateway> {
        let Attachment { vpc, vpc_name, vni, gateway, prefix_len, ipv6, .. } = self.vpc.clone()?;
        let (name, project) = (vpc_name, self.project.clone());
        let ipv6 = ipv6.map(|ipv6| (ipv6.gateway, ipv6.prefix_len));
        Some(Gateway { vpc, name, project, vni, ipv4: (gateway, prefix_len), ipv6 })
    }

    /// Who it is to those that its ports are published for.
    pub(super) fn owner(&self) -> Owner {
        Owner {
            id: self.id.clone(),
            name: self.name.clone(),
            project: self.project.clone(),
            endpoint: self.slot,
            has_ipv6: self.vpc.as_ref().is_some_and(|vpc| vpc.ipv6.is_some()),
        }
    }

    pub fn hostname(&self) -> &str {
        self.spec.hostname.as_deref().unwrap_or(self.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_from_before_ipv6_and_groups_is_one_without_them() {
        let old = r#"{"vpc":"vpc-0123456789ab","vpc_name":"blue","vni":7,"ipv4":"10.0.0.2","prefix_len":24,
            "gateway":"10.0.0.1","mac":[2,204,10,0,0,2]}"#;
        let attachment: Attachment = serde_json::from_str(old).unwrap();
        assert_eq!((attachment.ipv6, attachment.addresses().len()), (None, 1));
        let endpoint = attachment.endpoint(3, 9, &Bandwidth::default(), 1450);
        assert_eq!((endpoint.id, endpoint.ifindex, endpoint.ipv6), (3, 9, None));
        let (address, gateway) = ("fd00:1::2".parse().unwrap(), "fd00:1::1".parse().unwrap());
        let dual = Attachment { ipv6: Some(Ipv6Attachment { address, prefix_len: 64, gateway }), ..attachment };
        let kept: Attachment = serde_json::from_slice(&serde_json::to_vec(&dual).unwrap()).unwrap();
        assert_eq!((kept.endpoint(3, 9, &Bandwidth::default(), 1450).ipv6, kept.addresses().len()), (Some(address), 2));
    }
}
