//! Which groups and prefix lists there are, and who is in which. A change is put in force before it is written down, and taken back
//! if it cannot be: what was acknowledged is both. Refuses to compile and to talk to the datapath itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::sync::OwnedMutexGuard;

use super::error::FirewallError;
use super::in_force::{Applied, InForce, Wanted};
use super::lists::Lists;
use super::model::{GROUPS, GroupId, GroupRecord, PREFIX_LISTS, PrefixListId, PrefixListRecord, Rule, RuleSpec};
use super::rule_sets::{Membership, RuleSets};
use crate::blocking;
use crate::datapath::Datapath;
use crate::ids::{Project, now_ms};
use crate::store::{Compare, Op, Store, Txn, typed};

/// The last number that a rule was given.
const RULE_CURSOR: &str = "rule-last";

/// Groups and lists as the store has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    pub(super) groups: BTreeMap<GroupId, GroupRecord>,
    pub(super) lists: BTreeMap<PrefixListId, PrefixListRecord>,
    /// Ranges beyond every network that only rules within them open.
    pub(super) closed: Vec<IpNet>,
    last_rule: u32,
}

/// An endpoint's place in its groups; dropping it leaves them.
pub struct Joined {
    firewall: Arc<Firewall>,
    membership: Membership,
}

impl Joined {
    pub fn membership(&self) -> &Membership {
        &self.membership
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.firewall.sets().leave(self.membership.rule_set);
    }
}

/// What a change writes, if it can be put in force.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) compares: Vec<Compare>,
    pub(super) ops: Vec<Op>,
}

pub struct Firewall {
    store: Arc<dyn Store>,
    pub(super) lists: Arc<Lists>,
    /// Copies of the records, so that reading waits for nobody.
    records: Mutex<Arc<Records>>,
    sets: Mutex<RuleSets>,
    /// Held through every change: one after the other.
    in_force: Arc<tokio::sync::Mutex<InForce>>,
}

impl Firewall {
    /// Reads all records; nothing is in force before `boot`.
    pub async fn open(
        store: Arc<dyn Store>,
        datapath: Arc<Datapath>,
        dir: PathBuf,
        closed: Vec<IpNet>,
    ) -> Result<Self, FirewallError> {
        let failed = |source| FirewallError::Store { name: "*".to_owned(), source };
        let lists = Lists::open(dir).map_err(|source| FirewallError::ListDirectory { source })?;
        let (groups, _) = typed::range_json::<GroupRecord>(&*store, GROUPS).await.map_err(failed)?;
        let (records, _) = typed::range_json::<PrefixListRecord>(&*store, PREFIX_LISTS).await.map_err(failed)?;
        let last_rule = typed::get_json::<u32>(&*store, RULE_CURSOR).await.map_err(failed)?;
        let records = Records {
            groups: groups.into_iter().map(|stored| (stored.value.id.clone(), stored.value)).collect(),
            lists: records.into_iter().map(|stored| (stored.value.id.clone(), stored.value)).collect(),
            closed,
            last_rule: last_rule.map_or(0, |stored| stored.value),
        };
        lists.keep_only(&records.lists.values().map(|list| list.content.clone()).collect());
        Ok(Firewall {
            store,
            lists: Arc::new(lists),
            records: Mutex::new(Arc::new(records)),
            sets: Mutex::default(),
            in_force: Arc::new(tokio::sync::Mutex::new(InForce::new(datapath))),
        })
    }

    /// When all endpoints that live are adopted: puts their rules in force, under the numbers that their rows name, and removes
    /// whatever else an earlier daemon has left in force. Until here, what it has put in force is.
    pub async fn boot(&self) -> Result<(), FirewallError> {
        let (guard, applied) = self.apply(self.turn().await, self.records()).await;
        applied?;
        let stray = tokio::task::spawn_blocking(move || guard.remove_strays()).await;
        match stray.expect("removing rows does not panic")? {
            0 => {}
            rows => tracing::info!(rows, "removed rules that a former daemon left in force"),
        }
        Ok(())
    }

    pub(super) fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_records(&self, records: Arc<Records>) {
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) = records;
    }

    pub(super) fn sets(&self) -> MutexGuard<'_, RuleSets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self) -> OwnedMutexGuard<InForce> {
        Arc::clone(&self.in_force).lock_owned().await
    }

    /// Compiles and loads where it blocks nobody: a million prefixes take a while.
    async fn apply(
        &self,
        mut guard: OwnedMutexGuard<InForce>,
        records: Arc<Records>,
    ) -> (OwnedMutexGuard<InForce>, Result<Applied, FirewallError>) {
        let (memberships, lists) = (self.sets().memberships(), Arc::clone(&self.lists));
        let blocking = move || {
            let Records { groups, lists: list_records, closed, .. } = &*records;
            let wanted = Wanted { groups, lists: list_records, memberships: &memberships, closed };
            let applied = guard.apply(&wanted, &lists);
            (guard, applied)
        };
        blocking::run(blocking).await
    }

    /// One change: `edit` says what becomes of the records and what is written. It is in force before it is written, and undone if it
    /// cannot be written.
    pub(super) async fn change<T>(
        &self,
        name: &str,
        edit: impl FnOnce(&mut Records, &mut Writes) -> Result<T, FirewallError>,
    ) -> Result<(T, Applied), FirewallError> {
        self.change_with(name, edit, async |writes: Writes| {
            self.store
                .txn(writes.compares, writes.ops)
                .await
                .map(|done| matches!(done, Txn::Committed { .. }))
                .map_err(|source| FirewallError::Store { name: name.to_owned(), source })
        })
        .await
        .and_then(|done| done.ok_or_else(|| FirewallError::Busy { kind: "group or list", name: name.to_owned() }))
    }

    /// As `change`, written by `commit` together with what else it writes; `None` if that met somebody who was faster.
    async fn change_with<T, E: From<FirewallError>>(
        &self,
        name: &str,
        edit: impl FnOnce(&mut Records, &mut Writes) -> Result<T, FirewallError>,
        commit: impl AsyncFnOnce(Writes) -> Result<bool, E>,
    ) -> Result<Option<(T, Applied)>, E> {
        let guard = self.turn().await;
        let old = self.records();
        let (mut new, mut writes) = ((*old).clone(), Writes::default());
        let value = edit(&mut new, &mut writes)?;
        if new.last_rule != old.last_rule {
            let put = typed::put_op(RULE_CURSOR, &new.last_rule);
            writes.ops.push(put.map_err(|source| FirewallError::Store { name: name.to_owned(), source })?);
        }
        let new = Arc::new(new);
        let (guard, applied) = self.apply(guard, Arc::clone(&new)).await;
        let applied = applied?;
        let committed = commit(writes).await;
        if !matches!(committed, Ok(true)) {
            let (_, restored) = self.apply(guard, old).await;
            if let Err(error) = restored {
                tracing::error!(error = crate::error_chain(&error), "rules that were not written down are in force");
            }
            return committed.map(|_| None);
        }
        self.set_records(new);
        Ok(Some((value, applied)))
    }

    /// Writes a VPC's record together with its default group, which bears its name. `commit` gets what to write besides, and says
    /// whether it was written.
    pub async fn with_default_group<E: From<FirewallError>>(
        &self,
        group: GroupRecord,
        commit: impl AsyncFnOnce(Vec<Compare>, Vec<Op>) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let name = group.name.to_string();
        let edit = |records: &mut Records, writes: &mut Writes| {
            let mut group = group;
            for spec in super::model::default_rules(&group.id) {
                group.rules.push(records.number(spec));
            }
            writes.create_group(&group)?;
            records.groups.insert(group.id.clone(), group);
            Ok(())
        };
        let commit = async |writes: Writes| commit(writes.compares, writes.ops).await;
        Ok(self.change_with(&name, edit, commit).await?.is_some())
    }

    /// Deletes VPCs together with their default groups.
    pub async fn without_default_groups<E: From<FirewallError>>(
        &self,
        vpcs: &[crate::ids::VpcId],
        commit: impl AsyncFnOnce(Vec<Op>) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let edit = |records: &mut Records, writes: &mut Writes| {
            let is_theirs = |group: &&GroupRecord| group.default_of.as_ref().is_some_and(|vpc| vpcs.contains(vpc));
            let doomed: Vec<GroupRecord> = records.groups.values().filter(is_theirs).cloned().collect();
            for group in &doomed {
                let others = || records.groups.values().filter(|other| !doomed.iter().any(|d| d.id == other.id));
                super::groups::not_named(group, others())?;
                writes.delete_group(group);
            }
            doomed.iter().for_each(|group| drop(records.groups.remove(&group.id)));
            self.sets().tidy(|group| records.groups.contains_key(group));
            Ok(())
        };
        let commit = async |writes: Writes| commit(writes.ops).await;
        Ok(self.change_with("*", edit, commit).await?.is_some())
    }

    /// One more endpoint in these groups: its rule set is in force when this returns.
    pub async fn join(self: &Arc<Self>, groups: &BTreeSet<GroupId>) -> Result<Joined, FirewallError> {
        let joined = |rule_set| {
            let membership = Membership { groups: groups.clone(), rule_set };
            Joined { firewall: Arc::clone(self), membership }
        };
        if let Some(number) = self.sets().join(groups) {
            return Ok(joined(number));
        }
        let guard = self.turn().await;
        // Somebody may have come first while we waited.
        if let Some(number) = self.sets().join(groups) {
            return Ok(joined(number));
        }
        let records = self.records();
        let number = {
            let mut sets = self.sets();
            sets.tidy(|group| records.groups.contains_key(group));
            sets.add(groups.clone()).ok_or(FirewallError::NoRuleSet)?
        };
        let (_, applied) = self.apply(guard, records).await;
        if let Err(error) = applied {
            self.sets().remove(number);
            return Err(error);
        }
        Ok(joined(number))
    }

    /// The place of an endpoint that lives since before this daemon; for `boot`.
    pub fn adopted(self: &Arc<Self>, membership: Membership) -> Joined {
        self.sets().adopt(&membership);
        Joined { firewall: Arc::clone(self), membership }
    }

    /// The ranges that only rules within them open, when they have changed.
    pub async fn set_closed(&self, closed: Vec<IpNet>) -> Result<(), FirewallError> {
        if self.records().closed == closed {
            return Ok(());
        }
        let edit = |records: &mut Records, _: &mut Writes| {
            records.closed = closed;
            Ok(())
        };
        // Nothing of it is written: it is the host's present state.
        self.change_with("*", edit, async |_| Ok::<bool, FirewallError>(true)).await.map(drop)
    }
}

impl Records {
    /// A rule with the next number.
    pub(super) fn number(&mut self, spec: RuleSpec) -> Rule {
        self.last_rule += 1;
        Rule { number: self.last_rule, spec, created_ms: now_ms() }
    }

    pub(super) fn groups_of(&self, project: &Project) -> impl Iterator<Item = &GroupRecord> {
        self.groups.values().filter(move |group| group.project == *project)
    }

    pub(super) fn lists_of(&self, project: &Project) -> impl Iterator<Item = &PrefixListRecord> {
        self.lists.values().filter(move |list| list.project == *project)
    }
}

impl Writes {
    pub(super) fn put<T: serde::Serialize>(&mut self, key: String, value: &T) -> Result<(), FirewallError> {
        let op = typed::put_op(key, value);
        self.ops.push(op.map_err(|source| FirewallError::Store { name: "*".to_owned(), source })?);
        Ok(())
    }

    pub(super) fn create_group(&mut self, group: &GroupRecord) -> Result<(), FirewallError> {
        self.compares.extend([group.key(), group.name_key()].map(Compare::Absent));
        self.put(group.key(), group)?;
        self.put(group.name_key(), &group.id)
    }

    pub(super) fn delete_group(&mut self, group: &GroupRecord) {
        self.ops.extend([group.key(), group.name_key()].map(|key| Op::Delete { key }));
    }
}
