//! What a container sends: admitted against its port, answered or routed, judged by the destination's rules, counted on both
//! sides, and put into the destination's network namespace. Refuses to let anything else through: whatever is not
//! delivered or answered is dropped, with a reason.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use cc_common::ipv4::{self, PROTOCOL_ICMP};
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::names::MARK_OURS;
use cc_common::net::{ArpPacket, Be32, Ethernet, Ipv4Header};
use cc_common::port::{self, Payload, Port, PortKey};
use cc_common::route::{self, EndpointEntry, HOST_PREFIX_BITS, Hop, Route, RouteKey};
use cc_common::verdict::{Direction, DropReason, Verdict};
use cc_common::{arp, firewall};

use crate::maps::{CC_ENDPOINTS, CC_PORTS, CC_ROUTES};
use crate::rewrite::ETHERNET_BYTES;
use crate::{counters, parse, rewrite};

const ICMP_ECHO_REQUEST: [u8; 2] = [8, 0];

/// A drop, and whose it is: the destination's rules are the destination's drop.
struct Refusal {
    endpoint: u32,
    direction: Direction,
    reason: DropReason,
}

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let ifindex = parse::ifindex(ctx);
    let verdict = match decide(ctx, ifindex) {
        Ok(verdict) => verdict,
        Err(Refusal { endpoint, direction, reason }) => {
            counters::dropped(ctx, endpoint, direction, reason);
            // The level is constant once loaded: with logs off, the verifier removes this.
            debug!(ctx, "dropped: endpoint {} direction {} reason {}", endpoint, direction as u16, reason as u16);
            Verdict::Drop(reason)
        }
    };
    rewrite::record(ctx, verdict);
    match verdict {
        Verdict::Drop(_) => TC_ACT_SHOT,
        // SAFETY: plain integers; the helper only notes where to send the packet when we return.
        Verdict::Deliver { ifindex } => unsafe { bpf_redirect_peer(ifindex, 0) as i32 },
        Verdict::Answer => {
            ctx.skb.set_mark(MARK_OURS);
            // SAFETY: as above.
            unsafe { bpf_redirect(ifindex, 0) as i32 }
        }
        Verdict::Pass => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn decide(ctx: &TcContext, ifindex: u32) -> Result<Verdict, Refusal> {
    // SAFETY: the row is removed after the links of its interface, and copied here at once.
    let Some(&port) = (unsafe { CC_PORTS.get(PortKey { ifindex }) }) else {
        return Err(Refusal {
            endpoint: ENDPOINT_UNKNOWN,
            direction: Direction::Egress,
            reason: DropReason::UnknownPort,
        });
    };
    let own = |reason| Refusal { endpoint: port.endpoint, direction: Direction::Egress, reason };
    let frame: Ethernet = parse::header(ctx, 0).map_err(own)?;
    match port::admit(&port, &frame, parse::tagged(ctx)).map_err(own)? {
        Payload::Arp => answer_arp(ctx, &port).map_err(own),
        Payload::Ipv4 => forward(ctx, &port),
    }
}

#[inline(always)]
fn lookup(vni: u32, address: Be32) -> Option<&'static Route> {
    CC_ROUTES.get(&Key::new(HOST_PREFIX_BITS, RouteKey::new(vni, address)))
}

#[inline(always)]
fn answer_arp(ctx: &TcContext, port: &Port) -> Result<Verdict, DropReason> {
    let packet: ArpPacket = parse::header(ctx, ETHERNET_BYTES)?;
    let target = arp::question(port, &packet)?;
    arp::answerable(lookup(port.vni, target))?;
    rewrite::arp_reply(ctx, port.mac, &packet, target)?;
    Ok(Verdict::Answer)
}

#[inline(always)]
fn forward(ctx: &TcContext, port: &Port) -> Result<Verdict, Refusal> {
    let own = |reason| Refusal { endpoint: port.endpoint, direction: Direction::Egress, reason };
    let header: Ipv4Header = parse::header(ctx, ETHERNET_BYTES).map_err(own)?;
    let bytes = ctx.len();
    let available = bytes.saturating_sub(ETHERNET_BYTES as u32);
    let accepted = ipv4::accept(port, &header, available).map_err(own)?;
    match route::decide(lookup(port.vni, accepted.destination)).map_err(own)? {
        Hop::Gateway => answer_echo(ctx, port, &header, &accepted).map_err(own),
        Hop::Local { endpoint, generation } => {
            let entry = route::current(CC_ENDPOINTS.get(endpoint), port.vni, generation).map_err(own)?;
            let EndpointEntry { ifindex, group, mac, .. } = *entry;
            firewall::ingress(port.group, group).map_err(|reason| Refusal {
                endpoint,
                direction: Direction::Ingress,
                reason,
            })?;
            rewrite::deliver_to(ctx, mac).map_err(own)?;
            // Before the redirect: after it the packet is no longer ours to count.
            let packets = parse::packets(ctx);
            counters::sent(port.endpoint, packets, bytes.into());
            counters::received(endpoint, packets, bytes.into());
            Ok(Verdict::Deliver { ifindex })
        }
    }
}

/// The gateway answers pings, as a first thing that a person tries, and nothing else.
#[inline(always)]
fn answer_echo(
    ctx: &TcContext,
    port: &Port,
    header: &Ipv4Header,
    accepted: &ipv4::Accepted,
) -> Result<Verdict, DropReason> {
    if header.protocol != PROTOCOL_ICMP || ipv4::is_fragment(header) {
        return Err(DropReason::GatewayClosed);
    }
    let icmp = ETHERNET_BYTES + accepted.header_bytes as usize;
    let kind: [u8; 2] = parse::header(ctx, icmp)?;
    if kind != ICMP_ECHO_REQUEST {
        return Err(DropReason::GatewayClosed);
    }
    rewrite::echo_reply(ctx, port, accepted.destination, icmp)?;
    counters::sent(port.endpoint, parse::packets(ctx), ctx.len().into());
    counters::received(port.endpoint, parse::packets(ctx), ctx.len().into());
    Ok(Verdict::Answer)
}
