//! The maps, by the names that `cc_common::names` gives them, and what is known when the object is loaded. Refuses to give
//! sizes of its own: they are in `cc_common::limits`.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap};
use aya_ebpf::macros::btf_map;
use cc_common::counters::{Counters, DropCount, DropKey, SocketKey};
use cc_common::limits::{DROPS_MAX, ENDPOINTS_MAX, PORTS_MAX, ROUTES_MAX, SOCKETS_MAX};
use cc_common::port::{Port, PortKey};
use cc_common::route::{EndpointEntry, Route, RouteKey};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static CC_PORTS: HashMap<PortKey, Port, { PORTS_MAX as usize }> = HashMap::new();

#[btf_map]
pub static CC_ROUTES: LpmTrie<RouteKey, Route, { ROUTES_MAX as usize }> = LpmTrie::new();

#[btf_map]
pub static CC_ENDPOINTS: Array<EndpointEntry, { ENDPOINTS_MAX as usize }> = Array::new();

#[btf_map]
pub static CC_COUNTERS: PerCpuArray<Counters, { ENDPOINTS_MAX as usize }> = PerCpuArray::new();

#[btf_map]
pub static CC_DROPS: PerCpuHashMap<DropKey, DropCount, { DROPS_MAX as usize }, NO_PREALLOC> = PerCpuHashMap::new();

#[btf_map]
pub static CC_SOCKETS: PerCpuHashMap<SocketKey, Counters, { SOCKETS_MAX as usize }, NO_PREALLOC> = PerCpuHashMap::new();

/// Depth of a container's cgroup below the root of the v2 tree; the loader sets it.
#[unsafe(no_mangle)]
pub static CC_CGROUP_LEVEL: Global<u32> = Global::new(0);
