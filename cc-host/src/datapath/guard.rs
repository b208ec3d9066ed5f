//! The guard: its table of denied prefixes and their picture, its program on uplinks, and what it has dropped. Refuses to know who is denied and which
//! interfaces lead out: it is told.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, PerCpuArray};
use aya::programs::{ProgramError, Xdp};
use cc_common::blocks;
use cc_common::counters::DropCount;
use cc_common::guard::{self, GuardDrop};
use cc_common::names::{MAP_BLOCKED, MAP_GUARD, MAP_GUARDED, PIN_GUARD_DIR, PROGRAM_GUARD};

use super::batch;
use super::error::DatapathError;
use super::object::take_map;
use super::rules::{CompiledPrefixes, PrefixTable, Rules};
use super::xdp_link::{self, Mode};
use super::{Datapath, Inner, replace};

/// A packet that has read the former table's number has done with it by then: the program takes microseconds, and is not
/// interrupted by anything that lasts.
const GRACE: Duration = Duration::from_millis(2);

/// What the guard has dropped for one reason, on all uplinks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarded {
    pub reason: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

/// An interface that is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuardedInterface {
    pub ifindex: u32,
    pub mode: Mode,
}

pub(super) struct GuardMaps {
    guard: Array<MapData, guard::Guard>,
    guarded: PerCpuArray<MapData, DropCount>,
    blocked: OwnedFd,
    /// What is in `CC_BLOCKED`; unknown until this daemon has written it.
    picture: Option<Vec<u64>>,
    /// What this daemon has loaded.
    table: PrefixTable,
    dir: PathBuf,
}

impl GuardMaps {
    /// A table that an earlier daemon has put in force stays in force, and its number is not given again.
    pub(super) fn take(ebpf: &mut Ebpf, pin_dir: &Path, rules: &mut Rules) -> Result<Self, DatapathError> {
        let failed = |name| move |source| DatapathError::Map { operation: "open", name, source };
        let blocked = fd_of(&take_map(ebpf, MAP_BLOCKED)?)?;
        let maps = GuardMaps {
            guard: Array::try_from(take_map(ebpf, MAP_GUARD)?).map_err(failed(MAP_GUARD))?,
            guarded: PerCpuArray::try_from(take_map(ebpf, MAP_GUARDED)?).map_err(failed(MAP_GUARDED))?,
            blocked,
            picture: None,
            table: PrefixTable::EMPTY,
            dir: pin_dir.join(PIN_GUARD_DIR),
        };
        rules.reserve(maps.guard.get(&0, 0).map_err(failed(MAP_GUARD))?.table);
        Ok(maps)
    }

    fn set(&mut self, table: PrefixTable, has_picture: bool) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Map { operation: "write", name: MAP_GUARD, source };
        let guard = guard::Guard { table: table.number(), has_picture: has_picture.into() };
        self.guard.set(0, guard, 0).map_err(failed)
    }

    /// Meanwhile the programs look at the prefixes of the table that is in force.
    fn draw(&mut self, denied: &CompiledPrefixes) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Map { operation: "change", name: MAP_GUARD, source };
        // Perhaps an earlier daemon's.
        let in_force = self.guard.get(&0, 0).map_err(failed)?;
        self.guard.set(0, guard::Guard { has_picture: 0, ..in_force }, 0).map_err(failed)?;
        std::thread::sleep(GRACE);
        let mut new = vec![0; blocks::WORDS as usize];
        for &(address, prefix_len, _) in &denied.v4 {
            blocks::add(&mut new, address, prefix_len);
        }
        // Unknown again, if this fails half-way.
        let old = self.picture.take();
        let is_new = |&index: &u32| old.as_ref().is_none_or(|old| old[index as usize] != new[index as usize]);
        let keys: Vec<u32> = (0..blocks::WORDS).filter(is_new).collect();
        let values: Vec<u64> = keys.iter().map(|&index| new[index as usize]).collect();
        let failed = |source| DatapathError::Rows { operation: "write", name: MAP_BLOCKED, source };
        batch::update(self.blocked.as_fd(), &keys, &values).map_err(failed)?;
        self.picture = Some(new);
        Ok(())
    }
}

impl Datapath {
    /// Denies these sources and no others, from one packet to the next.
    pub fn load_guard(&self, denied: &CompiledPrefixes) -> Result<(), DatapathError> {
        let old = {
            let inner = &mut *self.inner();
            let rules = &mut inner.tables.rules;
            let nobody = denied.v4.is_empty() && denied.v6.is_empty();
            let new = if nobody { PrefixTable::EMPTY } else { rules.load_prefixes(denied)? };
            let has_picture = !denied.v4.is_empty();
            let drawn = if has_picture { inner.guard.draw(denied) } else { Ok(()) };
            if let Err(error) = drawn.and_then(|()| inner.guard.set(new, has_picture)) {
                rules.unload_prefixes(new);
                return Err(error);
            }
            std::mem::replace(&mut inner.guard.table, new)
        };
        if old != PrefixTable::EMPTY {
            std::thread::sleep(GRACE);
            self.unload_prefixes(old);
        }
        Ok(())
    }

    /// Puts the program on an interface, in the place of an earlier daemon's if it is there. In the driver, or before the stack where
    /// the driver cannot; never in the place of somebody else's.
    pub fn guard_interface(&self, ifindex: u32) -> Result<GuardedInterface, DatapathError> {
        let inner = &mut *self.inner();
        let (dir, program) = (&inner.guard.dir, &inner.programs.guard);
        let failed = |source| DatapathError::Attach {
            program: PROGRAM_GUARD,
            to: format!("interface {ifindex}"),
            source: ProgramError::IOError(source),
        };
        for mode in Mode::ALL {
            let pin = pin(dir, ifindex, mode);
            if pin.exists() {
                match replace::program_of_link(&pin, program.as_fd()) {
                    Ok(()) => return Ok(GuardedInterface { ifindex, mode }),
                    Err(error) => tracing::debug!(%error, ifindex, "the guard's link is made anew"),
                }
                unpin(&pin)?;
            }
        }
        let mut refused = None;
        for mode in Mode::ALL {
            match xdp_link::create(program.as_fd(), ifindex, mode) {
                Ok(link) => {
                    let path = pin(dir, ifindex, mode);
                    xdp_link::pin(link.as_fd(), &path).map_err(failed)?;
                    return Ok(GuardedInterface { ifindex, mode });
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(failed(refused.unwrap_or_else(|| io::Error::other("there is no mode"))))
    }

    /// Takes the program off every interface that is not wanted.
    pub fn unguard_all_but(&self, wanted: &[u32]) -> Result<(), DatapathError> {
        let dir = self.inner().guard.dir.clone();
        for interface in guarded_in(&dir)?.iter().filter(|seen| !wanted.contains(&seen.ifindex)) {
            unpin(&pin(&dir, interface.ifindex, interface.mode))?;
        }
        Ok(())
    }

    /// The interfaces that lead out.
    pub fn uplinks(&self) -> Result<Vec<u32>, DatapathError> {
        self.inner().tables.uplinks()
    }

    /// Where the program is.
    pub fn guarded_interfaces(&self) -> Result<Vec<GuardedInterface>, DatapathError> {
        let dir = self.inner().guard.dir.clone();
        guarded_in(&dir)
    }

    /// Every reason, whether it occurred or not.
    pub fn guarded(&self) -> Result<Vec<Guarded>, DatapathError> {
        let failed = |source| DatapathError::Map { operation: "read", name: MAP_GUARDED, source };
        let inner: &Inner = &self.inner();
        let read = |&reason: &GuardDrop| {
            let values = inner.guard.guarded.get(&(reason as u32), 0).map_err(failed)?;
            let (packets, bytes) = values.iter().fold((0, 0), |sum, one| (sum.0 + one.packets, sum.1 + one.bytes));
            Ok(Guarded { reason: reason.name(), packets, bytes })
        };
        GuardDrop::ALL.iter().map(read).collect()
    }
}

fn fd_of(map: &Map) -> Result<OwnedFd, DatapathError> {
    let Map::Array(data) = map else { return Err(DatapathError::Missing { what: "array", name: MAP_BLOCKED }) };
    let fd = data.fd().as_fd().try_clone_to_owned();
    fd.map_err(|source| DatapathError::Rows { operation: "open", name: MAP_BLOCKED, source })
}

fn pin(dir: &Path, ifindex: u32, mode: Mode) -> PathBuf {
    dir.join(format!("{ifindex}-{}", mode.name()))
}

fn parse_pin(name: &str) -> Option<GuardedInterface> {
    let (ifindex, mode) = name.split_once('-')?;
    let mode = Mode::ALL.into_iter().find(|known| known.name() == mode)?;
    Some(GuardedInterface { ifindex: ifindex.parse().ok()?, mode })
}

fn guarded_in(dir: &Path) -> Result<Vec<GuardedInterface>, DatapathError> {
    let failed = |source| DatapathError::ListLinks { path: dir.to_owned(), source };
    let mut seen = Vec::new();
    for file in fs::read_dir(dir).map_err(failed)? {
        seen.extend(parse_pin(&file.map_err(failed)?.file_name().to_string_lossy()));
    }
    seen.sort_unstable();
    Ok(seen)
}

fn unpin(path: &Path) -> Result<(), DatapathError> {
    xdp_link::unpin(path).map_err(|source| DatapathError::Unpin { path: path.to_owned(), source })
}

/// Pinned, as the other programs; it is loaded.
pub(super) fn pin_program(ebpf: &mut Ebpf, path: &Path) -> Result<OwnedFd, DatapathError> {
    let failed = |source| DatapathError::Program { name: PROGRAM_GUARD, source };
    let missing = DatapathError::Missing { what: "program", name: PROGRAM_GUARD };
    let program: &mut Xdp = ebpf.program_mut(PROGRAM_GUARD).ok_or(missing)?.try_into().map_err(failed)?;
    program.pin(path).map_err(|source| DatapathError::Pin { path: path.to_owned(), source })?;
    // The others are opened again by their pins; for this kind aya does not say how.
    let fd = program.fd().map_err(failed)?.as_fd().try_clone_to_owned();
    fd.map_err(|source| DatapathError::ReplacePin { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_says_where_its_link_is() {
        let interface = GuardedInterface { ifindex: 7, mode: Mode::Generic };
        let name = pin(Path::new(""), interface.ifindex, interface.mode);
        assert_eq!(parse_pin(name.to_str().unwrap()), Some(interface));
        for foreign in ["", "7", "7-", "x-native", "7-other", "-native"] {
            assert_eq!(parse_pin(foreign), None, "{foreign}");
        }
    }
}
