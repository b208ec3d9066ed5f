//! What the host's own sockets send to containers, by the containers' stand-in addresses, and answer containers that were let reach the
//! host. Refuses everything else: nothing else is on this interface.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::programs::TcContext;
use cc_common::flow::BEYOND_HOST;
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::verdict::{Direction, DropReason};

use crate::inbound::{self, Fate};
use crate::send::send;
use crate::{beyond, counters, parse, rewrite};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    // SAFETY: the context is this program's.
    let enter = |ctx: &TcContext| unsafe { beyond::cc_enter_host(ctx.skb.skb) };
    let (endpoint, direction, reason) = match inbound::decide(ctx, BEYOND_HOST, enter) {
        Fate::Go(verdict) => {
            rewrite::record(ctx, verdict);
            return send(ctx, parse::ifindex(ctx), verdict);
        }
        Fate::Pass => (ENDPOINT_UNKNOWN, Direction::Ingress, DropReason::NoRoute as u16),
        Fate::Drop(refused) => (refused.endpoint(), refused.direction(), refused.reason()),
    };
    counters::dropped(ctx, endpoint, direction, reason);
    rewrite::record_drop(ctx, reason);
    TC_ACT_SHOT
}
