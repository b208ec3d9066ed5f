//! Puts back what somebody took away while the daemon runs: filters of an interface, pins, and what hung on them. Refuses to watch, and
//! to put back what should not be there.

use std::path::{Path, PathBuf};

use aya::maps::MapData;
use cc_common::limits::ENDPOINTS_MAX;
use cc_common::names::{self, PIN_LINKS_DIR, PIN_PROGRAMS_DIR};
use cc_common::route::ENDPOINT_RESOLVER;

use super::error::DatapathError;
use super::links::{self, Tag};
use super::{Datapath, Inner, replace};

/// The maps, held open beside their pins.
pub struct Maps(Vec<(&'static str, MapData)>);

impl Maps {
    pub fn of(pin_dir: &Path) -> Result<Self, DatapathError> {
        let open = |name: &'static str| {
            let path = pin_dir.join(name);
            let map = MapData::from_pin(&path).map_err(|source| DatapathError::OpenMap { path, source })?;
            Ok((name, map))
        };
        names::MAPS.into_iter().map(open).collect::<Result<_, _>>().map(Maps)
    }
}

/// Something that was gone, and is there again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Whose it is; `None`: everybody's.
    pub endpoint: Option<u32>,
    pub what: String,
}

impl Datapath {
    /// The filters of an interface, and whose it is; `None` if it is nobody's, or nothing was missing.
    pub fn repair_interface(&self, ifindex: u32) -> Result<Option<Repaired>, DatapathError> {
        let inner = &mut *self.inner();
        let Some(port) = inner.tables.port(ifindex)? else { return Ok(None) };
        let missing = links::repair_interface(&mut inner.programs, ifindex)?;
        let what = || format!("program {} of its interface", missing.join(" and "));
        Ok((!missing.is_empty()).then(|| Repaired { endpoint: Some(port.endpoint), what: what() }))
    }

    /// Pins of links that hang on nothing.
    pub fn detached_links(&self) -> Result<Vec<PathBuf>, DatapathError> {
        let dir = self.inner().pin_dir.join(PIN_LINKS_DIR);
        let listed = |source| DatapathError::ListLinks { path: dir.clone(), source };
        let mut detached = Vec::new();
        for file in std::fs::read_dir(&dir).map_err(listed)? {
            let path = file.map_err(listed)?.path();
            // One that is gone at this very moment is none.
            if replace::is_detached(&path).unwrap_or(false) {
                detached.push(path);
            }
        }
        Ok(detached)
    }

    /// Interfaces that have an endpoint.
    pub fn interfaces(&self) -> Result<Vec<u32>, DatapathError> {
        self.inner().tables.interfaces()
    }

    /// All pins that should be there, and the links behind them. `cgroup_of` knows where a container that lives has its cgroup on the v2
    /// tree; others' pins may be on their way out.
    pub fn repair_pins(
        &self,
        cgroup_v2_root: &Path,
        cgroup_of: impl Fn(u32) -> Option<PathBuf>,
    ) -> Result<Vec<Repaired>, DatapathError> {
        let inner = &mut *self.inner();
        let mut repaired = inner.repair_maps_and_programs()?;
        let (host, netns) = (inner.tables.uplinks()?, inner.tables.settings()?.host_netns);
        for ifindex in host {
            if inner.links.attach_uplink_if_missing(&mut inner.programs, ifindex)? {
                repaired.push(Repaired { endpoint: None, what: format!("the program of uplink {ifindex}") });
            }
        }
        if netns != 0 && inner.links.sockets_of_host_missing() {
            inner.links.attach_sockets_of_host(&mut inner.programs, cgroup_v2_root)?;
            repaired.push(Repaired { endpoint: None, what: "the programs of the host's sockets".to_owned() });
        }
        for id in 0..ENDPOINTS_MAX {
            let entry = inner.tables.endpoint(id)?;
            if entry.generation == 0 || entry.flags & ENDPOINT_RESOLVER != 0 {
                continue;
            }
            let Some(dir) = cgroup_of(id) else { continue };
            let tag = Tag::from_number(entry.container);
            if inner.links.attach_cgroup_if_missing(&mut inner.programs, &dir, tag)? {
                let what = "the programs of its cgroup".to_owned();
                repaired.push(Repaired { endpoint: Some(id), what });
            }
        }
        Ok(repaired)
    }
}

impl Inner {
    fn repair_maps_and_programs(&mut self) -> Result<Vec<Repaired>, DatapathError> {
        let mut repaired = Vec::new();
        let mut tell = |what| repaired.push(Repaired { endpoint: None, what });
        for dir in [PIN_LINKS_DIR, PIN_PROGRAMS_DIR] {
            let bpffs = |source| DatapathError::Bpffs { source };
            crate::kernel::bpffs::make_dir(&self.pin_dir.join(dir)).map_err(bpffs)?;
        }
        for (name, map) in &self.maps.0 {
            let path = self.pin_dir.join(name);
            if !path.exists() {
                map.pin(&path).map_err(|source| DatapathError::Pin { path, source })?;
                tell(format!("the pin of map {name}"));
            }
        }
        let dir = self.pin_dir.join(PIN_PROGRAMS_DIR);
        for name in self.programs.pin_missing(&dir)? {
            tell(format!("the pin of program {name}"));
        }
        Ok(repaired)
    }
}
