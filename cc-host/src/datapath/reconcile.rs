//! Removes what a daemon that was killed left in maps and pins. The same code finishes a detach that was interrupted. Refuses
//! to guess what is alive: it is told.

use std::collections::HashSet;

use aya::programs::SchedClassifier;
use cc_common::limits::{ENDPOINT_UNKNOWN, ENDPOINTS_MAX};
use cc_common::names;
use cc_common::route::{ENDPOINT_RESOLVER, EndpointEntry};

use super::error::DatapathError;
use super::links::{PinnedLinks, Tag};
use super::sweep;
use super::tables::Tables;

/// What was found and removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciled {
    pub endpoints: Vec<u32>,
    pub ports: usize,
    pub routes: usize,
    pub drops: usize,
    pub sockets: usize,
    pub links: Vec<String>,
}

impl Reconciled {
    pub fn is_empty(&self) -> bool {
        *self == Reconciled::default()
    }
}

/// From here on nobody reaches the endpoint, and what it sends is dropped as unknown. Returns what is known of it.
pub fn remove_traffic(tables: &mut Tables, id: u32) -> Result<EndpointEntry, DatapathError> {
    let entry = tables.endpoint(id)?;
    if entry.generation != 0 {
        tables.remove_routes_of(id, &entry)?;
        // The interface's number may be another endpoint's by now.
        let key = cc_common::port::PortKey { ifindex: entry.ifindex };
        if tables.ports.get(&key, 0).is_ok_and(|port| port.endpoint == id) {
            tables.remove_port(entry.ifindex)?;
        }
        // Of no network: flows that lead to it do not stand any more.
        tables.set_endpoint(id, EndpointEntry { vni: 0, ..entry })?;
    }
    Ok(entry)
}

/// Takes everything of endpoint `id` apart, traffic to it first. Nothing there is fine.
pub fn remove_endpoint(
    tables: &mut Tables,
    links: &PinnedLinks,
    sweep: &SchedClassifier,
    id: u32,
) -> Result<Vec<String>, DatapathError> {
    let entry = remove_traffic(tables, id)?;
    let mut gone = Vec::new();
    // A resolver has no cgroup.
    if entry.generation != 0 && entry.flags & ENDPOINT_RESOLVER == 0 {
        gone = links.detach(Tag::from_number(entry.container))?;
        tables.remove_socket(entry.cgroup)?;
    }
    tables.remove_drops(id)?;
    tables.zero_counters(id)?;
    tables.set_rate(id, Default::default())?;
    // Last but one: until here, the entry says what is left to do.
    tables.set_endpoint(id, Default::default())?;
    // Its flows are orphans from here on, and close no books any more.
    sweep::retire(sweep, id, entry.generation)?;
    Ok(gone)
}

/// Removes every trace of endpoints that are not in `live`.
pub fn remove_strays(
    tables: &mut Tables,
    links: &PinnedLinks,
    sweep: &SchedClassifier,
    live: &HashSet<u32>,
) -> Result<Reconciled, DatapathError> {
    let mut done = Reconciled::default();
    let (mut tags, mut cgroups) = (HashSet::new(), HashSet::new());
    for id in 0..ENDPOINTS_MAX {
        let entry = tables.endpoint(id)?;
        if entry.generation == 0 {
            continue;
        }
        if live.contains(&id) {
            tags.insert(entry.container);
            cgroups.insert(entry.cgroup);
        } else {
            done.links.extend(remove_endpoint(tables, links, sweep, id)?);
            done.endpoints.push(id);
        }
    }
    // What no entry told of: a crash between two writes, in a version with another order of them.
    let listed = |source| DatapathError::Map { operation: "list", name: names::MAP_PORTS, source };
    let ports: Vec<_> = tables.ports.iter().collect::<Result<_, _>>().map_err(listed)?;
    for (key, port) in ports {
        if !live.contains(&port.endpoint) {
            tables.remove_port(key.ifindex)?;
            done.ports += 1;
        }
    }
    for (key, route) in tables.all_routes()? {
        if route.kind == cc_common::route::KIND_LOCAL && !live.contains(&route.endpoint) {
            tables.remove_route(&key)?;
            done.routes += 1;
        }
    }
    let listed = |source| DatapathError::Map { operation: "list", name: names::MAP_DROPS, source };
    let drops: Vec<_> = tables.drops.keys().collect::<Result<_, _>>().map_err(listed)?;
    let ids: HashSet<u32> = drops.iter().map(|key| key.endpoint).collect();
    for id in ids.into_iter().filter(|id| *id != ENDPOINT_UNKNOWN && !live.contains(id)) {
        tables.remove_drops(id)?;
        done.drops += 1;
    }
    let listed = |source| DatapathError::Map { operation: "list", name: names::MAP_SOCKETS, source };
    let sockets: Vec<_> = tables.sockets.keys().collect::<Result<_, _>>().map_err(listed)?;
    for key in sockets.into_iter().filter(|key| !cgroups.contains(&key.cgroup)) {
        tables.remove_socket(key.cgroup)?;
        done.sockets += 1;
    }
    done.links.extend(links.sweep(|tag| tags.contains(&tag.number()))?);
    Ok(done)
}
