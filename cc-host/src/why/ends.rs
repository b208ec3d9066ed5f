//! Who is asked about: the two ends as people name them, and the packet that one would send to the other. Refuses to look at anybody
//! else's containers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cc_common::nat::StandIns;
use cc_common::net::GATEWAY_MAC;

use super::error::WhyError;
use super::frame::Frame;
use super::story::people;
use crate::container::{Attachment, ContainerRecord, Containers, State};
use crate::datapath::{Entrance, PortProtocol};
use crate::ids::Project;
use crate::outside::PortMapping;

/// Somebody out there: a documentation address (RFC 5737), which nobody has.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Likewise (RFC 3849).
pub const INTERNET6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const INTERNET_NAME: &str = "internet";
const HOST_NAME: &str = "host";
const SOURCE_PORT: u16 = 40_000;
/// Of a client beyond us, and of the interface that it comes in by: nothing looks at them.
const OUTSIDE_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    Icmp,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Icmp => "icmp",
        }
    }

    pub fn has_ports(self) -> bool {
        self != Transport::Icmp
    }

    fn published(self) -> Option<PortProtocol> {
        match self {
            Transport::Tcp => Some(PortProtocol::Tcp),
            Transport::Udp => Some(PortProtocol::Udp),
            Transport::Icmp => None,
        }
    }
}

/// As it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// A container's name or id, an address, `internet` or `host`.
    pub source: String,
    pub destination: String,
    pub port: u16,
    pub transport: Transport,
    /// Where neither end is an address.
    pub ipv6: bool,
    pub source_port: Option<u16>,
    /// What the source says is its address.
    pub claim: Option<IpAddr>,
}

/// One end, found.
enum End {
    Container(Box<ContainerRecord>),
    Address(IpAddr),
    Internet,
    Host,
}

/// The question with its packet.
pub struct Asked {
    pub entrance: Entrance,
    pub frame: Frame,
    /// The container that sends, and the one that the packet is meant for, of this project.
    pub from: Option<ContainerRecord>,
    pub to: Option<ContainerRecord>,
    /// An end that stands for anybody out there.
    pub anybody: bool,
    /// Where a socket of the host's means to send: it is led elsewhere.
    pub meant: Option<SocketAddr>,
}

pub enum Found {
    Packet(Box<Asked>),
    /// No packet can be made that would get there.
    Unpublished {
        to: Box<ContainerRecord>,
        from: Option<Box<ContainerRecord>>,
    },
    /// It never leaves the container.
    Itself(Box<ContainerRecord>),
}

pub fn is_running(record: &ContainerRecord) -> bool {
    matches!(record.state, State::Running { .. })
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

fn network(record: &ContainerRecord) -> Result<&Attachment, WhyError> {
    record.vpc.as_ref().ok_or_else(|| WhyError::NoNetwork { name: record.name.to_string() })
}

fn address(record: &ContainerRecord, ipv6: bool) -> Result<IpAddr, WhyError> {
    let network = network(record)?;
    let found = if ipv6 { network.ipv6.map(|v6| v6.address.into()) } else { Some(network.ipv4.into()) };
    found.ok_or_else(|| WhyError::NoFamily { name: record.name.to_string(), family: family(ipv6) })
}

fn loopback(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}

fn has(record: &ContainerRecord, wanted: IpAddr) -> bool {
    [false, true].into_iter().any(|ipv6| address(record, ipv6).is_ok_and(|own| own == wanted))
}

/// What a container publishes, and where.
struct Service {
    to: ContainerRecord,
    mapping: PortMapping,
    at: IpAddr,
}

/// Everybody whom the caller may ask about.
pub struct Ends<'a> {
    pub containers: &'a Containers,
    pub project: &'a Project,
    /// Addresses that ports are published at.
    pub host: Vec<IpAddr>,
    pub stand_ins: StandIns,
}

impl Ends<'_> {
    pub fn find(&self, ask: &Ask) -> Result<Found, WhyError> {
        if ask.transport.has_ports() && ask.port == 0 {
            return Err(WhyError::BadField { field: "port", value: "0".to_owned(), why: "tcp and udp need one" });
        }
        let (source, destination) = (self.source(&ask.source)?, self.end(&ask.destination)?);
        match source {
            End::Container(from) => self.sent_by(ask, *from, destination),
            End::Host => self.sent_by_host(ask, destination),
            End::Address(client) => self.sent_from_outside(ask, Some(client), destination),
            End::Internet => self.sent_from_outside(ask, None, destination),
        }
    }

    fn end(&self, text: &str) -> Result<End, WhyError> {
        if text == INTERNET_NAME {
            return Ok(End::Internet);
        }
        if text == HOST_NAME {
            return Ok(End::Host);
        }
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(End::Address(address.to_canonical())),
            Err(_) => Ok(End::Container(Box::new(self.containers.find(self.project, text)?))),
        }
    }

    /// An address is its container's, if it is one's, or the host's.
    fn source(&self, text: &str) -> Result<End, WhyError> {
        match self.end(text)? {
            End::Address(address) => {
                let mut owners = self.running(|record| has(record, address));
                match (owners.pop(), owners.is_empty()) {
                    (None, _) if address.is_loopback() || self.host.contains(&address) => Ok(End::Host),
                    (None, _) => Ok(End::Address(address)),
                    (Some(owner), true) => Ok(End::Container(Box::new(owner))),
                    (Some(owner), false) => {
                        let names = owners.iter().chain([&owner]).map(|record| record.name.to_string()).collect();
                        Err(WhyError::Ambiguous { address, names })
                    }
                }
            }
            end => Ok(end),
        }
    }

    fn running(&self, wanted: impl Fn(&ContainerRecord) -> bool) -> Vec<ContainerRecord> {
        self.containers.list(self.project).into_iter().filter(|record| is_running(record) && wanted(record)).collect()
    }

    fn sent_by(&self, ask: &Ask, from: ContainerRecord, to: End) -> Result<Found, WhyError> {
        if !is_running(&from) {
            return Err(WhyError::NotRunning { name: from.name.to_string() });
        }
        let own = network(&from)?;
        let (mut published, mut anybody, mut target) = (None, false, None);
        let destination = match to {
            End::Address(address) => address,
            End::Internet => {
                anybody = true;
                if ask.ipv6 { INTERNET6.into() } else { INTERNET.into() }
            }
            End::Host => self.host_address(ask.ipv6)?,
            End::Container(to) if to.id == from.id => return Ok(Found::Itself(to)),
            End::Container(to) => {
                let neighbours = to.vpc.as_ref().is_some_and(|other| other.vpc == own.vpc);
                let at = match neighbours {
                    true => address(&to, ask.ipv6)?,
                    // Another network's addresses mean nothing here: by a port of the host, or not at all.
                    false => match self.published(ask, &to, false)? {
                        Some((mapping, at)) => {
                            published = Some(mapping);
                            at
                        }
                        None => return Ok(Found::Unpublished { to, from: Some(Box::new(from)) }),
                    },
                };
                target = Some(*to);
                at
            }
        };
        let source = match ask.claim {
            Some(claim) => claim,
            None => address(&from, destination.is_ipv6())?,
        };
        let (macs, entrance) = ([GATEWAY_MAC.0, own.mac], Entrance::Endpoint(from.slot));
        let port = published.map_or(ask.port, |mapping: PortMapping| mapping.host_port);
        let frame = frame(ask, macs, source, destination, port)?;
        Ok(Found::Packet(Box::new(Asked { entrance, frame, from: Some(from), to: target, anybody, meant: None })))
    }

    fn sent_from_outside(&self, ask: &Ask, client: Option<IpAddr>, to: End) -> Result<Found, WhyError> {
        if ask.claim.is_some() {
            let why = "whoever is outside may claim any address: name it as the source";
            return Err(WhyError::BadField { field: "--claim", value: ask.source.clone(), why });
        }
        let ask = &Ask { ipv6: client.map_or(ask.ipv6, |client| client.is_ipv6()), ..ask.clone() };
        let Service { to, mapping, at } = match self.service(ask, to, false)? {
            Ok(service) => service,
            Err(none) => return Ok(none),
        };
        let anywhere = if at.is_ipv6() { INTERNET6.into() } else { INTERNET.into() };
        let source = client.unwrap_or(anywhere);
        Ok(Found::Packet(Box::new(Asked {
            entrance: Entrance::Uplink,
            frame: frame(ask, OUTSIDE_MACS, source, at, mapping.host_port)?,
            from: None,
            to: Some(to),
            anybody: client.is_none(),
            meant: None,
        })))
    }

    /// A socket of the host's is led to the stand-in of the container that publishes what it means.
    fn sent_by_host(&self, ask: &Ask, to: End) -> Result<Found, WhyError> {
        if ask.claim.is_some() {
            let why = "only a container can be asked about with another's address";
            return Err(WhyError::BadField { field: "--claim", value: ask.source.clone(), why });
        }
        let Service { to, mapping, at } = match self.service(ask, to, true)? {
            Ok(service) => service,
            Err(none) => return Ok(none),
        };
        let v4 = at.is_ipv4();
        if !self.stand_ins.has(v4) {
            return Err(WhyError::HostFamily { family: family(!v4) });
        }
        let [source, destination] = [self.stand_ins.host(v4), self.stand_ins.of(v4, to.slot)].map(|ip| people(&ip));
        Ok(Found::Packet(Box::new(Asked {
            entrance: Entrance::Host,
            frame: frame(ask, OUTSIDE_MACS, source, destination, mapping.host_port)?,
            from: None,
            to: Some(to),
            anybody: false,
            meant: Some(SocketAddr::new(at, mapping.host_port)),
        })))
    }

    /// The running container that is reached by a port of the host, by others or by the host's own sockets; or what there is to say where
    /// none is.
    fn service(&self, ask: &Ask, to: End, by_host: bool) -> Result<Result<Service, Found>, WhyError> {
        let found = match to {
            End::Internet => return Err(WhyError::NotOurs),
            End::Container(to) => match self.published(ask, &to, by_host)? {
                Some((mapping, at)) => Service { to: *to, mapping, at },
                None => return Ok(Err(Found::Unpublished { to, from: None })),
            },
            End::Host | End::Address(_) => {
                let at = match to {
                    End::Address(at) => at,
                    _ if by_host => loopback(ask.ipv6),
                    _ => self.host_address(ask.ipv6)?,
                };
                match self.at_host(ask, at) {
                    Some((to, mapping)) => Service { to, mapping, at },
                    None => {
                        let owner = self.running(|record| has(record, at)).pop().ok_or(WhyError::NotOurs)?;
                        return Ok(Err(Found::Unpublished { to: Box::new(owner), from: None }));
                    }
                }
            }
        };
        if !is_running(&found.to) {
            return Err(WhyError::NotRunning { name: found.to.name.to_string() });
        }
        Ok(Ok(found))
    }

    fn host_address(&self, ipv6: bool) -> Result<IpAddr, WhyError> {
        let own = self.host.iter().find(|at| at.is_ipv6() == ipv6).copied();
        own.ok_or(WhyError::HostFamily { family: family(ipv6) })
    }

    /// By which port of the host a container's is reached, and at which address, by others or by the host's own sockets.
    fn published(
        &self,
        ask: &Ask,
        to: &ContainerRecord,
        by_host: bool,
    ) -> Result<Option<(PortMapping, IpAddr)>, WhyError> {
        let Some(protocol) = ask.transport.published() else { return Ok(None) };
        let is_it = |mapping: &&PortMapping, port| {
            mapping.protocol == protocol
                && port == ask.port
                && mapping.address.is_none_or(|at| at.is_ipv6() == ask.ipv6 && (by_host || !at.is_loopback()))
        };
        let all = &to.spec.publish;
        let inner = all.iter().find(|mapping| is_it(mapping, mapping.port));
        let Some(&mapping) = inner.or_else(|| all.iter().find(|mapping| is_it(mapping, mapping.host_port))) else {
            return Ok(None);
        };
        let at = match mapping.address {
            Some(at) => at,
            None if by_host => loopback(ask.ipv6),
            None => self.host_address(ask.ipv6)?,
        };
        Ok(Some((mapping, at)))
    }

    /// The caller's container that publishes what is asked for at an address of the host.
    fn at_host(&self, ask: &Ask, at: IpAddr) -> Option<(ContainerRecord, PortMapping)> {
        let protocol = ask.transport.published()?;
        let is_it = |mapping: &PortMapping| {
            mapping.protocol == protocol
                && mapping.host_port == ask.port
                && mapping.address.map_or(at.is_loopback() || self.host.contains(&at), |own| own == at)
        };
        let owner = self.running(|record| record.spec.publish.iter().any(is_it)).pop()?;
        let mapping = owner.spec.publish.iter().copied().find(is_it)?;
        Some((owner, mapping))
    }
}

fn frame(ask: &Ask, macs: [[u8; 6]; 2], source: IpAddr, destination: IpAddr, port: u16) -> Result<Frame, WhyError> {
    if source.is_ipv6() != destination.is_ipv6() {
        return Err(WhyError::Families { one: source, other: destination });
    }
    let (transport, source_port) = (ask.transport, ask.source_port.unwrap_or(SOURCE_PORT));
    Ok(Frame { macs, source, destination, transport, source_port, port })
}
