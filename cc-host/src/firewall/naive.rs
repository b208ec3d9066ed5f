//! Rules read one by one, and beside them the same rules compiled and asked as the kernel asks: tests and the fuzz target hold one against
//! the other. Refuses to be in the daemon.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cc_common::firewall::{
    self as probes, Decision, PROTOCOL_CLASS_OTHER, PrefixEntry, RuleEntry, RuleKey, RuleSet, Tables, rank,
};
use cc_common::net::{Be16, Ip};
use cc_common::verdict::Direction;
use ipnet::IpNet;

use super::compile::{AtomName, Atoms, Input, entry_of, range_of, rule_set};
use super::model::{GroupId, Peer, PrefixListId, Rule};
use super::prefixes::{self, Table};
use crate::datapath::CompiledRules;

/// What rules are about, and whom they know.
#[derive(Debug, Clone, Default)]
pub struct Case {
    pub rules: Vec<Rule>,
    pub lists: HashMap<PrefixListId, Vec<IpNet>>,
    /// Ranges that only what lies within them opens.
    pub closed: Vec<IpNet>,
    /// By the number of a rule set: the groups that whoever has it is in.
    pub memberships: BTreeMap<u32, BTreeSet<GroupId>>,
}

/// A conversation that somebody begins, or wants to.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub direction: Direction,
    pub address: IpAddr,
    /// Number of the peer's set of groups; 0 is none.
    pub groups: u32,
    pub beyond: bool,
    pub protocol: u8,
    pub service: u16,
}

/// The maps as the kernel has them.
#[derive(Debug)]
pub struct Compiled {
    rules: CompiledRules,
    table: Table,
}

impl Case {
    pub fn compile(&self) -> Compiled {
        let rules: Vec<&Rule> = self.rules.iter().collect();
        let atoms = Atoms::of(rules.iter().copied());
        let nets: Vec<Vec<IpNet>> = atoms.names.iter().map(|name| self.nets(name)).collect();
        let table = prefixes::build((0..).zip(nets.iter().map(Vec::as_slice)), &self.closed);
        let input = Input { rules: &rules, atoms: &atoms, table: &table, memberships: &self.memberships };
        Compiled { rules: rule_set(&input), table }
    }

    fn nets(&self, name: &AtomName) -> Vec<IpNet> {
        match name {
            AtomName::Cidr(net) => vec![*net],
            AtomName::List(list) => self.lists.get(list).cloned().unwrap_or_default(),
        }
    }

    /// What the rules say, read one by one: the rule that decides.
    pub fn read(&self, asked: &Asked) -> Option<RuleEntry> {
        let &Asked { direction, address, groups, beyond, protocol, service } = asked;
        // The narrowest closed range that the address is in: what is wider than it does not reach into it.
        let closed = self.closed.iter().filter(|net| net.contains(&address)).max_by_key(|net| net.prefix_len());
        let closed = closed.filter(|_| beyond && direction == Direction::Egress);
        let named = |net: &IpNet| net.contains(&address) && closed.is_none_or(|closed| closed.contains(net));
        let about = |rule: &&Rule| match &rule.spec.peer {
            Peer::Any => closed.is_none(),
            Peer::Cidr(net) if net.prefix_len() == 0 => {
                closed.is_none() && matches!(net, IpNet::V4(_)) == address.is_ipv4()
            }
            Peer::Cidr(net) => named(net),
            Peer::Group(group) => {
                closed.is_none() && self.memberships.get(&groups).is_some_and(|groups| groups.contains(group))
            }
            Peer::Prefixes(list) => self.lists.get(list).is_some_and(|nets| nets.iter().any(named)),
        };
        let class = probes::protocol_class(protocol);
        let in_range = |rule: &&Rule| {
            range_of(&rule.spec.protocol, class)
                .is_some_and(|range| class == PROTOCOL_CLASS_OTHER || (range.first..=range.last).contains(&service))
        };
        let matching = self.rules.iter().filter(|rule| rule.spec.direction == direction).filter(about).filter(in_range);
        matching.map(entry_of).min_by_key(rank)
    }
}

impl Compiled {
    /// `fragment`: no port is known.
    pub fn decide(&self, asked: &Asked, fragment: bool) -> Decision {
        let set = RuleSet {
            generation: 1,
            version: 1,
            prefix_table: 1,
            names_prefixes: self.rules.names_prefixes,
            names_groups: self.rules.names_groups,
            pad: 0,
        };
        let ip = crate::datapath::ip(asked.address);
        let peer = probes::Peer { address: &ip, groups: asked.groups, beyond: asked.beyond };
        let service = Be16::new(asked.service);
        probes::decide(self, Some(&set), asked.direction, &peer, asked.protocol, service, fragment)
    }
}

impl Tables for Compiled {
    fn rule(&self, key: &RuleKey) -> Option<RuleEntry> {
        let mut found = None;
        for row in &self.rules.rows {
            let is_in =
                u32::from(row.port ^ key.port.get()).checked_shr(16 - u32::from(row.port_bits)).unwrap_or(0) == 0;
            let is_its = row.class == u32::from_be_bytes(key.class.0)
                && row.direction as u8 == key.direction
                && row.protocol == key.protocol;
            if is_in && is_its {
                assert!(found.is_none(), "no row lies within another: {key:?}");
                found = Some(row.entry);
            }
        }
        found
    }

    fn prefix(&self, _: u32, address: &Ip) -> Option<PrefixEntry> {
        let address = if address.is_v4() {
            IpAddr::from(Ipv4Addr::from(address.last().0))
        } else {
            IpAddr::from(Ipv6Addr::from(address.octets))
        };
        Some(lookup(&self.table, address))
    }
}

/// What the kernel's trie finds.
pub(super) fn lookup(table: &Table, address: IpAddr) -> PrefixEntry {
    let net = |address: IpAddr, length| IpNet::new(address, length).expect("a row's prefix is one");
    let v4 = table.compiled.v4.iter().map(|row| (net(row.0.into(), row.1), row.2));
    let v6 = table.compiled.v6.iter().map(|row| (net(row.0.into(), row.1), row.2));
    let longest = v4.chain(v6).filter(|row| row.0.contains(&address)).max_by_key(|row| row.0.prefix_len());
    longest.map(|row| row.1).unwrap_or_default()
}

/// One of a few groups.
pub fn group(n: u8) -> GroupId {
    serde_json::from_value(serde_json::json!(format!("grp-{n}"))).expect("a text is read as an id")
}

/// One of a few prefix lists.
pub fn list(n: u8) -> PrefixListId {
    serde_json::from_value(serde_json::json!(format!("pfx-{n}"))).expect("a text is read as an id")
}
