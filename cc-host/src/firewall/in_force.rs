//! What the datapath has been given: compiled rule sets and the table of prefixes that they refer to. Brings it from one state to
//! another, whole or not at all. Refuses to decide what the rules are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::compile::{self, AtomName, Atoms, Input};
use super::error::FirewallError;
use super::lists::Lists;
use super::model::{GroupId, GroupRecord, PrefixListId, PrefixListRecord, Rule};
use super::prefixes::{self, Atom, Table};
use crate::datapath::{CompiledRules, Datapath, PrefixTable};

/// All that rules are compiled from.
pub struct Wanted<'a> {
    pub groups: &'a BTreeMap<GroupId, GroupRecord>,
    pub lists: &'a BTreeMap<PrefixListId, PrefixListRecord>,
    pub memberships: &'a BTreeMap<u32, BTreeSet<GroupId>>,
    /// Ranges beyond every network that only rules within them open.
    pub closed: &'a [IpNet],
}

/// What tells one table of prefixes from another.
#[derive(Debug, Default, PartialEq, Eq)]
struct TableKey {
    names: Vec<AtomName>,
    /// Content of each name that is a list.
    contents: Vec<Option<String>>,
    closed: Vec<IpNet>,
}

pub struct InForce {
    datapath: Arc<Datapath>,
    key: TableKey,
    table: Table,
    loaded: PrefixTable,
    sets: BTreeMap<u32, CompiledRules>,
}

/// How long the parts of a change took, and how large it was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Applied {
    pub prefixes: usize,
    pub rows: usize,
}

impl InForce {
    pub fn new(datapath: Arc<Datapath>) -> Self {
        InForce {
            datapath,
            key: TableKey::default(),
            table: Table::default(),
            loaded: PrefixTable::EMPTY,
            sets: BTreeMap::new(),
        }
    }

    /// Puts `wanted` in force. When it fails, what was in force is again. Blocks.
    pub fn apply(&mut self, wanted: &Wanted<'_>, lists: &Lists) -> Result<Applied, FirewallError> {
        let rules_of = |groups: &BTreeSet<GroupId>| -> Vec<&Rule> {
            groups.iter().filter_map(|group| wanted.groups.get(group)).flat_map(|group| &group.rules).collect()
        };
        let all: BTreeSet<&GroupId> = wanted.memberships.values().flatten().collect();
        let atoms = Atoms::of(all.into_iter().filter_map(|g| wanted.groups.get(g)).flat_map(|group| &group.rules));
        let key = key_of(wanted, &atoms);
        let new_table = if key == self.key { None } else { Some(build(wanted, &atoms, lists)?) };
        let table = new_table.as_ref().unwrap_or(&self.table);
        let sets: BTreeMap<u32, CompiledRules> = wanted
            .memberships
            .iter()
            .map(|(number, groups)| {
                let rules = rules_of(groups);
                let input = Input { rules: &rules, atoms: &atoms, table, memberships: wanted.memberships };
                (*number, compile::rule_set(&input))
            })
            .collect();
        let applied = self.load(new_table.as_ref(), &sets)?;
        if let Some(table) = new_table {
            (self.table, self.key) = (table, key);
        }
        self.sets = sets;
        Ok(applied)
    }

    fn load(
        &mut self,
        new_table: Option<&Table>,
        sets: &BTreeMap<u32, CompiledRules>,
    ) -> Result<Applied, FirewallError> {
        let failed = |source| FirewallError::Datapath { source };
        let mut applied = Applied::default();
        let loaded = match new_table {
            None => self.loaded,
            Some(table) => {
                applied.prefixes = table.compiled.v4.len() + table.compiled.v6.len();
                self.datapath.load_prefixes(&table.compiled).map_err(failed)?
            }
        };
        let moved = loaded != self.loaded;
        let mut done = Vec::new();
        for (number, compiled) in sets {
            if !moved && self.sets.get(number) == Some(compiled) {
                continue;
            }
            applied.rows += compiled.rows.len();
            done.push(*number);
            if let Err(error) = self.datapath.load_rules(*number, compiled, loaded) {
                self.restore(&done);
                if moved {
                    self.datapath.unload_prefixes(loaded);
                }
                return Err(failed(error));
            }
        }
        for number in self.sets.keys().filter(|number| !sets.contains_key(number)) {
            self.datapath.unload_rules(*number).map_err(failed)?;
        }
        if moved {
            self.datapath.unload_prefixes(std::mem::replace(&mut self.loaded, loaded));
        }
        Ok(applied)
    }

    /// At boot, when all that lives is in force: what an earlier daemon loaded goes. Blocks.
    pub fn remove_strays(&self) -> Result<usize, FirewallError> {
        self.datapath.remove_stray_rules().map_err(|source| FirewallError::Datapath { source })
    }

    /// The rule sets that were in force before a change that failed.
    fn restore(&self, numbers: &[u32]) {
        for number in numbers {
            let restored = match self.sets.get(number) {
                Some(compiled) => self.datapath.load_rules(*number, compiled, self.loaded),
                None => self.datapath.unload_rules(*number),
            };
            if let Err(error) = restored {
                tracing::error!(number, error = crate::error_chain(&error), "a rule set denies everything now");
            }
        }
    }
}

fn key_of(wanted: &Wanted<'_>, atoms: &Atoms) -> TableKey {
    let content = |name: &AtomName| match name {
        AtomName::Cidr(_) => None,
        AtomName::List(list) => wanted.lists.get(list).map(|record| record.content.clone()),
    };
    TableKey {
        contents: atoms.names.iter().map(content).collect(),
        names: atoms.names.clone(),
        closed: wanted.closed.to_vec(),
    }
}

fn build(wanted: &Wanted<'_>, atoms: &Atoms, lists: &Lists) -> Result<Table, FirewallError> {
    let mut contents: Vec<Arc<Vec<IpNet>>> = Vec::new();
    for name in &atoms.names {
        contents.push(match name {
            AtomName::Cidr(net) => Arc::new(vec![*net]),
            AtomName::List(list) => match wanted.lists.get(list) {
                Some(record) => lists.load(&record.content).map_err(|source| FirewallError::ListFile {
                    operation: "read",
                    name: record.name.to_string(),
                    source,
                })?,
                None => Arc::default(),
            },
        });
    }
    let named = contents.iter().enumerate().map(|(n, nets)| (n as Atom, nets.as_slice()));
    Ok(prefixes::build(named, wanted.closed))
}
