//! Copies headers out of a packet, and reads what the kernel knows of it besides. Copies are safe for packets whose bytes do
//! not lie together, which a container can send. Refuses to judge.

use aya_ebpf::programs::TcContext;
use cc_common::verdict::DropReason;

/// A header that consists of bytes only, so that any bytes are a value of it.
pub trait Header: Copy {}
impl Header for cc_common::net::Ethernet {}
impl Header for cc_common::net::ArpPacket {}
impl Header for cc_common::net::Ipv4Header {}
impl Header for [u8; 2] {}

#[inline(always)]
pub fn header<T: Header>(ctx: &TcContext, offset: usize) -> Result<T, DropReason> {
    ctx.load::<T>(offset).map_err(|_| DropReason::Truncated)
}

#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context to the program, for as long as it runs; the verifier checks the access.
    unsafe { (*ctx.skb.skb).ifindex }
}

#[inline(always)]
pub fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: as in `ifindex`.
    unsafe { (*ctx.skb.skb).mark }
}

/// Whether the kernel took a VLAN tag off the frame.
#[inline(always)]
pub fn tagged(ctx: &TcContext) -> bool {
    // SAFETY: as in `ifindex`.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

#[inline(always)]
pub fn packets(ctx: &TcContext) -> u64 {
    // SAFETY: as in `ifindex`.
    cc_common::counters::packets(unsafe { (*ctx.skb.skb).gso_segs })
}
