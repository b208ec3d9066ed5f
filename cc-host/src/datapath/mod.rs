//! The datapath: the only room that knows map and program names. It loads the object, pins it, and says what each endpoint
//! may send and receive. Refuses to know containers: it knows endpoints.

mod adopt;
mod counters;
mod error;
mod links;
mod log;
mod object;
mod reconcile;
mod replace;
mod tables;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cc_common::limits::ENDPOINTS_MAX;
use cc_common::names::PIN_LINKS_DIR;
use cc_common::net::{Be32, MacAddr};
use cc_common::port::Port;
use cc_common::route::{EndpointEntry, Route};

pub use counters::{Drops, EndpointCounters, Traffic};
pub use error::DatapathError;
pub use log::forward_log;
pub use object::Logger;
pub use reconcile::Reconciled;

use links::{PinnedLinks, Tag};
use object::Programs;
use tables::Tables;

/// Everything the datapath needs to know of one container's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Index of the endpoint in the per-endpoint arrays; unique on this host while the endpoint lives.
    pub id: u32,
    /// The VPC's 24-bit network identifier.
    pub vni: u32,
    /// Security group; members of the same group reach each other.
    pub group: u32,
    /// The host-side veth.
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub ipv4: Ipv4Addr,
}

/// What the datapath needs to know of a VPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub vni: u32,
    pub gateway: Ipv4Addr,
}

#[derive(Debug, Clone)]
pub struct DatapathConfig {
    pub bpffs_dir: PathBuf,
    /// Depth of a container's cgroup below the v2 root, for counting per container; the root itself is 0.
    pub cgroup_level: u32,
}

/// The loaded programs and their maps. Every method blocks for microseconds to milliseconds: from async code, call it under
/// `spawn_blocking`.
pub struct Datapath {
    inner: Mutex<Inner>,
}

struct Inner {
    programs: Programs,
    tables: Tables,
    links: PinnedLinks,
    pin_dir: PathBuf,
    last_generation: u64,
    logger: Option<Logger>,
}

impl Datapath {
    /// Mounts, loads and pins what is missing, and opens what is there. What an earlier daemon attached stays attached until
    /// `reconcile` is told what is alive.
    pub fn open(config: &DatapathConfig) -> Result<Self, DatapathError> {
        let object::Object { programs, mut ebpf, logger } = object::open(config)?;
        let tables = Tables::take(&mut ebpf)?;
        let pin_dir = object::pin_dir(config);
        let links = PinnedLinks::new(pin_dir.join(PIN_LINKS_DIR));
        let mut last_generation = 0;
        for id in 0..ENDPOINTS_MAX {
            last_generation = tables.endpoint(id)?.generation.max(last_generation);
        }
        let inner = Inner { programs, tables, links, pin_dir, last_generation, logger };
        Ok(Datapath { inner: Mutex::new(inner) })
    }

    /// Where maps, programs and links are pinned.
    pub fn pin_dir(&self) -> PathBuf {
        self.inner().pin_dir.clone()
    }

    /// Makes the gateway answer. Repeating it is fine.
    pub fn add_network(&self, network: &Network) -> Result<(), DatapathError> {
        self.inner().tables.set_route(network.vni, network.gateway, Route::gateway())
    }

    /// The network's endpoints are removed by themselves, before.
    pub fn remove_network(&self, vni: u32) -> Result<(), DatapathError> {
        let mut inner = self.inner();
        for (_, key) in inner.tables.networks()?.into_iter().filter(|(found, _)| *found == vni) {
            inner.tables.remove_route(&key)?;
        }
        Ok(())
    }

    /// Attaches the programs to the endpoint's interface and to the container's cgroup on the v2 tree, and lets traffic
    /// flow. `tag` is the container's id. Bring the container's end of the interface up only after this.
    pub fn attach(&self, endpoint: &Endpoint, tag: &str, cgroup_v2_dir: &Path) -> Result<(), DatapathError> {
        self.attach_with(endpoint.id, tag, cgroup_v2_dir, |inner, tag, cgroup| {
            inner.attach(endpoint, tag, cgroup_v2_dir, cgroup)
        })
    }

    /// For a container without an interface: its sockets' traffic over its loopback is counted, under an endpoint number of
    /// its own.
    pub fn attach_sockets(&self, id: u32, tag: &str, cgroup_v2_dir: &Path) -> Result<(), DatapathError> {
        self.attach_with(id, tag, cgroup_v2_dir, |inner, tag, cgroup| {
            let generation = inner.next_generation();
            let entry = EndpointEntry { generation, container: tag.number(), cgroup, ..EndpointEntry::default() };
            inner.attach_sockets(id, entry, tag, cgroup_v2_dir)
        })
    }

    fn attach_with(
        &self,
        id: u32,
        tag: &str,
        cgroup_v2_dir: &Path,
        attach: impl FnOnce(&mut Inner, Tag, u64) -> Result<(), DatapathError>,
    ) -> Result<(), DatapathError> {
        let (tag, cgroup) = parse_target(id, tag, cgroup_v2_dir)?;
        let mut inner = self.inner();
        if inner.tables.endpoint(id)?.generation != 0 {
            return Err(DatapathError::EndpointInUse { id });
        }
        let attached = attach(&mut inner, tag, cgroup);
        if attached.is_err()
            && let Err(error) = inner.detach(id)
        {
            tracing::warn!(endpoint = id, %error, "a failed attach left something behind");
        }
        attached
    }

    /// Ends all traffic of the endpoint, at once; its counters stay until `detach`. Nothing there is fine.
    pub fn silence(&self, endpoint_id: u32) -> Result<(), DatapathError> {
        if endpoint_id >= ENDPOINTS_MAX {
            return Ok(());
        }
        reconcile::remove_traffic(&mut self.inner().tables, endpoint_id).map(drop)
    }

    /// Ends all traffic of the endpoint and removes every trace of it, counters included, but what hangs on its interface:
    /// delete that before. Nothing there is fine.
    pub fn detach(&self, endpoint_id: u32) -> Result<(), DatapathError> {
        if endpoint_id >= ENDPOINTS_MAX {
            return Ok(());
        }
        self.inner().detach(endpoint_id)
    }

    /// Since the endpoint was attached.
    pub fn counters(&self, endpoint_id: u32) -> Result<EndpointCounters, DatapathError> {
        if endpoint_id >= ENDPOINTS_MAX {
            return Err(DatapathError::EndpointOutOfRange { id: endpoint_id });
        }
        counters::read(&self.inner().tables, endpoint_id)
    }

    /// Drops that belong to no endpoint.
    pub fn unknown_drops(&self) -> Result<Vec<Drops>, DatapathError> {
        counters::read_unknown(&self.inner().tables)
    }

    /// Removes every map entry and pinned link of endpoints that are not in `live`.
    pub fn reconcile(&self, live: &HashSet<u32>) -> Result<Reconciled, DatapathError> {
        let inner = &mut *self.inner();
        reconcile::sweep(&mut inner.tables, &inner.links, live)
    }

    /// Removes every network that is not in `live`; returns their VNIs.
    pub fn reconcile_networks(&self, live: &HashSet<u32>) -> Result<Vec<u32>, DatapathError> {
        let mut inner = self.inner();
        let mut gone = Vec::new();
        for (vni, key) in inner.tables.networks()?.into_iter().filter(|(vni, _)| !live.contains(vni)) {
            inner.tables.remove_route(&key)?;
            gone.push(vni);
        }
        Ok(gone)
    }

    /// The programs' log, once, if they were loaded while the log's level was debug.
    pub fn take_logger(&self) -> Option<Logger> {
        self.inner().logger.take()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic between two map writes leaves what a crash leaves, and reconciling repairs that.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The endpoint's number is in range; its tag as a number, and its cgroup's id.
fn parse_target(id: u32, tag: &str, cgroup_v2_dir: &Path) -> Result<(Tag, u64), DatapathError> {
    if id >= ENDPOINTS_MAX {
        return Err(DatapathError::EndpointOutOfRange { id });
    }
    let tag = Tag::parse(tag).ok_or_else(|| DatapathError::Tag { tag: tag.to_owned() })?;
    let metadata = std::fs::metadata(cgroup_v2_dir)
        .map_err(|source| DatapathError::Cgroup { path: cgroup_v2_dir.to_owned(), source })?;
    Ok((tag, metadata.ino()))
}

impl Inner {
    /// From the inside out: a packet is dropped as unknown until the port is there, and nobody can send to the endpoint
    /// until the route is.
    fn attach(&mut self, endpoint: &Endpoint, tag: Tag, cgroup_dir: &Path, cgroup: u64) -> Result<(), DatapathError> {
        let &Endpoint { id, vni, group, ifindex, mac, ipv4 } = endpoint;
        let generation = self.next_generation();
        let (mac, address) = (MacAddr(mac), Be32(ipv4.octets()));
        let container = tag.number();
        let entry =
            EndpointEntry { generation, ifindex, vni, group, ipv4: address, mac, pad: [0; 2], container, cgroup };
        self.attach_sockets(id, entry, tag, cgroup_dir)?;
        links::attach_interface(&mut self.programs, ifindex)?;
        let port = Port { generation, endpoint: id, vni, group, ipv4: address, mac, pad: [0; 2] };
        self.tables.set_port(ifindex, port)?;
        self.tables.set_route(vni, ipv4, Route::local(id, generation))
    }

    /// The endpoint's row, its counters from zero, and the programs on its cgroup.
    fn attach_sockets(
        &mut self,
        id: u32,
        entry: EndpointEntry,
        tag: Tag,
        cgroup_dir: &Path,
    ) -> Result<(), DatapathError> {
        self.tables.zero_counters(id)?;
        self.tables.remove_drops(id)?;
        self.tables.set_endpoint(id, entry)?;
        self.tables.add_socket(entry.cgroup)?;
        self.links.attach_cgroup(&mut self.programs, cgroup_dir, tag)
    }

    fn detach(&mut self, id: u32) -> Result<(), DatapathError> {
        reconcile::remove_endpoint(&mut self.tables, &self.links, id).map(drop)
    }

    /// Never reused on this host, as long as its clock does not go back between two daemons with no endpoint alive.
    fn next_generation(&mut self) -> u64 {
        let now_us = crate::ids::now_ms().saturating_mul(1000);
        self.last_generation = now_us.max(self.last_generation + 1);
        self.last_generation
    }
}
