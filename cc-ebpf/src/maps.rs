//! The maps, by the names that `cc_common::names` gives them, and what is known when the object is loaded. Refuses to give
//! sizes of its own: they are in `cc_common::limits`.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use cc_common::blocks;
use cc_common::counters::{Counters, DropCount, DropKey, SocketKey};
use cc_common::event::{DropRecord, Told, Watch};
use cc_common::firewall::{Prefix4Key, Prefix6Key, PrefixEntry, RuleEntry, RuleKey, RuleSet};
use cc_common::flow::{Flow, FlowKey, NatEntry};
use cc_common::fragment::{Early, EarlyFrame, EarlyKey, FragmentEntry, FragmentPlace};
use cc_common::guard::{GUARDED_ROWS, Guard};
use cc_common::limits::{
    BEGUN_MAX, DROPS_MAX, EARLY_ALL_FRAGMENTS, EARLY_MAX, ENDPOINTS_MAX, EVENTS_BYTES, FLOWS_MAX, FORWARDS_MAX,
    FRAGMENTS_MAX, MEANT_MAX, NAT_BLOCKS_MAX, NAT_MAX, PORTS_MAX, PREFIXES_MAX, ROUTES_MAX, RULE_SETS_MAX, RULES_MAX,
    SOCKETS_MAX, UPLINKS_MAX,
};
use cc_common::nat::{Block, Forward, ForwardKey, MeantKey, Uplink};
use cc_common::net::Ip;
use cc_common::port::{Port, PortKey};
use cc_common::quota::{BegunKey, Quota};
use cc_common::rate::Rate;
use cc_common::route::{EndpointEntry, Route, RouteKey};
use cc_common::settings::Settings;
use cc_common::trace::Trace;

use crate::work::Work;

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

#[btf_map]
pub static CC_SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
pub static CC_RULESETS: Array<RuleSet, { RULE_SETS_MAX as usize }> = Array::new();

#[btf_map]
pub static CC_RULES: LpmTrie<RuleKey, RuleEntry, { RULES_MAX as usize }> = LpmTrie::new();

#[btf_map]
pub static CC_PREFIX4: LpmTrie<Prefix4Key, PrefixEntry, { PREFIXES_MAX as usize }> = LpmTrie::new();

#[btf_map]
pub static CC_PREFIX6: LpmTrie<Prefix6Key, PrefixEntry, { PREFIXES_MAX as usize }> = LpmTrie::new();

#[btf_map]
pub static CC_FLOWS: HashMap<FlowKey, Flow, { FLOWS_MAX as usize }, NO_PREALLOC> = HashMap::new();

/// One row per endpoint, and after the last what the pool has given.
#[btf_map]
pub static CC_QUOTAS: Array<Quota, { ENDPOINTS_MAX as usize + 1 }> = Array::new();

#[btf_map]
pub static CC_FRAGMENTS: HashMap<FragmentPlace, FragmentEntry, { FRAGMENTS_MAX as usize }, NO_PREALLOC> =
    HashMap::new();

/// Where fragments wait for the first of their packet.
#[btf_map]
pub static CC_EARLY: HashMap<FragmentPlace, Early, { EARLY_MAX as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub static CC_EARLY_BYTES: LruHashMap<EarlyKey, EarlyFrame, { EARLY_ALL_FRAGMENTS as usize }> = LruHashMap::new();

#[btf_map]
pub static CC_NAT: HashMap<FlowKey, NatEntry, { NAT_MAX as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub static CC_BLOCKS: Array<Block, { NAT_BLOCKS_MAX as usize }> = Array::new();

#[btf_map]
pub static CC_FORWARDS: HashMap<ForwardKey, Forward, { FORWARDS_MAX as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub static CC_MEANT: LruHashMap<MeantKey, Ip, { MEANT_MAX as usize }> = LruHashMap::new();

/// Flows that came in from outside, for as long as nobody else takes their place.
#[btf_map]
pub static CC_BEGUN: LruHashMap<BegunKey, FlowKey, { BEGUN_MAX as usize }> = LruHashMap::new();

#[btf_map]
pub static CC_UPLINKS: HashMap<PortKey, Uplink, { UPLINKS_MAX as usize }> = HashMap::new();

/// A key being made where a flow is forgotten, by packets' programs and by the sweep. Not pinned.
#[btf_map]
pub static CC_OUTER: PerCpuArray<FlowKey, 2> = PerCpuArray::new();

#[btf_map]
pub static CC_RATES: Array<Rate, { ENDPOINTS_MAX as usize }> = Array::new();

/// Records of drops, while somebody watches, and of what rules decide that are to be told.
#[btf_map]
pub static CC_EVENTS: RingBuf<DropRecord, { EVENTS_BYTES as usize }> = RingBuf::new();

/// One row per endpoint, and after the last the one of whatever is none.
#[btf_map]
pub static CC_TOLD: Array<Told, { ENDPOINTS_MAX as usize + 1 }> = Array::new();

/// Likewise of what rules decide, for endpoints only.
#[btf_map]
pub static CC_LOGGED: Array<Told, { ENDPOINTS_MAX as usize }> = Array::new();

#[btf_map]
pub static CC_WATCH: Array<Watch, 1> = Array::new();

#[btf_map]
pub static CC_GUARD: Array<Guard, 1> = Array::new();

/// Of the denied IPv4 prefixes: 2^19 words, 4 MiB.
#[btf_map]
pub static CC_BLOCKED: Array<u64, { blocks::WORDS as usize }> = Array::new();

/// By `GuardDrop`.
#[btf_map]
pub static CC_GUARDED: PerCpuArray<DropCount, { GUARDED_ROWS as usize }> = PerCpuArray::new();

/// What a program knows of the packet it works on: too large for its stack. Not pinned; nobody reads it but the run that
/// wrote it, and classifiers do not interrupt each other on one CPU.
#[btf_map]
pub static CC_WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// What a dry run comes upon. Not pinned, and nothing writes to it but a dry run.
#[btf_map]
pub static CC_TRACE: PerCpuArray<Trace, 1> = PerCpuArray::new();

/// Not zero: the programs decide as ever and change nothing that is shared. The loader sets it, once.
#[unsafe(no_mangle)]
pub static CC_DRY_RUN: Global<u32> = Global::new(0);

/// Depth of a container's cgroup below the root of the v2 tree; the loader sets it.
#[unsafe(no_mangle)]
pub static CC_CGROUP_LEVEL: Global<u32> = Global::new(0);
