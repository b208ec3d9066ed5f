//! IPv6 addresses that can be reached as soon as they are given. The kernel says yes when an address is given, but takes packets for it
//! only when it has made a route of it, which a worker of its own does later: on a busy machine, up to a second. Refuses to give one.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{Error, Handle, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::link::LinkError;

/// The kernel's worker waits for whoever changes interfaces, one after the other.
const PATIENCE: Duration = Duration::from_secs(20);
const PREFIX_BITS: u8 = 128;

/// What is sent to the IPv6 ones of these from now on arrives. Call it when their interface is up, in its namespace.
pub async fn settle(handle: &Handle, name: &str, addresses: &[IpAddr]) -> Result<(), LinkError> {
    for address in addresses {
        let &IpAddr::V6(v6) = address else { continue };
        let failed = |source| LinkError::Local { name: name.to_owned(), address: *address, source };
        // Mostly the worker has been there.
        if is_local(handle, v6).await.map_err(failed)? {
            continue;
        }
        match timeout(PATIENCE, wait(handle, v6)).await {
            Ok(settled) => settled?.map_err(failed)?,
            Err(_) => return Err(LinkError::NotLocal { name: name.to_owned(), address: *address, waited: PATIENCE }),
        }
    }
    Ok(())
}

/// Asked anew whenever routes have changed, from before the first question on.
async fn wait(handle: &Handle, address: Ipv6Addr) -> Result<Result<(), Error>, LinkError> {
    let opened = rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv6Route]);
    let (connection, _, mut changes) = opened.map_err(|source| LinkError::Socket { source })?;
    // Ends with this, whatever way that ends.
    let mut driven = JoinSet::new();
    driven.spawn(connection);
    let waited = async {
        while !is_local(handle, address).await? {
            if changes.next().await.is_none() {
                return Err(Error::RequestFailed);
            }
        }
        Ok(())
    };
    Ok(waited.await)
}

/// Whether a packet for the address would be the namespace's own.
async fn is_local(handle: &Handle, address: Ipv6Addr) -> Result<bool, Error> {
    let to = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, PREFIX_BITS).build();
    match handle.route().get(to).execute().try_next().await {
        Ok(found) => Ok(found.is_some_and(|route| route.header.kind == RouteType::Local)),
        // The kernel's own no: there is no way to it, or a rule of the host's forbids it.
        Err(Error::NetlinkError(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
