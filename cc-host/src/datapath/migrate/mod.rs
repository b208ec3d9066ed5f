//! Takes over what an earlier layout of the pinned maps holds, and puts our programs in the place of its own, while packets go on.
//! Refuses to guess: a layout that no migration is written for is left as it is.
//!
//! A map whose layout is the same in both is the very same map, pinned once more: whichever version's program decides a packet, it
//! asks the same rules, counts in the same counters and closes the same books. A map with another layout is carried over, row by row.
//! The order loses nothing:
//!
//! 1. Beside everything that works, in `v<ABI>-coming`: the common maps are pinned, our programs are loaded, rows are copied.
//! 2. No conversation begins any more, by a limit that both versions' programs read. What has changed since is copied once more: now
//!    every conversation there is, is in both tables.
//! 3. The directory gets its name, `v<ABI>`.
//! 4. Every hook's program is replaced, each in one step of the kernel's. So each packet meets one of the two, never none.
//! 5. What the earlier programs have still seen is joined to our rows.
//! 6. The earlier directory loses its name, and goes. Conversations begin again.
//!
//! What fails before 6 is undone: the earlier programs are put back, and our directory goes. A daemon that is killed before 3 has
//! changed no program, and the next one of either version begins anew. One that is killed between 3 and 6 leaves both tables with every
//! conversation: the next one of ours goes on at 4, and one of the earlier version puts its own programs back. Whoever is next writes the
//! limit anew; until then, after a kill between 2 and 6, what is open goes on and nothing begins.

mod rows;
mod swap;
mod v3;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aya::maps::{Array, Map, MapData};
use cc_common::names::{self, MAP_SETTINGS, PIN_COMING, PIN_GOING};
use cc_common::settings::Settings;

use super::DatapathConfig;
use super::error::DatapathError;
use super::flows::flow_clock_ns;
use super::object::{self, Object, Programs};
use crate::daemon::RunLock;
use crate::error_chain;
use rows::Pass;

/// Programs date flows by a clock that is a tick behind.
const TICK_NS: u64 = 50_000_000;

/// How an earlier layout becomes ours.
struct Migration {
    version: u32,
    /// Every map of it. What is not named is gone, or begins empty.
    maps: &'static [(&'static str, Way)],
    /// Writes how many flows an endpoint may have into its settings.
    limit: fn(&Path, u32) -> Result<(), DatapathError>,
}

#[derive(Clone, Copy)]
enum Way {
    /// The layout and its meaning are ours: the very map goes on.
    Same,
    /// Rows are carried over by this; it returns how many were written.
    Carried(fn(&Carry<'_>) -> Result<usize, DatapathError>),
}

/// One pass over a map that has another layout now.
struct Carry<'a> {
    from: &'a Path,
    to: &'a Path,
    pass: Pass,
    /// Rows that no packet has changed since then are as they were.
    since_ns: u64,
}

const MIGRATIONS: [&Migration; 1] = [&v3::MIGRATION];

/// What was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgraded {
    pub from: u32,
    pub rows: usize,
    /// Interfaces and links whose programs are ours now.
    pub hooks: usize,
}

/// A directory of pins that are not this version's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherPins {
    pub version: u32,
    pub path: PathBuf,
    /// On its way in or out when its daemon was killed: nothing works by it.
    pub is_unfinished: bool,
}

/// All of them, this version's own unfinished one too; the newest first.
pub fn other_pins(config: &DatapathConfig) -> Vec<OtherPins> {
    let parse = |name: &str| {
        let name = name.strip_prefix('v')?;
        let plain = [PIN_COMING, PIN_GOING].into_iter().find_map(|suffix| name.strip_suffix(suffix));
        Some((plain.unwrap_or(name).parse::<u32>().ok()?, plain.is_some()))
    };
    let entries = fs::read_dir(&config.bpffs_dir).into_iter().flatten().flatten();
    let mut found: Vec<OtherPins> = entries
        .filter_map(|entry| {
            let (version, is_unfinished) = parse(entry.file_name().to_str()?)?;
            let is_other = version != names::ABI || is_unfinished;
            is_other.then(|| OtherPins { version, path: entry.path(), is_unfinished })
        })
        .collect();
    found.sort_by_key(|pins| std::cmp::Reverse(pins.version));
    found
}

/// Removes a directory of pins, and with the pins what only they hold. Its name goes first: what is half removed is nobody's.
pub fn remove_pins(path: &Path) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::PinDirectory { operation: "remove", path: path.to_owned(), source };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(PIN_GOING) {
        return fs::remove_dir_all(path).map_err(failed);
    }
    let going = path.with_file_name(format!("{}{PIN_GOING}", name.trim_end_matches(PIN_COMING)));
    discard(&going)?;
    match fs::rename(path, &going) {
        Ok(()) => fs::remove_dir_all(&going).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Nothing there is fine.
fn discard(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::PinDirectory { operation: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// This version's object over this version's pins, and what was taken over from an earlier one's.
pub(super) fn open(config: &DatapathConfig) -> Result<(Object, Option<Upgraded>), DatapathError> {
    let own = object::pin_dir(config);
    discard(&beside(&own, PIN_COMING))?;
    let Some(earlier) = Earlier::find(config) else { return Ok((object::open(config, &own)?, None)) };
    let began = Instant::now();
    let from = earlier.migration.version;
    let taken = earlier.take_over(config, &own);
    let (object, upgraded) = taken.map_err(|source| DatapathError::Upgrade { from, source: Box::new(source) })?;
    tracing::info!(?upgraded, took = ?began.elapsed(), "took over what an earlier version has pinned");
    Ok((object, Some(upgraded)))
}

fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    dir.with_file_name(format!("{name}{suffix}"))
}

/// Pins of an earlier version that can be taken over. Its daemon does not run, and none can start meanwhile.
struct Earlier {
    migration: &'static Migration,
    dir: PathBuf,
    _lock: RunLock,
}

impl Earlier {
    fn find(config: &DatapathConfig) -> Option<Earlier> {
        let earlier = |pins: &OtherPins| pins.version < names::ABI && !pins.is_unfinished;
        other_pins(config).into_iter().filter(earlier).find_map(|OtherPins { version, path, .. }| {
            let migration = MIGRATIONS.into_iter().find(|one| one.version == version)?;
            if let Some((name, _)) = migration.maps.iter().find(|(name, _)| !path.join(name).exists()) {
                tracing::warn!(dir = %path.display(), map = name, "what an earlier version has pinned is not whole");
                return None;
            }
            // Whoever holds it tells so when its pins are to go.
            let lock = RunLock::of_directory(&path).ok()?;
            Some(Earlier { migration, dir: path, _lock: lock })
        })
    }

    fn take_over(&self, config: &DatapathConfig, own: &Path) -> Result<(Object, Upgraded), DatapathError> {
        // Looked at before anything is done: they are put back if it fails.
        let mut theirs = Programs::pinned(&self.dir.join(names::PIN_PROGRAMS_DIR))?;
        let flows = config.settings.flows_per_endpoint;
        let done = self.prepare(config, own).and_then(|(mut object, rows, since_ns)| {
            let hooks = swap::all(&mut object.programs, own, &self.dir, Some(own))?;
            swap::settle();
            let rows = rows.max(self.carry(own, Pass::Join, since_ns)?);
            let failed = |source| DatapathError::PinDirectory { operation: "put away", path: self.dir.clone(), source };
            fs::rename(&self.dir, beside(&self.dir, PIN_GOING)).map_err(failed)?;
            Ok((object, Upgraded { from: self.migration.version, rows, hooks }))
        });
        match &done {
            Ok(_) => {
                if let Err(error) = discard(&beside(&self.dir, PIN_GOING)) {
                    tracing::error!(%error, "what an earlier version has pinned stays until the next start");
                }
                // Whoever opened this writes all settings anew in a moment: this one is not to wait.
                if let Err(error) = limit_ours(own, flows) {
                    tracing::warn!(%error, "no conversation begins for a moment");
                }
            }
            Err(_) => self.undo(&mut theirs, own, flows),
        }
        done
    }

    /// Everything is there twice, and no conversation begins. Returns how many rows there are that had to be carried over, and since when
    /// they may have changed.
    fn prepare(&self, config: &DatapathConfig, own: &Path) -> Result<(Object, usize, u64), DatapathError> {
        if own.exists() {
            // Of a daemon that was killed on its way: it had come so far.
            let object = object::open(config, own)?;
            self.limit(own, 0)?;
            return Ok((object, 0, 0));
        }
        let coming = beside(own, PIN_COMING);
        object::make_dirs(config, &coming)?;
        for (name, _) in self.migration.maps.iter().filter(|(_, way)| matches!(way, Way::Same)) {
            let from = self.dir.join(name);
            let map = MapData::from_pin(&from).map_err(|source| DatapathError::OpenMap { path: from, source })?;
            let path = coming.join(name);
            map.pin(&path).map_err(|source| DatapathError::Pin { path, source })?;
        }
        let object = object::open(config, &coming)?;
        let copied_ns = now_ns();
        let rows = self.carry(&coming, Pass::Copy, 0)?;
        self.limit(&coming, 0)?;
        swap::settle();
        let since_ns = now_ns();
        let rows = rows.max(self.carry(&coming, Pass::Copy, copied_ns)?);
        let failed = |source| DatapathError::PinDirectory { operation: "name", path: own.to_owned(), source };
        fs::rename(&coming, own).map_err(failed)?;
        Ok((object, rows, since_ns))
    }

    fn carry(&self, to: &Path, pass: Pass, since_ns: u64) -> Result<usize, DatapathError> {
        let mut rows = 0;
        for (_, way) in self.migration.maps {
            if let Way::Carried(carry) = way {
                rows += carry(&Carry { from: &self.dir, to, pass, since_ns })?;
            }
        }
        Ok(rows)
    }

    /// Flows that one endpoint may have, for both versions' programs: with 0, no conversation begins, and none ends by it.
    fn limit(&self, ours: &Path, flows: u32) -> Result<(), DatapathError> {
        (self.migration.limit)(&self.dir, flows)?;
        limit_ours(ours, flows)
    }

    /// The earlier programs go on. What cannot be put back keeps ours, which decide by the same rules: nothing is ever open.
    fn undo(&self, theirs: &mut Programs, own: &Path, flows: u32) {
        let done = [
            if own.exists() { swap::all(theirs, own, &self.dir, None).map(drop) } else { Ok(()) },
            remove_pins(own),
            discard(&beside(own, PIN_COMING)),
            (self.migration.limit)(&self.dir, flows),
        ];
        for error in done.into_iter().filter_map(Result::err) {
            tracing::error!(%error, why = error_chain(&error), "an upgrade that failed is not wholly undone");
        }
    }
}

fn limit_ours(dir: &Path, flows: u32) -> Result<(), DatapathError> {
    let path = dir.join(MAP_SETTINGS);
    let map = MapData::from_pin(&path).map_err(|source| DatapathError::OpenMap { path, source })?;
    let failed = |source| DatapathError::Map { operation: "limit flows by", name: MAP_SETTINGS, source };
    let mut settings: Array<_, Settings> = Array::try_from(Map::Array(map)).map_err(failed)?;
    let now = settings.get(&0, 0).map_err(failed)?;
    settings.set(0, Settings { flows_per_endpoint: flows, ..now }, 0).map_err(failed)
}

/// By the clock that flows are dated by, and not after what any program says now.
fn now_ns() -> u64 {
    flow_clock_ns().saturating_sub(TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_others_are_told_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let own = format!("v{}", names::ABI);
        for name in [own.as_str(), "v1", "v2-going", "v97", "other", "v", "v-coming", "v1x", &format!("{own}-coming")] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let config = DatapathConfig { bpffs_dir: dir.path().to_owned(), cgroup_level: 0, settings: Settings::DEFAULT };
        let found: Vec<_> = other_pins(&config).into_iter().map(|pins| (pins.version, pins.is_unfinished)).collect();
        assert_eq!(found, [(97, false), (names::ABI, true), (2, true), (1, false)]);
        for pins in other_pins(&config) {
            remove_pins(&pins.path).unwrap();
        }
        assert_eq!(other_pins(&config), []);
        remove_pins(&dir.path().join("v1")).unwrap();
        assert!(dir.path().join(own).exists() && dir.path().join("other").exists());
    }

    #[test]
    fn every_migration_says_of_each_map_once_how_it_goes_on() {
        for migration in MIGRATIONS {
            let named: std::collections::HashSet<_> = migration.maps.iter().map(|(name, _)| name).collect();
            assert_eq!(named.len(), migration.maps.len());
            assert!(migration.version < names::ABI || cfg!(not(feature = "next-abi")));
        }
    }
}
