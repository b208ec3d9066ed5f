//! Network interfaces over rtnetlink: pairs, their addresses and routes, and finding our own again by alias. Refuses to
//! know what an interface is for, and never moves a tokio worker into another namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::net::GATEWAY_MAC;
use futures::TryStreamExt;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoNetkit, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, NetkitMode, NetkitPolicy,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use serde::Deserialize;
use tokio::sync::Mutex;
use tonic::Code;

use super::local;
use super::netns::{NetnsError, in_netns};

/// The name of a container's interface, inside.
pub const CONTAINER_INTERFACE: &str = "eth0";
const LOOPBACK_INDEX: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot open a netlink socket")]
    Socket { source: std::io::Error },
    #[error("cannot create interface {name}")]
    Create { name: String, source: rtnetlink::Error },
    #[error("cannot find interface {name}")]
    Find { name: String, source: nix::Error },
    #[error("cannot bring interface {name} up")]
    Up { name: String, source: rtnetlink::Error },
    #[error("cannot settle interface {name}")]
    Settle { name: String, source: std::io::Error },
    #[error("cannot give {address} to interface {name}")]
    Address { name: String, address: IpAddr, source: rtnetlink::Error },
    #[error("cannot ask for the way to {address} of interface {name}")]
    Local { name: String, address: IpAddr, source: rtnetlink::Error },
    #[error("the kernel does not take packets for {address} of interface {name}, {} seconds after it was given", waited.as_secs())]
    NotLocal { name: String, address: IpAddr, waited: Duration },
    #[error("cannot add the default route by {gateway}")]
    Route { gateway: IpAddr, source: rtnetlink::Error },
    #[error("cannot list interfaces or routes")]
    List { source: rtnetlink::Error },
    #[error("cannot delete interface {ifindex}")]
    Delete { ifindex: u32, source: rtnetlink::Error },
    #[error("interface {name} is not ours")]
    Foreign { name: String },
    #[error("cannot write {path}")]
    Setting { path: String, source: std::io::Error },
    #[error("cannot start a netlink thread")]
    Runtime { source: std::io::Error },
    #[error("cannot work in the container's network namespace")]
    Netns { source: NetnsError },
    #[error("a netlink thread was cancelled")]
    Cancelled,
}

impl From<LinkError> for Fault {
    fn from(error: LinkError) -> Fault {
        let why = chain(&error);
        Fault::new(Code::Internal, "link.failed", "cannot set up the container's network", why)
            .next("run `cc-host check`, and look at the daemon's log")
    }
}

/// The causes of an error in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// An interface of ours, as found in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedLink {
    pub ifindex: u32,
    pub name: String,
    pub alias: String,
}

/// What an endpoint's interface gets inside, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointAddress {
    pub address: IpAddr,
    pub prefix_len: u8,
    /// Of its family; without one it reaches its own range only.
    pub gateway: Option<IpAddr>,
}

/// What the two interfaces of a pair are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairKind {
    #[default]
    Veth,
    /// The end inside sends nothing until a program lets it.
    Netkit,
}

/// A pair to be made.
#[derive(Debug)]
pub struct Pair<'a> {
    pub kind: PairKind,
    pub host_name: &'a str,
    /// Where the other end appears, as `eth0`.
    pub netns: BorrowedFd<'a>,
    pub mac: [u8; 6],
    pub mtu: u16,
    pub alias: &'a str,
}

/// Interfaces of the namespace in which this was opened.
#[derive(Debug, Clone)]
pub struct Links {
    handle: Handle,
    /// The kernel runs one listing at a time on a socket, and calls a second one busy.
    listing: Arc<Mutex<()>>,
}

impl Links {
    /// Needs a tokio runtime only where its calls are waited for: the socket has a thread of its own, which ends with the last
    /// clone. A request keeps the thread that sends it until the kernel is done, for as long as others hold the RTNL lock.
    pub fn open() -> Result<Self, LinkError> {
        let failed = |source| LinkError::Runtime { source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let (connection, handle) = {
            let _within = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| LinkError::Socket { source })?;
            (connection, handle)
        };
        let serve = move || runtime.block_on(connection);
        std::thread::Builder::new().name("cc-links".to_owned()).spawn(serve).map_err(failed)?;
        Ok(Links { handle, listing: Arc::default() })
    }

    /// Makes the pair in one message, the container's end down and in its namespace from the start, and brings the host's up.
    /// Derive the name from the container's id too: it is there from the first moment on, the alias a moment later.
    /// Attach the datapath before `configure_endpoint` brings the other end up. Returns the host's end's index.
    pub async fn create_pair(&self, pair: &Pair<'_>) -> Result<u32, LinkError> {
        let name = pair.host_name.to_owned();
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(CONTAINER_INTERFACE)
            .address(pair.mac.to_vec())
            .mtu(pair.mtu.into())
            .setns_by_fd(pair.netns.as_raw_fd())
            .build();
        let (kind, data) = match pair.kind {
            PairKind::Veth => (InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer))),
            PairKind::Netkit => {
                let (mode, policy) = (InfoNetkit::Mode(NetkitMode::L2), InfoNetkit::Policy(NetkitPolicy::Pass));
                let closed = InfoNetkit::PeerPolicy(NetkitPolicy::Drop);
                (InfoKind::Netkit, InfoData::Netkit(vec![mode, policy, closed, InfoNetkit::Peer(peer)]))
            }
        };
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind)
            .name(name.clone())
            .set_info_data(data)
            .address(GATEWAY_MAC.0.to_vec())
            .mtu(pair.mtu.into())
            .build();
        let created = self.handle.link().add(message).execute().await;
        created.map_err(|source| LinkError::Create { name: name.clone(), source })?;
        // Before it is up: the host has nothing to say on it, least of all neighbour discovery.
        quiet_ipv6(pair.host_name);
        let ifindex =
            if_nametoindex(pair.host_name).map_err(|source| LinkError::Find { name: name.clone(), source })?;
        // The kernel ignores an alias in the message that creates: until here, only the name tells whose it is.
        let alias = LinkUnspec::new_with_index(ifindex)
            .append_extra_attribute(LinkAttribute::IfAlias(pair.alias.to_owned()))
            .up()
            .build();
        self.handle.link().set(alias).execute().await.map_err(|source| LinkError::Up { name, source })?;
        Ok(ifindex)
    }

    /// Interfaces whose alias starts so.
    pub async fn with_alias_prefix(&self, prefix: &str) -> Result<Vec<OwnedLink>, LinkError> {
        let links: Vec<LinkMessage> = self.all().await?;
        let owned = links.into_iter().filter_map(|link| {
            let (mut name, mut alias) = (None, None);
            for attribute in &link.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = Some(text.clone()),
                    LinkAttribute::IfAlias(text) => alias = Some(text.clone()),
                    _ => {}
                }
            }
            let (name, alias) = (name?, alias?);
            alias.starts_with(prefix).then_some(OwnedLink { ifindex: link.header.index, name, alias })
        });
        Ok(owned.collect())
    }

    /// Deletes the interface and, of a pair, the other end too. One that is gone already is fine.
    pub async fn delete(&self, ifindex: u32) -> Result<(), LinkError> {
        match self.handle.link().del(ifindex).execute().await {
            Err(source) if !is_gone(&source) => Err(LinkError::Delete { ifindex, source }),
            _ => Ok(()),
        }
    }

    /// As `carrier::settle`, also for interfaces that cannot be asked that way: the kernel catches up before it describes an interface.
    pub async fn settle(&self, ifindex: u32) -> Result<bool, LinkError> {
        let found = self.described(ifindex).await.map_err(|source| LinkError::List { source })?;
        Ok(found.iter().any(|link| link.attributes.contains(&LinkAttribute::Carrier(1))))
    }

    async fn described(&self, ifindex: u32) -> Result<Vec<LinkMessage>, rtnetlink::Error> {
        let _one = self.listing.lock().await;
        self.handle.link().get().match_index(ifindex).execute().try_collect().await
    }

    /// Whether it was down.
    pub async fn bring_up(&self, ifindex: u32) -> Result<bool, LinkError> {
        let failed = |source| LinkError::Up { name: ifindex.to_string(), source };
        let found = self.described(ifindex).await.map_err(failed)?;
        let is_down = found.iter().any(|link| !link.header.flags.contains(LinkFlags::Up));
        if is_down {
            up(&self.handle, ifindex).await.map_err(failed)?;
        }
        Ok(is_down)
    }

    pub async fn take_down(&self, ifindex: u32) -> Result<(), LinkError> {
        let down = LinkUnspec::new_with_index(ifindex).down().build();
        let done = self.handle.link().set(down).execute().await;
        done.map_err(|source| LinkError::Up { name: ifindex.to_string(), source })
    }

    /// For what else is asked of interfaces.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// While it is held, nobody else lists anything.
    pub(super) async fn listing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.listing.lock().await
    }

    async fn all(&self) -> Result<Vec<LinkMessage>, LinkError> {
        let _one = self.listing.lock().await;
        self.handle.link().get().execute().try_collect().await.map_err(|source| LinkError::List { source })
    }
}

/// Gives an endpoint's `eth0` its addresses and default routes, and brings it and the loopback up; its addresses can be reached then.
/// Without an IPv6 address it has no IPv6 at all.
pub async fn configure_endpoint(netns: OwnedFd, addresses: Vec<EndpointAddress>) -> Result<(), LinkError> {
    configure_endpoint_as(netns, None, addresses).await
}

/// The same, with another MAC than the interface was made with.
pub async fn configure_endpoint_as(
    netns: OwnedFd,
    mac: Option<[u8; 6]>,
    addresses: Vec<EndpointAddress>,
) -> Result<(), LinkError> {
    inside(netns, move |handle| async move {
        let name = || CONTAINER_INTERFACE.to_owned();
        match addresses.iter().any(|address| address.address.is_ipv6()) {
            true => settle_ipv6(CONTAINER_INTERFACE),
            // Without it, a program does not wait for answers that cannot come.
            false => quiet_ipv6(CONTAINER_INTERFACE),
        }
        up(&handle, LOOPBACK_INDEX).await.map_err(|source| LinkError::Up { name: "lo".to_owned(), source })?;
        let index = if_nametoindex(CONTAINER_INTERFACE).map_err(|source| LinkError::Find { name: name(), source })?;
        for &EndpointAddress { address, prefix_len, .. } in &addresses {
            let mut add = handle.address().add(index, address, prefix_len);
            if address.is_ipv6() {
                // Good at once: nobody else can have it, and no probe for it would be answered.
                add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            add.execute().await.map_err(|source| LinkError::Address { name: name(), address, source })?;
        }
        let is_up = LinkUnspec::new_with_index(index).up();
        // The kernel sets the address first.
        let is_up = match mac {
            Some(mac) => is_up.address(mac.to_vec()),
            None => is_up,
        };
        handle.link().set(is_up.build()).execute().await.map_err(|source| LinkError::Up { name: name(), source })?;
        for gateway in addresses.iter().filter_map(|address| address.gateway) {
            let route = match gateway {
                IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(v4).output_interface(index).build(),
                IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(v6).output_interface(index).build(),
            };
            handle.route().add(route).execute().await.map_err(|source| LinkError::Route { gateway, source })?;
        }
        let given: Vec<IpAddr> = addresses.iter().map(|address| address.address).collect();
        local::settle(&handle, CONTAINER_INTERFACE, &given).await
    })
    .await
}

/// For a container without a VPC.
pub async fn loopback_up(netns: OwnedFd) -> Result<(), LinkError> {
    inside(netns, |handle| async move {
        up(&handle, LOOPBACK_INDEX).await.map_err(|source| LinkError::Up { name: "lo".to_owned(), source })
    })
    .await
}

/// Runs netlink work inside `netns`, with a small runtime on a thread of its own.
pub(super) async fn inside<T, E, F>(
    netns: impl AsFd + Send + 'static,
    work: impl FnOnce(Handle) -> F + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<LinkError> + Send + 'static,
    F: Future<Output = Result<T, E>>,
{
    let blocking = move || -> Result<T, E> {
        in_netns(netns.as_fd(), move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()
                .map_err(|source| LinkError::Runtime { source })?;
            runtime.block_on(async move {
                let (connection, handle, _) =
                    rtnetlink::new_connection().map_err(|source| LinkError::Socket { source })?;
                let driven = tokio::spawn(connection);
                let done = work(handle).await;
                driven.abort();
                done
            })
        })
        .map_err(|source| LinkError::Netns { source })?
    };
    tokio::task::spawn_blocking(blocking).await.map_err(|_| LinkError::Cancelled)?
}

async fn up(handle: &Handle, ifindex: u32) -> Result<(), rtnetlink::Error> {
    handle.link().set(LinkUnspec::new_with_index(ifindex).up().build()).execute().await
}

pub(super) fn quiet_ipv6(interface: &str) {
    set_ipv6(interface, &[("disable_ipv6", "1")]);
}

/// IPv6 with the addresses that it is given and no others: none of its own making, none of a router's telling.
pub(super) fn settle_ipv6(interface: &str) {
    set_ipv6(interface, &[("disable_ipv6", "0"), ("addr_gen_mode", "1"), ("accept_ra", "0"), ("accept_dad", "0")]);
}

/// Best effort: a kernel without IPv6 has no such files, and nothing to silence; what needs IPv6 fails by itself.
fn set_ipv6(interface: &str, settings: &[(&str, &str)]) {
    for (setting, value) in settings {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/{setting}");
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!(%path, %error, "IPv6 stays as it is");
        }
    }
}

fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -nix::libc::ENODEV)
}
