//! Fragments that come before the first one of their packet, which alone says whose they are: copies of them wait, and when it comes, all
//! come in again, it before them. Refuses to reassemble anything, and to decide: each is judged when it comes again, as any other.

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{
    bpf_clone_redirect, bpf_probe_read_kernel_buf, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use cc_common::fragment::{Early, EarlyFrame, EarlyKey, FragmentKey, FragmentPlace};
use cc_common::limits::{EARLY_BYTES, EARLY_FRAGMENTS};
use cc_common::packet::Place;

use crate::maps::{CC_EARLY, CC_EARLY_BYTES};
use crate::rewrite::ETHERNET_BYTES;
use crate::work::Work;
use crate::{conntrack, course, parse, trace};

/// The packet goes on.
pub const NOTHING: u64 = 0;
/// It comes in once more.
const AGAIN: u64 = 1;

const HEADER: u32 = ETHERNET_BYTES as u32;

/// Keeps a copy of a fragment whose first was not seen. If that has come meanwhile, on another CPU, the packet comes in once more; the copy
/// then stays, for as long as any.
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
    if work.headless || work.hosts {
        return NOTHING;
    }
    // SAFETY: plain integers; the copy is the kernel's.
    if unsafe { bpf_clone_redirect(skb, parse::ifindex(&TcContext::new(skb)), BPF_F_INGRESS.into()) } == 0 {
        AGAIN
    } else {
        NOTHING
    }
}

/// The packet, and where its fragments wait.
#[inline(always)]
fn of(work: &Work) -> (FragmentKey, FragmentPlace) {
    let (packet, id) = (&work.parsed.packet, work.parsed.fragment.id);
    (FragmentKey::of(work.port.vni, packet, id), FragmentPlace::early(work.port.endpoint, packet, id))
}

#[inline(always)]
fn keep(ctx: &TcContext, work: &mut Work) -> bool {
    let length = ctx.len();
    if length <= HEADER || length > EARLY_BYTES {
        return false;
    }
    let (packet, place) = of(work);
    let now = conntrack::now_ns();
    let row = CC_EARLY.get_ptr_mut(place);
    // SAFETY: the row stays mapped until the program ends. It may be another place's meanwhile: then what is read of it is of another packet,
    // and what is written makes another packet's fragments wait in vain.
    let next = row.map_or(Some(0), |row| unsafe { (*row).next(&packet, now) });
    let Some(fragment) = next else { return false };
    work.early.packet = packet;
    work.early.length = length;
    // SAFETY: the copy is as long as it says, and there is as much room.
    if unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, work.early.bytes.as_mut_ptr().cast(), length) } != 0 {
        return false;
    }
    // It is there before it is counted.
    #[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
    if CC_EARLY_BYTES.insert(EarlyKey { place, fragment }, &work.early, 0).is_err() {
        return false;
    }
    match row {
        Some(row) => {
            // SAFETY: as above.
            unsafe { (*row).add(&packet, now) }
            true
        }
        None => CC_EARLY.insert(place, Early::new(packet, now), 0).is_ok(),
    }
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
    // A larger one's others would have been too large to wait, and each copy would take as much memory as it does.
    if !matches!(work.parsed.fragment.place, Place::First) || ctx.len() > EARLY_BYTES {
        return NOTHING;
    }
    let (packet, place) = of(work);
    let Some(row) = CC_EARLY.get_ptr_mut(place) else { return NOTHING };
    // SAFETY: as in `keep`.
    let Some(count) = (unsafe { (*row).waiting(&packet, conntrack::now_ns()) }) else { return NOTHING };
    // One CPU takes them. What is kept from now on finds the first one.
    if CC_EARLY.remove(place).is_err() {
        return NOTHING;
    }
    let ifindex = parse::ifindex(ctx);
    let (skb, flags) = (ctx.skb.skb, u64::from(BPF_F_INGRESS));
    // SAFETY: plain integers; the copy is the kernel's.
    if unsafe { bpf_clone_redirect(skb, ifindex, flags) } != 0 {
        return NOTHING;
    }
    for fragment in 0..EARLY_FRAGMENTS {
        if fragment >= count {
            break;
        }
        let key = EarlyKey { place, fragment };
        if taken(&key, &packet, &mut work.early) && become_early(ctx, &work.early) {
            // SAFETY: as above.
            let _ = unsafe { bpf_clone_redirect(skb, ifindex, flags) };
        }
    }
    AGAIN
}

/// Copies what waits by that key, if it is of that packet. The kernel gives the memory of a row that is removed to the next one that is
/// written: what is there before and after the copy was there all the time.
#[inline(always)]
fn taken(key: &EarlyKey, packet: &FragmentKey, to: &mut EarlyFrame) -> bool {
    let Some(from) = CC_EARLY_BYTES.get_ptr(key) else { return false };
    // SAFETY: any bytes are a value of a frame.
    let bytes = unsafe { core::slice::from_raw_parts_mut((&raw mut *to).cast::<u8>(), size_of::<EarlyFrame>()) };
    // SAFETY: the kernel keeps a row's memory mapped for as long as a program runs, and it is as long as the copy.
    let copied = unsafe { bpf_probe_read_kernel_buf(from.cast(), bytes) };
    let is_it = copied.is_ok() && CC_EARLY_BYTES.get_ptr(key) == Some(from) && to.packet == *packet;
    is_it && CC_EARLY_BYTES.remove(key).is_ok()
}

/// Turns the packet into that one. No card's sum covers the Ethernet header.
#[inline(always)]
fn become_early(ctx: &TcContext, frame: &EarlyFrame) -> bool {
    let (skb, bytes) = (ctx.skb.skb, frame.bytes.as_ptr());
    let length = frame.length;
    if length <= HEADER || length > EARLY_BYTES {
        return false;
    }
    // SAFETY: the bytes are as many as their array has at most; the helpers refuse what they cannot do.
    unsafe {
        bpf_skb_change_tail(skb, length, 0) == 0
            && bpf_skb_store_bytes(skb, 0, bytes.cast(), HEADER, 0) == 0
            && bpf_skb_store_bytes(
                skb,
                HEADER,
                bytes.add(ETHERNET_BYTES).cast(),
                length - HEADER,
                BPF_F_RECOMPUTE_CSUM.into(),
            ) == 0
    }
}
