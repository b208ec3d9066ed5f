//! What an endpoint sent, received and lost, added up over the CPUs. Refuses to interpret it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::maps::MapData;
use cc_common::counters::{DropCount, DropKey};
use cc_common::event::Told;
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::names;
use cc_common::verdict::{Direction, DropReason};

use super::batch;
use super::error::DatapathError;
use super::tables::{Tables, drop_key, total};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// Packets of one direction that were dropped for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drops {
    /// `ingress` or `egress`, as the endpoint sees it.
    pub direction: &'static str,
    pub reason: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointCounters {
    /// On the interface, as delivered by the datapath.
    pub received: Traffic,
    pub sent: Traffic,
    /// By the sockets of the container's cgroup, loopback included.
    pub socket_received: Traffic,
    pub socket_sent: Traffic,
    /// Only what happened at least once.
    pub drops: Vec<Drops>,
    /// Records of what its rules have decided that was to be told.
    pub logged: Told,
}

pub fn read(tables: &Tables, id: u32) -> Result<EndpointCounters, DatapathError> {
    Ok(EndpointCounters { drops: drops(tables, id)?, ..read_traffic(tables, id)? })
}

/// All but the drops.
pub fn read_traffic(tables: &Tables, id: u32) -> Result<EndpointCounters, DatapathError> {
    let interface = tables.counters_of(id)?;
    let sockets = tables.sockets_of(tables.endpoint(id)?.cgroup)?;
    Ok(EndpointCounters {
        received: Traffic { packets: interface.received_packets, bytes: interface.received_bytes },
        sent: Traffic { packets: interface.sent_packets, bytes: interface.sent_bytes },
        socket_received: Traffic { packets: sockets.received_packets, bytes: sockets.received_bytes },
        socket_sent: Traffic { packets: sockets.sent_packets, bytes: sockets.sent_bytes },
        drops: Vec::new(),
        logged: tables.logged(id)?,
    })
}

/// Drops on interfaces that are no endpoint's, and those that no row had room for.
pub fn read_unknown(tables: &Tables) -> Result<Vec<Drops>, DatapathError> {
    drops(tables, ENDPOINT_UNKNOWN)
}

/// The table of drops, to be read whole, under no lock of ours.
pub struct DropTable {
    fd: OwnedFd,
    cpus: usize,
}

impl DropTable {
    pub fn open(pin_dir: &Path) -> Result<Self, DatapathError> {
        let name = names::MAP_DROPS;
        let path = pin_dir.join(name);
        let map = MapData::from_pin(&path).map_err(|source| DatapathError::OpenMap { path, source })?;
        let fd = map.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| DatapathError::Rows { operation: "open", name, source })?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| DatapathError::Cpus { source })?;
        Ok(DropTable { fd, cpus })
    }

    /// Of every endpoint that has lost packets, in the order in which `read` has them. A row that is made meanwhile may be missed.
    pub fn read(&self) -> Result<HashMap<u32, Vec<Drops>>, DatapathError> {
        let mut all: HashMap<u32, Vec<(DropKey, Drops)>> = HashMap::new();
        let row = |key: &DropKey, counts: &[DropCount]| {
            let DropCount { packets, bytes } = total(counts);
            let direction = Direction::ALL.into_iter().find(|&direction| direction as u16 == key.direction);
            if let (Some(direction), Some(reason), 1..) = (direction, DropReason::from_number(key.reason), packets) {
                let drops = Drops { direction: direction.name(), reason: reason.name(), packets, bytes };
                all.entry(key.endpoint).or_default().push((*key, drops));
            }
            ControlFlow::Continue(())
        };
        let name = names::MAP_DROPS;
        let read = batch::each_of_cpus(self.fd.as_fd(), self.cpus, row);
        read.map_err(|source| DatapathError::Rows { operation: "read", name, source })?;
        let place = |key: &DropKey| DropReason::ALL.iter().position(|&reason| reason as u16 == key.reason);
        let sorted = |mut rows: Vec<(DropKey, Drops)>| {
            rows.sort_by_key(|(key, _)| (key.direction, place(key)));
            rows.into_iter().map(|(_, drops)| drops).collect()
        };
        Ok(all.into_iter().map(|(endpoint, rows)| (endpoint, sorted(rows))).collect())
    }
}

fn drops(tables: &Tables, id: u32) -> Result<Vec<Drops>, DatapathError> {
    let mut drops = Vec::new();
    for direction in Direction::ALL {
        for &reason in DropReason::ALL {
            if let Some(count) = tables.drops_of(&drop_key(id, direction, reason))?.filter(|count| count.packets > 0) {
                let (packets, bytes) = (count.packets, count.bytes);
                drops.push(Drops { direction: direction.name(), reason: reason.name(), packets, bytes });
            }
        }
    }
    Ok(drops)
}
