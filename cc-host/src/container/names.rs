//! A container's names in its VPC: told to the VPC's resolver while it runs, and no longer. Refuses to answer for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;

use super::record::ContainerRecord;
use super::room::Containers;
use crate::resolver::Entry;

/// Resolvers that are opened at a time: most of it is waiting, for netlink.
const AT_ONCE: usize = 16;

impl Containers {
    /// On return, its names resolve in its VPC. Again replaces what was said of it.
    pub(super) fn publish(&self, record: &ContainerRecord) {
        let Some(vpc) = &record.vpc else { return };
        let groups = vpc.membership.groups.iter();
        let entry = Entry {
            id: record.id.clone(),
            name: record.name.clone(),
            hostname: record.hostname().to_owned(),
            groups: groups.filter_map(|group| self.rooms.firewall.group_name(group)).collect(),
            addresses: vpc.addresses().iter().map(|address| address.address).collect(),
        };
        self.rooms.gateways.directory().publish(vpc.vni, entry);
    }

    /// On return, they do not. One that was not published is fine.
    pub(super) fn withdraw(&self, record: &ContainerRecord) {
        if let Some(vpc) = &record.vpc {
            self.rooms.gateways.directory().withdraw(vpc.vni, &record.id);
        }
    }

    /// Of one that may be ending at this moment: whoever ends it withdraws it once more when it is not live any more.
    pub(super) fn publish_while_live(&self, record: &ContainerRecord) {
        self.publish(record);
        if self.live(&record.id).is_none() {
            self.withdraw(record);
        }
    }

    /// The resolver of its VPC, if it has none yet.
    pub(super) async fn ensure_resolver(&self, record: &ContainerRecord) {
        if let Some(gateway) = record.gateway() {
            self.rooms.gateways.ensure(&gateway).await;
        }
    }

    /// At boot, when all that run are adopted and their VPCs announced: those have names again.
    pub async fn open_resolvers(self: &Arc<Self>) {
        let records = self.all();
        let live = records.iter().filter(|record| self.live(&record.id).is_some());
        let gateways: BTreeMap<u32, _> = live.filter_map(ContainerRecord::gateway).map(|g| (g.vni, g)).collect();
        let opening = futures::stream::iter(gateways.values());
        opening.for_each_concurrent(AT_ONCE, |gateway| self.rooms.gateways.ensure(gateway)).await;
    }
}
