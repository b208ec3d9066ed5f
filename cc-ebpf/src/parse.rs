//! Copies headers out of a packet, and reads what the kernel knows of it besides. Copies are safe for packets whose bytes do
//! not lie together, which a container can send. Refuses to judge: what it finds is judged in `cc-common`.

use aya_ebpf::programs::TcContext;
use cc_common::ipv4;
use cc_common::ipv6::{self, EXTENSION_BYTES, EXTENSIONS_MAX, Step};
use cc_common::nd::Neighbor;
use cc_common::net::{Ethernet, Ipv4Header, Ipv6Header, PROTOCOL_TCP};
use cc_common::packet::{Fragment, Packet, SHORT_BYTES, TCP_BYTES, has_ports};
use cc_common::verdict::DropReason;

use crate::rewrite::ETHERNET_BYTES;

/// A header that consists of bytes only, so that any bytes are a value of it.
pub trait Header: Copy {}
impl Header for cc_common::net::Be16 {}
impl Header for cc_common::net::Ethernet {}
impl Header for cc_common::net::ArpPacket {}
impl Header for cc_common::net::Ipv4Header {}
impl Header for cc_common::net::Ipv6Header {}
impl Header for Neighbor {}
impl Header for EthernetIpv4 {}
impl<const N: usize> Header for [u8; N] {}

/// What nearly every packet begins with, so that one copy does.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct EthernetIpv4 {
    pub ethernet: Ethernet,
    pub ipv4: Ipv4Header,
}
const _: () = assert!(size_of::<EthernetIpv4>() == 34);

/// A packet, and where its parts are in the frame.
#[derive(Clone, Copy)]
pub struct Parsed {
    pub packet: Packet,
    pub fragment: Fragment,
    /// Offset of the transport header.
    pub transport: u32,
    /// Time to live, or hop limit.
    pub ttl: u8,
}

#[inline(always)]
pub fn header<T: Header>(ctx: &TcContext, offset: usize) -> Result<T, DropReason> {
    ctx.load::<T>(offset).map_err(|_| DropReason::Truncated)
}

/// As `header`, of the packet alone, which ends at `end`: what the frame has behind that is padding, and its receiver will not see it.
#[inline(always)]
fn within<T: Header>(ctx: &TcContext, offset: u32, end: u32) -> Result<T, DropReason> {
    if offset + size_of::<T>() as u32 > end { Err(DropReason::Truncated) } else { header(ctx, offset as usize) }
}

/// Bytes of the frame behind its Ethernet header.
#[inline(always)]
fn available(ctx: &TcContext) -> u32 {
    ctx.len().saturating_sub(ETHERNET_BYTES as u32)
}

/// In place, as everything that is as large as a packet: stacks are small.
#[inline(always)]
pub fn ipv4(ctx: &TcContext, header: &Ipv4Header, parsed: &mut Parsed) -> Result<(), DropReason> {
    let ipv4::Accepted { fragment, header_bytes, total_bytes, ttl } = ipv4::accept(header, available(ctx))?;
    ipv4::begin(&mut parsed.packet, header);
    parsed.fragment = fragment;
    parsed.transport = ETHERNET_BYTES as u32 + header_bytes;
    parsed.ttl = ttl;
    transport_of(ctx, parsed, ETHERNET_BYTES as u32 + total_bytes)
}

#[inline(always)]
pub fn ipv6(ctx: &TcContext, parsed: &mut Parsed) -> Result<(), DropReason> {
    let fixed: Ipv6Header = header(ctx, ETHERNET_BYTES)?;
    ipv6::accept(&fixed, available(ctx))?;
    let end = ETHERNET_BYTES as u32 + ipv6::total_bytes(&fixed, available(ctx));
    ipv6::begin(&mut parsed.packet, &fixed);
    parsed.ttl = fixed.hop_limit;
    let (mut protocol, mut fragment) = (fixed.next_header, Fragment::WHOLE);
    let mut at = ETHERNET_BYTES as u32 + ipv6::HEADER_BYTES;
    for _ in 0..EXTENSIONS_MAX {
        if !ipv6::is_extension(protocol) || fragment.is_later() {
            break;
        }
        let first: [u8; EXTENSION_BYTES] = within(ctx, at, end)?;
        match ipv6::step(protocol, &first)? {
            Step::Transport => break,
            Step::Skip { next, bytes } => (protocol, at) = (next, at + bytes),
            Step::Fragment { next, bytes, fragment: found } => (protocol, at, fragment) = (next, at + bytes, found),
        }
    }
    // Of a later fragment it is the data's first header that is named, whatever that is.
    if ipv6::is_extension(protocol) {
        return Err(DropReason::Ipv6Extension);
    }
    parsed.packet.protocol = protocol;
    parsed.fragment = fragment;
    parsed.transport = at;
    transport_of(ctx, parsed, end)
}

/// What the transport header says, if this packet, which ends at `end`, has one that is understood.
#[inline(always)]
fn transport_of(ctx: &TcContext, parsed: &mut Parsed, end: u32) -> Result<(), DropReason> {
    let protocol = parsed.packet.protocol;
    if parsed.fragment.is_later() || !has_ports(protocol) {
        return Ok(());
    }
    let at = parsed.transport;
    if protocol == PROTOCOL_TCP {
        parsed.packet.set_tcp(&within::<[u8; TCP_BYTES]>(ctx, at, end)?);
    } else {
        parsed.packet.set_short(&within::<[u8; SHORT_BYTES]>(ctx, at, end)?);
    }
    Ok(())
}

/// What a packet of neighbour discovery says.
#[inline(always)]
pub fn neighbor(ctx: &TcContext, parsed: &Parsed) -> Result<Neighbor, DropReason> {
    let fixed: Ipv6Header = header(ctx, ETHERNET_BYTES)?;
    within(ctx, parsed.transport, ETHERNET_BYTES as u32 + ipv6::total_bytes(&fixed, available(ctx)))
}

#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context to the program, for as long as it runs; the verifier checks the access.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// In network byte order.
#[inline(always)]
pub fn protocol(ctx: &TcContext) -> u32 {
    // SAFETY: as in `ifindex`.
    unsafe { (*ctx.skb.skb).protocol }
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
