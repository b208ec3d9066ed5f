//! What the host is like from within: its addresses, and the interfaces that its default routes lead to. Refuses to change any of it,
//! and to say what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

use super::link::{LinkError, Links};

/// Of one network namespace, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// By their numbers.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Each interface's own.
    pub addresses: BTreeSet<(u32, IpAddr)>,
    /// Where default routes lead.
    pub default_routes: BTreeSet<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub is_ethernet: bool,
}

/// Says when addresses or routes have changed. Links are not watched: they come and go with containers, and one that matters has
/// addresses and routes.
pub struct Changes {
    messages: futures::channel::mpsc::UnboundedReceiver<(
        rtnetlink::packet_core::NetlinkMessage<rtnetlink::packet_route::RouteNetlinkMessage>,
        rtnetlink::sys::SocketAddr,
    )>,
    connection: tokio::task::JoinHandle<()>,
}

impl Changes {
    /// Of the namespace of the calling thread.
    pub fn watch() -> Result<Self, LinkError> {
        let groups = [
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let opened = rtnetlink::new_multicast_connection(&groups);
        let (connection, _, messages) = opened.map_err(|source| LinkError::Socket { source })?;
        Ok(Changes { messages, connection: tokio::spawn(connection) })
    }

    /// After at least one; whatever has come with it is taken too. `None` when the kernel tells no more.
    pub async fn next(&mut self) -> Option<()> {
        self.messages.next().await?;
        while self.messages.try_recv().is_ok() {}
        Some(())
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Links {
    /// Of the namespace in which this was opened.
    pub async fn surroundings(&self) -> Result<Surroundings, LinkError> {
        let _one = self.listing().await;
        let handle = self.handle();
        let failed = |source| LinkError::List { source };
        let mut found = Surroundings::default();
        let mut links = handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed)? {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            let is_ethernet = link.header.link_layer_type == LinkLayerType::Ether;
            found.interfaces.extend(name.map(|name| (link.header.index, Interface { name, is_ethernet })));
        }
        let mut addresses = handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed)? {
            let ifindex = message.header.index;
            // On a point-to-point interface, "address" is the other end's.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = local.or_else(|| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            });
            found.addresses.extend(address.map(|address| (ifindex, address)));
        }
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for filter in [v4, v6] {
            found.default_routes.extend(default_routes(&handle, filter).await.map_err(failed)?);
        }
        Ok(found)
    }
}

async fn default_routes(handle: &Handle, filter: RouteMessage) -> Result<Vec<u32>, rtnetlink::Error> {
    let mut found = Vec::new();
    let mut routes = handle.route().get(filter).execute();
    while let Some(route) = routes.try_next().await? {
        if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
            continue;
        }
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => found.push(*ifindex),
                RouteAttribute::MultiPath(hops) => found.extend(hops.iter().map(|hop| hop.interface_index)),
                _ => {}
            }
        }
    }
    Ok(found)
}
