//! What the datapath knows of the world beyond the networks: where the host ends, by which interfaces it reaches out, which ports are
//! leased and which are published. Every change is one row, or one version, for the next packet. Refuses to find any of it out.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use cc_common::limits::{ENDPOINTS_MAX, FORWARDS_MAX, NAT_BLOCK_PORTS, UPLINKS_MAX};
use cc_common::names;
use cc_common::nat::{
    FORWARD_FROM_ALL, FORWARD_FROM_HOST, FORWARD_FROM_SOCKETS, FORWARD_IS_HOST, Forward, ForwardKey, StandIns,
};
use cc_common::net::{Be16, Be32, Ip};
use cc_common::route::NO_ENDPOINT;
use cc_common::settings::Settings;

use super::error::DatapathError;
use super::{Datapath, Inner, ip, links};

/// The host as the programs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// The interface whose routes are asked, and by which containers reach the host.
    pub ifindex: u32,
    /// First address of the range of stand-ins, of each family.
    pub stand_ins: (IpAddr, Option<IpAddr>),
    pub nat_ports: NatPorts,
}

/// Whole blocks of ports that conversations which leave get theirs from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatPorts {
    pub(super) first_block: u16,
    pub(super) blocks: u16,
}

impl NatPorts {
    /// Those whole blocks that lie within; `None` if there is not one.
    pub fn within(first: u16, last: u16) -> Option<Self> {
        let first_block = u32::from(first).div_ceil(NAT_BLOCK_PORTS);
        let end = (u32::from(last) + 1) / NAT_BLOCK_PORTS;
        let blocks = end.checked_sub(first_block).filter(|&blocks| blocks > 0)?;
        // Both are at most 1,024.
        Some(NatPorts { first_block: first_block as u16, blocks: blocks as u16 })
    }

    pub fn first(self) -> u16 {
        (u32::from(self.first_block) * NAT_BLOCK_PORTS) as u16
    }

    pub fn last(self) -> u16 {
        ((u32::from(self.first_block) + u32::from(self.blocks)) * NAT_BLOCK_PORTS - 1) as u16
    }
}

/// The IPv4 protocols that have ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    Tcp,
    Udp,
}

impl PortProtocol {
    fn number(self) -> u8 {
        match self {
            PortProtocol::Tcp => cc_common::net::PROTOCOL_TCP,
            PortProtocol::Udp => cc_common::net::PROTOCOL_UDP,
        }
    }
}

/// Who may use a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// Everybody who can reach the address: it is the host's.
    Everybody,
    /// The host's own sockets, by an address that only they have.
    Sockets,
    /// What the host's sockets send to the endpoint's stand-in, at whatever address they meant.
    StandIn,
}

/// One published port, at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Published {
    /// Not looked at for a stand-in: the endpoint has its own.
    pub address: IpAddr,
    pub port: u16,
    pub protocol: PortProtocol,
    pub endpoint: u32,
    pub to_port: u16,
    pub door: Door,
}

impl Datapath {
    /// Where the host is, and what it lends. Flows that leave are judged anew.
    pub fn set_host(&self, host: &Host) -> Result<(), DatapathError> {
        let (IpAddr::V4(ipv4), ipv6) = host.stand_ins else {
            return Err(DatapathError::StandIns);
        };
        let stand_ins = StandIns { ipv4: Be32(ipv4.octets()), ipv6: ipv6.map_or(Ip::UNSPECIFIED, ip) };
        self.inner().change_settings(|settings| {
            settings.host_ifindex = host.ifindex;
            settings.stand_ins = stand_ins;
            settings.nat_block_first = host.nat_ports.first_block;
            settings.nat_blocks = host.nat_ports.blocks;
        })
    }

    /// Something about the host has changed that flows which leave were judged by: each is judged anew with its next packet.
    pub fn judge_outside_again(&self) -> Result<(), DatapathError> {
        self.inner().change_settings(|_| {}).map(drop)
    }

    /// What comes in by these interfaces is looked at, and what leaves may leave by them; by all others it may not any more. Of more than
    /// there is room for, the first are used.
    pub fn set_uplinks(&self, wanted: &[u32]) -> Result<(), DatapathError> {
        let inner = &mut *self.inner();
        let mut failed = Ok(());
        let (wanted, beyond) = wanted.split_at(wanted.len().min(UPLINKS_MAX as usize));
        if let Some(&ifindex) = beyond.first() {
            failed = Err(DatapathError::TooManyUplinks { ifindex });
        }
        // Where rows are scarce, what goes makes room for what comes.
        let found = inner.tables.uplinks()?;
        if found.iter().chain(wanted).collect::<HashSet<_>>().len() > UPLINKS_MAX as usize {
            for &ifindex in found.iter().filter(|ifindex| !wanted.contains(ifindex)) {
                inner.tables.remove_uplink(ifindex)?;
            }
        }
        for &ifindex in wanted {
            // What comes back first, then what goes. One that cannot be used keeps the others from nothing.
            let attached = inner.links.attach_uplink(&mut inner.programs, ifindex);
            failed = attached.and_then(|()| inner.tables.add_uplink(ifindex)).and(failed);
        }
        for ifindex in inner.tables.uplinks()?.into_iter().filter(|ifindex| !wanted.contains(ifindex)) {
            inner.tables.remove_uplink(ifindex)?;
        }
        inner.links.sweep_uplinks(wanted)?;
        failed
    }

    /// Leads the host's sockets, which are those of the network namespace with that cookie below `cgroup_v2_root`, to published ports.
    pub fn lead_sockets(&self, cgroup_v2_root: &Path, netns_cookie: u64) -> Result<(), DatapathError> {
        let inner = &mut *self.inner();
        inner.links.attach_sockets_of_host(&mut inner.programs, cgroup_v2_root)?;
        inner.change_settings(|settings| settings.host_netns = netns_cookie)
    }

    /// As whom the host's own sockets and the containers know each other.
    pub fn stand_ins(&self) -> Result<StandIns, DatapathError> {
        Ok(self.inner().tables.settings()?.stand_ins)
    }

    /// Looks at what the host sends out of the interface whose peer this is.
    pub fn attach_host_peer(&self, ifindex: u32) -> Result<(), DatapathError> {
        links::attach_host_peer(&mut self.inner().programs, ifindex)
    }

    /// These addresses are the host's, and these ports published at them, and no others. An endpoint that is gone has none.
    pub fn set_published(&self, host: &[IpAddr], all: &[Published]) -> Result<(), DatapathError> {
        self.inner().set_published(host, all)
    }
}

impl Inner {
    /// At boot, the settings that are there go on: an earlier daemon has found out what the host is like, and flows live by it.
    pub(super) fn resume_settings(&mut self, wanted: Settings) -> Result<(), DatapathError> {
        let found = self.tables.settings()?;
        let goes_on = |settings: Settings| Settings {
            beyond_version: found.beyond_version,
            host_netns: found.host_netns,
            host_ifindex: found.host_ifindex,
            stand_ins: found.stand_ins,
            nat_block_first: found.nat_block_first,
            nat_blocks: found.nat_blocks,
            ..settings
        };
        // A new map has zeros, and no version is zero.
        let settings = if found.beyond_version == 0 { wanted } else { goes_on(wanted) };
        self.tables.set_settings(settings)
    }

    fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), DatapathError> {
        let mut settings = self.tables.settings()?;
        change(&mut settings);
        settings.beyond_version = self.next_generation();
        self.tables.set_settings(settings)
    }

    fn set_published(&mut self, host: &[IpAddr], all: &[Published]) -> Result<(), DatapathError> {
        let stand_ins = self.tables.settings()?.stand_ins;
        let own = host.iter().map(|&address| {
            let key = ForwardKey { address: ip(address), port: Be16::new(0), protocol: 0, pad: 0 };
            (key, Forward { generation: 0, endpoint: NO_ENDPOINT, port: Be16::new(0), from: FORWARD_IS_HOST, pad: 0 })
        });
        let mut wanted: HashMap<ForwardKey, Forward> = own.collect();
        for one in all {
            if one.endpoint >= ENDPOINTS_MAX {
                return Err(DatapathError::EndpointOutOfRange { id: one.endpoint });
            }
            let generation = self.tables.endpoint(one.endpoint)?.generation;
            if generation == 0 {
                continue;
            }
            let (address, from) = match one.door {
                Door::Everybody => (ip(one.address), FORWARD_FROM_ALL),
                Door::Sockets => (ip(one.address), FORWARD_FROM_SOCKETS),
                Door::StandIn => (stand_ins.of(one.address.is_ipv4(), one.endpoint), FORWARD_FROM_HOST),
            };
            let key = ForwardKey { address, port: Be16::new(one.port), protocol: one.protocol.number(), pad: 0 };
            let port = Be16::new(one.to_port);
            wanted.insert(key, Forward { generation, endpoint: one.endpoint, port, from, pad: 0 });
        }
        if wanted.len() > FORWARDS_MAX as usize {
            return Err(DatapathError::TooManyPublished { count: wanted.len() });
        }
        let mut changed = false;
        for (key, found) in self.tables.forwards()? {
            match wanted.get(&key) {
                Some(forward) if *forward == found => drop(wanted.remove(&key)),
                Some(_) => {}
                None => {
                    self.tables.remove_forward(&key)?;
                    changed = true;
                }
            }
        }
        changed |= !wanted.is_empty();
        for (key, forward) in wanted {
            self.tables.set_forward(key, forward)?;
        }
        // Conversations by a port that is not published any more end with their next packet.
        if changed { self.change_settings(|_| {}) } else { Ok(()) }
    }
}

/// Where an uplink's link is pinned.
pub(super) fn uplink_pin(ifindex: u32) -> String {
    format!("{}{ifindex}", names::LINK_UPLINK)
}

/// The interface that such a pin is for.
pub(super) fn pinned_uplink(name: &str) -> Option<u32> {
    name.strip_prefix(names::LINK_UPLINK)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_in_whole_blocks() {
        let ports = NatPorts::within(61_000, 65_535).unwrap();
        assert_eq!((ports.first(), ports.last()), (61_056, 65_535));
        let ports = NatPorts::within(1024, 1151).unwrap();
        assert_eq!((ports.first(), ports.last()), (1024, 1151));
        for (first, last) in [(1025, 1100), (5, 4), (0, 62), (65_473, 65_535)] {
            assert_eq!(NatPorts::within(first, last), None, "{first} {last}");
        }
    }

    #[test]
    fn an_uplinks_pin_tells_its_interface() {
        assert_eq!(pinned_uplink(&uplink_pin(17)), Some(17));
        for other in ["uplink-", "uplink-x", "00ab34567890cdef-cgin"] {
            assert_eq!(pinned_uplink(other), None, "{other}");
        }
    }
}
