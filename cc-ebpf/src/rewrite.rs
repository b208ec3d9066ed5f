//! Turns an admitted packet into what leaves us: the destination's frame, an ARP reply, an echo reply; and records what was
//! decided where a test can read it. Refuses to decide where it goes.

use aya_ebpf::helpers::bpf_skb_change_type;
use aya_ebpf::programs::TcContext;
use cc_common::arp::OPERATION_REPLY;
use cc_common::net::{ArpPacket, Be16, Be32, Ethernet, GATEWAY_MAC, MacAddr};
use cc_common::port::Port;
use cc_common::verdict::{DropReason, Verdict};

const PACKET_HOST: u32 = 0;
pub const ETHERNET_BYTES: usize = size_of::<Ethernet>();
const IPV4_SOURCE: usize = ETHERNET_BYTES + 12;
const ICMP_CHECKSUM: usize = 2;

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

/// Swaps the addresses and turns the request at `icmp` into a reply. The IPv4 checksum is a sum and does not change.
#[inline(always)]
pub fn echo_reply(ctx: &TcContext, port: &Port, gateway: Be32, icmp: usize) -> Result<(), DropReason> {
    let failed = |_| DropReason::Rewrite;
    ctx.store(0, &Addresses { destination: port.mac, source: GATEWAY_MAC }, 0).map_err(failed)?;
    ctx.store(IPV4_SOURCE, &[gateway, port.ipv4], 0).map_err(failed)?;
    // Type and code 8, 0 become 0, 0.
    ctx.store(icmp, &0u8, 0).map_err(failed)?;
    let request = u64::from(u16::from_ne_bytes([8, 0]));
    ctx.l4_csum_replace(icmp + ICMP_CHECKSUM, request, 0, 2).map_err(failed)
}

/// Leaves verdict, target and reason in the packet's control block, where BPF_PROG_TEST_RUN shows them.
#[inline(always)]
pub fn record(ctx: &TcContext, verdict: Verdict) {
    let (target, reason) = match verdict {
        Verdict::Deliver { ifindex } => (ifindex, 0),
        Verdict::Drop(reason) => (0, reason as u32),
        Verdict::Pass | Verdict::Answer => (0, 0),
    };
    // SAFETY: the context is valid for as long as the program runs, and its five words of control block are ours to write.
    unsafe {
        (*ctx.skb.skb).cb[0] = verdict.code();
        (*ctx.skb.skb).cb[1] = target;
        (*ctx.skb.skb).cb[2] = reason;
    }
}
