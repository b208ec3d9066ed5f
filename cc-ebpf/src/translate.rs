//! Gives a packet other ends: addresses, ports, and every checksum that covers them, of the packet itself and of what an error
//! quotes. Refuses to choose them: they are in this CPU's `Work`.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::bpf_csum_diff;
use aya_ebpf::programs::TcContext;
use cc_common::flow::Ends;
use cc_common::net::{Be16, Ip, Ipv4Header, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use cc_common::packet::{Packet, has_ports};
use cc_common::verdict::DropReason;

use crate::parse;
use crate::rewrite::ETHERNET_BYTES;
use crate::work::{Outcome, Work};

const IPV4_TTL: usize = ETHERNET_BYTES + 8;
const IPV4_CHECKSUM: usize = ETHERNET_BYTES + 10;
const IPV4_ADDRESSES: usize = ETHERNET_BYTES + 12;
const IPV6_HOP_LIMIT: usize = ETHERNET_BYTES + 7;
const IPV6_ADDRESSES: usize = ETHERNET_BYTES + 8;
/// In the address pair of an error's quoted header: its own offsets, from the header's first byte.
const QUOTED_V4_CHECKSUM: usize = 10;
const QUOTED_V4_SOURCE: usize = 12;
const QUOTED_V6_SOURCE: usize = 8;
const ICMP_CHECKSUM: usize = 2;
const ICMP_IDENTIFIER: usize = 4;
const ICMP_ERROR_BYTES: usize = 8;
const BOTH_ADDRESSES_BYTES: u32 = 32;

const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;
const FAILED: DropReason = DropReason::Rewrite;

/// The packet's ends become `work.out`.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_translate(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    let done = packet(&TcContext::new(skb), work);
    work.outcome(done.map(|()| Outcome::GO))
}

/// The same of an error, and what it quotes gets `work.quoted_out`.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_translate_error(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    let done = error(&TcContext::new(skb), work);
    work.outcome(done.map(|()| Outcome::GO))
}

/// Decrements the time to live, of which there is some left.
#[inline(always)]
fn hop(ctx: &TcContext, packet: &Packet, ttl: u8) -> Result<(), DropReason> {
    let left = ttl.wrapping_sub(1);
    if !packet.source.is_v4() {
        // Nothing in the header makes up for it, nor for addresses: where a card has summed up the frame, its sum changes.
        return ctx.store(IPV6_HOP_LIMIT, &left, RECOMPUTE).map_err(|_| FAILED);
    }
    // It shares a word of the sum with the protocol.
    let word = |ttl| u64::from(u16::from_ne_bytes([ttl, packet.protocol]));
    ctx.l3_csum_replace(IPV4_CHECKSUM, word(ttl), word(left), 2).map_err(|_| FAILED)?;
    ctx.store(IPV4_TTL, &left, 0).map_err(|_| FAILED)
}

/// The difference that other addresses make to a sum. IPv4 addresses in their mapped form have the same.
#[inline(always)]
fn difference(from: &Ip, to: &Ip) -> u64 {
    // SAFETY: both lead a pair of addresses that lie together (`Packet`, `Ends`); the verifier checks the lengths.
    let sum = unsafe {
        bpf_csum_diff(
            (&raw const *from).cast_mut().cast(),
            BOTH_ADDRESSES_BYTES,
            (&raw const *to).cast_mut().cast(),
            BOTH_ADDRESSES_BYTES,
            0,
        )
    };
    sum as u64
}

#[inline(always)]
fn store_addresses(ctx: &TcContext, to: &Ends, difference: u64) -> Result<(), DropReason> {
    if to.source.is_v4() {
        ctx.l3_csum_replace(IPV4_CHECKSUM, 0, difference, 0).map_err(|_| FAILED)?;
        ctx.store(IPV4_ADDRESSES, &[to.source.last(), to.destination.last()], 0).map_err(|_| FAILED)
    } else {
        ctx.store(IPV6_ADDRESSES, &[to.source.octets, to.destination.octets], RECOMPUTE).map_err(|_| FAILED)
    }
}

#[inline(always)]
fn packet(ctx: &TcContext, work: &mut Work) -> Result<(), DropReason> {
    let (from, to) = (&work.parsed.packet, &work.out);
    let difference = difference(&from.source, &to.source);
    let transport = work.parsed.transport as usize;
    let has_header = !work.parsed.fragment.is_later() && has_ports(from.protocol);
    store_addresses(ctx, to, difference)?;
    hop(ctx, from, work.parsed.ttl)?;
    if !has_header {
        return Ok(());
    }
    let pseudo = u64::from(BPF_F_PSEUDO_HDR);
    match from.protocol {
        PROTOCOL_ICMP => identifier(ctx, transport, from.source_port, port_of(from, to)),
        PROTOCOL_ICMPV6 => {
            let at = transport + ICMP_CHECKSUM;
            ctx.l4_csum_replace(at, 0, difference, pseudo).map_err(|_| FAILED)?;
            identifier(ctx, transport, from.source_port, port_of(from, to))
        }
        protocol => {
            // A datagram without a checksum stays without one.
            let (at, flags) = if protocol == PROTOCOL_TCP { (16, 0) } else { (6, u64::from(BPF_F_MARK_MANGLED_0)) };
            let at = transport + at;
            ctx.l4_csum_replace(at, 0, difference, pseudo | flags).map_err(|_| FAILED)?;
            let word = |source: Be16, destination: Be16| {
                let ([a, b], [c, d]) = (source.0, destination.0);
                u64::from(u32::from_ne_bytes([a, b, c, d]))
            };
            let (old, new) = (word(from.source_port, from.destination_port), word(to.source_port, to.destination_port));
            ctx.l4_csum_replace(at, old, new, 4 | flags).map_err(|_| FAILED)?;
            ctx.store(transport, &[to.source_port, to.destination_port], 0).map_err(|_| FAILED)
        }
    }
}

/// An ICMP query has one number for both ends; of the two that were chosen it gets the one that changed.
#[inline(always)]
fn port_of(from: &Packet, to: &Ends) -> Be16 {
    if to.source_port.get() != from.source_port.get() { to.source_port } else { to.destination_port }
}

#[inline(always)]
fn identifier(ctx: &TcContext, transport: usize, from: Be16, to: Be16) -> Result<(), DropReason> {
    if from.get() == to.get() {
        return Ok(());
    }
    let word = |port: Be16| u64::from(u16::from_ne_bytes(port.0));
    ctx.l4_csum_replace(transport + ICMP_CHECKSUM, word(from), word(to), 2).map_err(|_| FAILED)?;
    ctx.store(transport + ICMP_IDENTIFIER, &to, 0).map_err(|_| FAILED)
}

/// The outer header gets `out`, the quoted packet the addresses and ports of `quoted_out`. What the error's own sum covers changes by
/// what is stored there, and by nothing for a quoted IPv4 header: its own sum makes up for its addresses.
#[inline(always)]
fn error(ctx: &TcContext, work: &mut Work) -> Result<(), DropReason> {
    let (outer_from, outer_to) = (&work.parsed.packet, &work.out);
    let (from, to) = (&work.quoted, &work.quoted_out);
    let icmp = work.parsed.transport as usize;
    let sum = icmp + ICMP_CHECKSUM;
    let quoted = icmp + ICMP_ERROR_BYTES;
    let outer_difference = difference(&outer_from.source, &outer_to.source);
    let quoted_difference = difference(&from.source, &to.source);
    store_addresses(ctx, outer_to, outer_difference)?;
    hop(ctx, outer_from, work.parsed.ttl)?;
    let transport = if to.source.is_v4() {
        let header: Ipv4Header = parse::header(ctx, quoted)?;
        ctx.l3_csum_replace(quoted + QUOTED_V4_CHECKSUM, 0, quoted_difference, 0).map_err(|_| FAILED)?;
        let addresses = [to.source.last(), to.destination.last()];
        ctx.store(quoted + QUOTED_V4_SOURCE, &addresses, 0).map_err(|_| FAILED)?;
        quoted + usize::from(header.version_ihl & 0x0f) * 4
    } else {
        let pseudo = u64::from(BPF_F_PSEUDO_HDR);
        ctx.l4_csum_replace(sum, 0, outer_difference, pseudo).map_err(|_| FAILED)?;
        ctx.l4_csum_replace(sum, 0, quoted_difference, 0).map_err(|_| FAILED)?;
        let addresses = [to.source.octets, to.destination.octets];
        ctx.store(quoted + QUOTED_V6_SOURCE, &addresses, 0).map_err(|_| FAILED)?;
        quoted + 40
    };
    match from.protocol {
        PROTOCOL_TCP | PROTOCOL_UDP => {
            let word = |source: Be16, destination: Be16| {
                let ([a, b], [c, d]) = (source.0, destination.0);
                u64::from(u32::from_ne_bytes([a, b, c, d]))
            };
            let (old, new) = (word(from.source_port, from.destination_port), word(to.source_port, to.destination_port));
            ctx.l4_csum_replace(sum, old, new, 4).map_err(|_| FAILED)?;
            ctx.store(transport, &[to.source_port, to.destination_port], 0).map_err(|_| FAILED)
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => {
            let word = |port: Be16| u64::from(u16::from_ne_bytes(port.0));
            let new = port_of(from, to);
            ctx.l4_csum_replace(sum, word(from.source_port), word(new), 2).map_err(|_| FAILED)?;
            ctx.store(transport + ICMP_IDENTIFIER, &new, 0).map_err(|_| FAILED)
        }
        _ => Ok(()),
    }
}
