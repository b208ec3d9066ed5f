//! Groups, rules and prefix lists as people make them and the store keeps them. Refuses to hold a rule that means nothing: what
//! can be said is what the types can say.

use std::fmt;

use cc_common::verdict::Direction;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ids::{Name, Project, VpcId};

/// Rules of one group. With 8 groups per endpoint a rule set has at most 16,384.
pub const RULES_PER_GROUP_MAX: usize = 2_048;
pub const GROUPS_PER_PROJECT_MAX: usize = 1_024;
/// Groups that one endpoint is in.
pub const GROUPS_PER_ENDPOINT_MAX: usize = 8;
pub const PREFIX_LISTS_PER_PROJECT_MAX: usize = 256;
/// CIDRs of one list.
pub const PREFIXES_PER_LIST_MAX: usize = 1_000_000;
pub const PRIORITY_DEFAULT: u16 = 1_000;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(String);

        impl $name {
            pub fn random() -> Self {
                $name(format!(concat!($prefix, "-{:012x}"), rand::random::<u64>() & 0xffff_ffff_ffff))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A group's id: `grp-` and 12 lower-case hexadecimal digits, drawn at random.
    GroupId, "grp"
}
id! {
    /// A prefix list's id: `pfx-` and 12 lower-case hexadecimal digits, drawn at random.
    PrefixListId, "pfx"
}

/// A security group of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    pub id: GroupId,
    pub name: Name,
    pub project: Project,
    /// The VPC whose default group it is; it bears that one's name, and goes with it.
    pub default_of: Option<VpcId>,
    pub rules: Vec<Rule>,
    pub created_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Unique on the host, never given twice: what metrics, logs and `cc net why` name it by.
    pub number: u32,
    #[serde(flatten)]
    pub spec: RuleSpec,
    pub created_ms: u64,
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSpec {
    pub action: Action,
    #[serde(with = "direction")]
    pub direction: Direction,
    pub protocol: Protocol,
    pub peer: Peer,
    /// The least decides; of equal ones a denial.
    pub priority: u16,
    /// Whether a conversation that it decides is told in the flow log.
    pub log: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Any,
    Tcp(PortRange),
    Udp(PortRange),
    /// ICMP, and ICMPv6 in its own family; `None` is every type.
    Icmp(Option<IcmpType>),
}

/// First and last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub const ALL: PortRange = PortRange { first: 0, last: u16::MAX };
}

/// A type of ICMP, in each family that has it, with every code or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpType {
    pub v4: Option<u8>,
    pub v6: Option<u8>,
    pub code: Option<u8>,
}

/// Whom a rule is about: the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    Any,
    Cidr(IpNet),
    Group(GroupId),
    Prefixes(PrefixListId),
}

/// What the store holds of a prefix list; the prefixes themselves are in a file of this content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixListRecord {
    pub id: PrefixListId,
    pub name: Name,
    pub project: Project,
    /// SHA-256 of the file, and so its name: another content is another file.
    pub content: String,
    pub prefixes: u64,
    pub created_ms: u64,
    pub changed_ms: u64,
}

pub const GROUPS: &str = "groups/";
pub const PREFIX_LISTS: &str = "prefix-lists/";

impl GroupRecord {
    pub fn key(&self) -> String {
        format!("{GROUPS}{}", self.id)
    }
    /// Exists while a group of this name does: what makes names unique within a project.
    pub fn name_key(&self) -> String {
        format!("group-names/{}/{}", self.project, self.name)
    }
}

impl PrefixListRecord {
    pub fn key(&self) -> String {
        format!("{PREFIX_LISTS}{}", self.id)
    }
    /// As a group's.
    pub fn name_key(&self) -> String {
        format!("prefix-list-names/{}/{}", self.project, self.name)
    }
}

/// What every group begins with: its members reach out.
pub fn default_egress() -> RuleSpec {
    allow(Direction::Egress, Peer::Any)
}

/// What a VPC's default group begins with: its members reach each other, and reach out; nobody else reaches them.
pub fn default_rules(group: &GroupId) -> [RuleSpec; 2] {
    [default_egress(), allow(Direction::Ingress, Peer::Group(group.clone()))]
}

fn allow(direction: Direction, peer: Peer) -> RuleSpec {
    let (action, protocol) = (Action::Allow, Protocol::Any);
    RuleSpec { action, direction, protocol, peer, priority: PRIORITY_DEFAULT, log: false }
}

mod direction {
    use cc_common::verdict::Direction;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(direction: &Direction, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(direction.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Direction, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = Direction::ALL.into_iter().find(|direction| direction.name() == text);
        found.ok_or_else(|| serde::de::Error::unknown_variant(&text, &["ingress", "egress"]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_the_store() {
        let group = GroupId::random();
        let icmp = IcmpType { v4: Some(8), v6: Some(128), code: None };
        for (protocol, peer) in [
            (Protocol::Any, Peer::Any),
            (Protocol::Tcp(PortRange { first: 80, last: 90 }), Peer::Cidr("10.0.0.0/8".parse().unwrap())),
            (Protocol::Icmp(Some(icmp)), Peer::Group(group.clone())),
            (Protocol::Udp(PortRange::ALL), Peer::Prefixes(PrefixListId::random())),
        ] {
            let spec =
                RuleSpec { action: Action::Deny, direction: Direction::Egress, protocol, peer, priority: 7, log: true };
            let rule = Rule { number: 3, spec, created_ms: 9 };
            let text = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<Rule>(&text).unwrap(), rule, "{text}");
        }
    }
}
