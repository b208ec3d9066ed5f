//! What an endpoint sent, received and lost, added up over the CPUs. Refuses to interpret it.

use cc_common::event::Told;
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::verdict::{Direction, DropReason};

use super::error::DatapathError;
use super::tables::{Tables, drop_key};

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
    let interface = tables.counters_of(id)?;
    let sockets = tables.sockets_of(tables.endpoint(id)?.cgroup)?;
    Ok(EndpointCounters {
        received: Traffic { packets: interface.received_packets, bytes: interface.received_bytes },
        sent: Traffic { packets: interface.sent_packets, bytes: interface.sent_bytes },
        socket_received: Traffic { packets: sockets.received_packets, bytes: sockets.received_bytes },
        socket_sent: Traffic { packets: sockets.sent_packets, bytes: sockets.sent_bytes },
        drops: drops(tables, id)?,
        logged: tables.logged(id)?,
    })
}

/// Drops on interfaces that are no endpoint's, and those that no row had room for.
pub fn read_unknown(tables: &Tables) -> Result<Vec<Drops>, DatapathError> {
    drops(tables, ENDPOINT_UNKNOWN)
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
