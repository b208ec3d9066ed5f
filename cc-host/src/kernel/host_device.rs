//! The pair of interfaces by which containers and the host's own sockets reach each other: the host has one end, with an address and
//! the routes to everybody's stand-in; at the other end is a program. Refuses to take an interface of that name that is not ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use cc_common::names::OWNER_TAG;
use cc_common::net::GATEWAY_MAC;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::link::{LinkError, Links, settle_ipv6};
use super::{carrier, local};
use crate::error_chain;

/// Leads the name of the host's end. No container's interface has a name like it: behind `cc` it has hexadecimal digits.
const HOST_PREFIX: &str = "cch";
/// And of the end where the program is.
const PEER_PREFIX: &str = "ccp";

/// Whether an interface is an end of such a pair, this daemon's or another's.
pub fn is_host_device(name: &str) -> bool {
    name.starts_with(HOST_PREFIX) || name.starts_with(PEER_PREFIX)
}

/// The name of the other end, where the program is, of a host's end.
pub fn peer_of(host: &str) -> Option<String> {
    host.strip_prefix(HOST_PREFIX).map(|digits| format!("{PEER_PREFIX}{digits}"))
}

/// Both ends' names: each daemon has its own pair.
struct Names {
    host: String,
    peer: String,
    alias: String,
}

impl Names {
    /// By an id such as `host-0123456789ab`: names have at most 15 characters.
    fn of(host_id: &str) -> Self {
        let digits = host_id.rsplit('-').next().unwrap_or(host_id);
        let digits = digits.get(..12).unwrap_or(digits);
        Names {
            host: format!("{HOST_PREFIX}{digits}"),
            peer: format!("{PEER_PREFIX}{digits}"),
            alias: format!("{OWNER_TAG}{host_id}"),
        }
    }
}

/// Both ends' numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostDevice {
    pub host: u32,
    pub peer: u32,
}

/// What the host's end has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAddresses {
    pub ipv4: (Ipv4Addr, u8),
    pub ipv6: Option<(Ipv6Addr, u8)>,
}

impl Links {
    /// Makes the pair, or takes over the one that is there. It is quiet: nothing is asked on it, for every frame has one way to go.
    pub async fn ensure_host_device(&self, host_id: &str, addresses: &HostAddresses) -> Result<HostDevice, LinkError> {
        let names = Names::of(host_id);
        let device = match self.find_host_device(&names).await? {
            Some(device) => device,
            None => self.make_host_device(&names).await?,
        };
        settle_ipv6(&names.host);
        forward(&names.host)?;
        let HostAddresses { ipv4, ipv6 } = *addresses;
        self.give(&names, device.host, ipv4.0.into(), ipv4.1).await?;
        if let Some((address, prefix_len)) = ipv6 {
            self.give(&names, device.host, address.into(), prefix_len).await?;
        }
        for (ifindex, name) in [(device.peer, &names.peer), (device.host, &names.host)] {
            let up = LinkUnspec::new_with_index(ifindex).arp(false).multicast(false).up().build();
            let done = self.handle().link().set(up).execute().await;
            done.map_err(|source| LinkError::Up { name: name.clone(), source })?;
        }
        carrier::settle(&names.peer)?;
        let given: Vec<IpAddr> = ipv6.iter().map(|(address, _)| (*address).into()).collect();
        match local::settle(&self.handle(), &names.host, &given).await {
            // By a rule of the host's, its own addresses may be somebody else's. All else goes on.
            Err(error @ LinkError::NotLocal { .. }) => {
                tracing::error!(error = error_chain(&error), "the host's programs cannot reach containers over IPv6");
            }
            settled => settled?,
        }
        Ok(device)
    }

    async fn find_host_device(&self, names: &Names) -> Result<Option<HostDevice>, LinkError> {
        let index = |name: &str| match if_nametoindex(name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::ENODEV | Errno::ENXIO) => Ok(None),
            Err(source) => Err(LinkError::Find { name: name.to_owned(), source }),
        };
        let (Some(host), Some(peer)) = (index(&names.host)?, index(&names.peer)?) else { return Ok(None) };
        // Whoever makes it gives it its alias a moment later, and may be killed in that moment.
        let named = self.with_alias_prefix("").await?;
        match named.iter().find(|link| link.ifindex == host) {
            Some(link) if link.alias != names.alias => Err(LinkError::Foreign { name: names.host.clone() }),
            _ => Ok(Some(HostDevice { host, peer })),
        }
    }

    async fn make_host_device(&self, names: &Names) -> Result<HostDevice, LinkError> {
        let created = |source| LinkError::Create { name: names.host.clone(), source };
        // One address for both: whatever one end sends is for the other.
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(&*names.peer).address(GATEWAY_MAC.0.to_vec()).build();
        let message = LinkMessageBuilder::<LinkVeth>::new(&names.host, &names.peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(GATEWAY_MAC.0.to_vec())
            .build();
        self.handle().link().add(message).execute().await.map_err(created)?;
        let index =
            |name: &str| if_nametoindex(name).map_err(|source| LinkError::Find { name: name.to_owned(), source });
        let device = HostDevice { host: index(&names.host)?, peer: index(&names.peer)? };
        super::link::quiet_ipv6(&names.peer);
        let alias = LinkUnspec::new_with_index(device.host)
            .append_extra_attribute(LinkAttribute::IfAlias(names.alias.clone()))
            .build();
        self.handle().link().set(alias).execute().await.map_err(created)?;
        Ok(device)
    }

    async fn give(&self, names: &Names, ifindex: u32, address: IpAddr, prefix_len: u8) -> Result<(), LinkError> {
        let mut add = self.handle().address().add(ifindex, address, prefix_len).replace();
        if address.is_ipv6() {
            add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        add.execute().await.map_err(|source| LinkError::Address { name: names.host.clone(), address, source })
    }
}

/// The host's routes are asked as for a packet that comes in here, and the kernel answers only where it would forward one. Nothing
/// comes in here that is not for the host itself.
fn forward(interface: &str) -> Result<(), LinkError> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    std::fs::write(&path, "1").map_err(|source| LinkError::Setting { path, source })?;
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    match Path::new(&path).exists() {
        true => std::fs::write(&path, "1").map_err(|source| LinkError::Setting { path, source }),
        false => Ok(()),
    }
}

/// Whether the host has IPv6 at all.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf/all").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_known_again() {
        let names = Names::of("host-0123456789ab");
        assert_eq!((names.host.as_str(), names.peer.as_str()), ("cch0123456789ab", "ccp0123456789ab"));
        assert!(names.host.len() < nix::libc::IFNAMSIZ && is_host_device(&names.host) && is_host_device(&names.peer));
        assert!(!is_host_device("cc0123456789ab") && !is_host_device("eth0"));
    }
}
