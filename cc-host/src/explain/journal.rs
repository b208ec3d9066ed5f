//! What rules have decided lately that was to be told, kept in memory for who asks afterwards: the last of each container, so that none
//! hides another's. Refuses to survive the daemon: who wants to keep records watches.

use std::collections::{HashMap, VecDeque};

use cc_common::event::RuleRecord;
use cc_common::limits::CONTAINERS_MAX;

use super::watchers::{Owner, RuleSeen};
use crate::ids::{ContainerId, Project};

/// Of one container; the oldest goes for a new one.
pub const KEPT_MAX: usize = 128;
/// Containers that have records, ended ones included: 4,096 × 128 × 72 bytes are 36 MiB at worst. The one that had its last record longest
/// ago goes for a new one.
const KEEPERS_MAX: usize = CONTAINERS_MAX as usize;
/// Records of one listing: 300 bytes each, within a message of 4 MiB.
pub const LISTED_MAX: usize = 1_000;

#[derive(Default)]
pub(super) struct Journal(HashMap<ContainerId, Kept>);

struct Kept {
    owner: Owner,
    records: VecDeque<RuleRecord>,
}

impl Kept {
    fn last_ns(&self) -> u64 {
        self.records.back().map_or(0, |record| record.at_ns)
    }
}

impl Journal {
    pub(super) fn add(&mut self, owner: &Owner, record: RuleRecord) {
        let (id, ..) = owner;
        if !self.0.contains_key(id) && self.0.len() >= KEEPERS_MAX {
            let silent = self.0.iter().min_by_key(|(_, kept)| kept.last_ns()).map(|(id, _)| id.clone());
            silent.and_then(|id| self.0.remove(&id));
        }
        let new = || Kept { owner: owner.clone(), records: VecDeque::new() };
        let kept = self.0.entry(id.clone()).or_insert_with(new);
        if kept.records.len() == KEPT_MAX {
            kept.records.pop_front();
        }
        kept.records.push_back(record);
    }

    /// Of a project, or of one container of it: the newest, the oldest of them first.
    pub(super) fn list(&self, project: &Project, only: Option<&ContainerId>) -> Vec<RuleSeen> {
        let wanted = self
            .0
            .values()
            .filter(|Kept { owner: (id, _, of), .. }| of == project && only.is_none_or(|only| only == id));
        let mut all: Vec<RuleSeen> = wanted
            .flat_map(|Kept { owner: (id, name, _), records }| {
                records.iter().map(move |record| RuleSeen { record: *record, container: (id.clone(), name.clone()) })
            })
            .collect();
        // Two CPUs may write theirs in another order.
        all.sort_by_key(|seen| seen.record.at_ns);
        all.split_off(all.len().saturating_sub(LISTED_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Name;

    fn owner(number: u64, project: &str) -> Owner {
        let id = ContainerId::parse(&format!("{number:016x}")).unwrap();
        (id, Name::parse("web").unwrap(), Name::parse(project).unwrap())
    }

    #[test]
    fn each_container_keeps_its_last_and_no_project_sees_anothers() {
        let mut journal = Journal::default();
        let (red, other_red, blue) = (owner(1, "red"), owner(2, "red"), owner(3, "blue"));
        journal.add(&other_red, RuleRecord { at_ns: 7, ..RuleRecord::default() });
        for at_ns in 0..KEPT_MAX as u64 + 10 {
            journal.add(&red, RuleRecord { at_ns, ..RuleRecord::default() });
        }
        journal.add(&blue, RuleRecord::default());
        let seen = journal.list(&red.2, None);
        assert_eq!(seen.len(), KEPT_MAX + 1, "a flood hides nobody else's");
        assert_eq!((seen[0].record.at_ns, &seen[0].container.0), (7, &other_red.0));
        assert_eq!((seen[1].record.at_ns, seen.last().unwrap().record.at_ns), (10, KEPT_MAX as u64 + 9));
        assert_eq!(journal.list(&red.2, Some(&other_red.0)).len(), 1);
        assert_eq!(journal.list(&red.2, Some(&blue.0)).len(), 0);
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut journal = Journal::default();
        for number in 0..KEEPERS_MAX as u64 + 1 {
            journal.add(&owner(number, "red"), RuleRecord { at_ns: 5 + number, ..RuleRecord::default() });
        }
        assert_eq!(journal.0.len(), KEEPERS_MAX);
        assert!(!journal.0.contains_key(&owner(0, "red").0), "the one that was silent for longest");
        let seen = journal.list(&owner(0, "red").2, None);
        assert_eq!((seen.len(), seen.last().unwrap().record.at_ns), (LISTED_MAX, 5 + KEEPERS_MAX as u64));
    }
}
