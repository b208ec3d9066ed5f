//! The table of flows, read in batches beside the packets that change it. Refuses to change a flow, and to lock anything: who reads
//! a million rows keeps nobody from attaching a container.

use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Ebpf;
use aya::maps::Map;
use cc_common::flow::{Flow, FlowKey};
use cc_common::life;
use cc_common::names::MAP_FLOWS;
use cc_common::route::EndpointEntry;

use super::error::DatapathError;
use super::object::take_map;
use super::{Datapath, batch};

pub(super) struct FlowTable {
    fd: OwnedFd,
}

impl FlowTable {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let failed = |source| DatapathError::Rows { operation: "open", name: MAP_FLOWS, source };
        let Map::HashMap(map) = take_map(ebpf, MAP_FLOWS)? else {
            return Err(DatapathError::Missing { what: "hash map", name: MAP_FLOWS });
        };
        Ok(FlowTable { fd: map.fd().as_fd().try_clone_to_owned().map_err(failed)? })
    }
}

impl Datapath {
    /// Shows every flow to `look`, until that breaks off. One that is changed meanwhile is shown as it was before or after, one that
    /// is moved by a packet of its own may be missed or seen twice.
    pub fn each_flow(&self, mut look: impl FnMut(&FlowKey, &Flow) -> ControlFlow<()>) -> Result<(), DatapathError> {
        let living = |key: &FlowKey, flow: &Flow| {
            if life::is_dead(flow.life) { ControlFlow::Continue(()) } else { look(key, flow) }
        };
        batch::each(self.flows.fd.as_fd(), living).map_err(|source| DatapathError::Rows {
            operation: "read",
            name: MAP_FLOWS,
            source,
        })
    }

    /// What is known of an endpoint; generation 0 is nobody's.
    pub fn endpoint_entry(&self, id: u32) -> Result<EndpointEntry, DatapathError> {
        self.inner().tables.endpoint(id)
    }
}

/// The clock by which flows are dated.
pub fn flow_clock_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which is there; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
