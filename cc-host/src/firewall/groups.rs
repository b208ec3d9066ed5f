//! What people do with groups and their rules. Refuses to put anything in force itself.

use std::collections::BTreeSet;

use super::error::FirewallError;
use super::model::{
    GROUPS_PER_ENDPOINT_MAX, GROUPS_PER_PROJECT_MAX, GroupId, GroupRecord, Peer, RULES_PER_GROUP_MAX, Rule, RuleSpec,
    default_egress,
};
use super::room::{Firewall, Records};
use crate::ids::{Name, Project, VpcId, now_ms};

const KIND: &str = "group";

impl Firewall {
    /// A group whose members reach out and whom nobody reaches, until rules say more.
    pub async fn create_group(&self, project: &Project, name: &str) -> Result<GroupRecord, FirewallError> {
        let bad = |source| FirewallError::BadName { kind: KIND, name: name.to_owned(), source };
        let name = Name::parse(name).map_err(bad)?;
        let group = new_group(project.clone(), name.clone(), None);
        let edit = |records: &mut Records, writes: &mut super::room::Writes| {
            if records.groups_of(project).any(|other| other.name == name) {
                return Err(FirewallError::NameTaken { kind: KIND, name: name.clone() });
            }
            if records.groups_of(project).count() >= GROUPS_PER_PROJECT_MAX {
                let (name, project) = (name.clone(), project.clone());
                return Err(FirewallError::TooMany { kind: KIND, name, project, max: GROUPS_PER_PROJECT_MAX });
            }
            let mut group = group;
            group.rules.push(records.number(default_egress()));
            writes.create_group(&group)?;
            records.groups.insert(group.id.clone(), group.clone());
            Ok(group)
        };
        self.change(name.as_str(), edit).await.map(|(group, _)| group)
    }

    /// Oldest first.
    pub fn groups(&self, project: &Project) -> Vec<GroupRecord> {
        let mut groups: Vec<GroupRecord> = self.records().groups_of(project).cloned().collect();
        groups.sort_by(|a, b| (a.created_ms, &a.name).cmp(&(b.created_ms, &b.name)));
        groups
    }

    /// By id or name. Another project's is not found.
    pub fn group(&self, project: &Project, wanted: &str) -> Result<GroupRecord, FirewallError> {
        find(&self.records(), project, wanted).cloned()
    }

    pub fn default_group(&self, vpc: &VpcId) -> Option<GroupRecord> {
        self.records().groups.values().find(|group| group.default_of.as_ref() == Some(vpc)).cloned()
    }

    /// Endpoints that are in it.
    pub fn members(&self, group: &GroupId) -> u32 {
        self.sets().users_of(group)
    }

    /// The names of groups, for whoever shows ids.
    pub fn group_name(&self, id: &GroupId) -> Option<Name> {
        self.records().groups.get(id).map(|group| group.name.clone())
    }

    /// The groups that are named, all of one project; without a name, the VPC's default group.
    pub fn resolve(
        &self,
        project: &Project,
        wanted: &[String],
        vpc: &VpcId,
    ) -> Result<BTreeSet<GroupId>, FirewallError> {
        if wanted.len() > GROUPS_PER_ENDPOINT_MAX {
            return Err(FirewallError::TooManyGroups);
        }
        if wanted.is_empty() {
            return Ok(self.default_group(vpc).map(|group| group.id).into_iter().collect());
        }
        let records = self.records();
        wanted.iter().map(|name| find(&records, project, name).map(|group| group.id.clone())).collect()
    }

    /// All or nothing; unknown ones are no error. `users` tells who has a group beyond those endpoints that live.
    pub async fn delete_groups(
        &self,
        project: &Project,
        wanted: &[String],
        users: impl Fn(&GroupId) -> Vec<String>,
    ) -> Result<Vec<GroupId>, FirewallError> {
        let edit = |records: &mut Records, writes: &mut super::room::Writes| {
            let found = wanted.iter().filter_map(|name| find(records, project, name).ok().cloned());
            let mut doomed: Vec<GroupRecord> = Vec::new();
            for group in found {
                if !doomed.contains(&group) {
                    doomed.push(group);
                }
            }
            for group in &doomed {
                if group.default_of.is_some() {
                    return Err(FirewallError::IsDefault { name: group.name.clone() });
                }
                if let Some(user) = users(&group.id).first() {
                    let by = format!("container {user} is in it");
                    return Err(FirewallError::InUse { kind: KIND, name: group.name.clone(), by });
                }
                not_named(group, records.groups.values().filter(|other| !doomed.contains(other)))?;
                writes.delete_group(group);
            }
            for group in &doomed {
                records.groups.remove(&group.id);
            }
            self.sets().tidy(|group| records.groups.contains_key(group));
            Ok(doomed.into_iter().map(|group| group.id).collect())
        };
        self.change(&wanted.join(" "), edit).await.map(|(ids, _)| ids)
    }

    /// In force when it returns.
    pub async fn add_rule(
        &self,
        project: &Project,
        group: &str,
        spec: RuleSpec,
    ) -> Result<(GroupRecord, Rule), FirewallError> {
        let edit = |records: &mut Records, writes: &mut super::room::Writes| {
            let id = find(records, project, group)?.id.clone();
            check(records, project, &spec)?;
            let rule = records.number(spec);
            let group = records.groups.get_mut(&id).expect("it was found just above");
            if group.rules.len() >= RULES_PER_GROUP_MAX {
                return Err(FirewallError::TooManyRules { name: group.name.clone() });
            }
            group.rules.push(rule.clone());
            writes.put(group.key(), group)?;
            Ok((group.clone(), rule))
        };
        self.change(group, edit).await.map(|(added, _)| added)
    }

    /// All or nothing. Flows that lived by a rule end with their next packet.
    pub async fn revoke_rules(
        &self,
        project: &Project,
        group: &str,
        numbers: &[u32],
    ) -> Result<GroupRecord, FirewallError> {
        let edit = |records: &mut Records, writes: &mut super::room::Writes| {
            let id = find(records, project, group)?.id.clone();
            let group = records.groups.get_mut(&id).expect("it was found just above");
            for &number in numbers {
                let at = group.rules.iter().position(|rule| rule.number == number);
                let at = at.ok_or_else(|| FirewallError::NoRule { name: group.name.clone(), number })?;
                group.rules.remove(at);
            }
            writes.put(group.key(), group)?;
            Ok(group.clone())
        };
        self.change(group, edit).await.map(|(group, _)| group)
    }
}

pub fn new_group(project: Project, name: Name, default_of: Option<VpcId>) -> GroupRecord {
    GroupRecord { id: GroupId::random(), name, project, default_of, rules: Vec::new(), created_ms: now_ms() }
}

fn find<'a>(records: &'a Records, project: &Project, wanted: &str) -> Result<&'a GroupRecord, FirewallError> {
    let mut own = records.groups_of(project);
    own.find(|group| group.id.as_str() == wanted || group.name.as_str() == wanted)
        .ok_or_else(|| FirewallError::NotFound { kind: KIND, wanted: wanted.to_owned(), project: project.clone() })
}

/// What a rule names belongs to the same project.
fn check(records: &Records, project: &Project, spec: &RuleSpec) -> Result<(), FirewallError> {
    let missing = |kind, wanted: &dyn ToString| {
        Err(FirewallError::NotFound { kind, wanted: wanted.to_string(), project: project.clone() })
    };
    match &spec.peer {
        Peer::Group(id) if records.groups.get(id).is_none_or(|group| group.project != *project) => missing(KIND, id),
        Peer::Prefixes(id) if records.lists.get(id).is_none_or(|list| list.project != *project) => {
            missing("prefix list", id)
        }
        _ => Ok(()),
    }
}

/// Whether no rule of others is about this group.
pub(super) fn not_named<'a>(
    group: &GroupRecord,
    mut others: impl Iterator<Item = &'a GroupRecord>,
) -> Result<(), FirewallError> {
    let names = |other: &&GroupRecord| {
        other.rules.iter().any(|rule| matches!(&rule.spec.peer, Peer::Group(id) if *id == group.id))
    };
    match others.find(names) {
        Some(other) => {
            let by = format!("a rule of group {} names it", other.name);
            Err(FirewallError::InUse { kind: KIND, name: group.name.clone(), by })
        }
        None => Ok(()),
    }
}
