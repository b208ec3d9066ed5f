//! The numbers of a project's rules, as people name them. Refuses those of other projects: their numbers mean nothing here.

use std::collections::HashMap;

use crate::firewall::GroupRecord;

#[derive(Debug, Default)]
pub struct Rules(HashMap<u32, String>);

impl Rules {
    pub fn of(groups: &[GroupRecord]) -> Self {
        let rules = groups.iter().flat_map(|group| group.rules.iter().map(move |rule| (group, rule)));
        Rules(rules.map(|(group, rule)| (rule.number, format!("{}#{}", group.name, rule.number))).collect())
    }

    /// `GROUP#NUMBER`; 0 is no rule.
    pub fn name(&self, number: u32) -> Option<&str> {
        self.0.get(&number).map(String::as_str)
    }
}
