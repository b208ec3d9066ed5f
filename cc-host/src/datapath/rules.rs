//! Rule sets and prefixes in their maps. A generation is written whole before anything refers to it; one row's write puts it in
//! force. Refuses to know what a rule means, and which rule sets there are: it is told.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, Map, MapData};
use cc_common::firewall::{
    Be32Hash, Be64, Prefix4Key, Prefix6Key, PrefixEntry, RULE_EXACT_BITS, RuleEntry, RuleKey, RuleSet,
};
use cc_common::limits::RULE_SETS_MAX;
use cc_common::names;
use cc_common::net::Be16;
use cc_common::verdict::Direction;

use super::batch;
use super::error::DatapathError;
use super::object::take_map;

/// A row of a rule set: what is decided for a range of ports that begins at `port` and is `2^(16 - port_bits)` long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleRow {
    pub class: u32,
    pub direction: Direction,
    /// One of `PROTOCOL_CLASS_…`.
    pub protocol: u8,
    pub port: u16,
    pub port_bits: u8,
    pub entry: RuleEntry,
}

/// The rules of one rule set, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompiledRules {
    pub rows: Vec<RuleRow>,
    /// Bits by direction.
    pub names_prefixes: u32,
    pub names_groups: u32,
}

/// Prefixes and the sets of lists that they are in. Sorted they load three times as fast.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompiledPrefixes {
    pub v4: Vec<([u8; 4], u8, PrefixEntry)>,
    pub v6: Vec<([u8; 16], u8, PrefixEntry)>,
}

/// A table of prefixes that is loaded; rule sets refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixTable(u32);

impl PrefixTable {
    /// Nothing is in it.
    pub const EMPTY: PrefixTable = PrefixTable(0);

    pub(super) fn number(self) -> u32 {
        self.0
    }
}

pub struct Rules {
    sets: Array<MapData, RuleSet>,
    rules: Rows<RuleKey, RuleEntry>,
    v4: Rows<Prefix4Key, PrefixEntry>,
    v6: Rows<Prefix6Key, PrefixEntry>,
    /// What is in the maps, by rule set and by table: what to delete when it is replaced.
    loaded: HashMap<u32, Vec<Key<RuleKey>>>,
    tables: HashMap<u32, PrefixKeys>,
    last_table: u32,
}

/// The keys of one table of prefixes.
struct PrefixKeys {
    v4: Vec<Key<Prefix4Key>>,
    v6: Vec<Key<Prefix6Key>>,
}

/// A trie, and its descriptor for what aya does not do.
struct Rows<K, V> {
    name: &'static str,
    fd: OwnedFd,
    trie: LpmTrie<MapData, K, V>,
}

impl<K: aya::Pod, V: aya::Pod> Rows<K, V> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, DatapathError> {
        let map = take_map(ebpf, name)?;
        let Map::LpmTrie(data) = &map else { return Err(DatapathError::Missing { what: "trie", name }) };
        let fd = data.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| DatapathError::Rows { operation: "open", name, source })?;
        let trie = LpmTrie::try_from(map).map_err(|source| DatapathError::Map { operation: "open", name, source })?;
        Ok(Rows { name, fd, trie })
    }

    /// Many are written by two threads: the kernel has one at a time change the trie, but allocates for the other meanwhile.
    fn write(&self, keys: &[Key<K>], values: &[V]) -> Result<(), DatapathError>
    where
        Key<K>: aya::Pod + Sync,
        V: Sync,
    {
        let (name, fd) = (self.name, self.fd.as_fd());
        let failed = |source| DatapathError::Rows { operation: "write", name, source };
        let update = |keys: &[Key<K>], values: &[V]| batch::update(fd, keys, values).map_err(failed);
        if keys.len() < WORTH_TWO_THREADS {
            return update(keys, values);
        }
        let (first_keys, last_keys) = keys.split_at(keys.len() / 2);
        let (first_values, last_values) = values.split_at(keys.len() / 2);
        std::thread::scope(|scope| {
            let last = scope.spawn(|| update(last_keys, last_values));
            let first = update(first_keys, first_values);
            first.and(last.join().expect("writing rows does not panic"))
        })
    }

    /// Rows that nothing refers to take memory only: what cannot be removed now goes at the next boot.
    fn remove(&self, keys: &[Key<K>])
    where
        Key<K>: aya::Pod,
    {
        if let Err(error) = batch::delete(self.fd.as_fd(), keys) {
            tracing::warn!(map = self.name, %error, "rows that are not in force stay until the next start");
        }
    }

    /// The keys that `is_stray` says so of.
    fn strays(&self, is_stray: impl Fn(&K) -> bool) -> Result<Vec<Key<K>>, DatapathError> {
        let failed = |source| DatapathError::Map { operation: "list", name: self.name, source };
        let keys: Vec<Key<K>> = self.trie.keys().collect::<Result<_, _>>().map_err(failed)?;
        Ok(keys.into_iter().filter(|key| is_stray(&key.data())).collect())
    }
}

const TABLE_BITS: u32 = 32;
/// Rows.
const WORTH_TWO_THREADS: usize = 1 << 16;

impl Rules {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let failed = |source| DatapathError::Map { operation: "open", name: names::MAP_RULE_SETS, source };
        let mut found = Rules {
            sets: Array::try_from(take_map(ebpf, names::MAP_RULE_SETS)?).map_err(failed)?,
            rules: Rows::take(ebpf, names::MAP_RULES)?,
            v4: Rows::take(ebpf, names::MAP_PREFIXES_V4)?,
            v6: Rows::take(ebpf, names::MAP_PREFIXES_V6)?,
            loaded: HashMap::new(),
            tables: HashMap::new(),
            last_table: 0,
        };
        for number in 1..RULE_SETS_MAX {
            found.last_table = found.last_table.max(found.set(number)?.prefix_table);
        }
        Ok(found)
    }

    /// This table's number is in use, by whoever is no rule set.
    pub(super) fn reserve(&mut self, table: u32) {
        self.last_table = self.last_table.max(table);
    }

    pub fn set(&self, number: u32) -> Result<RuleSet, DatapathError> {
        self.sets.get(&number, 0).map_err(|source| DatapathError::Map {
            operation: "read",
            name: names::MAP_RULE_SETS,
            source,
        })
    }

    /// Puts a rule set in force, whole, and removes the generation that it replaces.
    pub fn load(
        &mut self,
        number: u32,
        generation: u64,
        compiled: &CompiledRules,
        table: PrefixTable,
    ) -> Result<(), DatapathError> {
        let keys: Vec<Key<RuleKey>> = compiled.rows.iter().map(|row| key(generation, row)).collect();
        let values: Vec<RuleEntry> = compiled.rows.iter().map(|row| row.entry).collect();
        if let Err(error) = self.rules.write(&keys, &values) {
            // What was written is in no generation that anything refers to.
            self.rules.remove(&keys);
            return Err(error);
        }
        let set = RuleSet {
            generation,
            version: generation,
            prefix_table: table.0,
            names_prefixes: compiled.names_prefixes,
            names_groups: compiled.names_groups,
            pad: 0,
        };
        self.put(number, set)?;
        if let Some(old) = self.loaded.insert(number, keys) {
            self.rules.remove(&old);
        }
        Ok(())
    }

    /// From here on it denies everything.
    pub fn unload(&mut self, number: u32) -> Result<(), DatapathError> {
        self.put(number, RuleSet::default())?;
        if let Some(old) = self.loaded.remove(&number) {
            self.rules.remove(&old);
        }
        Ok(())
    }

    fn put(&mut self, number: u32, set: RuleSet) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Map { operation: "write", name: names::MAP_RULE_SETS, source };
        self.sets.set(number, set, 0).map_err(failed)
    }

    /// Loads a table of prefixes; no rule set refers to it yet.
    pub fn load_prefixes(&mut self, compiled: &CompiledPrefixes) -> Result<PrefixTable, DatapathError> {
        self.last_table = self.last_table.wrapping_add(1).max(1);
        let table = Be32Hash(self.last_table.to_be_bytes());
        let v4 = compiled
            .v4
            .iter()
            .map(|&(address, length, _)| Key::new(TABLE_BITS + u32::from(length), Prefix4Key { table, address }));
        let v6 = compiled
            .v6
            .iter()
            .map(|&(address, length, _)| Key::new(TABLE_BITS + u32::from(length), Prefix6Key { table, address }));
        let (v4, v6): (Vec<_>, Vec<_>) = (v4.collect(), v6.collect());
        let entries4: Vec<PrefixEntry> = compiled.v4.iter().map(|row| row.2).collect();
        let entries6: Vec<PrefixEntry> = compiled.v6.iter().map(|row| row.2).collect();
        let written = self.v4.write(&v4, &entries4).and_then(|()| self.v6.write(&v6, &entries6));
        self.tables.insert(self.last_table, PrefixKeys { v4, v6 });
        let table = PrefixTable(self.last_table);
        if let Err(error) = written {
            self.unload_prefixes(table);
            return Err(error);
        }
        Ok(table)
    }

    /// No rule set refers to it any more.
    pub fn unload_prefixes(&mut self, table: PrefixTable) {
        let Some(PrefixKeys { v4, v6 }) = self.tables.remove(&table.0) else { return };
        self.v4.remove(&v4);
        self.v6.remove(&v6);
    }

    /// At boot, when everything is loaded anew: what an earlier daemon left goes.
    pub fn remove_strays(&mut self) -> Result<usize, DatapathError> {
        let mut known = HashSet::new();
        for number in 1..RULE_SETS_MAX {
            let set = self.set(number)?;
            if self.loaded.contains_key(&number) {
                known.insert(Be64::new(set.generation));
            } else if set != RuleSet::default() {
                self.put(number, RuleSet::default())?;
            }
        }
        let rules = self.rules.strays(|key| !known.contains(&key.generation))?;
        let is_stray = |table: Be32Hash| !self.tables.contains_key(&u32::from_be_bytes(table.0));
        let (v4, v6) = (self.v4.strays(|key| is_stray(key.table))?, self.v6.strays(|key| is_stray(key.table))?);
        self.rules.remove(&rules);
        self.v4.remove(&v4);
        self.v6.remove(&v6);
        Ok(rules.len() + v4.len() + v6.len())
    }
}

fn key(generation: u64, row: &RuleRow) -> Key<RuleKey> {
    let data = RuleKey {
        generation: Be64::new(generation),
        class: Be32Hash(row.class.to_be_bytes()),
        direction: row.direction as u8,
        protocol: row.protocol,
        port: Be16::new(row.port),
    };
    Key::new(RULE_EXACT_BITS + u32::from(row.port_bits), data)
}
