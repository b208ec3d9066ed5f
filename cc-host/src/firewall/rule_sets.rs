//! Which rule sets there are: one for each set of groups that some endpoint is in, under a number that endpoints and rules know it by.
//! Refuses to know rules.

use std::collections::{BTreeMap, BTreeSet};

use cc_common::limits::RULE_SETS_MAX;
use serde::{Deserialize, Serialize};

use super::model::GroupId;

/// Sets that nobody is in any more are kept, so that the next container of a VPC finds its rules loaded.
const IDLE_MAX: usize = 256;

/// An endpoint's groups, and the number of its rule set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Membership {
    pub groups: BTreeSet<GroupId>,
    pub rule_set: u32,
}

#[derive(Debug, Default)]
pub struct RuleSets {
    by_number: BTreeMap<u32, Set>,
    last: u32,
}

#[derive(Debug)]
struct Set {
    groups: BTreeSet<GroupId>,
    /// Endpoints that are in it.
    users: u32,
}

impl RuleSets {
    /// One more endpoint in these groups; `None` if nobody is in them yet.
    pub fn join(&mut self, groups: &BTreeSet<GroupId>) -> Option<u32> {
        let (number, set) = self.by_number.iter_mut().find(|(_, set)| set.groups == *groups)?;
        set.users += 1;
        Some(*number)
    }

    /// A number for groups that nobody is in, with one endpoint in them; `None` when there is none left.
    pub fn add(&mut self, groups: BTreeSet<GroupId>) -> Option<u32> {
        let candidates = (self.last + 1..RULE_SETS_MAX).chain(1..=self.last.min(RULE_SETS_MAX - 1));
        let number = candidates.into_iter().find(|number| !self.by_number.contains_key(number))?;
        self.last = number;
        self.by_number.insert(number, Set { groups, users: 1 });
        Some(number)
    }

    /// At boot, of an endpoint that lives: under the number that its rows name.
    pub fn adopt(&mut self, membership: &Membership) {
        let set = Set { groups: membership.groups.clone(), users: 0 };
        self.by_number.entry(membership.rule_set).or_insert(set).users += 1;
    }

    /// One endpoint less.
    pub fn leave(&mut self, number: u32) {
        if let Some(set) = self.by_number.get_mut(&number) {
            set.users = set.users.saturating_sub(1);
        }
    }

    /// Takes back what `add` has made.
    pub fn remove(&mut self, number: u32) {
        self.by_number.remove(&number);
    }

    /// Forgets sets of a group that is no more, and the idle ones that are too many.
    pub fn tidy(&mut self, exists: impl Fn(&GroupId) -> bool) {
        self.by_number.retain(|_, set| set.users > 0 || set.groups.iter().all(&exists));
        let idle: Vec<u32> =
            self.by_number.iter().filter(|(_, set)| set.users == 0).map(|(number, _)| *number).collect();
        for number in idle.iter().take(idle.len().saturating_sub(IDLE_MAX)) {
            self.by_number.remove(number);
        }
    }

    /// Endpoints that are in a group.
    pub fn users_of(&self, group: &GroupId) -> u32 {
        self.by_number.values().filter(|set| set.groups.contains(group)).map(|set| set.users).sum()
    }

    pub fn memberships(&self) -> BTreeMap<u32, BTreeSet<GroupId>> {
        self.by_number.iter().map(|(number, set)| (*number, set.groups.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_groups_share_a_number_and_a_number_is_not_given_again_at_once() {
        let mut sets = RuleSets::default();
        let groups: Vec<GroupId> = (0..2).map(|_| GroupId::random()).collect();
        let both = BTreeSet::from([groups[0].clone(), groups[1].clone()]);
        assert_eq!(sets.join(&both), None);
        let first = sets.add(both.clone()).unwrap();
        assert_eq!((sets.join(&both), sets.users_of(&groups[0])), (Some(first), 2));
        sets.leave(first);
        sets.leave(first);
        sets.tidy(|_| true);
        assert_eq!(sets.join(&both), Some(first), "an idle one is kept");
        sets.leave(first);
        sets.tidy(|group| *group != groups[0]);
        let one = BTreeSet::from([groups[1].clone()]);
        assert_ne!(sets.add(one).unwrap(), first);
    }

    #[test]
    fn numbers_run_out_and_come_back() {
        let mut sets = RuleSets::default();
        for _ in 1..RULE_SETS_MAX {
            sets.add(BTreeSet::from([GroupId::random()])).unwrap();
        }
        assert_eq!(sets.add(BTreeSet::new()), None);
        sets.remove(5);
        assert_eq!(sets.add(BTreeSet::new()), Some(5));
    }
}
