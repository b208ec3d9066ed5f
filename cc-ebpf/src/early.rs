//! Fragments that come before the first one of their packet, which alone says whose they are: copies of them wait, and when it comes, all
//! come again, it before them. Refuses to reassemble anything, and to decide: each is judged when it comes again, as any other.

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use cc_common::fragment::{Early, EarlyKey, FragmentKey, FragmentPlace};
use cc_common::limits::{EARLY_BYTES, EARLY_FRAGMENTS};
use cc_common::packet::Place;

use crate::maps::{CC_EARLY, CC_EARLY_BYTES};
use crate::work::Work;
use crate::{conntrack, course, parse, trace};

/// The packet goes on.
pub const NOTHING: u64 = 0;
/// It comes in once more.
const AGAIN: u64 = 1;

/// Keeps a copy of a fragment whose first was not seen. If that has come meanwhile, on another CPU, the packet comes in once more.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_keep(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return NOTHING };
    if trace::dry_run() || !keep(&TcContext::new(skb), work) {
        return NOTHING;
    }
    // Who sees the first one remembers it, and then looks for copies; who sees a later one keeps a copy, and then looks for the first.
    work.headless = false;
    course::cc_fragment();
    if work.headless {
        return NOTHING;
    }
    // SAFETY: plain integers; the copy is the kernel's.
    if unsafe { bpf_clone_redirect(skb, parse::ifindex(&TcContext::new(skb)), BPF_F_INGRESS.into()) } == 0 {
        AGAIN
    } else {
        NOTHING
    }
}

#[inline(always)]
fn keep(ctx: &TcContext, work: &mut Work) -> bool {
    let length = ctx.len();
    if length == 0 || length > EARLY_BYTES {
        return false;
    }
    let packet = FragmentKey::of(work.port.vni, &work.parsed.packet, work.parsed.fragment.id);
    let place = FragmentPlace::early(work.port.endpoint, &work.parsed.packet, work.parsed.fragment.id);
    work.early.length = length;
    // SAFETY: the copy is as long as it says, and there is as much room.
    if unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, work.early.bytes.as_mut_ptr().cast(), length) } != 0 {
        return false;
    }
    let now = conntrack::now_ns();
    let fragment = match CC_EARLY.get_ptr_mut(place) {
        // SAFETY: the row stays mapped until the program ends, and another CPU's fragment of the same packet can only lose its own place.
        Some(row) => match unsafe { (*row).add(&packet, now) } {
            Some(fragment) => fragment,
            None => return false,
        },
        None => {
            if CC_EARLY.insert(place, Early::new(packet, now), 0).is_err() {
                return false;
            }
            0
        }
    };
    #[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
    CC_EARLY_BYTES.insert(EarlyKey { place, fragment }, &work.early, 0).is_ok()
}

/// Where fragments of this first one wait: all come in once more by the same interface, and this packet is done.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_again_with_early(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return NOTHING };
    if trace::dry_run() { NOTHING } else { all_again(&TcContext::new(skb), work) }
}

#[inline(always)]
fn all_again(ctx: &TcContext, work: &mut Work) -> u64 {
    if !matches!(work.parsed.fragment.place, Place::First) {
        return NOTHING;
    }
    let id = work.parsed.fragment.id;
    let place = FragmentPlace::early(work.port.endpoint, &work.parsed.packet, id);
    let Some(row) = CC_EARLY.get_ptr_mut(place) else { return NOTHING };
    // SAFETY: as in `keep`.
    let early = unsafe { &mut *row };
    let now = conntrack::now_ns();
    if !early.is_of(&FragmentKey::of(work.port.vni, &work.parsed.packet, id), now) {
        return NOTHING;
    }
    let count = early.count;
    early.count = 0;
    let ifindex = parse::ifindex(ctx);
    let (skb, flags) = (ctx.skb.skb, u64::from(BPF_F_INGRESS));
    // SAFETY: plain integers; the copy is the kernel's.
    if count == 0 || unsafe { bpf_clone_redirect(skb, ifindex, flags) } != 0 {
        return NOTHING;
    }
    // What it has counted for, it will count for when it comes again.
    uncount(ctx, work);
    for fragment in 0..EARLY_FRAGMENTS {
        if fragment >= count {
            break;
        }
        let key = EarlyKey { place, fragment };
        // SAFETY: a row that is written anew meanwhile is another fragment, which is judged as it is.
        let Some(copy) = (unsafe { CC_EARLY_BYTES.get(&key) }) else { continue };
        let length = copy.length;
        if length == 0 || length > EARLY_BYTES {
            continue;
        }
        // SAFETY: the bytes are as many as their array has at least; the helpers refuse what they cannot do.
        unsafe {
            if bpf_skb_change_tail(skb, length, 0) != 0
                || bpf_skb_store_bytes(skb, 0, copy.bytes.as_ptr().cast(), length, BPF_F_RECOMPUTE_CSUM.into()) != 0
            {
                continue;
            }
            let _ = bpf_clone_redirect(skb, ifindex, flags);
        }
    }
    AGAIN
}

#[inline(always)]
fn uncount(ctx: &TcContext, work: &Work) {
    let Some(flow) = work.known_flow() else { return };
    let us = work.side().index();
    // SAFETY: as in `course::destination`.
    let flow = unsafe { &mut *flow };
    flow.packets[us] = flow.packets[us].wrapping_sub(parse::packets(ctx));
    flow.bytes[us] = flow.bytes[us].wrapping_sub(u64::from(ctx.len()));
}
