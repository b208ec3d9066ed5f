//! Makes room for an endpoint that has as many half-open flows as it may have: one that came in from outside and that nobody has followed
//! up on gives way to the next, any of them, as in a queue of SYNs. So a flood from outside displaces itself, and a client who answers
//! within a round trip gets in. Refuses to touch what the endpoint itself has begun, and what is established.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use cc_common::quota::BegunKey;
use cc_common::settings::Settings;
use cc_common::verdict::DropReason;

use crate::conntrack::{self, By};
use crate::counters;
use crate::maps::{CC_BEGUN, CC_FLOWS, CC_SETTINGS};
use crate::trace::dry_run;
use crate::work::{NO_PLACE, Outcome, Work};

/// Places that are looked at. At the quota three of five have a flow that may go, so of a hundred searches two find none.
const TRIES: u32 = 4;

/// A flow that came in from outside was opened for the endpoint, under `work.key`. It takes the place of the one that gave way, or any: what
/// had that one stays until it is answered or has had its time. So does what a full table forgets.
#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
pub fn remember(settings: &Settings, work: &Work, endpoint: u32) {
    if dry_run() {
        return;
    }
    let mut place = any(settings, endpoint);
    if work.left != NO_PLACE {
        place.place = work.left;
    }
    let _ = CC_BEGUN.insert(place, &work.key, 0);
}

/// Whether there is room now for what was refused for want of it.
#[inline(always)]
pub fn makes_room(refused: Outcome) -> bool {
    refused.reason() == DropReason::HalfOpenQuota as u16 && cc_recycle(refused.endpoint()) != 0
}

#[inline(always)]
fn any(settings: &Settings, endpoint: u32) -> BegunKey {
    // SAFETY: draws a number.
    BegunKey::any(settings, endpoint, unsafe { bpf_get_prandom_u32() })
}

/// Verified by itself, as `admit`'s. 1 if a flow of the endpoint has given way.
#[unsafe(no_mangle)]
#[inline(never)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
extern "C" fn cc_recycle(endpoint: u32) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return 0 };
    for _ in 0..TRIES {
        let place = any(settings, endpoint);
        // SAFETY: copied at once. A row may be given to another place meanwhile: whatever flow it names then is looked at.
        let Some(key) = (unsafe { CC_BEGUN.get(place) }) else { continue };
        work.begun = *key;
        let Some(flow) = CC_FLOWS.get_ptr_mut(&work.begun) else { continue };
        if conntrack::forget_half_open(endpoint, By::Packet, &work.begun, flow) {
            work.left = place.place;
            counters::recycled(endpoint);
            return 1;
        }
    }
    0
}
