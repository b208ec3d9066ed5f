//! What the host would send to a container through its host-side interface: only what the datapath itself sent, which carries
//! our mark. Refuses everything else: the host's own multicasts, routed packets, raw frames.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::names::MARK_OURS;
use cc_common::port::PortKey;
use cc_common::verdict::{Direction, DropReason, Verdict};

use crate::maps::CC_PORTS;
use crate::{counters, parse, rewrite};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    if parse::mark(ctx) == MARK_OURS {
        rewrite::record(ctx, Verdict::Pass);
        return TC_ACT_UNSPEC;
    }
    let reason = DropReason::NotFromDatapath;
    // SAFETY: the row is removed after the links of its interface, and only one integer is read of it.
    let endpoint = match unsafe { CC_PORTS.get(PortKey { ifindex: parse::ifindex(ctx) }) } {
        Some(port) => port.endpoint,
        None => ENDPOINT_UNKNOWN,
    };
    counters::dropped(ctx, endpoint, Direction::Ingress, reason as u16);
    rewrite::record_drop(ctx, reason as u16);
    TC_ACT_SHOT
}
