//! The resolvers behind the VPCs' gateways: each is opened when its VPC's first container starts, joined to the datapath by an
//! interface of its own, and goes with its VPC. Refuses to hold up a container: a VPC without a resolver has everything but names.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cc_common::limits::{CONTAINERS_MAX, ENDPOINTS_MAX};
use nix::net::if_::{if_indextoname, if_nametoindex};

use super::ipam;
use crate::daemon::events::Events;
use crate::datapath::{Datapath, DatapathError, Endpoint};
use crate::error_chain;
use crate::ids::{Name, Project, VpcId};
use crate::kernel::carrier;
use crate::kernel::link::{self, EndpointAddress, LinkError, Links, Pair, PairKind};
use crate::resolver::{Directory, OpenResolver, ResolverError, ResolverHandle, Resolvers, Subnet, Upstreams, VpcNames};
use crate::slots::Slots;

/// IPv6's least: a resolver's longest answer over UDP fits, and no container's MTU can be told by it.
const MTU: u16 = 1280;
/// The kernel takes an interface away a few tens of milliseconds after its namespace's last descriptor.
const INTERFACE_GOES_WITHIN: Duration = Duration::from_secs(1);
const INTERFACE_LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("all {max} endpoints for resolvers are taken")]
    NoSlot { max: u32 },
    #[error("its namespace cannot be kept")]
    Keep { source: std::io::Error },
    #[error("it cannot be opened")]
    Resolver(#[from] ResolverError),
    #[error("its interface cannot be made")]
    Link(#[from] LinkError),
    #[error("the datapath does not take it")]
    Datapath(#[from] DatapathError),
}

/// What there is to know of a VPC in order to answer at its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub vpc: VpcId,
    pub name: Name,
    pub project: Project,
    pub vni: u32,
    /// With the range's prefix length.
    pub ipv4: (Ipv4Addr, u8),
    pub ipv6: Option<(Ipv6Addr, u8)>,
}

impl Gateway {
    /// The host's side of its veth pair: at most 15 characters, and never a container's, whose fourth is a hexadecimal digit.
    fn interface(&self) -> String {
        format!("ccg{}", self.vpc.digits())
    }

    fn addresses(&self) -> Vec<EndpointAddress> {
        let ipv6 = self.ipv6.map(|(address, prefix_len)| (address.into(), prefix_len));
        let all = std::iter::once((self.ipv4.0.into(), self.ipv4.1)).chain(ipv6);
        all.map(|(address, prefix_len)| EndpointAddress { address, prefix_len, gateway: None }).collect()
    }

    fn names(&self) -> VpcNames {
        let subnet = |address: EndpointAddress| Subnet { gateway: address.address, prefix_len: address.prefix_len };
        VpcNames { name: self.name.clone(), subnets: self.addresses().into_iter().map(subnet).collect() }
    }

    fn endpoint(&self, id: u32, ifindex: u32) -> Endpoint {
        let ipv4 = self.ipv4.0;
        Endpoint {
            id,
            vni: self.vni,
            // None: it answers, and begins nothing.
            rule_set: 0,
            ifindex,
            mac: ipam::mac_of(ipv4),
            ipv4,
            ipv6: self.ipv6.map(|(address, _)| address),
            queued: false,
            egress_rate: None,
        }
    }
}

/// One that answers.
struct Resolver {
    endpoint: u32,
    interface: String,
    handle: ResolverHandle,
}

/// One VPC's, `None` while it has none; whoever opens or closes it holds the lock.
type Place = Arc<tokio::sync::Mutex<Option<Resolver>>>;

pub struct Gateways {
    datapath: Arc<Datapath>,
    links: Links,
    resolvers: Arc<Resolvers>,
    upstreams: Upstreams,
    events: Events,
    /// Leads the aliases of this daemon's links to resolvers.
    alias: String,
    slots: Slots,
    places: Mutex<HashMap<u32, Place>>,
}

impl Gateways {
    pub fn new(
        datapath: Arc<Datapath>,
        links: Links,
        resolvers: Resolvers,
        upstreams: Upstreams,
        events: Events,
        host_id: &str,
    ) -> Self {
        Gateways {
            datapath,
            links,
            resolvers: Arc::new(resolvers),
            upstreams,
            events,
            alias: format!("cc:{host_id}:{}", VpcId::PREFIX),
            slots: Slots::new(ENDPOINTS_MAX - CONTAINERS_MAX),
            places: Mutex::default(),
        }
    }

    /// Who has which name in which VPC.
    pub fn directory(&self) -> &Arc<Directory> {
        self.resolvers.directory()
    }

    /// When this returns, questions to the gateway are answered, or an event says why they are not; the next call tries again. The
    /// VPC must not be deleted meanwhile.
    pub async fn ensure(&self, gateway: &Gateway) {
        let place = Arc::clone(self.places().entry(gateway.vni).or_default());
        let mut resolver = place.lock().await;
        if resolver.is_some() {
            return;
        }
        match self.open(gateway).await {
            Ok(opened) => *resolver = Some(opened),
            Err(error) => {
                let text = format!("names of VPC {} do not resolve: {error}: {}", gateway.name, error_chain(&error));
                self.events.add_for(Some(&gateway.project), "resolver.failed", gateway.vpc.as_str(), &text).await;
            }
        }
    }

    /// The endpoint of the VPC's resolver.
    pub async fn endpoint(&self, vni: u32) -> Option<u32> {
        let place = self.places().get(&vni).cloned()?;
        let resolver = place.lock().await;
        resolver.as_ref().map(|resolver| resolver.endpoint)
    }

    /// On return it does not answer any more; the kernel takes its time to remove its interface. None there is fine.
    pub async fn close(self: &Arc<Self>, vni: u32) {
        let Some(place) = self.places().remove(&vni) else { return };
        if let Some(Resolver { endpoint, interface, handle }) = place.lock().await.take() {
            self.with_datapath("close a resolver's endpoint", move |datapath| datapath.silence(endpoint)).await;
            drop(handle);
            let all = Arc::clone(self);
            tokio::spawn(async move { all.take_down(endpoint, &interface).await });
        }
    }

    /// At boot, before any is opened: what an earlier daemon's have left goes, should their namespaces be held by anybody.
    pub async fn remove_strays(&self) {
        let links = match self.links.with_alias_prefix(&self.alias).await {
            Ok(links) => links,
            Err(error) => return tracing::error!(error = error_chain(&error), "cannot list resolvers' links"),
        };
        let began = Instant::now();
        for stray in links {
            if let Err(error) = self.interface_goes(&stray.name, began).await {
                tracing::error!(link = stray.name, error = error_chain(&error), "cannot delete a stray link");
            }
        }
    }

    async fn open(&self, gateway: &Gateway) -> Result<Resolver, GatewayError> {
        let max = ENDPOINTS_MAX - CONTAINERS_MAX;
        let endpoint = CONTAINERS_MAX + self.slots.take().ok_or(GatewayError::NoSlot { max })?;
        let interface = gateway.interface();
        match self.connect(gateway, endpoint, &interface).await {
            Ok(handle) => Ok(Resolver { endpoint, interface, handle }),
            Err(error) => {
                self.take_down(endpoint, &interface).await;
                Err(error)
            }
        }
    }

    async fn connect(&self, gateway: &Gateway, endpoint: u32, interface: &str) -> Result<ResolverHandle, GatewayError> {
        // Of an earlier daemon's resolver, whose namespace the kernel may be about to remove.
        self.interface_goes(interface, Instant::now()).await?;
        let open = self.new_resolver(gateway).await?;
        let alias = format!("{}{}", self.alias, gateway.vpc.digits());
        let mac = ipam::mac_of(gateway.ipv4.0);
        let kind = PairKind::Veth;
        let pair = Pair { kind, host_name: interface, netns: open.namespace(), mac, mtu: MTU, alias: &alias };
        let ifindex = self.links.create_pair(&pair).await?;
        let wanted = gateway.endpoint(endpoint, ifindex);
        self.blocking(move |datapath| datapath.attach_resolver(&wanted)).await?;
        let netns = open.namespace().try_clone_to_owned().map_err(|source| GatewayError::Keep { source })?;
        link::configure_endpoint(netns, gateway.addresses()).await?;
        carrier::settle(interface)?;
        let started = tokio::task::spawn_blocking(move || open.start()).await;
        let handle = started.expect("starting a resolver does not panic")?;
        // Last, so that no question meets a namespace where nobody listens yet.
        self.blocking(move |datapath| datapath.lead_to_resolver(endpoint)).await?;
        Ok(handle)
    }

    async fn new_resolver(&self, gateway: &Gateway) -> Result<OpenResolver, GatewayError> {
        let (resolvers, upstreams) = (Arc::clone(&self.resolvers), self.upstreams.clone());
        let (vni, names) = (gateway.vni, gateway.names());
        let opened = tokio::task::spawn_blocking(move || resolvers.open(vni, names, upstreams)).await;
        Ok(opened.expect("opening a resolver does not panic")?)
    }

    /// The interface before its endpoint: what is still on its way must not find an unguarded one.
    async fn take_down(&self, endpoint: u32, interface: &str) {
        if let Err(error) = self.interface_goes(interface, Instant::now()).await {
            tracing::error!(link = interface, error = error_chain(&error), "cannot delete a resolver's link");
        }
        self.with_datapath("detach a resolver's endpoint", move |datapath| datapath.detach(endpoint)).await;
        self.slots.release(endpoint - CONTAINERS_MAX);
    }

    /// Waits for the kernel, which removes it with its namespace, and deletes what it does not.
    async fn interface_goes(&self, name: &str, began: Instant) -> Result<(), LinkError> {
        while let Ok(ifindex) = if_nametoindex(name) {
            if began.elapsed() > INTERFACE_GOES_WITHIN {
                // It may be another name of somebody else's interface.
                let is_its = if_indextoname(ifindex).is_ok_and(|own| own.to_bytes() == name.as_bytes());
                return if is_its { self.links.delete(ifindex).await } else { Ok(()) };
            }
            tokio::time::sleep(INTERFACE_LOOK).await;
        }
        Ok(())
    }

    async fn with_datapath(
        &self,
        what: &'static str,
        act: impl FnOnce(&Datapath) -> Result<(), DatapathError> + Send + 'static,
    ) {
        if let Err(error) = self.blocking(act).await {
            tracing::error!(error = error_chain(&error), "cannot {what}");
        }
    }

    async fn blocking(
        &self,
        act: impl FnOnce(&Datapath) -> Result<(), DatapathError> + Send + 'static,
    ) -> Result<(), DatapathError> {
        let datapath = Arc::clone(&self.datapath);
        tokio::task::spawn_blocking(move || act(&datapath)).await.expect("a datapath call does not panic")
    }

    fn places(&self) -> MutexGuard<'_, HashMap<u32, Place>> {
        // Every change is one step, so a panic elsewhere leaves it true.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interfaces_name_fits_and_is_no_containers() {
        let gateway = Gateway {
            vpc: VpcId::random(),
            name: Name::parse("blue").unwrap(),
            project: crate::ids::default_project(),
            vni: 1,
            ipv4: (Ipv4Addr::new(10, 0, 0, 1), 24),
            ipv6: None,
        };
        let name = gateway.interface();
        assert_eq!(name.len(), 15, "{name}");
        assert!(gateway.vpc.as_str().ends_with(&name[3..]) && !name.as_bytes()[2].is_ascii_hexdigit());
    }
}
