//! Counts the socket traffic of a container's cgroup, whatever interface it takes. Refuses to judge: it always allows.

use aya_ebpf::helpers::bpf_skb_ancestor_cgroup_id;
use aya_ebpf::programs::SkBuffContext;
use cc_common::counters::{Counters, SocketKey, packets};

use crate::maps::{CC_CGROUP_LEVEL, CC_SOCKETS};

const ALLOW: i32 = 1;

#[inline(always)]
pub fn ingress(ctx: &SkBuffContext) -> i32 {
    if let Some(counters) = counters(ctx) {
        // SAFETY: the element is this CPU's own and stays mapped until the program ends.
        unsafe { (*counters).received(packets((*ctx.skb.skb).gso_segs), ctx.len().into()) }
    }
    ALLOW
}

#[inline(always)]
pub fn egress(ctx: &SkBuffContext) -> i32 {
    if let Some(counters) = counters(ctx) {
        // SAFETY: as in `ingress`.
        unsafe { (*counters).sent(packets((*ctx.skb.skb).gso_segs), ctx.len().into()) }
    }
    ALLOW
}

#[inline(always)]
fn counters(ctx: &SkBuffContext) -> Option<*mut Counters> {
    // SAFETY: the context is valid; a level deeper than the socket's cgroup gives 0, which is no row's key.
    let cgroup = unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, CC_CGROUP_LEVEL.load() as i32) };
    CC_SOCKETS.get_ptr_mut(SocketKey { cgroup })
}
