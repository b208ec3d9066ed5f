//! What the host is like from within: its addresses, and the interfaces that its default routes lead to. Refuses to change any of it,
//! and to say what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

use super::host_device::is_host_device;
use super::link::{LinkError, Links};

/// Of one network namespace, at one moment. Without our own device, and without interfaces that have neither address nor default route, as
/// containers': they come and go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// By their numbers.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Each interface's own.
    pub addresses: BTreeSet<(u32, IpAddr)>,
    /// Where default routes lead.
    pub default_routes: BTreeSet<u32>,
    /// Of all routes, whatever order they are in: the same if they are.
    pub routes_digest: u64,
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
        let is_own = |(ifindex, one): (&u32, &Interface)| is_host_device(&one.name).then_some(*ifindex);
        let own: BTreeSet<u32> = found.interfaces.iter().filter_map(is_own).collect();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for filter in [v4, v6] {
            found.add_routes(&handle, filter, &own).await.map_err(failed)?;
        }
        let Surroundings { interfaces, addresses, default_routes, .. } = &mut found;
        addresses.retain(|(ifindex, _)| !own.contains(ifindex));
        let with_address: BTreeSet<u32> = addresses.iter().map(|(ifindex, _)| *ifindex).collect();
        interfaces.retain(|ifindex, _| with_address.contains(ifindex) || default_routes.contains(ifindex));
        Ok(found)
    }
}

impl Surroundings {
    async fn add_routes(
        &mut self,
        handle: &Handle,
        filter: RouteMessage,
        own: &BTreeSet<u32>,
    ) -> Result<(), rtnetlink::Error> {
        let mut routes = handle.route().get(filter).execute();
        while let Some(route) = routes.try_next().await? {
            let ways = ways(&route);
            if ways.iter().any(|ifindex| own.contains(ifindex)) {
                continue;
            }
            // A sum: the kernel lists them in an order of its own.
            self.routes_digest = self.routes_digest.wrapping_add(digest(&route));
            if route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast {
                self.default_routes.extend(ways);
            }
        }
        Ok(())
    }
}

/// The interfaces that a route leads to.
fn ways(route: &RouteMessage) -> Vec<u32> {
    let mut found = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => found.push(*ifindex),
            RouteAttribute::MultiPath(hops) => found.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    found
}

/// What a route says, without what only tells of its use.
fn digest(route: &RouteMessage) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    let header = &route.header;
    format!("{:?} {} {} {:?}", header.address_family, header.destination_prefix_length, header.table, header.kind)
        .hash(&mut hasher);
    let says = |attribute: &&RouteAttribute| {
        !matches!(attribute, RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_) | RouteAttribute::Other(_))
    };
    for attribute in route.attributes.iter().filter(says) {
        format!("{attribute:?}").hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_what_it_says_and_not_how_often_it_was_used() {
        let route = |attributes| {
            let mut message = RouteMessage::default();
            message.attributes = attributes;
            message
        };
        let (oif, other) = (RouteAttribute::Oif(2), RouteAttribute::Oif(3));
        let one = digest(&route(vec![oif.clone(), RouteAttribute::Priority(1)]));
        assert_eq!(digest(&route(vec![oif.clone(), RouteAttribute::Expires(9), RouteAttribute::Priority(1)])), one);
        assert_ne!(digest(&route(vec![other, RouteAttribute::Priority(1)])), one);
        assert_eq!(ways(&route(vec![oif])), [2]);
    }
}
