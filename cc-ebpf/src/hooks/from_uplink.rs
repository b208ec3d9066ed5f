//! What comes in by an uplink: answers to translated conversations, errors about them, and whatever is for a published port go into
//! their container. Refuses to look at anything else: it is the host's own, and passes untouched.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use cc_common::flow::BEYOND_UPLINK;
use cc_common::verdict::Verdict;

use crate::inbound::{self, Fate};
use crate::send::send;
use crate::{beyond, counters, parse, rewrite};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    // SAFETY: the context is this program's.
    let enter = |ctx: &TcContext| unsafe { beyond::cc_enter(ctx.skb.skb) };
    match inbound::decide(ctx, BEYOND_UPLINK, enter) {
        Fate::Go(verdict) => {
            rewrite::record(ctx, verdict);
            send(ctx, parse::ifindex(ctx), verdict)
        }
        Fate::Pass => {
            rewrite::record(ctx, Verdict::Pass);
            TC_ACT_UNSPEC
        }
        Fate::Drop(refused) => {
            counters::dropped(ctx, refused.endpoint(), refused.direction(), refused.reason());
            rewrite::record_drop(ctx, refused.reason());
            TC_ACT_SHOT
        }
    }
}
