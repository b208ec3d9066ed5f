//! Rules: who may begin a conversation with whom. Compiled so that a decision takes the same few probes however many rules there
//! are: one per class that the peer belongs to. Refuses to know how a packet got there, and whether its flow exists already.
//!
//! A rule set is the rules of an endpoint's groups together. Of the rules that match, the one with the least priority number
//! decides, a denial before an allowance of the same number; what no rule matches is denied.

use crate::net::{Be16, Be32, Ip, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::verdict::Direction;

/// Key of `CC_RULES`. The trie matches prefixes of the port only: everything before it is exact. A class's rules for one
/// protocol are cut at the borders of their ranges, so that each port has one row and no row lies within another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RuleKey {
    pub generation: Be64,
    pub class: Be32Hash,
    pub direction: u8,
    /// One of `PROTOCOL_CLASS_…`.
    pub protocol: u8,
    pub port: Be16,
}
const _: () = assert!(size_of::<RuleKey>() == 16 && align_of::<RuleKey>() == 1);

/// Bits of a rule's key before the port.
pub const RULE_EXACT_BITS: u32 = 112;
/// Bits of a whole key: what a packet is looked up with.
pub const RULE_BITS: u32 = 128;

/// A 64-bit number in network byte order: the trie compares bits from the first byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct Be64(pub [u8; 8]);

/// As `Be32`, for keys that user space hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct Be32Hash(pub [u8; 4]);

impl Be64 {
    #[inline(always)]
    pub const fn new(host: u64) -> Self {
        Be64(host.to_be_bytes())
    }
}

/// Value of `CC_RULES`: what the best rule for these packets says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RuleEntry {
    /// The rule's number, which people see; never 0.
    pub rule: u32,
    /// The least decides.
    pub priority: u16,
    /// One of `ACTION_…`.
    pub action: u8,
    /// Whether matching it is to be told.
    pub log: u8,
}
const _: () = assert!(size_of::<RuleEntry>() == 8 && align_of::<RuleEntry>() == 4);

pub const ACTION_ALLOW: u8 = 1;
pub const ACTION_DENY: u8 = 2;

/// Rules name four kinds of protocols; `any` stands in all of them.
pub const PROTOCOL_CLASS_OTHER: u8 = 0;
pub const PROTOCOL_CLASS_TCP: u8 = 1;
pub const PROTOCOL_CLASS_UDP: u8 = 2;
pub const PROTOCOL_CLASS_ICMP: u8 = 3;
pub const PROTOCOL_CLASS_ICMPV6: u8 = 4;
pub const PROTOCOL_CLASSES: [u8; 5] =
    [PROTOCOL_CLASS_OTHER, PROTOCOL_CLASS_TCP, PROTOCOL_CLASS_UDP, PROTOCOL_CLASS_ICMP, PROTOCOL_CLASS_ICMPV6];
/// Beside a protocol's class: whether any of its ports is allowed. What a fragment without a header is judged by.
pub const PROTOCOL_CLASS_SOME: u8 = 0x80;

#[inline(always)]
pub const fn protocol_class(protocol: u8) -> u8 {
    match protocol {
        PROTOCOL_TCP => PROTOCOL_CLASS_TCP,
        PROTOCOL_UDP => PROTOCOL_CLASS_UDP,
        PROTOCOL_ICMP => PROTOCOL_CLASS_ICMP,
        PROTOCOL_ICMPV6 => PROTOCOL_CLASS_ICMPV6,
        _ => PROTOCOL_CLASS_OTHER,
    }
}

/// Classes of peers: everybody of a family, the members of a set of groups, the addresses that are in the same prefix lists.
pub const CLASS_ANY_V4: u32 = 1;
pub const CLASS_ANY_V6: u32 = 2;
const CLASS_GROUPS: u32 = 0x4000_0000;
const CLASS_PREFIXES: u32 = 0x8000_0000;
/// Numbers of sets of groups and of sets of lists lie below it.
pub const CLASS_NUMBER_MAX: u32 = CLASS_GROUPS - 1;

#[inline(always)]
pub const fn class_of_groups(set: u32) -> u32 {
    CLASS_GROUPS | set
}

#[inline(always)]
pub const fn class_of_prefixes(set: u32) -> u32 {
    CLASS_PREFIXES | set
}

/// Value of `CC_PREFIX4` and `CC_PREFIX6`: the set of prefix lists that an address is in; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PrefixEntry {
    /// Of an address in the endpoint's own network.
    pub inside: u32,
    /// Of an address beyond it. Closed ranges (the host's own addresses, link-local ones) are in no list that covers more
    /// than them, so that only a rule that means them opens them.
    pub outside: u32,
}
const _: () = assert!(size_of::<PrefixEntry>() == 8 && align_of::<PrefixEntry>() == 4);

/// In `outside`: the address is closed.
pub const PREFIX_CLOSED: u32 = 0x8000_0000;

/// What `CC_PREFIX4` matches prefixes of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Prefix4Key {
    pub table: Be32Hash,
    pub address: [u8; 4],
}
/// What `CC_PREFIX6` matches prefixes of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Prefix6Key {
    pub table: Be32Hash,
    pub address: [u8; 16],
}
const _: () = assert!(size_of::<Prefix4Key>() == 8 && size_of::<Prefix6Key>() == 20);

/// Value of `CC_RULESETS`: the rules in force. Writing it puts a whole rule set in force at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RuleSet {
    /// Leads the keys of its rules; 0 is no rule set, and denies all.
    pub generation: u64,
    /// What flows remember: changes with the rules, and with whatever else could change their decision.
    pub version: u64,
    /// The table of prefixes that they were compiled for.
    pub prefix_table: u32,
    /// Bits by direction: whether a rule names addresses.
    pub names_prefixes: u32,
    /// Likewise: whether a rule names groups.
    pub names_groups: u32,
    pub pad: u32,
}
const _: () = assert!(size_of::<RuleSet>() == 32 && align_of::<RuleSet>() == 8);

impl RuleSet {
    #[inline(always)]
    const fn has(bits: u32, direction: Direction) -> bool {
        bits & (1 << direction as u32) != 0
    }
}

/// The other end of a conversation, as far as rules can tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'a> {
    pub address: &'a Ip,
    /// Number of the peer's set of groups; 0 for whoever has none.
    pub groups: u32,
    /// Whether it is beyond the network: then closed ranges are closed.
    pub beyond: bool,
}

/// What rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    pub allowed: bool,
    /// The number of the rule that decided; 0 if none matched.
    pub rule: u32,
    pub log: bool,
    /// None matched because the peer's address is closed to whatever does not name it.
    pub closed: bool,
}

/// Where rules and prefixes are found: the maps, or a model of them.
pub trait Tables {
    fn rule(&self, key: &RuleKey) -> Option<RuleEntry>;
    fn prefix(&self, table: u32, address: &Ip) -> Option<PrefixEntry>;
}

/// Whether the endpoint with these rules (none: nothing is allowed) may converse with `peer` in this direction, `service` being the port or the ICMP type and
/// code. `fragment`: no port is known; whether any would be allowed.
#[inline(always)]
pub fn decide(
    tables: &impl Tables,
    set: Option<&RuleSet>,
    direction: Direction,
    peer: &Peer<'_>,
    protocol: u8,
    service: Be16,
    fragment: bool,
) -> Decision {
    let Some(set) = set else { return Decision { allowed: false, rule: 0, log: false, closed: false } };
    let mut key = RuleKey {
        generation: Be64::new(set.generation),
        class: Be32Hash([0; 4]),
        direction: direction as u8,
        protocol: protocol_class(protocol) | if fragment { PROTOCOL_CLASS_SOME } else { 0 },
        port: if fragment { Be16([0; 2]) } else { service },
    };
    let mut best = RuleEntry::default();
    let mut closed = false;
    if peer.beyond || RuleSet::has(set.names_prefixes, direction) {
        let entry = tables.prefix(set.prefix_table, peer.address).unwrap_or_default();
        let number = if peer.beyond { entry.outside } else { entry.inside };
        // Nobody is closed to the endpoint's own network, and answers are no conversation of their own.
        closed = direction as u8 == Direction::Egress as u8 && number & PREFIX_CLOSED != 0;
        let number = number & !PREFIX_CLOSED;
        if number != 0 {
            key.class = Be32Hash(class_of_prefixes(number).to_be_bytes());
            best = better(best, tables.rule(&key));
        }
    }
    if !closed {
        if peer.groups != 0 && RuleSet::has(set.names_groups, direction) {
            key.class = Be32Hash(class_of_groups(peer.groups).to_be_bytes());
            best = better(best, tables.rule(&key));
        }
        let any = if peer.address.is_v4() { CLASS_ANY_V4 } else { CLASS_ANY_V6 };
        key.class = Be32Hash(any.to_be_bytes());
        best = better(best, tables.rule(&key));
    }
    Decision {
        allowed: best.action == ACTION_ALLOW,
        rule: best.rule,
        log: best.log != 0,
        closed: closed && best.rule == 0,
    }
}

/// Of two rules that match, the one that decides; of equal ones the older. Without a rule there is no number.
#[inline(always)]
fn better(best: RuleEntry, other: Option<RuleEntry>) -> RuleEntry {
    let Some(other) = other else { return best };
    if best.rule == 0 || rank(&other) < rank(&best) { other } else { best }
}

/// The least decides: priority, a denial first, the number.
#[inline(always)]
pub const fn rank(entry: &RuleEntry) -> u64 {
    let allows = if entry.action == ACTION_DENY { 0 } else { 1 };
    (entry.priority as u64) << 40 | allows << 32 | entry.rule as u64
}

// The kernel's compiler would call memcmp for a derived comparison of an address; these are only for user space.
impl From<Be32> for Be32Hash {
    fn from(value: Be32) -> Self {
        Be32Hash(value.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Model {
        rules: HashMap<RuleKey, RuleEntry>,
        prefixes: HashMap<Ip, PrefixEntry>,
    }

    impl Tables for Model {
        fn rule(&self, key: &RuleKey) -> Option<RuleEntry> {
            self.rules.get(key).copied()
        }
        fn prefix(&self, _: u32, address: &Ip) -> Option<PrefixEntry> {
            self.prefixes.get(address).copied()
        }
    }

    impl Model {
        fn put(&mut self, class: u32, direction: Direction, rule: u32, priority: u16, action: u8) {
            let key = RuleKey {
                generation: Be64::new(SET.generation),
                class: Be32Hash(class.to_be_bytes()),
                direction: direction as u8,
                protocol: PROTOCOL_CLASS_TCP,
                port: Be16::new(80),
            };
            self.rules.insert(key, RuleEntry { rule, priority, action, log: 0 });
        }

        fn ask(&self, direction: Direction, peer: &Peer<'_>) -> Decision {
            decide(self, Some(&SET), direction, peer, PROTOCOL_TCP, Be16::new(80), false)
        }
    }

    const SET: RuleSet =
        RuleSet { generation: 7, version: 7, prefix_table: 1, names_prefixes: 3, names_groups: 3, pad: 0 };
    const ADDRESS: Ip = Ip::v4(Be32([10, 0, 0, 9]));
    const PEER: Peer<'_> = Peer { address: &ADDRESS, groups: 5, beyond: false };

    #[test]
    fn what_nothing_matches_is_denied() {
        let denied = Decision { allowed: false, rule: 0, log: false, closed: false };
        assert_eq!(Model::default().ask(Direction::Ingress, &PEER), denied);
    }

    #[test]
    fn the_least_priority_decides_and_a_denial_before_an_allowance() {
        let mut model = Model::default();
        model.put(CLASS_ANY_V4, Direction::Ingress, 1, 100, ACTION_DENY);
        model.put(class_of_groups(5), Direction::Ingress, 2, 50, ACTION_ALLOW);
        assert_eq!(model.ask(Direction::Ingress, &PEER).rule, 2);
        assert!(model.ask(Direction::Ingress, &PEER).allowed);
        model.prefixes.insert(ADDRESS, PrefixEntry { inside: 9, outside: 9 });
        model.put(class_of_prefixes(9), Direction::Ingress, 3, 50, ACTION_DENY);
        assert_eq!(model.ask(Direction::Ingress, &PEER).rule, 3, "equal priorities");
        assert!(!model.ask(Direction::Egress, &PEER).allowed, "the other direction has no rule");
        assert_eq!(model.ask(Direction::Ingress, &Peer { groups: 6, ..PEER }).rule, 3);
    }

    #[test]
    fn closed_addresses_take_a_rule_that_names_them() {
        let mut model = Model::default();
        model.put(CLASS_ANY_V4, Direction::Egress, 1, 0, ACTION_ALLOW);
        model.prefixes.insert(ADDRESS, PrefixEntry { inside: 0, outside: PREFIX_CLOSED });
        let beyond = Peer { beyond: true, groups: 0, ..PEER };
        assert!(model.ask(Direction::Egress, &PEER).allowed, "within the network nothing is closed");
        let decision = model.ask(Direction::Egress, &beyond);
        assert!(!decision.allowed && decision.closed, "{decision:?}");
        model.prefixes.insert(ADDRESS, PrefixEntry { inside: 0, outside: PREFIX_CLOSED | 4 });
        model.put(class_of_prefixes(4), Direction::Egress, 2, 100, ACTION_ALLOW);
        assert_eq!(
            model.ask(Direction::Egress, &beyond),
            Decision { allowed: true, rule: 2, log: false, closed: false }
        );
    }
}
