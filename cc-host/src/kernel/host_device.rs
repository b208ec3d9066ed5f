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

/// The host's end.
pub const HOST_INTERFACE: &str = "cchost";
/// The end where the program is.
pub const PEER_INTERFACE: &str = "ccpeer";

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
    pub async fn ensure_host_device(&self, addresses: &HostAddresses) -> Result<HostDevice, LinkError> {
        let device = match self.find_host_device().await? {
            Some(device) => device,
            None => self.make_host_device().await?,
        };
        settle_ipv6(HOST_INTERFACE);
        forward(HOST_INTERFACE)?;
        let HostAddresses { ipv4, ipv6 } = *addresses;
        self.give(device.host, ipv4.0.into(), ipv4.1).await?;
        if let Some((address, prefix_len)) = ipv6 {
            self.give(device.host, address.into(), prefix_len).await?;
        }
        for (ifindex, name) in [(device.peer, PEER_INTERFACE), (device.host, HOST_INTERFACE)] {
            let up = LinkUnspec::new_with_index(ifindex).arp(false).multicast(false).up().build();
            let done = self.handle().link().set(up).execute().await;
            done.map_err(|source| LinkError::Up { name: name.to_owned(), source })?;
        }
        Ok(device)
    }

    async fn find_host_device(&self) -> Result<Option<HostDevice>, LinkError> {
        let index = |name: &str| match if_nametoindex(name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::ENODEV | Errno::ENXIO) => Ok(None),
            Err(source) => Err(LinkError::Find { name: name.to_owned(), source }),
        };
        let (Some(host), Some(peer)) = (index(HOST_INTERFACE)?, index(PEER_INTERFACE)?) else { return Ok(None) };
        let ours = self.with_alias_prefix(OWNER_TAG).await?;
        match ours.iter().any(|link| link.ifindex == host) {
            true => Ok(Some(HostDevice { host, peer })),
            false => Err(LinkError::Foreign { name: HOST_INTERFACE.to_owned() }),
        }
    }

    async fn make_host_device(&self) -> Result<HostDevice, LinkError> {
        let created = |source| LinkError::Create { name: HOST_INTERFACE.to_owned(), source };
        // One address for both: whatever one end sends is for the other.
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(PEER_INTERFACE).address(GATEWAY_MAC.0.to_vec()).build();
        let message = LinkMessageBuilder::<LinkVeth>::new(HOST_INTERFACE, PEER_INTERFACE)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(GATEWAY_MAC.0.to_vec())
            .build();
        self.handle().link().add(message).execute().await.map_err(created)?;
        let index =
            |name: &str| if_nametoindex(name).map_err(|source| LinkError::Find { name: name.to_owned(), source });
        let device = HostDevice { host: index(HOST_INTERFACE)?, peer: index(PEER_INTERFACE)? };
        super::link::quiet_ipv6(PEER_INTERFACE);
        let alias = LinkUnspec::new_with_index(device.host)
            .append_extra_attribute(LinkAttribute::IfAlias(format!("{OWNER_TAG}host")))
            .build();
        self.handle().link().set(alias).execute().await.map_err(created)?;
        Ok(device)
    }

    async fn give(&self, ifindex: u32, address: IpAddr, prefix_len: u8) -> Result<(), LinkError> {
        let mut add = self.handle().address().add(ifindex, address, prefix_len).replace();
        if address.is_ipv6() {
            add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let name = || HOST_INTERFACE.to_owned();
        add.execute().await.map_err(|source| LinkError::Address { name: name(), address, source })
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
