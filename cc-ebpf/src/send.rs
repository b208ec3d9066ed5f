//! The last steps of a packet, the same for every hook: its ends translated, its frame readdressed, and the kernel told where it goes.
//! Refuses to decide where.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_STOLEN, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use cc_common::names::MARK_OURS;
use cc_common::route::{ENDPOINT_QUEUED, EndpointEntry};
use cc_common::verdict::{DropReason, Verdict};

use crate::icmp::{self, ALWAYS_FITS_BYTES};
use crate::maps::CC_ENDPOINTS;
use crate::work::{Outcome, TRANSLATE_ERROR, Work};
use crate::{counters, parse, rewrite, translate};

/// The ends that were chosen for the packet, and for what it quotes.
#[inline(always)]
pub fn translated(ctx: &TcContext, work: &Work) -> Result<(), Outcome> {
    let is_error = work.translate == TRANSLATE_ERROR;
    // SAFETY: the context is the program's own.
    let done = unsafe {
        if is_error { translate::cc_translate_error(ctx.skb.skb) } else { translate::cc_translate(ctx.skb.skb) }
    };
    match Outcome::from_bits(done) {
        Outcome::GO => Ok(()),
        refused => Err(refused),
    }
}

/// Into an endpoint's network namespace, counted as received. Refused if there is no such endpoint, the frame cannot be rewritten, or
/// its queue would lose it without a word. `sending`: the program runs while an interface sends, from where the kernel hands nothing to another
/// one's other end.
#[inline(always)]
pub fn deliver(ctx: &TcContext, endpoint: u32, sending: bool) -> Result<Verdict, DropReason> {
    let Some(entry) = CC_ENDPOINTS.get(endpoint) else { return Err(DropReason::StaleEndpoint) };
    let EndpointEntry { ifindex, mac, flags, .. } = *entry;
    let queued = sending || flags & ENDPOINT_QUEUED != 0;
    if queued && ctx.len() > ALWAYS_FITS_BYTES {
        // A packet that stands for many is cut to fit.
        if icmp::too_big(ctx, ifindex, 0).is_some() {
            return Err(DropReason::TooBig);
        }
    }
    rewrite::deliver_to(ctx, mac).map_err(|_| DropReason::Rewrite)?;
    // Before the redirect: after it the packet is no longer ours to count.
    counters::received(endpoint, parse::packets(ctx), ctx.len().into());
    Ok(if queued { Verdict::Queue { ifindex } } else { Verdict::Deliver { ifindex } })
}

/// The kernel's integer for a verdict; `own` is the interface that the packet came in by.
#[inline(always)]
pub fn send(ctx: &TcContext, own: u32, verdict: Verdict) -> i32 {
    // SAFETY: plain integers; the helpers only note where to send the packet when we return.
    unsafe {
        match verdict {
            Verdict::Deliver { ifindex } => bpf_redirect_peer(ifindex, 0) as i32,
            Verdict::Queue { ifindex } => {
                ctx.skb.set_mark(MARK_OURS);
                bpf_redirect(ifindex, 0) as i32
            }
            Verdict::Answer => {
                ctx.skb.set_mark(MARK_OURS);
                bpf_redirect(own, 0) as i32
            }
            Verdict::Out { ifindex } => bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32,
            Verdict::Host { ifindex } => bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32,
            Verdict::Pass => TC_ACT_UNSPEC,
            Verdict::Again => TC_ACT_STOLEN,
            Verdict::Drop(_) => TC_ACT_SHOT,
        }
    }
}
