//! What people do with prefix lists. Refuses to put anything in force itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::error::FirewallError;
use super::in_force::Applied;
use super::model::{PREFIX_LISTS_PER_PROJECT_MAX, PREFIXES_PER_LIST_MAX, Peer, PrefixListId, PrefixListRecord};
use super::room::{Firewall, Records, Writes};
use crate::ids::{Name, Project, now_ms};
use crate::store::{Compare, Op};

const KIND: &str = "prefix list";

/// What becomes of a list's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    Add,
    Remove,
    Replace,
}

/// A list after an edit.
#[derive(Debug)]
pub struct EditedList {
    pub list: PrefixListRecord,
    pub applied: Applied,
    /// How long it took until the content was on disk, before anything of it was put in force.
    pub stored: Duration,
}

impl Firewall {
    /// An empty one: nobody is in it.
    pub async fn create_list(&self, project: &Project, name: &str) -> Result<PrefixListRecord, FirewallError> {
        let bad = |source| FirewallError::BadName { kind: KIND, name: name.to_owned(), source };
        let name = Name::parse(name).map_err(bad)?;
        let content = self.keep(&name, Vec::new()).await?;
        let now = now_ms();
        let list = PrefixListRecord {
            id: PrefixListId::random(),
            name: name.clone(),
            project: project.clone(),
            content,
            prefixes: 0,
            created_ms: now,
            changed_ms: now,
        };
        let edit = |records: &mut Records, writes: &mut Writes| {
            if records.lists_of(project).any(|other| other.name == name) {
                return Err(FirewallError::NameTaken { kind: KIND, name: name.clone() });
            }
            if records.lists_of(project).count() >= PREFIX_LISTS_PER_PROJECT_MAX {
                let (name, project) = (name.clone(), project.clone());
                return Err(FirewallError::TooMany { kind: KIND, name, project, max: PREFIX_LISTS_PER_PROJECT_MAX });
            }
            writes.compares.extend([list.key(), list.name_key()].map(Compare::Absent));
            writes.put(list.key(), &list)?;
            writes.put(list.name_key(), &list.id)?;
            records.lists.insert(list.id.clone(), list.clone());
            Ok(list.clone())
        };
        self.change(name.as_str(), edit).await.map(|(list, _)| list)
    }

    /// Oldest first.
    pub fn prefix_lists(&self, project: &Project) -> Vec<PrefixListRecord> {
        let mut lists: Vec<PrefixListRecord> = self.records().lists_of(project).cloned().collect();
        lists.sort_by(|a, b| (a.created_ms, &a.name).cmp(&(b.created_ms, &b.name)));
        lists
    }

    /// By id or name. Another project's is not found.
    pub fn prefix_list(&self, project: &Project, wanted: &str) -> Result<PrefixListRecord, FirewallError> {
        find(&self.records(), project, wanted).cloned()
    }

    /// Whoever's it is.
    pub fn list_of_id(&self, id: &PrefixListId) -> Option<PrefixListRecord> {
        self.records().lists.get(id).cloned()
    }

    pub fn list_name(&self, id: &PrefixListId) -> Option<Name> {
        self.records().lists.get(id).map(|list| list.name.clone())
    }

    /// What is in a list, sorted.
    pub async fn prefixes_of(&self, list: &PrefixListRecord) -> Result<Arc<Vec<IpNet>>, FirewallError> {
        let (lists, content) = (Arc::clone(&self.lists), list.content.clone());
        let loaded = tokio::task::spawn_blocking(move || lists.load(&content)).await;
        loaded.expect("reading a list does not panic").map_err(|source| FirewallError::ListFile {
            operation: "read",
            name: list.name.to_string(),
            source,
        })
    }

    /// In force when it returns, whole: no packet sees a part of the change.
    pub async fn edit_list(
        &self,
        project: &Project,
        wanted: &str,
        edit: Edit,
        prefixes: Vec<IpNet>,
    ) -> Result<EditedList, FirewallError> {
        let mut stored = Duration::ZERO;
        // Read, edited and written again until nobody was faster: the whole change is one list's, and lists are few.
        loop {
            let before = self.prefix_list(project, wanted)?;
            let old = self.prefixes_of(&before).await?;
            let edited = edited(&old, edit, &prefixes);
            if edited.len() > PREFIXES_PER_LIST_MAX {
                let source = super::lists::LineError::TooMany;
                return Err(FirewallError::BadLine { line: prefixes.len(), source });
            }
            let count = edited.len() as u64;
            let began = Instant::now();
            let content = self.keep(&before.name, edited).await?;
            stored += began.elapsed();
            let change = |records: &mut Records, writes: &mut Writes| {
                let id = find(records, project, wanted)?.id.clone();
                let list = records.lists.get_mut(&id).expect("it was found just above");
                if list.content != before.content {
                    return Ok(None);
                }
                (list.content, list.prefixes, list.changed_ms) = (content, count, now_ms());
                writes.put(list.key(), list)?;
                Ok(Some(list.clone()))
            };
            if let (Some(list), applied) = self.change(wanted, change).await? {
                self.forget_contents();
                return Ok(EditedList { list, applied, stored });
            }
        }
    }

    /// All or nothing; unknown ones are no error.
    pub async fn delete_lists(&self, project: &Project, wanted: &[String]) -> Result<Vec<PrefixListId>, FirewallError> {
        let edit = |records: &mut Records, writes: &mut Writes| {
            let mut doomed: Vec<PrefixListRecord> = Vec::new();
            for list in wanted.iter().filter_map(|name| find(records, project, name).ok().cloned()) {
                let names = |peer: &Peer| matches!(peer, Peer::Prefixes(id) if *id == list.id);
                let user = records.groups.values().find(|group| group.rules.iter().any(|r| names(&r.spec.peer)));
                if let Some(group) = user {
                    let by = format!("a rule of group {} names it", group.name);
                    return Err(FirewallError::InUse { kind: KIND, name: list.name, by });
                }
                if !doomed.contains(&list) {
                    writes.ops.extend([list.key(), list.name_key()].map(|key| Op::Delete { key }));
                    doomed.push(list);
                }
            }
            doomed.iter().for_each(|list| drop(records.lists.remove(&list.id)));
            Ok(doomed.into_iter().map(|list| list.id).collect())
        };
        let (ids, _) = self.change(&wanted.join(" "), edit).await?;
        self.forget_contents();
        Ok(ids)
    }

    async fn keep(&self, name: &Name, prefixes: Vec<IpNet>) -> Result<String, FirewallError> {
        let lists = Arc::clone(&self.lists);
        let kept = tokio::task::spawn_blocking(move || lists.store(prefixes)).await;
        kept.expect("writing a list does not panic").map_err(|source| FirewallError::ListFile {
            operation: "write",
            name: name.to_string(),
            source,
        })
    }

    /// Contents that no record names go, but for those that an edit has just kept.
    fn forget_contents(&self) {
        self.lists.keep_recent_and(&self.records().lists.values().map(|list| list.content.clone()).collect());
    }
}

/// Both are sorted.
fn edited(old: &[IpNet], edit: Edit, prefixes: &[IpNet]) -> Vec<IpNet> {
    match edit {
        Edit::Replace => prefixes.to_vec(),
        Edit::Remove => old.iter().filter(|net| prefixes.binary_search(net).is_err()).copied().collect(),
        Edit::Add => {
            let mut all = [old, prefixes].concat();
            all.sort_unstable();
            all.dedup();
            all
        }
    }
}

fn find<'a>(records: &'a Records, project: &Project, wanted: &str) -> Result<&'a PrefixListRecord, FirewallError> {
    let mut own = records.lists_of(project);
    own.find(|list| list.id.as_str() == wanted || list.name.as_str() == wanted).ok_or_else(|| FirewallError::NotFound {
        kind: KIND,
        wanted: wanted.to_owned(),
        project: project.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let (old, change) = (nets(&["10.0.0.0/8", "192.0.2.0/24"]), nets(&["192.0.2.0/24", "198.51.100.0/24"]));
        assert_eq!(edited(&old, Edit::Add, &change), nets(&["10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24"]));
        assert_eq!(edited(&old, Edit::Remove, &change), nets(&["10.0.0.0/8"]));
        assert_eq!(edited(&old, Edit::Replace, &change), change);
    }
}
