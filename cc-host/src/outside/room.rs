//! Keeps what the datapath knows of the host's surroundings true, and publishes ports. Refuses to publish what somebody has.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::Mutex;

use super::error::OutsideError;
use super::held::{hold, program_at};
use super::published::{Owner, PortMapping, Registry};
use super::uplinks::{host_addresses, uplinks};
use crate::daemon::events::Events;
use crate::datapath::{Datapath, DatapathError, Host, NatPorts};
use crate::error_chain;
use crate::firewall::Firewall;
use crate::ids::ContainerId;
use crate::kernel::host_device::{HostAddresses, HostDevice, has_ipv6};
use crate::kernel::link::Links;
use crate::kernel::netns;
use crate::kernel::surroundings::{Changes, Surroundings};

/// What comes within this time of a change is one change.
const SETTLED: Duration = Duration::from_millis(50);
/// Changes follow each other by this at least: a host whose routes never rest does not keep us busy.
const PAUSE: Duration = Duration::from_millis(500);
/// What could not be put in force is tried again so often.
const AGAIN: Duration = Duration::from_secs(2);
/// The host's own stand-in is the second address of the range.
const HOST_STAND_IN: u32 = 1;

#[derive(Debug, Clone)]
pub struct OutsideConfig {
    /// By these interfaces; empty: those with a default route.
    pub uplinks: Vec<String>,
    pub nat_ports: (u16, u16),
    pub stand_ins: Ipv4Net,
    pub stand_ins_v6: Ipv6Net,
    /// All of the host's processes are below it.
    pub cgroup_v2_root: PathBuf,
}

/// What it works with.
pub struct Parts {
    pub datapath: Arc<Datapath>,
    pub firewall: Arc<Firewall>,
    pub links: Links,
    pub events: Events,
    /// By it, this daemon's device is told from others'.
    pub host_id: String,
}

pub struct Outside {
    parts: Parts,
    config: OutsideConfig,
    nat_ports: NatPorts,
    state: Mutex<State>,
}

struct State {
    surroundings: Surroundings,
    registry: Registry,
    /// Until then, what an earlier daemon has published stays as it is.
    all_known: bool,
}

/// What containers reach only by a rule that names it: loopback, link-local and metadata addresses, and the host itself.
pub fn closed_ranges(surroundings: &Surroundings, config: &OutsideConfig) -> Vec<IpNet> {
    // The last is where clouds tell a machine of itself over IPv6; over IPv4 that is link-local.
    let always = ["127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10", "fd00:ec2::254/128"];
    let always = always.map(|text| text.parse().expect("a CIDR"));
    let stand_ins = [IpNet::V4(config.stand_ins), IpNet::V6(config.stand_ins_v6)];
    always.into_iter().chain(stand_ins).chain(host_addresses(surroundings).into_iter().map(IpNet::from)).collect()
}

impl Outside {
    /// Makes the host's device and tells the datapath of the host. What was published stays so until `publish_again`.
    pub async fn open(parts: Parts, config: OutsideConfig, surroundings: Surroundings) -> Result<Self, OutsideError> {
        let (first, last) = config.nat_ports;
        let bad = || OutsideError::BadNatPorts { first, last };
        let nat_ports = NatPorts::within(first, last).filter(|ports| ports.first() >= 1024).ok_or_else(bad)?;
        let ipv6 = has_ipv6().then_some(config.stand_ins_v6);
        let behind = |v6: Ipv6Net| Ipv6Addr::from_bits(v6.network().to_bits() + u128::from(HOST_STAND_IN));
        let own = HostAddresses {
            ipv4: ((config.stand_ins.network().to_bits() + HOST_STAND_IN).into(), config.stand_ins.prefix_len()),
            ipv6: ipv6.map(|v6| (behind(v6), v6.prefix_len())),
        };
        let device = parts.links.ensure_host_device(&parts.host_id, &own).await?;
        reserve(nat_ports);
        let host = Host {
            ifindex: device.host,
            stand_ins: (config.stand_ins.network().into(), ipv6.map(|v6| v6.network().into())),
            nat_ports,
        };
        let state = Mutex::new(State {
            surroundings: Surroundings::default(),
            registry: Registry::default(),
            all_known: false,
        });
        let outside = Outside { parts, config, nat_ports, state };
        let HostDevice { peer, .. } = device;
        let cookie = netns::cookie().map_err(|source| OutsideError::Cookie { source })?;
        let cgroup_root = outside.config.cgroup_v2_root.clone();
        outside
            .datapath(move |datapath| {
                datapath.attach_host_peer(peer)?;
                datapath.set_host(&host)?;
                datapath.lead_sockets(&cgroup_root, cookie)
            })
            .await?;
        outside.state.lock().await.surroundings = surroundings;
        outside.lead_out().await;
        Ok(outside)
    }

    /// Follows the host's surroundings as long as the daemon runs.
    pub async fn follow(self: Arc<Self>) {
        let mut changes = match Changes::watch() {
            Ok(changes) => changes,
            Err(error) => return tracing::error!(error = error_chain(&error), "addresses and routes are not watched"),
        };
        // What has changed before the watch began.
        loop {
            if let Err(error) = self.look_again().await {
                tracing::error!(error = error_chain(&error), "the host's addresses and routes are not what is known");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            tokio::time::sleep(PAUSE).await;
            if changes.next().await.is_none() {
                return tracing::error!("the kernel tells of addresses and routes no more");
            }
            tokio::time::sleep(SETTLED).await;
        }
    }

    async fn look_again(&self) -> Result<(), OutsideError> {
        let found = self.parts.links.surroundings().await?;
        let mut state = self.state.lock().await;
        if state.surroundings == found {
            return Ok(());
        }
        if host_addresses(&state.surroundings) != host_addresses(&found) {
            // Closed before it is published at them, and before anything can leave by them.
            self.parts.firewall.set_closed(closed_ranges(&found, &self.config)).await?;
            self.tell(&state.registry, state.all_known, &found).await?;
        }
        // Known only when it is in force: what has failed is tried again.
        state.surroundings = found;
        drop(state);
        self.lead_out().await;
        // Routes may have changed the way of each conversation.
        self.datapath(Datapath::judge_outside_again).await?;
        Ok(())
    }

    /// An uplink that cannot be used keeps the others from nothing.
    async fn lead_out(&self) {
        let found = uplinks(&self.state.lock().await.surroundings, &self.config.uplinks);
        let done = self.datapath({
            let found = found.clone();
            move |datapath| datapath.set_uplinks(&found)
        });
        if let Err(error) = done.await {
            tracing::error!(uplinks = ?found, error = error_chain(&error), "cannot use the uplinks");
            let text = format!("containers may not reach out: {}", error_chain(&error));
            self.parts.events.add("uplink.failed", "host", &text).await;
        }
    }

    /// All of them, or none.
    pub async fn publish(&self, owner: &Owner, mappings: &[PortMapping]) -> Result<(), OutsideError> {
        if mappings.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock().await;
        let mut done = Vec::new();
        for mapping in mappings {
            if let Err(error) = self.take(&mut state, owner, mapping) {
                for taken in &done {
                    state.registry.remove(taken, &owner.id);
                }
                return Err(error);
            }
            done.push(*mapping);
        }
        let told = self.tell_state(&state).await;
        if told.is_err() {
            for taken in &done {
                state.registry.remove(taken, &owner.id);
            }
        }
        told
    }

    fn take(&self, state: &mut State, owner: &Owner, mapping: &PortMapping) -> Result<(), OutsideError> {
        let mapping = *mapping;
        if let Some(address) = mapping.address {
            if !address.is_loopback() && !host_addresses(&state.surroundings).contains(&address) {
                return Err(OutsideError::NoAddress { mapping, address });
            }
            if address.is_ipv6() && !owner.has_ipv6 {
                return Err(OutsideError::NoIpv6 { mapping });
            }
        }
        if (self.nat_ports.first()..=self.nat_ports.last()).contains(&mapping.host_port) {
            return Err(OutsideError::Leased { mapping, ports: self.nat_ports });
        }
        state.registry.check(&mapping, owner)?;
        let held = hold(mapping.address, mapping.host_port, mapping.protocol).map_err(|source| {
            if source.kind() == std::io::ErrorKind::AddrInUse {
                let program = program_at(mapping.host_port, mapping.protocol);
                return OutsideError::InUse { mapping, program };
            }
            OutsideError::Hold { mapping, source }
        })?;
        state.registry.insert(mapping, owner.clone(), Some(held));
        Ok(())
    }

    /// At boot, of a container that goes on: it has what it had, even where another program has taken the port meanwhile. In force
    /// with `publish_again`.
    pub async fn adopt(&self, owner: &Owner, mappings: &[PortMapping]) {
        let mut state = self.state.lock().await;
        for mapping in mappings {
            let held = hold(mapping.address, mapping.host_port, mapping.protocol)
                .inspect_err(
                    |error| tracing::warn!(%mapping, %error, container = %owner.id, "a published port is not held"),
                )
                .ok();
            state.registry.insert(*mapping, owner.clone(), held);
        }
    }

    /// At boot, when everybody who goes on has been adopted: nothing else is published any more.
    pub async fn publish_again(&self) -> Result<(), OutsideError> {
        let mut state = self.state.lock().await;
        state.all_known = true;
        self.tell_state(&state).await
    }

    pub async fn unpublish(&self, owner: &Owner, mappings: &[PortMapping]) -> Result<(), OutsideError> {
        let mut state = self.state.lock().await;
        for mapping in mappings {
            state.registry.remove(mapping, &owner.id);
        }
        self.tell_state(&state).await
    }

    /// A container has ended.
    pub async fn withdraw(&self, id: &ContainerId) {
        let mut state = self.state.lock().await;
        if state.registry.remove_all(id)
            && let Err(error) = self.tell_state(&state).await
        {
            // Its endpoint goes, and nothing leads to it then.
            tracing::error!(container = %id, error = error_chain(&error), "its published ports are still known");
        }
    }

    async fn tell_state(&self, state: &State) -> Result<(), OutsideError> {
        self.tell(&state.registry, state.all_known, &state.surroundings).await
    }

    async fn tell(
        &self,
        registry: &Registry,
        all_known: bool,
        surroundings: &Surroundings,
    ) -> Result<(), OutsideError> {
        if !all_known {
            return Ok(());
        }
        let host = host_addresses(surroundings);
        let rows = registry.rows(&host);
        let host: Vec<IpAddr> = host.into_iter().collect();
        self.datapath(move |datapath| datapath.set_published(&host, &rows)).await
    }

    /// Those that conversations which leave get theirs from.
    pub fn nat_ports(&self) -> NatPorts {
        self.nat_ports
    }

    /// The addresses that ports are published at, where none is named.
    pub async fn addresses(&self) -> Vec<IpAddr> {
        host_addresses(&self.state.lock().await.surroundings).into_iter().collect()
    }

    async fn datapath(
        &self,
        work: impl FnOnce(&Datapath) -> Result<(), DatapathError> + Send + 'static,
    ) -> Result<(), OutsideError> {
        let datapath = Arc::clone(&self.parts.datapath);
        Ok(tokio::task::spawn_blocking(move || work(&datapath)).await.expect("a datapath call does not panic")?)
    }
}

/// Keeps the host's own programs from getting these ports by chance, where the kernel might give them: best effort, for what meets is one
/// conversation with the same far end.
fn reserve(ports: NatPorts) {
    const CHANCE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let range = std::fs::read_to_string(CHANCE).unwrap_or_default();
    let last = range.split_ascii_whitespace().nth(1).and_then(|text| text.parse::<u16>().ok());
    if last.is_some_and(|last| last < ports.first()) {
        return;
    }
    let wanted = format!("{}-{}", ports.first(), ports.last());
    let reserved = std::fs::read_to_string(RESERVED).unwrap_or_default();
    let reserved = reserved.trim();
    if reserved.split(',').any(|range| range == wanted) {
        return;
    }
    let all = if reserved.is_empty() { wanted } else { format!("{reserved},{wanted}") };
    if let Err(error) = std::fs::write(RESERVED, &all) {
        tracing::warn!(%error, "ports {all} are not reserved: the host's programs may get some of them");
    }
}
