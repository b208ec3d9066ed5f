//! The datapath: the only room that knows map and program names. It loads the object, pins it, and says what each endpoint
//! may send and receive. Refuses to know containers: it knows endpoints.

mod adopt;
mod batch;
mod counters;
mod devices;
mod endpoint;
mod error;
mod events;
mod flows;
mod generations;
mod guard;
mod inspect;
mod links;
mod log;
mod migrate;
mod netkit;
mod object;
mod outside;
mod prepare;
mod reconcile;
mod repair;
mod replace;
mod resolver;
mod rules;
mod sweep;
mod tables;
mod twin;
mod xdp_link;

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cc_common::limits::{ENDPOINTS_MAX, RULE_SETS_MAX};
use cc_common::names::PIN_LINKS_DIR;
use cc_common::route::{EndpointEntry, NO_ENDPOINT, Route};
use cc_common::settings::Settings;

pub use counters::{Drops, EndpointCounters, Traffic};
pub use endpoint::{Endpoint, Network, Range, ip};
pub use error::DatapathError;
pub use events::{EventRing, Record};
pub use flows::flow_clock_ns;
pub use guard::{Guarded, GuardedInterface};
pub use inspect::{Inspection, LinkSeen, ProgramSeen};
pub use log::forward_log;
pub use migrate::{OtherPins, Upgraded, other_pins, remove_pins};
pub use object::Logger;
pub use outside::{Door, Host, NatPorts, PortProtocol, Published};
pub use prepare::Prepared;
pub use reconcile::Reconciled;
pub use repair::Repaired;
pub use rules::{CompiledPrefixes, CompiledRules, PrefixTable, RuleRow};
pub use twin::{DryRun, Entrance, Fate};
pub use xdp_link::Mode as GuardMode;

use events::DropWatch;
use flows::FlowTable;
use guard::GuardMaps;
use inspect::Books;
use links::{PinnedLinks, Tag};
use object::Programs;
use tables::Tables;

#[derive(Debug, Clone)]
pub struct DatapathConfig {
    pub bpffs_dir: PathBuf,
    /// Depth of a container's cgroup below the v2 root, for counting per container; the root itself is 0.
    pub cgroup_level: u32,
    pub settings: Settings,
}

/// The loaded programs and their maps. Every method blocks for microseconds to milliseconds: from async code, call it under
/// `spawn_blocking`.
pub struct Datapath {
    inner: Mutex<Inner>,
    flows: FlowTable,
    drop_watch: DropWatch,
    books: Books,
    sweeper: sweep::Sweeper,
    drops: counters::DropTable,
    /// Has a lock of its own: nobody waits for whoever asks why.
    twin: twin::Lazy,
    upgraded: Option<Upgraded>,
}

struct Inner {
    programs: Programs,
    maps: repair::Maps,
    tables: Tables,
    links: PinnedLinks,
    pin_dir: PathBuf,
    last_generation: u64,
    logger: Option<Logger>,
    event_ring: Option<EventRing>,
    guard: GuardMaps,
}

impl Datapath {
    /// Mounts, loads and pins what is missing, and opens what is there; what an earlier version has pinned is taken over. What an
    /// earlier daemon attached stays attached until `reconcile` is told what is alive.
    pub fn open(config: &DatapathConfig) -> Result<Self, DatapathError> {
        let (object::Object { programs, mut ebpf, logger }, upgraded) = migrate::open(config)?;
        let newest = generations::newest(&ebpf)?;
        let flows = FlowTable::take(&mut ebpf)?;
        let drop_watch = DropWatch::take(&mut ebpf)?;
        let books = Books::take(&mut ebpf)?;
        let event_ring = Some(EventRing::take(&mut ebpf)?);
        let mut tables = Tables::take(&mut ebpf)?;
        let pin_dir = object::pin_dir(config);
        let maps = repair::Maps::of(&pin_dir)?;
        let drops = counters::DropTable::open(&pin_dir)?;
        let sweeper = sweep::Sweeper::open(&pin_dir)?;
        let links = PinnedLinks::new(pin_dir.join(PIN_LINKS_DIR));
        let guard = GuardMaps::take(&mut ebpf, &pin_dir, &mut tables.rules)?;
        let last_generation = newest.max(tables.settings()?.beyond_version);
        let mut inner = Inner { programs, maps, tables, links, pin_dir, last_generation, logger, event_ring, guard };
        inner.resume_settings(config.settings)?;
        let twin = twin::Lazy::new(config.clone());
        Ok(Datapath { inner: Mutex::new(inner), flows, drop_watch, books, sweeper, drops, twin, upgraded })
    }

    /// What was taken over from an earlier version's pins, if anything was.
    pub fn upgraded(&self) -> Option<Upgraded> {
        self.upgraded
    }

    /// Where maps, programs and links are pinned.
    pub fn pin_dir(&self) -> PathBuf {
        self.inner().pin_dir.clone()
    }

    /// Makes the gateway answer, and gives every other address of the network its way. Repeating it is fine.
    pub fn add_network(&self, network: &Network) -> Result<(), DatapathError> {
        let mut inner = self.inner();
        let Network { vni, ipv4, ipv6, internet, resolver } = *network;
        let families = [
            Some((ip(ipv4.network.into()), ipv4.prefix_len, ip(ipv4.gateway.into()), ip(Ipv4Addr::UNSPECIFIED.into()))),
            ipv6.map(|range| {
                let everything = ip(Ipv6Addr::UNSPECIFIED.into());
                (ip(range.network.into()), range.prefix_len, ip(range.gateway.into()), everything)
            }),
        ];
        let beyond = if internet { Route::internet() } else { Route::no_internet() };
        for (network, prefix_len, gateway, everything) in families.into_iter().flatten() {
            inner.tables.set_range(vni, everything, 0, beyond)?;
            inner.tables.set_range(vni, network, prefix_len, Route::nobody())?;
            inner.tables.set_route(vni, gateway, Route::gateway(resolver.unwrap_or(NO_ENDPOINT)))?;
        }
        Ok(())
    }

    /// The network's endpoints are removed by themselves, before.
    pub fn remove_network(&self, vni: u32) -> Result<(), DatapathError> {
        self.inner().tables.remove_network(vni)
    }

    /// Puts a rule set in force, whole: no packet sees a part of it, and flows are judged by it from their next packet on.
    pub fn load_rules(
        &self,
        number: u32,
        compiled: &CompiledRules,
        prefixes: PrefixTable,
    ) -> Result<(), DatapathError> {
        if number == 0 || number >= RULE_SETS_MAX {
            return Err(DatapathError::RuleSetOutOfRange { number });
        }
        let mut inner = self.inner();
        let generation = inner.next_generation();
        inner.tables.rules.load(number, generation, compiled, prefixes)
    }

    /// From here on, the rule set denies everything. One that is not loaded is fine.
    pub fn unload_rules(&self, number: u32) -> Result<(), DatapathError> {
        self.inner().tables.rules.unload(number)
    }

    /// Loads a table of prefixes, for rule sets that are loaded afterwards to refer to.
    pub fn load_prefixes(&self, compiled: &CompiledPrefixes) -> Result<PrefixTable, DatapathError> {
        self.inner().tables.rules.load_prefixes(compiled)
    }

    /// No rule set refers to it any more.
    pub fn unload_prefixes(&self, table: PrefixTable) {
        self.inner().tables.rules.unload_prefixes(table);
    }

    /// At boot, once every rule set is loaded: removes what an earlier daemon loaded. Returns how many rows went.
    pub fn remove_stray_rules(&self) -> Result<usize, DatapathError> {
        self.inner().tables.rules.remove_strays()
    }

    /// The endpoint is in other groups from here on. Its flows are judged anew.
    pub fn set_rule_set(&self, endpoint_id: u32, rule_set: u32) -> Result<(), DatapathError> {
        if endpoint_id >= ENDPOINTS_MAX {
            return Err(DatapathError::EndpointOutOfRange { id: endpoint_id });
        }
        self.inner().set_rule_set(endpoint_id, rule_set)
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

    /// Of many at once, in their order: what they lost is read for all together, since most have lost nothing.
    pub fn counters_of_many(&self, endpoint_ids: &[u32]) -> Result<Vec<EndpointCounters>, DatapathError> {
        if let Some(&id) = endpoint_ids.iter().find(|&&id| id >= ENDPOINTS_MAX) {
            return Err(DatapathError::EndpointOutOfRange { id });
        }
        let drops = self.drops.read()?;
        // Whoever attaches an endpoint comes in between.
        let read = |&id: &u32| {
            let traffic = counters::read_traffic(&self.inner().tables, id)?;
            Ok(EndpointCounters { drops: drops.get(&id).cloned().unwrap_or_default(), ..traffic })
        };
        endpoint_ids.iter().map(read).collect()
    }

    /// Drops that belong to no endpoint.
    pub fn unknown_drops(&self) -> Result<Vec<Drops>, DatapathError> {
        counters::read_unknown(&self.inner().tables)
    }

    /// Removes every map entry and pinned link of endpoints that are not in `live`.
    pub fn reconcile(&self, live: &HashSet<u32>) -> Result<Reconciled, DatapathError> {
        let inner = &mut *self.inner();
        reconcile::remove_strays(&mut inner.tables, &inner.links, &inner.programs.sweep, live)
    }

    /// Removes every network that is not in `live`; returns their VNIs.
    pub fn reconcile_networks(&self, live: &HashSet<u32>) -> Result<Vec<u32>, DatapathError> {
        let mut inner = self.inner();
        let mut gone = Vec::new();
        for vni in inner.tables.networks()?.into_iter().filter(|vni| !live.contains(vni)) {
            inner.tables.remove_network(vni)?;
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

fn parse_tag(tag: &str) -> Result<Tag, DatapathError> {
    Tag::parse(tag).ok_or_else(|| DatapathError::Tag { tag: tag.to_owned() })
}

/// The endpoint's number is in range; its tag as a number, and its cgroup's id.
fn parse_target(id: u32, tag: &str, cgroup_v2_dir: &Path) -> Result<(Tag, u64), DatapathError> {
    if id >= ENDPOINTS_MAX {
        return Err(DatapathError::EndpointOutOfRange { id });
    }
    let tag = parse_tag(tag)?;
    let metadata = std::fs::metadata(cgroup_v2_dir)
        .map_err(|source| DatapathError::Cgroup { path: cgroup_v2_dir.to_owned(), source })?;
    Ok((tag, metadata.ino()))
}

impl Inner {
    /// From the inside out: a packet is dropped as unknown until the port is there, and nobody can send to the endpoint
    /// until the route is.
    fn attach(&mut self, endpoint: &Endpoint, tag: Tag, cgroup_dir: &Path, cgroup: u64) -> Result<(), DatapathError> {
        let entry = self.entry(endpoint, tag, cgroup);
        self.attach_sockets(endpoint.id, entry, tag, cgroup_dir)?;
        let flags = links::attach_interface(&mut self.programs, endpoint.ifindex)?;
        self.open(endpoint, &entry, flags)
    }

    /// The programs on the endpoint's interface, and whose it is.
    fn attach_port(&mut self, id: u32, entry: &EndpointEntry, flags: u16) -> Result<(), DatapathError> {
        let kind = links::attach_interface(&mut self.programs, entry.ifindex)?;
        self.set_port(id, entry, flags | kind)
    }

    fn set_rule_set(&mut self, endpoint_id: u32, rule_set: u32) -> Result<(), DatapathError> {
        let tables = &mut self.tables;
        let entry = tables.endpoint(endpoint_id)?;
        if entry.generation == 0 {
            return Ok(());
        }
        tables.set_endpoint(endpoint_id, EndpointEntry { rule_set, ..entry })
    }

    /// The endpoint's row, its counters from zero, and the programs on its cgroup.
    fn attach_sockets(
        &mut self,
        id: u32,
        entry: EndpointEntry,
        tag: Tag,
        cgroup_dir: &Path,
    ) -> Result<(), DatapathError> {
        self.set_sockets(id, entry)?;
        self.links.attach_cgroup(&mut self.programs, cgroup_dir, tag)
    }

    fn detach(&mut self, id: u32) -> Result<(), DatapathError> {
        reconcile::remove_endpoint(&mut self.tables, &self.links, &self.programs.sweep, id).map(drop)
    }

    /// Never reused on this host, as long as its clock does not go back between two daemons with no endpoint alive.
    fn next_generation(&mut self) -> u64 {
        let now_us = crate::ids::now_ms().saturating_mul(1000);
        self.last_generation = now_us.max(self.last_generation + 1);
        self.last_generation
    }
}
