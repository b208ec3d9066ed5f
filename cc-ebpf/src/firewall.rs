//! Rules and prefixes as the maps have them. Refuses to interpret them: `cc_common::firewall` does.

use aya_ebpf::btf_maps::lpm_trie::Key;
use cc_common::firewall::{
    self, Be32Hash, Decision, Peer, Prefix4Key, Prefix6Key, PrefixEntry, RULE_BITS, RuleEntry, RuleKey, RuleSet, Tables,
};
use cc_common::net::{Be16, Ip};
use cc_common::packet::Packet;
use cc_common::verdict::Direction;

use crate::maps::{CC_PREFIX4, CC_PREFIX6, CC_RULES, CC_RULESETS};
use crate::trace;
use crate::work::Work;

/// The table of prefixes has its generation before the address.
const PREFIX4_BITS: u32 = 64;
const PREFIX6_BITS: u32 = 160;

/// The maps.
struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn rule(&self, key: &RuleKey) -> Option<RuleEntry> {
        CC_RULES.get(&Key::new(RULE_BITS, *key)).copied()
    }

    #[inline(always)]
    fn prefix(&self, table: u32, address: &Ip) -> Option<PrefixEntry> {
        let table = Be32Hash(table.to_be_bytes());
        if address.is_v4() {
            CC_PREFIX4.get(&Key::new(PREFIX4_BITS, Prefix4Key { table, address: address.last().0 })).copied()
        } else {
            CC_PREFIX6.get(&Key::new(PREFIX6_BITS, Prefix6Key { table, address: address.octets })).copied()
        }
    }
}

/// The rules in force; a number without rules denies everything.
#[inline(always)]
fn rule_set(number: u32) -> Option<&'static RuleSet> {
    CC_RULESETS.get(number)
}

/// What flows compare: whether anything has changed since they were judged.
#[inline(always)]
pub fn version(number: u32) -> u64 {
    match CC_RULESETS.get(number) {
        Some(set) => set.version,
        None => 0,
    }
}

/// What `cc_judge` is asked: whether the endpoint with these rules may converse in this direction with this peer.
#[repr(C)]
pub struct Question {
    pub peer: Ip,
    pub groups: u32,
    pub rule_set: u32,
    pub service: Be16,
    protocol: u8,
    /// As numbers: the verifier wants to see what they may be.
    is_ingress: u8,
    pub beyond: u8,
    headless: u8,
    pad: [u8; 2],
}

impl Question {
    /// A peer in one of this host's networks, with its groups. Written in place: the programs' stacks are small.
    #[inline(always)]
    pub fn about(&mut self, peer: Ip, groups: u32) -> &mut Self {
        self.peer = peer;
        self.groups = groups;
        self.beyond = 0;
        self.headless = 0;
        self
    }

    /// A peer beyond them.
    #[inline(always)]
    pub fn about_outside(&mut self, peer: Ip) -> &mut Self {
        self.about(peer, 0);
        self.beyond = 1;
        self
    }

    /// Without a port, if `headless`.
    #[inline(always)]
    pub fn headless(&mut self, headless: bool) -> &mut Self {
        self.headless = headless as u8;
        self
    }

    /// Asks the rules whether it may be about what the packet asks for.
    #[inline(always)]
    pub fn ask(&mut self, rule_set: u32, direction: Direction, packet: &Packet) -> Decision {
        self.rule_set = rule_set;
        self.service = packet.service();
        self.protocol = packet.protocol;
        self.is_ingress = matches!(direction, Direction::Ingress) as u8;
        let bits = cc_judge();
        Decision {
            allowed: bits & ALLOWED != 0,
            closed: bits & CLOSED != 0,
            log: bits & LOG != 0,
            rule: (bits >> 32) as u32,
        }
    }
}

pub const ALLOWED: u64 = 1;
pub const CLOSED: u64 = 2;
pub const LOG: u64 = 4;

/// Asks the rules. Verified by itself, as `admit`'s.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cc_judge() -> u64 {
    let Some(work) = Work::mine() else { return 0 };
    let asked = &work.question;
    let peer = Peer { address: &asked.peer, groups: asked.groups, beyond: asked.beyond != 0 };
    let direction = if asked.is_ingress != 0 { Direction::Ingress } else { Direction::Egress };
    let set = rule_set(asked.rule_set);
    let decision = firewall::decide(&Maps, set, direction, &peer, asked.protocol, asked.service, asked.headless != 0);
    let bit = |is: bool, bit: u64| if is { bit } else { 0 };
    let bits = u64::from(decision.rule) << 32
        | bit(decision.allowed, ALLOWED)
        | bit(decision.closed, CLOSED)
        | bit(decision.log, LOG);
    trace::judged(work, direction, bits);
    if decision.log {
        work.decided.note(direction, decision.rule);
    }
    bits
}
