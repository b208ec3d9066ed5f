//! Drops what an endpoint sends beyond its rate. Refuses to shape: the queue in the container's namespace does that, and this is for
//! what was sent past it.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use cc_common::rate::{Rate, wire_bytes};
use cc_common::verdict::DropReason;

use crate::maps::CC_RATES;
use crate::work::{Outcome, Work};
use crate::{atomic, parse};

/// Between CPUs that send for one endpoint at the same time.
const TRIES: u32 = 4;

/// For an endpoint that has a rate. Verified by itself, as `admit`'s.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_rate(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    work.outcome(admit(&TcContext::new(skb), work))
}

#[inline(always)]
fn admit(ctx: &TcContext, work: &Work) -> Result<Outcome, DropReason> {
    let Some(row) = CC_RATES.get_ptr_mut(work.port.endpoint) else { return Ok(Outcome::GO) };
    // SAFETY: a map's element, which stays mapped until the program ends. Rate and burst are written before the port that leads
    // here; the third word is accessed atomically only.
    let (rate, sent_until) = unsafe {
        let rate = Rate { bytes_per_s: (*row).bytes_per_s, burst_ns: (*row).burst_ns, sent_until_ns: 0 };
        (rate, &raw mut (*row).sent_until_ns)
    };
    let (transport, protocol) = (work.parsed.transport, work.parsed.packet.protocol);
    let time = rate.time_of(wire_bytes(ctx.len(), parse::packets(ctx), transport, protocol));
    // SAFETY: reads a clock. A coarse one would let a tick's worth of bytes pass, or hold them back.
    let now = unsafe { bpf_ktime_get_ns() };
    for _ in 0..TRIES {
        // SAFETY: as above.
        let before = unsafe { atomic::load(sent_until) };
        let after = rate.admit(before, now, time).ok_or(DropReason::EgressRate)?;
        // SAFETY: as above.
        if unsafe { atomic::compare_exchange(sent_until, before, after) } {
            return Ok(Outcome::GO);
        }
    }
    // Others were faster each time. It counts all the same.
    // SAFETY: as above.
    unsafe { atomic::fetch_add(sent_until, time) };
    Ok(Outcome::GO)
}
