//! Dry runs: the daemon loads these programs once more, attached to nothing, with `CC_DRY_RUN` set, and asks them what would become of
//! a packet. They decide as ever, by the live maps, and change nothing of them; what they come upon is noted here. In the programs that
//! packets run, the constant is zero and the verifier removes all of it. Refuses to decide anything.

use aya_ebpf::helpers::bpf_probe_read_kernel_buf;
use cc_common::flow::{FLAG_FORWARDED, FLAG_LEASED, Flow};
use cc_common::nat::Forward;
use cc_common::route::Route;
use cc_common::trace::{
    JUDGED_ALLOWED, JUDGED_ASKED, JUDGED_BEYOND, JUDGED_CLOSED, SEEN_ADMITTED, SEEN_DROP, SEEN_END, SEEN_FLOW,
    SEEN_FORGOTTEN, SEEN_FORWARD, SEEN_OPENED, SEEN_PORT, SEEN_ROUTE, SEEN_TRANSLATED, Trace,
};
use cc_common::verdict::Direction;

use crate::firewall;
use crate::maps::{CC_DRY_RUN, CC_TRACE};
use crate::work::{TRANSLATE_NOT, Work};

/// Of what the rules have said, what a note takes; each one place higher there.
const SAID: u32 = (firewall::ALLOWED | firewall::CLOSED) as u32;
const _: () = assert!(SAID << 1 == JUDGED_ALLOWED | JUDGED_CLOSED && 1 << 3 == JUDGED_BEYOND);

/// Whether nothing that is shared may change.
#[inline(always)]
pub fn dry_run() -> bool {
    CC_DRY_RUN.load() != 0
}

/// This CPU's notes, in a dry run alone.
#[inline(always)]
fn notes() -> Option<*mut Trace> {
    if dry_run() { CC_TRACE.get_ptr_mut(0) } else { None }
}

#[inline(always)]
fn see(trace: *mut Trace, bit: u32) {
    // SAFETY: this CPU's own row, which the daemon reads when the run is over.
    unsafe { (*trace).seen |= bit }
}

#[inline(always)]
pub fn port(work: &mut Work) {
    if let Some(trace) = notes() {
        see(trace, SEEN_PORT);
        // SAFETY: as in `see`.
        unsafe { (*trace).port = work.port }
        begin(work);
    }
}

/// Nothing was asked yet.
#[inline(always)]
pub fn begin(work: &mut Work) {
    if dry_run() {
        work.judged[0].bits = 0;
        work.judged[1].bits = 0;
    }
}

#[inline(always)]
pub fn admitted() {
    if let Some(trace) = notes() {
        see(trace, SEEN_ADMITTED);
    }
}

/// The flow that programs go on with: the table's own, or in a dry run a copy of it, so that whatever is done to it is done to the copy.
#[inline(always)]
pub fn flow(found: Option<*mut Flow>) -> Option<*mut Flow> {
    let Some(trace) = notes() else { return found };
    let found = found?;
    see(trace, SEEN_FLOW);
    // SAFETY: as in `see`.
    copy(unsafe { &raw mut (*trace).found }, found)
}

/// As `flow`, of the flow that goes with it.
#[inline(always)]
pub fn partner(found: Option<*mut Flow>) -> Option<*mut Flow> {
    let Some(trace) = notes() else { return found };
    // SAFETY: as in `see`.
    copy(unsafe { &raw mut (*trace).partner }, found?)
}

/// By a helper: inlined, it would be half a page of loads and stores in each program.
#[inline(always)]
fn copy(to: *mut Flow, from: *mut Flow) -> Option<*mut Flow> {
    // SAFETY: the row is this CPU's own, and as long as a flow; what is read stays mapped until the program ends.
    let bytes = unsafe { core::slice::from_raw_parts_mut(to.cast::<u8>(), size_of::<Flow>()) };
    // SAFETY: as above.
    match unsafe { bpf_probe_read_kernel_buf(from.cast(), bytes) } {
        Ok(()) => Some(to),
        Err(_) => None,
    }
}

#[inline(always)]
pub fn standing(standing: u32) {
    if let Some(trace) = notes() {
        // SAFETY: as in `see`.
        unsafe { (*trace).standing = standing }
    }
}

#[inline(always)]
pub fn forgotten() {
    if let Some(trace) = notes() {
        see(trace, SEEN_FORGOTTEN);
    }
}

/// Whether this run would have forgotten a flow by now: then a row that stands in the way is that one's.
#[inline(always)]
pub fn has_forgotten() -> bool {
    // SAFETY: as in `see`.
    notes().is_some_and(|trace| unsafe { (*trace).seen } & SEEN_FORGOTTEN != 0)
}

/// How many flows have given way to this one, which the books of a dry run do not know.
#[inline(always)]
pub fn given_way() -> u64 {
    u64::from(has_forgotten())
}

#[inline(always)]
pub fn route(route: Option<&Route>) {
    if let (Some(trace), Some(route)) = (notes(), route) {
        see(trace, SEEN_ROUTE);
        // SAFETY: as in `see`.
        unsafe { (*trace).route = *route }
    }
}

#[inline(always)]
pub fn forward(forward: &Forward) {
    if let Some(trace) = notes() {
        see(trace, SEEN_FORWARD);
        // SAFETY: as in `see`.
        unsafe {
            (*trace).forward = forward.endpoint;
            (*trace).forward_port = forward.port.get().into();
        }
    }
}

/// What was asked of whose rules, and what they have said. Kept with the work until the end: who asks has no room for another key.
#[inline(always)]
pub fn judged(work: &mut Work, direction: Direction, bits: u64) {
    if dry_run() {
        let judged = &mut work.judged[direction as usize & 1];
        judged.rule_set = work.question.rule_set;
        judged.groups = work.question.groups;
        judged.rule = (bits >> 32) as u32;
        judged.bits = JUDGED_ASKED | (bits as u32 & SAID) << 1 | u32::from(work.question.beyond) << 3;
    }
}

#[inline(always)]
pub fn opened(flow: &Flow) {
    if let Some(trace) = notes() {
        see(trace, SEEN_OPENED);
        // SAFETY: as in `see`. Of two flows, what either is.
        unsafe { (*trace).opened |= u32::from(flow.flags) }
    }
}

#[inline(always)]
pub fn dropped(endpoint: u32, direction: Direction) {
    if let Some(trace) = notes() {
        see(trace, SEEN_DROP);
        // SAFETY: as in `see`.
        unsafe {
            (*trace).refused_at = endpoint;
            (*trace).refused_direction = direction as u32;
        }
    }
}

/// How many flows this run would have opened before this one: of a conversation by a published port there are two, and the second has
/// a leased port and a published one.
#[inline(always)]
pub fn opened_before(flow: &Flow) -> u64 {
    const SECOND: u8 = FLAG_FORWARDED | FLAG_LEASED;
    if dry_run() { u64::from(flow.flags & SECOND == SECOND) } else { 0 }
}

/// The hook has come to its end.
#[inline(always)]
pub fn end() {
    if dry_run() {
        cc_trace_end();
    }
}

/// Verified by itself, and with a stack of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cc_trace_end() -> u64 {
    let (Some(trace), Some(work)) = (notes(), Work::mine()) else { return 0 };
    see(trace, SEEN_END);
    if work.translate != TRANSLATE_NOT {
        see(trace, SEEN_TRANSLATED);
    }
    // SAFETY: as in `see`.
    unsafe {
        (*trace).key = work.key;
        (*trace).judged = work.judged;
        (*trace).out = work.out;
        (*trace).peer = work.question.peer;
        (*trace).service = work.question.service.get().into();
        (*trace).sender = work.sender.into();
        (*trace).to = work.to;
        (*trace).to_ifindex = work.to_ifindex;
    }
    0
}
