//! Compiles rules into rows that are found by a few probes: per class of peers and protocol, the ports cut at the borders of all
//! ranges, each piece with the one rule that decides it. Refuses to keep anything: the same input gives the same rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cc_common::firewall::{
    ACTION_ALLOW, ACTION_DENY, CLASS_ANY_V4, CLASS_ANY_V6, PROTOCOL_CLASS_ICMP, PROTOCOL_CLASS_ICMPV6,
    PROTOCOL_CLASS_OTHER, PROTOCOL_CLASS_SOME, PROTOCOL_CLASS_TCP, PROTOCOL_CLASS_UDP, PROTOCOL_CLASSES, RuleEntry,
    class_of_groups, class_of_prefixes, rank,
};
use cc_common::verdict::Direction;
use ipnet::IpNet;

use super::model::{Action, GroupId, IcmpType, Peer, PortRange, PrefixListId, Protocol, Rule};
use super::prefixes::{Atom, Table};
use crate::datapath::{CompiledRules, RuleRow};

/// What a rule may name an address by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AtomName {
    Cidr(IpNet),
    List(PrefixListId),
}

/// The atoms of all rules, numbered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Atoms {
    numbers: HashMap<AtomName, Atom>,
    pub names: Vec<AtomName>,
}

impl Atoms {
    pub fn of<'a>(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let mut atoms = Atoms::default();
        for name in rules.filter_map(|rule| name_of(&rule.spec.peer)) {
            let next = u32::try_from(atoms.names.len()).expect("there are fewer rules than numbers");
            if *atoms.numbers.entry(name.clone()).or_insert(next) == next {
                atoms.names.push(name);
            }
        }
        atoms
    }
}

/// Everybody of a family needs no walk through prefixes.
fn name_of(peer: &Peer) -> Option<AtomName> {
    match peer {
        Peer::Cidr(net) if net.prefix_len() > 0 => Some(AtomName::Cidr(*net)),
        Peer::Prefixes(list) => Some(AtomName::List(list.clone())),
        Peer::Any | Peer::Cidr(_) | Peer::Group(_) => None,
    }
}

/// What one rule set is compiled from.
pub struct Input<'a> {
    /// Of all its groups.
    pub rules: &'a [&'a Rule],
    pub atoms: &'a Atoms,
    pub table: &'a Table,
    /// The rule sets of the host: number, and the groups that whoever has it is in.
    pub memberships: &'a BTreeMap<u32, BTreeSet<GroupId>>,
}

pub fn rule_set(input: &Input<'_>) -> CompiledRules {
    let mut compiled = CompiledRules::default();
    for direction in Direction::ALL {
        let classes = classes(input, direction, &mut compiled);
        for (class, rules) in classes {
            for protocol in PROTOCOL_CLASSES {
                rows(class, direction, protocol, &rules, &mut compiled.rows);
            }
        }
    }
    compiled
}

/// Classes of peers, and the rules about them. Ordered, so that the same rules give the same rows.
fn classes<'a>(input: &Input<'a>, direction: Direction, compiled: &mut CompiledRules) -> BTreeMap<u32, Vec<&'a Rule>> {
    let mut classes: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    let mut by_atom: HashMap<Atom, Vec<&Rule>> = HashMap::new();
    let mut by_group: HashMap<&GroupId, Vec<&Rule>> = HashMap::new();
    for &rule in input.rules.iter().filter(|rule| rule.spec.direction == direction) {
        match &rule.spec.peer {
            Peer::Any => {
                classes.entry(CLASS_ANY_V4).or_default().push(rule);
                classes.entry(CLASS_ANY_V6).or_default().push(rule);
            }
            Peer::Cidr(net) if net.prefix_len() == 0 => {
                let class = if matches!(net, IpNet::V4(_)) { CLASS_ANY_V4 } else { CLASS_ANY_V6 };
                classes.entry(class).or_default().push(rule);
            }
            Peer::Group(group) => by_group.entry(group).or_default().push(rule),
            peer @ (Peer::Cidr(_) | Peer::Prefixes(_)) => {
                let atom = name_of(peer).and_then(|name| input.atoms.numbers.get(&name));
                by_atom.entry(*atom.expect("the atoms are of these rules")).or_default().push(rule);
            }
        }
    }
    let bit = 1 << direction as u32;
    if !by_atom.is_empty() {
        compiled.names_prefixes |= bit;
    }
    if !by_group.is_empty() {
        compiled.names_groups |= bit;
    }
    for (number, set) in (0u32..).zip(&input.table.sets) {
        let rules: Vec<&Rule> = set.iter().filter_map(|atom| by_atom.get(atom)).flatten().copied().collect();
        if !rules.is_empty() {
            classes.insert(class_of_prefixes(number), rules);
        }
    }
    for (&number, groups) in input.memberships {
        let rules: Vec<&Rule> = groups.iter().filter_map(|group| by_group.get(group)).flatten().copied().collect();
        if !rules.is_empty() {
            classes.insert(class_of_groups(number), rules);
        }
    }
    classes
}

/// Ports, or types and codes, that a rule is about in this protocol's class.
pub(super) fn range_of(protocol: &Protocol, class: u8) -> Option<PortRange> {
    match (protocol, class) {
        (Protocol::Any, _) => Some(PortRange::ALL),
        (Protocol::Tcp(range), PROTOCOL_CLASS_TCP) | (Protocol::Udp(range), PROTOCOL_CLASS_UDP) => Some(*range),
        (Protocol::Icmp(None), PROTOCOL_CLASS_ICMP | PROTOCOL_CLASS_ICMPV6) => Some(PortRange::ALL),
        (Protocol::Icmp(Some(kind)), PROTOCOL_CLASS_ICMP) => icmp_range(kind.v4, kind),
        (Protocol::Icmp(Some(kind)), PROTOCOL_CLASS_ICMPV6) => icmp_range(kind.v6, kind),
        _ => None,
    }
}

fn icmp_range(number: Option<u8>, kind: &IcmpType) -> Option<PortRange> {
    let number = number?;
    let at = |code| u16::from_be_bytes([number, code]);
    Some(PortRange { first: at(kind.code.unwrap_or(0)), last: at(kind.code.unwrap_or(u8::MAX)) })
}

pub(super) fn entry_of(rule: &Rule) -> RuleEntry {
    RuleEntry {
        rule: rule.number,
        priority: rule.spec.priority,
        action: if rule.spec.action == Action::Allow { ACTION_ALLOW } else { ACTION_DENY },
        log: u8::from(rule.spec.log),
    }
}

fn rows(class: u32, direction: Direction, protocol: u8, rules: &[&Rule], out: &mut Vec<RuleRow>) {
    let ranges: Vec<(PortRange, RuleEntry)> =
        rules.iter().filter_map(|rule| Some((range_of(&rule.spec.protocol, protocol)?, entry_of(rule)))).collect();
    let pieces = pieces(&ranges);
    let row = |port, port_bits, entry| RuleRow { class, direction, protocol, port, port_bits, entry };
    if protocol == PROTOCOL_CLASS_OTHER {
        // There are no ports to tell apart.
        out.extend(pieces.first().map(|&(_, entry)| row(0, 0, entry)));
    } else {
        for &(range, entry) in &pieces {
            out.extend(prefixes_of(range).into_iter().map(|(port, bits)| row(port, bits, entry)));
        }
    }
    if let Some(entry) = some(&pieces) {
        out.push(RuleRow { protocol: protocol | PROTOCOL_CLASS_SOME, ..row(0, 0, entry) });
    }
}

/// The ports, cut where any range begins or ends, with the rule that decides each piece; pieces without one are left out.
fn pieces(ranges: &[(PortRange, RuleEntry)]) -> Vec<(PortRange, RuleEntry)> {
    let begins: BTreeSet<u32> = ranges
        .iter()
        .flat_map(|(range, _)| [u32::from(range.first), u32::from(range.last) + 1])
        .filter(|&port| port <= u32::from(u16::MAX))
        .collect();
    // Rules in force at a port, the deciding one first; a rule may cover a piece once only.
    let mut starting: BTreeMap<u32, Vec<RuleEntry>> = BTreeMap::new();
    let mut ending: BTreeMap<u32, Vec<RuleEntry>> = BTreeMap::new();
    for (range, entry) in ranges {
        starting.entry(range.first.into()).or_default().push(*entry);
        ending.entry(u32::from(range.last) + 1).or_default().push(*entry);
    }
    let mut active: BTreeMap<u64, RuleEntry> = BTreeMap::new();
    let mut pieces: Vec<(PortRange, RuleEntry)> = Vec::new();
    let mut next = begins.iter().copied().skip(1).chain([u32::from(u16::MAX) + 1]);
    for &first in &begins {
        for entry in ending.remove(&first).unwrap_or_default() {
            active.remove(&rank(&entry));
        }
        for entry in starting.remove(&first).unwrap_or_default() {
            active.insert(rank(&entry), entry);
        }
        let last = next.next().unwrap_or(u32::from(u16::MAX) + 1) - 1;
        let (Some((_, &entry)), Ok(first), Ok(last)) =
            (active.first_key_value(), u16::try_from(first), u16::try_from(last))
        else {
            continue;
        };
        match pieces.last_mut() {
            Some((range, known)) if *known == entry && u32::from(range.last) + 1 == u32::from(first) => {
                range.last = last
            }
            _ => pieces.push((PortRange { first, last }, entry)),
        }
    }
    pieces
}

/// A range as prefixes of 16 bits: at most 30.
fn prefixes_of(range: PortRange) -> Vec<(u16, u8)> {
    let mut prefixes = Vec::new();
    let (mut first, last) = (u32::from(range.first), u32::from(range.last));
    while first <= last {
        // The largest block that begins here and ends in time.
        let aligned = if first == 0 { 16 } else { first.trailing_zeros() };
        let fits = (last - first + 1).ilog2();
        let size = aligned.min(fits).min(16);
        prefixes.push((first as u16, (16 - size) as u8));
        first += 1 << size;
    }
    prefixes
}

/// For a packet whose port is not known: the first allowance if any port is allowed; a denial only if every port is denied.
fn some(pieces: &[(PortRange, RuleEntry)]) -> Option<RuleEntry> {
    let allowed = pieces.iter().map(|piece| piece.1).filter(|entry| entry.action == ACTION_ALLOW);
    if let Some(entry) = allowed.min_by_key(rank) {
        return Some(entry);
    }
    let covered: u32 = pieces.iter().map(|(range, _)| u32::from(range.last - range.first) + 1).sum();
    let weakest = pieces.iter().map(|piece| piece.1).max_by_key(rank);
    weakest.filter(|_| covered == u32::from(u16::MAX) + 1)
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
