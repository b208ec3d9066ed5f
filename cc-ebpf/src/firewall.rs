//! Rules and prefixes as the maps have them. Refuses to interpret them: `cc_common::firewall` does.

use aya_ebpf::btf_maps::lpm_trie::Key;
use cc_common::firewall::{
    Be32Hash, Prefix4Key, Prefix6Key, PrefixEntry, RULE_BITS, RuleEntry, RuleKey, RuleSet, Tables,
};
use cc_common::net::Ip;

use crate::maps::{CC_PREFIX4, CC_PREFIX6, CC_RULES, CC_RULESETS};

/// The table of prefixes has its generation before the address.
const PREFIX4_BITS: u32 = 64;
const PREFIX6_BITS: u32 = 160;

/// The maps.
pub struct Maps;

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
pub fn rule_set(number: u32) -> Option<&'static RuleSet> {
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
