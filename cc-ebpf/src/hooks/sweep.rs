//! Forgets flows that nobody uses, and takes an endpoint's share back when it goes. Run by the daemon, on no packet. Refuses to
//! remove a flow in one step: it is marked first, and only what nobody has used until the next sweep goes.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_for_each_map_elem;
use aya_ebpf::programs::TcContext;
use cc_common::flow::{Flow, FlowKey};
use cc_common::settings::{self, Settings};

use crate::maps::{CC_ENDPOINTS, CC_FLOWS, CC_SETTINGS};
use crate::{conntrack, nat, parse};

/// What the callback is given besides an element.
#[repr(C)]
struct Sweep {
    settings: &'static Settings,
    now_ns: u64,
    forgotten: u32,
}

/// Marked with an endpoint's number plus one: gives back what that endpoint holds; its generation is in the control block. Else sweeps, and returns how many flows went.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let endpoint = parse::mark(ctx);
    if endpoint != 0 {
        conntrack::retire(endpoint - 1);
        // SAFETY: as in `parse::ifindex`.
        let [low, high, ..] = unsafe { (*ctx.skb.skb).cb };
        nat::retire(endpoint - 1, u64::from(low) | u64::from(high) << 32);
        return 0;
    }
    let Some(settings) = CC_SETTINGS.get(0) else { return 0 };
    let mut sweep = Sweep { settings, now_ns: conntrack::now_ns(), forgotten: 0 };
    let (map, callback) = (&raw const CC_FLOWS, visit as unsafe extern "C" fn(_, _, _, _) -> i64);
    // SAFETY: the kernel calls `visit` with each element of the map, and with the pointer to `sweep`, which outlives the call.
    unsafe {
        bpf_for_each_map_elem(map.cast_mut().cast(), callback as *mut c_void, (&raw mut sweep).cast(), 0);
    }
    sweep.forgotten as i32
}

/// # Safety
/// `key` and `flow` are an element of `CC_FLOWS`, and `sweep` is what `run` has passed.
#[inline(never)]
unsafe extern "C" fn visit(_map: *mut c_void, key: *const FlowKey, flow: *mut Flow, sweep: *mut Sweep) -> i64 {
    // SAFETY: as this function's contract says.
    let (key_ref, sweep) = unsafe { (&*key, &mut *sweep) };
    // SAFETY: likewise; the words are read one by one, and a packet that changes them makes the flow live again.
    let idle = unsafe {
        let flow = &*flow;
        let timeouts = &sweep.settings.timeouts;
        let expired = settings::is_expired(timeouts, key_ref.protocol, &flow.tracked, flow.last_seen_ns, sweep.now_ns);
        expired || is_orphan(flow)
    };
    if !idle {
        return 0;
    }
    if conntrack::is_doomed(flow) {
        sweep.forgotten += u32::from(conntrack::forget(conntrack::By::Sweep, key_ref, flow));
    } else {
        conntrack::doom(flow);
    }
    0
}

/// Whether an end of it is gone: nobody will ever use it again.
#[inline(always)]
fn is_orphan(flow: &Flow) -> bool {
    let gone = |endpoint: u32, generation: u64| match CC_ENDPOINTS.get(endpoint) {
        Some(entry) => entry.generation != generation,
        // Beyond this host's endpoints.
        None => false,
    };
    gone(flow.endpoints[0], flow.generations[0]) || gone(flow.endpoints[1], flow.generations[1])
}
