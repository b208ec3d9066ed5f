//! The host's own figures: how much there is of what, what no container is to blame for, and which build this is. Refuses to
//! name anybody's objects.

use std::sync::Arc;

use cc_common::names::ABI;

use super::encoder::Encoder;
use super::family::{Family, Kind};
use super::registry::Collect;
use crate::auth::{Scope, Tally};
use crate::container::Containers;
use crate::daemon::events::Events;
use crate::datapath::Datapath;
use crate::vpc::Vpcs;

const DROP_LABELS: &[&str] = &["direction", "reason"];
const STATES: [&str; 3] = ["created", "running", "stopped"];

static BUILD: Family = Family::of_host(
    Kind::Gauge,
    "cc_build_info",
    "1, with the daemon's version and the number of its pinned maps' layout.",
    &["version", "abi"],
);
static CONTAINERS: Family =
    Family::of_host(Kind::Gauge, "cc_containers", "Containers of all projects, by state.", &["state"]);
static VPCS: Family = Family::of_host(Kind::Gauge, "cc_vpcs", "VPCs of all projects.", &[]);
static UNKNOWN_PACKETS: Family = Family::of_host(
    Kind::Counter,
    "cc_unknown_interface_dropped_packets_total",
    "Packets dropped on interfaces that are no container's, and drops that no row had room for (uncounted).",
    DROP_LABELS,
);
static UNKNOWN_BYTES: Family = Family::of_host(
    Kind::Counter,
    "cc_unknown_interface_dropped_bytes_total",
    "Bytes of frames dropped on interfaces that are no container's, and of drops that no row had room for (uncounted).",
    DROP_LABELS,
);
static EVENTS: Family =
    Family::of_host(Kind::Counter, "cc_events_total", "Events since the daemon started, by kind.", &["kind"]);
static REFUSALS: Family = Family::of_host(
    Kind::Counter,
    "cc_api_refusals_total",
    "Calls refused since the daemon started, by door (grpc, metrics) and by the refusal's code.",
    &["door", "code"],
);
static FAMILIES: &[&Family] = &[&BUILD, &CONTAINERS, &VPCS, &UNKNOWN_PACKETS, &UNKNOWN_BYTES, &EVENTS, &REFUSALS];

pub struct HostFigures {
    pub containers: Arc<Containers>,
    pub vpcs: Arc<Vpcs>,
    pub datapath: Arc<Datapath>,
    pub events: Events,
    pub refusals: Tally,
}

impl Collect for HostFigures {
    fn families(&self) -> &'static [&'static Family] {
        FAMILIES
    }

    fn collect(&self, out: &mut Encoder) {
        if *out.scope() != Scope::Host {
            return;
        }
        out.add(&BUILD, &[env!("CARGO_PKG_VERSION"), &ABI.to_string()], 1.0);
        let records = self.containers.all();
        for state in STATES {
            let count = records.iter().filter(|record| record.state.name() == state).count();
            out.add(&CONTAINERS, &[state], count as f64);
        }
        match tokio::runtime::Handle::current().block_on(self.vpcs.all()) {
            Ok(vpcs) => out.add(&VPCS, &[], vpcs.len() as f64),
            Err(error) => out.failed("the VPCs", &error),
        }
        match self.datapath.unknown_drops() {
            Ok(all) => {
                for drops in all {
                    let labels = [drops.direction, drops.reason];
                    out.add(&UNKNOWN_PACKETS, &labels, drops.packets as f64);
                    out.add(&UNKNOWN_BYTES, &labels, drops.bytes as f64);
                }
            }
            Err(error) => out.failed("the drops on unknown interfaces", &error),
        }
        for (kind, count) in self.events.counts() {
            out.add(&EVENTS, &[&kind], count as f64);
        }
        for (door, code, count) in self.refusals.all() {
            out.add(&REFUSALS, &[door.name(), &code], count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_keep_the_conventions() {
        for family in FAMILIES {
            assert_eq!(family.fault(), None, "{}", family.name);
        }
    }
}
