//! Records of drops, for whoever watches: to the ring, at a rate per endpoint, and counted where they are not written. Refuses to
//! cost anything while nobody watches.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_ringbuf_output, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use cc_common::event::{self, DropRecord, IPV4_BYTES, IPV6_BYTES, Told};
use cc_common::net::{Be16, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use cc_common::port::PortKey;
use cc_common::verdict::Direction;

use crate::conntrack::Counter;
use crate::maps::{CC_ENDPOINTS, CC_EVENTS, CC_PORTS, CC_SETTINGS, CC_TOLD, CC_WATCH};
use crate::rewrite::ETHERNET_BYTES;
use crate::work::{QUOTE_BYTES, Work};

/// Between CPUs that drop for one endpoint at the same time.
const TRIES: u32 = 4;

#[inline(always)]
pub fn dropped(ctx: &TcContext, endpoint: u32, direction: Direction, reason: u16) {
    if CC_WATCH.get(0).is_some_and(|watch| watch.drops != 0) {
        // SAFETY: the context is this program's.
        unsafe { cc_tell_drop(ctx.skb.skb, endpoint, direction as u32, reason.into()) };
    }
}

/// Verified by itself, as `admit`'s.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cc_tell_drop(skb: *mut __sk_buff, endpoint: u32, direction: u32, reason: u32) -> u64 {
    let (Some(work), Some(told)) = (Work::mine(), CC_TOLD.get_ptr_mut(event::told_row(endpoint))) else { return 0 };
    let tally = Tally::of(told);
    // SAFETY: reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if !tally.admit(now) {
        return 0;
    }
    let record = &mut work.record;
    record.at_ns = now;
    record.endpoint = endpoint;
    record.direction = direction as u16;
    record.reason = reason as u16;
    // SAFETY: as in `parse::ifindex`.
    (record.ifindex, record.bytes) = unsafe { ((*skb).ifindex, (*skb).len) };
    record.container = container_of(endpoint);
    // SAFETY: one integer is read of it.
    let sender = unsafe { CC_PORTS.get(PortKey { ifindex: record.ifindex }) };
    record.sender = sender.map_or(0, |port| container_of(port.endpoint));
    describe(skb, record, &mut work.quote);
    tally.write(record);
    0
}

/// How many records an endpoint has caused, and may.
pub struct Tally {
    until: Counter,
    written: Counter,
    lost: Counter,
}

impl Tally {
    /// `told` is an element of `CC_TOLD` or `CC_LOGGED`.
    #[inline(always)]
    pub fn of(told: *mut Told) -> Tally {
        // SAFETY: only addresses are computed; an array's element is always there.
        unsafe {
            Tally {
                until: Counter::at(&raw mut (*told).until_ns),
                written: Counter::at(&raw mut (*told).written),
                lost: Counter::at(&raw mut (*told).lost),
            }
        }
    }

    /// Whether one more may be written; one that may not is lost.
    #[inline(always)]
    pub fn admit(&self, now: u64) -> bool {
        let admitted = is_in_time(self.until, now);
        if !admitted {
            self.lost.add();
        }
        admitted
    }

    /// Writes a record to the ring: one that lies in this CPU's row, whole.
    #[inline(always)]
    pub fn write<T>(&self, record: &mut T) {
        let data: *mut T = record;
        // SAFETY: as many bytes as the record has, and it outlives the call.
        let result = unsafe {
            bpf_ringbuf_output((&raw const CC_EVENTS).cast_mut().cast(), data.cast(), size_of::<T>() as u64, 0)
        };
        if result == 0 {
            self.written.add()
        } else {
            self.lost.add()
        };
    }
}

#[inline(always)]
fn is_in_time(until: Counter, now: u64) -> bool {
    let Some(settings) = CC_SETTINGS.get(0) else { return false };
    for _ in 0..TRIES {
        let before = until.get();
        let Some(after) = event::admit(settings.events_per_second, before, now) else { return false };
        if until.change(before, after) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn container_of(endpoint: u32) -> u64 {
    CC_ENDPOINTS.get(endpoint).map_or(0, |entry| entry.container)
}

/// The frame as it is now: it may be one that was not understood. Headers are read into the room for a quote, which is filled
/// later: stacks are small, and this is the deepest call of all.
#[inline(always)]
fn describe(skb: *mut __sk_buff, record: &mut DropRecord, room: &mut [u8; QUOTE_BYTES]) {
    // SAFETY: as in `parse::ifindex`.
    let protocol = unsafe { (*skb).protocol } as u16;
    record.begin(Be16(protocol.to_ne_bytes()));
    let behind = if protocol == ETHERTYPE_IPV4.to_be() {
        load::<IPV4_BYTES>(skb, ETHERNET_BYTES as u32, room).and_then(|header| record.ipv4(header))
    } else if protocol == ETHERTYPE_IPV6.to_be() {
        load::<IPV6_BYTES>(skb, ETHERNET_BYTES as u32, room).and_then(|header| record.ipv6(header))
    } else {
        None
    };
    if let Some(offset) = behind
        && let Some(bytes) = load::<4>(skb, ETHERNET_BYTES as u32 + offset, room)
    {
        record.ports(bytes);
    }
}

#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, offset: u32, room: &mut [u8; QUOTE_BYTES]) -> Option<&[u8; N]> {
    // SAFETY: the context is valid, there is room for as many bytes as are asked for, and the helper refuses what is not there.
    let result = unsafe { bpf_skb_load_bytes(skb.cast(), offset, room.as_mut_ptr().cast(), N as u32) };
    if result == 0 { room.first_chunk() } else { None }
}
