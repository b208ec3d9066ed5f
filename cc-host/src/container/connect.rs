//! A container's way into its network: the pair of interfaces, the programs on it and on its cgroup, published ports, queues, and only then
//! its addresses. Refuses to choose addresses; the record has them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::error::ContainerError;
use super::pace::Pace;
use super::pool::ParkedLink;
use super::record::{Attachment, ContainerRecord};
use super::room::Containers;
use crate::blocking;
use crate::datapath::{Datapath, DatapathError, Prepared};
use crate::kernel::cgroup::Cgroup;
use crate::kernel::link::{self, Pair, PairKind};
use crate::kernel::{carrier, uplink};

/// Without an uplink to ask: Ethernet's MTU less the room of a VXLAN header.
const MTU_DEFAULT: u16 = 1450;
/// The room that an overlay's headers take on an IPv4 underlay.
const OVERLAY_HEADER_BYTES: u32 = 50;

impl Containers {
    /// Of a container whose program does not run yet.
    pub(super) async fn connect_network(
        &self,
        record: &ContainerRecord,
        kept: &Arc<OwnedFd>,
        cgroup: &Cgroup,
        parked: Option<ParkedLink>,
        pace: &mut Pace,
    ) -> Result<(), ContainerError> {
        let failed = |operation| {
            let name = record.name.to_string();
            move |source| ContainerError::Link { operation, name, source }
        };
        let file = |source| ContainerError::File {
            operation: "keep the network namespace",
            name: record.name.to_string(),
            source,
        };
        let netns = kept.try_clone().map_err(file)?;
        let Some(vpc) = &record.vpc else {
            link::loopback_up(netns).await.map_err(failed("bring up"))?;
            self.attach_sockets(record, cgroup.v2_dir()).await?;
            return Ok(());
        };
        let mtu = self.mtu(record);
        let host_name = record.interface();
        let ifindex = match parked {
            Some(parked) => parked.ifindex,
            None => {
                let alias = self.alias(&record.id);
                let (kind, netns, mac) = (self.rooms.config.interfaces, netns.as_fd(), vpc.mac);
                let pair = Pair { kind, host_name: &host_name, netns, mac, mtu, alias: &alias };
                self.rooms.links.create_pair(&pair).await.map_err(failed("create"))?
            }
        };
        pace.step("interfaces");
        // Before the container's end is up: no packet ever passes undecided, or beyond a limit.
        let prepared = parked.map(|parked| parked.prepared);
        self.attach_datapath(record, vpc, ifindex, mtu, cgroup.v2_dir(), prepared).await?;
        pace.step("datapath");
        self.rooms.outside.publish(&record.owner(), &record.spec.publish).await?;
        self.limit_bandwidth(record, Arc::clone(kept), ifindex, mtu).await?;
        let mac = parked.map(|_| vpc.mac);
        link::configure_endpoint_as(netns, mac, vpc.addresses()).await.map_err(failed("configure"))?;
        // By one system call where the kernel has it for that kind.
        match self.rooms.config.interfaces {
            PairKind::Veth => carrier::settle(&host_name),
            PairKind::Netkit => self.rooms.links.settle(ifindex).await,
        }
        .map_err(failed("configure"))?;
        pace.step("addresses");
        Ok(())
    }

    async fn attach_sockets(&self, record: &ContainerRecord, cgroup: PathBuf) -> Result<(), ContainerError> {
        let (slot, tag) = (record.slot, record.id.clone());
        self.with_datapath(record, move |datapath| datapath.attach_sockets(slot, tag.as_str(), &cgroup)).await
    }

    async fn attach_datapath(
        &self,
        record: &ContainerRecord,
        vpc: &Attachment,
        ifindex: u32,
        mtu: u16,
        cgroup: PathBuf,
        prepared: Option<Prepared>,
    ) -> Result<(), ContainerError> {
        let endpoint = vpc.endpoint(record.slot, ifindex, &record.spec.bandwidth, mtu);
        let tag = record.id.clone();
        self.with_datapath(record, move |datapath| match prepared {
            Some(prepared) => datapath.attach_prepared(&endpoint, prepared, tag.as_str(), &cgroup),
            None => datapath.attach(&endpoint, tag.as_str(), &cgroup),
        })
        .await
    }

    async fn with_datapath(
        &self,
        record: &ContainerRecord,
        attach: impl FnOnce(&Datapath) -> Result<(), DatapathError> + Send + 'static,
    ) -> Result<(), ContainerError> {
        let datapath = Arc::clone(&self.rooms.datapath);
        blocking::run(move || attach(&datapath)).await.map_err(|source| ContainerError::Datapath {
            operation: "attach",
            name: record.name.to_string(),
            source,
        })
    }

    /// What the uplink leaves to an overlay's payload, unless it was said.
    pub(super) fn mtu(&self, record: &ContainerRecord) -> u16 {
        record.spec.mtu.unwrap_or_else(|| self.usual_mtu())
    }

    pub(super) fn usual_mtu(&self) -> u16 {
        let config = &self.rooms.config;
        if let Some(mtu) = config.mtu {
            return mtu;
        }
        let uplink = uplink::mtu(config.uplink.as_deref()).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell the uplink's MTU");
            None
        });
        let below = |mtu: u32| u16::try_from(mtu.saturating_sub(OVERLAY_HEADER_BYTES)).ok();
        uplink.and_then(below).unwrap_or(MTU_DEFAULT)
    }
}
