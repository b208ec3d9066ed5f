//! How far generations have come: of what an earlier daemon has left in the maps. Refuses to draw a new one.

use std::ops::ControlFlow;
use std::os::fd::AsFd as _;

use aya::maps::Map;
use aya::{Ebpf, Pod};
use cc_common::firewall::RuleSet;
use cc_common::names;
use cc_common::route::EndpointEntry;

use super::batch;
use super::error::DatapathError;

/// The newest of every endpoint and rule set. Ask before the maps are taken out of the object.
pub(super) fn newest(ebpf: &Ebpf) -> Result<u64, DatapathError> {
    let mut newest = 0;
    read_all(ebpf, names::MAP_ENDPOINTS, |entry: &EndpointEntry| newest = entry.generation.max(newest))?;
    read_all(ebpf, names::MAP_RULE_SETS, |set: &RuleSet| newest = set.generation.max(set.version).max(newest))?;
    Ok(newest)
}

/// Every value of an array, whose size was looked at when it was loaded.
fn read_all<V: Pod + Default>(ebpf: &Ebpf, name: &'static str, mut look: impl FnMut(&V)) -> Result<(), DatapathError> {
    let Some(Map::Array(map)) = ebpf.map(name) else { return Err(DatapathError::Missing { what: "array", name }) };
    let look = |_: &u32, value: &V| {
        look(value);
        ControlFlow::Continue(())
    };
    batch::each(map.fd().as_fd(), look).map_err(|source| DatapathError::Rows { operation: "read", name, source })
}
