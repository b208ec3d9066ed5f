//! Turns a packet into an ICMP error about itself, for its sender. Refuses to decide which.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::{bpf_csum_diff, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use cc_common::net::{
    Be16, Be32, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, GATEWAY_MAC, Ip, Ipv4Header, Ipv6Header, PROTOCOL_ICMP,
    PROTOCOL_ICMPV6, PROTOCOL_TCP,
};
use cc_common::verdict::DropReason;

use crate::rewrite::ETHERNET_BYTES;
use crate::work::{QUOTE_BYTES, Work};

const FAILED: DropReason = DropReason::Rewrite;
const TTL: u8 = 64;
/// The error's own header: kind, code, sum, and a word that says more.
const ERROR_BYTES: u32 = 8;
/// Quoted of IPv4: its header, and eight bytes of the transport's. Options are left out: few have them, and the sender knows.
const QUOTE_V4_BYTES: u32 = 28;
/// Quoted of IPv6: its header, and eight bytes of what follows.
const QUOTE_V6_BYTES: u32 = 48;
/// More of TCP's: its whole header. The kernel cuts no packet before the place of a checksum that is still to be filled in.
const QUOTE_TCP_MORE_BYTES: u32 = 12;
const _: () = assert!((QUOTE_V6_BYTES + QUOTE_TCP_MORE_BYTES) as usize <= QUOTE_BYTES);

#[repr(C)]
struct ErrorV4 {
    ethernet: Ethernet,
    ipv4: Ipv4Header,
    icmp: [u8; ERROR_BYTES as usize],
}

#[repr(C)]
struct ErrorV6 {
    ethernet: Ethernet,
    ipv6: Ipv6Header,
    icmp: [u8; ERROR_BYTES as usize],
}

/// From the host's side of the flow, whose address the sender's network can show. `word` is the error's own: an MTU, or nothing.
#[inline(always)]
pub fn error(ctx: &TcContext, work: &mut Work, kind: [u8; 2], word: u32) -> Result<(), DropReason> {
    if work.parsed.packet.source.is_v4() { v4(ctx, work, kind, word) } else { v6(ctx, work, kind, word) }
}

#[inline(always)]
fn quote_bytes(work: &Work, least: u32) -> u32 {
    if work.parsed.packet.protocol == PROTOCOL_TCP { least + QUOTE_TCP_MORE_BYTES } else { least }
}

/// Keeps the first bytes of the packet, and makes room before them.
#[inline(always)]
fn quote(ctx: &TcContext, work: &mut Work, bytes: u32, room: u32) -> Result<(), DropReason> {
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid; the helpers refuses what they cannot do, and the copy is as long as it says.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), ETHERNET_BYTES as u32, work.quote.as_mut_ptr().cast(), bytes) != 0
            || bpf_skb_change_tail(skb, ETHERNET_BYTES as u32 + bytes, 0) != 0
            || bpf_skb_adjust_room(skb, room as i32, BPF_ADJ_ROOM_MAC, 0) != 0
        {
            return Err(FAILED);
        }
    }
    Ok(())
}

/// The sum over bytes that lie in a `Work`, or on the stack, in multiples of four.
#[inline(always)]
fn sum(bytes: *const u8, length: u32, seed: u32) -> u32 {
    // SAFETY: the caller's bytes; the verifier checks the length.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast_mut().cast(), length, seed) as u32 }
}

#[inline(always)]
fn folded(sum: u32) -> [u8; 2] {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    // The helper adds words as they lie in memory: so does the result.
    (!(twice as u16)).to_ne_bytes()
}

#[inline(always)]
fn v4(ctx: &TcContext, work: &mut Work, kind: [u8; 2], word: u32) -> Result<(), DropReason> {
    let quote_bytes = quote_bytes(work, QUOTE_V4_BYTES);
    quote(ctx, work, quote_bytes, 20 + ERROR_BYTES)?;
    let mut icmp = [kind[0], kind[1], 0, 0, 0, 0, 0, 0];
    [icmp[6], icmp[7]] = (word as u16).to_be_bytes();
    let quoted = sum(work.quote.as_ptr(), quote_bytes, 0);
    [icmp[2], icmp[3]] = folded(sum(icmp.as_ptr(), ERROR_BYTES, quoted));
    let mut ipv4 = Ipv4Header {
        version_ihl: 0x45,
        tos: 0,
        total_len: Be16::new((20 + ERROR_BYTES + quote_bytes) as u16),
        id: Be16::new(0),
        fragment: Be16::new(0),
        ttl: TTL,
        protocol: PROTOCOL_ICMP,
        checksum: Be16([0; 2]),
        source: teller(work).last(),
        destination: work.port.ipv4,
    };
    ipv4.checksum = Be16(folded(sum((&raw const ipv4).cast(), 20, 0)));
    let frame = ErrorV4 { ethernet: ethernet(work, ETHERTYPE_IPV4), ipv4, icmp };
    ctx.store(0, &frame, 0).map_err(|_| FAILED)
}

#[inline(always)]
fn v6(ctx: &TcContext, work: &mut Work, kind: [u8; 2], word: u32) -> Result<(), DropReason> {
    let quote_bytes = quote_bytes(work, QUOTE_V6_BYTES);
    quote(ctx, work, quote_bytes, 40 + ERROR_BYTES)?;
    let [a, b, c, d] = word.to_be_bytes();
    let mut icmp = [kind[0], kind[1], 0, 0, a, b, c, d];
    let payload = ERROR_BYTES + quote_bytes;
    let ipv6 = Ipv6Header {
        version_class_label: Be32([0x60, 0, 0, 0]),
        payload_len: Be16::new(payload as u16),
        next_header: PROTOCOL_ICMPV6,
        hop_limit: TTL,
        source: teller(work).octets,
        destination: work.port.ipv6.octets,
    };
    // The pseudo-header (RFC 8200, 8.1): both addresses, length, protocol.
    let pseudo = [0, 0, 0, payload as u8, 0, 0, 0, PROTOCOL_ICMPV6];
    let addresses = sum((&raw const ipv6.source).cast(), 32, 0);
    let quoted = sum(work.quote.as_ptr(), quote_bytes, sum(pseudo.as_ptr(), 8, addresses));
    [icmp[2], icmp[3]] = folded(sum(icmp.as_ptr(), ERROR_BYTES, quoted));
    let frame = ErrorV6 { ethernet: ethernet(work, ETHERTYPE_IPV6), ipv6, icmp };
    ctx.store(0, &frame, 0).map_err(|_| FAILED)
}

#[inline(always)]
fn ethernet(work: &Work, ethertype: u16) -> Ethernet {
    Ethernet { destination: work.port.mac, source: GATEWAY_MAC, ethertype: Be16::new(ethertype) }
}

/// The host, by the address that it would have given the packet.
#[inline(always)]
fn teller(work: &Work) -> Ip {
    work.out.source
}
