//! Counts, per CPU. Refuses to lose a drop: one that has no room of its own is counted as `uncounted`. In a dry run nothing is
//! counted.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use cc_common::counters::{DropCount, DropKey};
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::verdict::{Direction, DropReason};

use crate::maps::{CC_COUNTERS, CC_DROPS};
use crate::trace::{self, dry_run};
use crate::{events, parse};

#[inline(always)]
pub fn sent(endpoint: u32, packets: u64, bytes: u64) {
    if dry_run() {
        return;
    }
    if let Some(counters) = CC_COUNTERS.get_ptr_mut(endpoint) {
        // SAFETY: the element is this CPU's own, and classifiers do not interrupt each other on one CPU.
        unsafe { (*counters).sent(packets, bytes) }
    }
}

#[inline(always)]
pub fn received(endpoint: u32, packets: u64, bytes: u64) {
    if dry_run() {
        return;
    }
    if let Some(counters) = CC_COUNTERS.get_ptr_mut(endpoint) {
        // SAFETY: as in `sent`.
        unsafe { (*counters).received(packets, bytes) }
    }
}

/// Not inlined: every reason leads here, and one copy keeps the verifier's work small.
#[inline(never)]
pub fn dropped(ctx: &TcContext, endpoint: u32, direction: Direction, reason: u16) {
    if dry_run() {
        return trace::dropped(endpoint, direction);
    }
    // The level is constant once loaded: with logs off, the verifier removes this.
    debug!(ctx, "dropped: endpoint {} direction {} reason {}", endpoint, direction as u16, reason);
    events::dropped(ctx, endpoint, direction, reason);
    count(endpoint, direction, reason, parse::packets(ctx), u64::from(ctx.len()));
}

/// A conversation from outside that had to give way, in which no packet is dropped.
#[inline(always)]
pub fn recycled(endpoint: u32) {
    if !dry_run() {
        count(endpoint, Direction::Ingress, DropReason::HalfOpenRecycled as u16, 1, 0);
    }
}

#[inline(always)]
fn count(endpoint: u32, direction: Direction, reason: u16, packets: u64, bytes: u64) {
    let key = DropKey { endpoint, direction: direction as u16, reason };
    if add(&key, packets, bytes) {
        return;
    }
    if CC_DROPS.insert(key, DropCount { packets, bytes }, BPF_NOEXIST.into()).is_ok() {
        return;
    }
    // Full, or another CPU was first: then it is there now.
    if !add(&key, packets, bytes) {
        // The daemon made these two rows when it made the map.
        let reason = DropReason::Uncounted as u16;
        add(&DropKey { endpoint: ENDPOINT_UNKNOWN, direction: direction as u16, reason }, packets, bytes);
    }
}

#[inline(always)]
fn add(key: &DropKey, packets: u64, bytes: u64) -> bool {
    match CC_DROPS.get_ptr_mut(key) {
        Some(count) => {
            // SAFETY: as in `sent`.
            unsafe { (*count).add(packets, bytes) }
            true
        }
        None => false,
    }
}
