//! Which ports of the host are whose, and what the datapath is told of each. Refuses to give one twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::error::OutsideError;
use super::held::Held;
use crate::datapath::{Door, PortProtocol, Published};
use crate::ids::{ContainerId, Name, Project};

/// A port of the host's that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// None: at every address.
    pub address: Option<IpAddr>,
    pub host_port: u16,
    pub port: u16,
    pub protocol: PortProtocol,
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:")?,
            Some(IpAddr::V4(v4)) => write!(f, "{v4}:")?,
            None => {}
        }
        write!(f, "{}:{}", self.host_port, self.port)?;
        if self.protocol == PortProtocol::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

impl PortMapping {
    /// Whether both are asked for by some packet.
    fn meets(&self, other: &PortMapping) -> bool {
        let same_address = match (self.address, other.address) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        };
        same_address && self.host_port == other.host_port && self.protocol == other.protocol
    }
}

/// A container that publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub id: ContainerId,
    pub name: Name,
    pub project: Project,
    pub endpoint: u32,
    pub has_ipv6: bool,
}

impl Owner {
    /// How `project` is told of it.
    fn told_to(&self, project: &Project) -> String {
        match self.project == *project {
            true => format!("container {}", self.name),
            false => "another project".to_owned(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    /// None: another program has it, which had it when a daemon was not there to hold it.
    _held: Option<Held>,
}

#[derive(Debug, Default)]
pub struct Registry {
    entries: BTreeMap<PortMapping, Entry>,
}

impl Registry {
    /// Whether nobody has it, or anything that meets it.
    pub fn check(&self, mapping: &PortMapping, owner: &Owner) -> Result<(), OutsideError> {
        // The host's own programs reach a container by one address: there, a port of the host's is one of its.
        let meets_inside = |other: &PortMapping, entry: &Entry| {
            let anywhere = PortMapping { address: None, ..*other };
            entry.owner.id == owner.id && anywhere.meets(mapping) && other.port != mapping.port
        };
        let taken = |(other, entry): &(&PortMapping, &Entry)| other.meets(mapping) || meets_inside(other, entry);
        match self.entries.iter().find(taken) {
            Some((_, entry)) => {
                Err(OutsideError::Taken { mapping: *mapping, owner: entry.owner.told_to(&owner.project) })
            }
            None => Ok(()),
        }
    }

    pub fn insert(&mut self, mapping: PortMapping, owner: Owner, held: Option<Held>) {
        self.entries.insert(mapping, Entry { owner, _held: held });
    }

    /// Whether it was this container's.
    pub fn remove(&mut self, mapping: &PortMapping, id: &ContainerId) -> bool {
        let is_its = self.entries.get(mapping).is_some_and(|entry| entry.owner.id == *id);
        is_its && self.entries.remove(mapping).is_some()
    }

    /// Whether it had any.
    pub fn remove_all(&mut self, id: &ContainerId) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.owner.id != *id);
        self.entries.len() != before
    }

    /// What the datapath is to know, when these are the host's addresses.
    pub fn rows(&self, host: &BTreeSet<IpAddr>) -> Vec<Published> {
        self.entries.iter().flat_map(|(mapping, entry)| rows_of(mapping, &entry.owner, host)).collect()
    }
}

fn rows_of(mapping: &PortMapping, owner: &Owner, host: &BTreeSet<IpAddr>) -> Vec<Published> {
    let row = |(address, door)| Published {
        address,
        port: mapping.host_port,
        protocol: mapping.protocol,
        endpoint: owner.endpoint,
        to_port: mapping.port,
        door,
    };
    let loopbacks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let doors: Vec<(IpAddr, Door)> = match mapping.address {
        Some(address) if address.is_loopback() => vec![(address, Door::Sockets), (address, Door::StandIn)],
        Some(address) => vec![(address, Door::Everybody), (address, Door::StandIn)],
        None => {
            let everybody = host.iter().map(|&address| (address, Door::Everybody));
            let own = loopbacks.into_iter().flat_map(|address| [(address, Door::Sockets), (address, Door::StandIn)]);
            everybody.chain(own).collect()
        }
    };
    doors.into_iter().filter(|(address, _)| address.is_ipv4() || owner.has_ipv6).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: &str, project: &str, has_ipv6: bool) -> Owner {
        let (name, project) = (Name::parse("web").unwrap(), Project::parse(project).unwrap());
        Owner { id: ContainerId::parse(id).unwrap(), name, project, endpoint: 3, has_ipv6 }
    }

    fn mapping(address: Option<&str>, host_port: u16, protocol: PortProtocol) -> PortMapping {
        PortMapping { address: address.map(|text| text.parse().unwrap()), host_port, port: 80, protocol }
    }

    #[test]
    fn a_port_is_given_once() {
        use PortProtocol::{Tcp, Udp};
        let (web, other) = (owner("00000000000000aa", "p", false), owner("00000000000000bb", "q", false));
        let mut registry = Registry::default();
        registry.insert(mapping(None, 8080, Tcp), web.clone(), None);
        registry.insert(mapping(Some("192.0.2.1"), 53, Udp), web.clone(), None);
        let refused = |mapping: PortMapping, to: &Owner| match registry.check(&mapping, to) {
            Err(OutsideError::Taken { owner, .. }) => owner,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(mapping(None, 8080, Tcp), &web), "container web");
        assert_eq!(refused(mapping(Some("192.0.2.1"), 8080, Tcp), &other), "another project");
        assert_eq!(refused(mapping(None, 53, Udp), &web), "container web");
        for free in [mapping(None, 8080, Udp), mapping(Some("192.0.2.2"), 53, Udp), mapping(None, 8081, Tcp)] {
            assert!(registry.check(&free, &other).is_ok(), "{free}");
        }
        let elsewhere = PortMapping { port: 81, ..mapping(Some("192.0.2.2"), 53, Udp) };
        assert_eq!(refused(elsewhere, &web), "container web");
        assert!(registry.check(&elsewhere, &other).is_ok());
        assert!(!registry.remove(&mapping(None, 8080, Tcp), &other.id));
        assert!(registry.remove(&mapping(None, 8080, Tcp), &web.id));
        assert!(registry.check(&mapping(None, 8080, Tcp), &other).is_ok());
        assert!(registry.remove_all(&web.id) && !registry.remove_all(&web.id));
    }

    #[test]
    fn each_address_has_its_door() {
        let mut registry = Registry::default();
        registry.insert(mapping(None, 8080, PortProtocol::Tcp), owner("00000000000000aa", "p", false), None);
        let host = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
        let doors = |registry: &Registry| -> Vec<(String, Door)> {
            registry.rows(&host).iter().map(|row| (row.address.to_string(), row.door)).collect()
        };
        let v4 = [("192.0.2.1", Door::Everybody), ("127.0.0.1", Door::Sockets), ("127.0.0.1", Door::StandIn)];
        assert_eq!(doors(&registry), v4.map(|(address, door)| (address.to_owned(), door)));
        registry.remove_all(&owner("00000000000000aa", "p", false).id);
        registry.insert(mapping(None, 8080, PortProtocol::Tcp), owner("00000000000000aa", "p", true), None);
        assert_eq!(doors(&registry).len(), 6);
        registry.remove_all(&owner("00000000000000aa", "p", false).id);
        registry.insert(mapping(Some("::1"), 8080, PortProtocol::Tcp), owner("00000000000000aa", "p", true), None);
        assert_eq!(doors(&registry), [("::1".to_owned(), Door::Sockets), ("::1".to_owned(), Door::StandIn)]);
    }

    #[test]
    fn a_mapping_is_written_as_it_is_asked_for() {
        use PortProtocol::{Tcp, Udp};
        for (written, of) in [
            ("8080:80", mapping(None, 8080, Tcp)),
            ("127.0.0.1:8080:80", mapping(Some("127.0.0.1"), 8080, Tcp)),
            ("[::1]:53:80/udp", mapping(Some("::1"), 53, Udp)),
        ] {
            assert_eq!(of.to_string(), written);
        }
    }
}
