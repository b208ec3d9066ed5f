//! Rules in words. Refuses to name what belongs to another project.

use std::collections::BTreeSet;

use cc_common::verdict::Direction;

use crate::firewall::{Action, Firewall, GroupId, GroupRecord, Peer, PortRange, Protocol, Rule};
use crate::ids::Project;

/// The groups of the project that asks.
pub struct Rules<'a> {
    firewall: &'a Firewall,
    groups: Vec<GroupRecord>,
}

impl<'a> Rules<'a> {
    pub fn of(firewall: &'a Firewall, project: &Project) -> Self {
        Rules { firewall, groups: firewall.groups(project) }
    }

    pub fn find(&self, number: u32) -> Option<(&GroupRecord, &Rule)> {
        self.groups.iter().find_map(|group| Some((group, group.rules.iter().find(|rule| rule.number == number)?)))
    }

    /// Where a new rule for a member of these belongs: a group of the project's own making, or else a VPC's.
    pub fn home(&self, of: impl Fn(&GroupId) -> bool) -> Option<&GroupRecord> {
        self.groups.iter().filter(|group| of(&group.id)).min_by_key(|group| group.default_of.is_some())
    }

    /// Of those that are the project's.
    pub fn names(&self, ids: &BTreeSet<GroupId>) -> Vec<String> {
        self.groups.iter().filter(|group| ids.contains(&group.id)).map(|group| group.name.to_string()).collect()
    }

    /// As a person would say it.
    pub fn text(&self, rule: &Rule) -> String {
        let spec = &rule.spec;
        let action = if spec.action == Action::Allow { "allow" } else { "deny" };
        let towards = if spec.direction == Direction::Egress { "to" } else { "from" };
        let what = match spec.protocol {
            Protocol::Any => "anything".to_owned(),
            Protocol::Tcp(range) => ports("tcp", range),
            Protocol::Udp(range) => ports("udp", range),
            Protocol::Icmp(None) => "icmp".to_owned(),
            Protocol::Icmp(Some(kind)) => match kind.v4.or(kind.v6) {
                Some(number) => format!("icmp type {number}"),
                None => "icmp".to_owned(),
            },
        };
        let peer = match &spec.peer {
            Peer::Any => "anybody".to_owned(),
            Peer::Cidr(net) => net.to_string(),
            Peer::Group(id) => format!("group {}", name(self.firewall.group_name(id), id.as_str())),
            Peer::Prefixes(id) => format!("prefix list {}", name(self.firewall.list_name(id), id.as_str())),
        };
        format!("{action} {} of {what} {towards} {peer}, priority {}", spec.direction.name(), spec.priority)
    }
}

fn name(name: Option<crate::ids::Name>, id: &str) -> String {
    name.map_or_else(|| id.to_owned(), String::from)
}

fn ports(protocol: &str, range: PortRange) -> String {
    match range {
        PortRange::ALL => protocol.to_owned(),
        PortRange { first, last } if first == last => format!("{protocol} port {first}"),
        PortRange { first, last } => format!("{protocol} ports {first} to {last}"),
    }
}
