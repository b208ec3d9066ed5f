//! Turns an admitted packet into what leaves us: the destination's frame, an ARP reply, an echo reply; and records what was
//! decided where a test can read it. Refuses to decide where it goes.

use aya_ebpf::helpers::{bpf_skb_change_tail, bpf_skb_change_type};
use aya_ebpf::programs::TcContext;
use cc_common::arp::OPERATION_REPLY;
use cc_common::nd::{self, Neighbor, TargetLinkLayer};
use cc_common::net::{ArpPacket, Be16, Be32, Ethernet, GATEWAY_MAC, Ip, Ipv6Header, MacAddr, PROTOCOL_ICMPV6};
use cc_common::port::Port;
use cc_common::verdict::{DropReason, Verdict};

use crate::parse::Parsed;
use crate::trace;

const PACKET_HOST: u32 = 0;
pub const ETHERNET_BYTES: usize = size_of::<Ethernet>();
const IPV4_SOURCE: usize = ETHERNET_BYTES + 12;
const IPV6_SOURCE: usize = ETHERNET_BYTES + 8;
const ICMP_CHECKSUM: usize = 2;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;

#[repr(C)]
struct Addresses {
    destination: MacAddr,
    source: MacAddr,
}

/// From the gateway to `destination`; the rest of the packet stays: both ends are in one subnet.
#[inline(always)]
pub fn deliver_to(ctx: &TcContext, destination: MacAddr) -> Result<(), DropReason> {
    ctx.store(0, &Addresses { destination, source: GATEWAY_MAC }, 0).map_err(|_| DropReason::Rewrite)?;
    // The frame was not for the host-side interface's own address, and the receiver's stack would refuse it for that:
    // kernels before 6.15 do not reset the type when they redirect.
    // SAFETY: the context is valid; the helper refuses a type that it may not set.
    unsafe {
        if (*ctx.skb.skb).pkt_type != PACKET_HOST && bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) != 0 {
            return Err(DropReason::Rewrite);
        }
    }
    Ok(())
}

#[repr(C)]
struct ArpFrame {
    ethernet: Ethernet,
    arp: ArpPacket,
}

/// "`address` is at the gateway's."
#[inline(always)]
pub fn arp_reply(ctx: &TcContext, asker: MacAddr, question: &ArpPacket, address: Be32) -> Result<(), DropReason> {
    let frame = ArpFrame {
        ethernet: Ethernet {
            destination: asker,
            source: GATEWAY_MAC,
            ethertype: Be16::new(cc_common::net::ETHERTYPE_ARP),
        },
        arp: ArpPacket {
            operation: Be16::new(OPERATION_REPLY),
            sender_mac: GATEWAY_MAC,
            sender_ipv4: address,
            target_mac: asker,
            target_ipv4: question.sender_ipv4,
            ..*question
        },
    };
    ctx.store(0, &frame, 0).map_err(|_| DropReason::Rewrite)
}

/// Swaps the addresses and turns the echo request into a reply. The addresses' share of every checksum is a sum and does not
/// change by a swap.
#[inline(always)]
pub fn echo_reply(ctx: &TcContext, port: &Port, parsed: &Parsed) -> Result<(), DropReason> {
    let failed = |_| DropReason::Rewrite;
    let packet = &parsed.packet;
    ctx.store(0, &Addresses { destination: port.mac, source: GATEWAY_MAC }, 0).map_err(failed)?;
    let reply = if packet.destination.is_v4() {
        ctx.store(IPV4_SOURCE, &[packet.destination.last(), packet.source.last()], 0).map_err(failed)?;
        ECHO_REPLY_V4
    } else {
        ctx.store(IPV6_SOURCE, &[packet.destination.octets, packet.source.octets], 0).map_err(failed)?;
        ECHO_REPLY_V6
    };
    let icmp = parsed.transport as usize;
    ctx.store(icmp, &reply, 0).map_err(failed)?;
    let from = u64::from(u16::from_ne_bytes([packet.icmp[0], 0]));
    ctx.l4_csum_replace(icmp + ICMP_CHECKSUM, from, u64::from(u16::from_ne_bytes([reply, 0])), 2).map_err(failed)
}

#[repr(C)]
struct NdFrame {
    ethernet: Ethernet,
    ipv6: Ipv6Header,
    neighbor: Neighbor,
    option: TargetLinkLayer,
}
const ND_FRAME_BYTES: u32 = size_of::<NdFrame>() as u32;
const ND_PAYLOAD_BYTES: u16 = (size_of::<Neighbor>() + size_of::<TargetLinkLayer>()) as u16;

/// "`target` is at the gateway's." A solicitation without an option is shorter than the answer: the frame becomes as long as that.
#[inline(always)]
pub fn nd_reply(ctx: &TcContext, port: &Port, target: &Ip, flags: u8) -> Result<(), DropReason> {
    // SAFETY: the context is valid; the helper refuses a length that it cannot make.
    if ctx.len() != ND_FRAME_BYTES && unsafe { bpf_skb_change_tail(ctx.skb.skb, ND_FRAME_BYTES, 0) } != 0 {
        return Err(DropReason::Rewrite);
    }
    let mut frame = NdFrame {
        ethernet: Ethernet {
            destination: port.mac,
            source: GATEWAY_MAC,
            ethertype: Be16::new(cc_common::net::ETHERTYPE_IPV6),
        },
        ipv6: Ipv6Header {
            version_class_label: Be32([0x60, 0, 0, 0]),
            payload_len: Be16::new(ND_PAYLOAD_BYTES),
            next_header: PROTOCOL_ICMPV6,
            hop_limit: nd::HOP_LIMIT,
            source: target.octets,
            destination: port.ipv6.octets,
        },
        neighbor: Neighbor {
            kind: nd::NEIGHBOR_ADVERTISEMENT,
            code: 0,
            checksum: [0; 2],
            flags: [flags, 0, 0, 0],
            target: target.octets,
        },
        option: TargetLinkLayer { kind: nd::OPTION_TARGET_LINK_LAYER, length: 1, mac: GATEWAY_MAC },
    };
    frame.neighbor.checksum = nd_checksum(&frame.ipv6, &frame.neighbor, &frame.option);
    ctx.store(0, &frame, 0).map_err(|_| DropReason::Rewrite)
}

/// Over the pseudo-header and the message (RFC 4443).
#[inline(always)]
fn nd_checksum(ipv6: &Ipv6Header, neighbor: &Neighbor, option: &TargetLinkLayer) -> [u8; 2] {
    let [.., next] = [0, 0, 0, ipv6.next_header];
    let pseudo: [[u8; 2]; 2] = [ipv6.payload_len.0, [0, next]];
    let mut sum = 0u32;
    let mut add = |high: u8, low: u8| sum += u32::from(u16::from_be_bytes([high, low]));
    for [high, low] in pseudo {
        add(high, low);
    }
    let mut at = 0;
    while at < 16 {
        add(ipv6.source[at], ipv6.source[at + 1]);
        add(ipv6.destination[at], ipv6.destination[at + 1]);
        add(neighbor.target[at], neighbor.target[at + 1]);
        at += 2;
    }
    add(neighbor.kind, neighbor.code);
    add(neighbor.flags[0], neighbor.flags[1]);
    add(option.kind, option.length);
    let mac = option.mac.0;
    add(mac[0], mac[1]);
    add(mac[2], mac[3]);
    add(mac[4], mac[5]);
    // Forty-odd words make less than two carries.
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

/// Leaves verdict, target and reason in the packet's control block, where BPF_PROG_TEST_RUN shows them.
#[inline(always)]
pub fn record(ctx: &TcContext, verdict: Verdict) {
    let target = match verdict {
        Verdict::Deliver { ifindex }
        | Verdict::Queue { ifindex }
        | Verdict::Out { ifindex }
        | Verdict::Host { ifindex } => ifindex,
        Verdict::Pass | Verdict::Answer | Verdict::Again | Verdict::Drop(_) => 0,
    };
    note(ctx, [verdict.code(), target, 0]);
}

/// A drop, by the number of its reason.
#[inline(always)]
pub fn record_drop(ctx: &TcContext, reason: u16) {
    note(ctx, [Verdict::DROP_CODE, 0, u32::from(reason)]);
}

#[inline(always)]
fn note(ctx: &TcContext, words: [u32; 3]) {
    trace::end();
    // SAFETY: the context is valid for as long as the program runs, and its five words of control block are ours to write.
    unsafe {
        (*ctx.skb.skb).cb[0] = words[0];
        (*ctx.skb.skb).cb[1] = words[1];
        (*ctx.skb.skb).cb[2] = words[2];
    }
}
