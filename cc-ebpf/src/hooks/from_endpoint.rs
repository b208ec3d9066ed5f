//! What a container sends: admitted against its port, answered, or carried by its flow into the destination's network namespace,
//! counted on both sides. A conversation without a flow is admitted first, by both ends' rules. Refuses to let anything else
//! through: whatever is not delivered or answered is dropped, with a reason.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use cc_common::flow::Flow;
use cc_common::fragment::{FragmentEntry, FragmentKey};
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::names::MARK_OURS;
use cc_common::net::{ArpPacket, Ethernet, Ip, PROTOCOL_ICMPV6, PROTOCOL_TCP};
use cc_common::packet::{Fragment, Kind, TCP_ACK, TCP_SYN};
use cc_common::port::{self, PORT_RATED, Payload, PortKey};
use cc_common::route::{self, ENDPOINT_QUEUED, EndpointEntry};
use cc_common::verdict::{Direction, DropReason, Verdict};
use cc_common::{arp, ipv4, ipv6, nd};

use crate::maps::{CC_ENDPOINTS, CC_FRAGMENTS, CC_PORTS};
use crate::parse::EthernetIpv4;
use crate::rewrite::ETHERNET_BYTES;
use crate::work::{Outcome, Target, Work};
use crate::{admit, conntrack, counters, firewall, icmp, parse, rate, rewrite};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let ifindex = parse::ifindex(ctx);
    let verdict = match decide(ctx, ifindex) {
        Ok(verdict) => verdict,
        Err(refused) => {
            counters::dropped(ctx, refused.endpoint(), refused.direction(), refused.reason());
            rewrite::record_drop(ctx, refused.reason());
            return TC_ACT_SHOT;
        }
    };
    rewrite::record(ctx, verdict);
    match verdict {
        // SAFETY: plain integers; the helper only notes where to send the packet when we return.
        Verdict::Deliver { ifindex } => unsafe { bpf_redirect_peer(ifindex, 0) as i32 },
        Verdict::Queue { ifindex } => {
            ctx.skb.set_mark(MARK_OURS);
            // SAFETY: as above.
            unsafe { bpf_redirect(ifindex, 0) as i32 }
        }
        Verdict::Answer => {
            ctx.skb.set_mark(MARK_OURS);
            // SAFETY: as above.
            unsafe { bpf_redirect(ifindex, 0) as i32 }
        }
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Out { .. } | Verdict::Host { .. } | Verdict::Drop(_) => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn decide(ctx: &TcContext, ifindex: u32) -> Result<Verdict, Outcome> {
    let unknown = Outcome::refused(ENDPOINT_UNKNOWN, Direction::Egress, DropReason::UnknownPort);
    let work = Work::mine().ok_or(unknown)?;
    // SAFETY: the row is removed after the links of its interface, and copied here at once.
    match unsafe { CC_PORTS.get(PortKey { ifindex }) } {
        Some(port) => work.port = *port,
        None => return Err(unknown),
    }
    // One copy for what nearly every packet is; a shorter one is looked at by parts.
    let both = parse::header::<EthernetIpv4>(ctx, 0);
    let frame: Ethernet = match both {
        Ok(both) => both.ethernet,
        Err(_) => parse::header(ctx, 0).map_err(|reason| work.refuse(reason))?,
    };
    match port::admit(&work.port, &frame, parse::tagged(ctx)).map_err(|reason| work.refuse(reason))? {
        Payload::Ipv4 => {
            let header = both.map_err(|reason| work.refuse(reason))?.ipv4;
            parse::ipv4(ctx, &header, &mut work.parsed).map_err(|reason| work.refuse(reason))?;
            ipv4::is_own(&work.port, header.source).map_err(|reason| work.refuse(reason))?;
            carry(ctx, work)
        }
        // SAFETY: the context is this program's.
        Payload::Arp => answered(unsafe { cc_arp(ctx.skb.skb) }),
        Payload::Ipv6 => {
            // SAFETY: as above.
            match Outcome::from_bits(unsafe { cc_ipv6(ctx.skb.skb) }) {
                Outcome::GO => carry(ctx, work),
                // SAFETY: as above.
                Outcome::NEIGHBOR => answered(unsafe { cc_nd(ctx.skb.skb) }),
                refused => Err(refused),
            }
        }
    }
}

#[inline(always)]
fn answered(bits: u64) -> Result<Verdict, Outcome> {
    match Outcome::from_bits(bits) {
        Outcome::ANSWER => Ok(Verdict::Answer),
        refused => Err(refused),
    }
}

/// Answers ARP. Verified by itself, as `admit`'s.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cc_arp(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    work.outcome(answer_arp(&TcContext::new(skb), work))
}

#[inline(always)]
fn answer_arp(ctx: &TcContext, work: &Work) -> Result<Outcome, DropReason> {
    let packet: ArpPacket = parse::header(ctx, ETHERNET_BYTES)?;
    let target = arp::question(&work.port, &packet)?;
    arp::answerable(admit::lookup(work.port.vni, &Ip::v4(target)))?;
    rewrite::arp_reply(ctx, work.port.mac, &packet, target)?;
    Ok(Outcome::ANSWER)
}

/// Parses IPv6, and judges its addresses. Verified by itself, as `admit`'s.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cc_ipv6(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    let parsed = parse_ipv6(&TcContext::new(skb), work);
    work.outcome(parsed)
}

#[inline(always)]
fn parse_ipv6(ctx: &TcContext, work: &mut Work) -> Result<Outcome, DropReason> {
    parse::ipv6(ctx, &mut work.parsed)?;
    let packet = &work.parsed.packet;
    if packet.protocol == PROTOCOL_ICMPV6 && matches!(packet.icmp[0], nd::ROUTER_SOLICITATION..=137) {
        return Ok(Outcome::NEIGHBOR);
    }
    ipv6::is_routable(&packet.destination)?;
    ipv6::is_own(&work.port, &packet.source)?;
    Ok(Outcome::GO)
}

/// Answers neighbour discovery. Verified by itself, as `admit`'s.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cc_nd(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    work.outcome(answer_nd(&TcContext::new(skb), work))
}

#[inline(always)]
fn answer_nd(ctx: &TcContext, work: &Work) -> Result<Outcome, DropReason> {
    let asked: nd::Neighbor = parse::header(ctx, work.parsed.transport as usize)?;
    let target = nd::question(&work.port, &work.parsed.packet.source, work.parsed.ttl, &asked)?;
    let flags = nd::answer_flags(admit::lookup(work.port.vni, &target))?;
    rewrite::nd_reply(ctx, &work.port, &target, flags)?;
    Ok(Outcome::ANSWER)
}

#[inline(always)]
fn carry(ctx: &TcContext, work: &mut Work) -> Result<Verdict, Outcome> {
    if work.port.flags & PORT_RATED != 0 {
        // SAFETY: the context is this program's.
        match Outcome::from_bits(unsafe { rate::cc_rate(ctx.skb.skb) }) {
            Outcome::GO => {}
            refused => return Err(refused),
        }
    }
    match destination(ctx, work)? {
        Some(target) => deliver(ctx, work, &target),
        None => {
            let (packets, bytes) = (parse::packets(ctx), u64::from(ctx.len()));
            counters::sent(work.port.endpoint, packets, bytes);
            counters::received(work.port.endpoint, packets, bytes);
            Ok(Verdict::Answer)
        }
    }
}

/// Where the packet goes; nowhere, if it was turned into its own answer.
#[inline(always)]
fn destination(ctx: &TcContext, work: &mut Work) -> Result<Option<Target>, Outcome> {
    if matches!(work.parsed.packet.kind, Kind::Error) {
        // SAFETY: the context is this program's.
        return match Outcome::from_bits(unsafe { icmp::cc_related(ctx.skb.skb) }) {
            Outcome::GO => target(work, work.flow.endpoints[0]),
            refused => Err(refused),
        };
    }
    work.headless = false;
    if !matches!(work.parsed.fragment, Fragment::Whole) {
        cc_fragment();
    }
    work.sender = work.key.set(work.port.vni, &work.parsed.packet) as u8;
    if !work.headless
        && let Some(flow) = work.known_flow()
    {
        conntrack::keep(flow).map_err(|reason| work.refuse(reason))?;
        // SAFETY: the row stays mapped until the program ends. It may be given to another flow meanwhile, if it was forgotten
        // within this very run: what is read of it is compared with this packet's port and with the endpoint it leads to.
        let known = unsafe { &mut *flow };
        let (target, holds) = standing(work, known);
        if let Some(target) = target {
            if !holds {
                let outcome = Outcome::from_bits(admit::cc_again());
                if outcome != Outcome::GO {
                    conntrack::forget(&work.key, flow);
                    return Err(outcome);
                }
            }
            proceed(ctx, work, flow, known).map_err(|reason| work.refuse(reason))?;
            return Ok(Some(target));
        }
        // Of an endpoint that is gone, or over: whoever goes on begins anew.
        conntrack::forget(&work.key, flow);
    }
    // SAFETY: the context is this program's.
    match Outcome::from_bits(unsafe { admit::cc_admit(ctx.skb.skb) }) {
        Outcome::GO => target(work, work.flow.endpoints[work.side().other().index()]),
        Outcome::ANSWER => Ok(None),
        refused => Err(refused),
    }
}

#[inline(always)]
fn target(work: &Work, endpoint: u32) -> Result<Option<Target>, Outcome> {
    match CC_ENDPOINTS.get(endpoint) {
        Some(entry) => Ok(Some(Target { endpoint, entry })),
        None => Err(work.refuse(DropReason::StaleEndpoint)),
    }
}

/// A first fragment is remembered for those that follow, which get its ports.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cc_fragment() -> u64 {
    let Some(work) = Work::mine() else { return 0 };
    let vni = work.port.vni;
    match work.parsed.fragment {
        Fragment::Whole => {}
        Fragment::First { id } => {
            let packet = &work.parsed.packet;
            // A full table forgets its oldest: nothing is lost that cannot be sent again.
            let _ = CC_FRAGMENTS.insert(FragmentKey::of(vni, packet, id), FragmentEntry::of(packet), 0);
        }
        Fragment::Later { id } => {
            // SAFETY: eight bytes, copied at once.
            match unsafe { CC_FRAGMENTS.get(FragmentKey::of(vni, &work.parsed.packet, id)) } {
                Some(entry) => entry.complete(&mut work.parsed.packet),
                None => work.headless = true,
            }
        }
    }
    0
}

/// Where a flow leads, if its ends are still the same and it is not over; and whether what it was judged by still holds.
#[inline(always)]
fn standing(work: &Work, flow: &Flow) -> (Option<Target>, bool) {
    let (us, them) = (work.side().index(), work.side().other().index());
    let (port, packet) = (&work.port, &work.parsed.packet);
    let endpoint = flow.endpoints[them];
    let Some(entry) = CC_ENDPOINTS.get(endpoint) else { return (None, false) };
    let same_ends = flow.generations[us] == port.generation
        && entry.generation == flow.generations[them]
        && route::current(Some(entry), port.vni, &packet.destination).is_ok();
    // The same ports again after both were done: a new conversation.
    let begins_again =
        packet.protocol == PROTOCOL_TCP && packet.tcp.flags & (TCP_SYN | TCP_ACK) == TCP_SYN && flow.tracked.is_over();
    if !same_ends || begins_again {
        return (None, false);
    }
    let holds =
        flow.rules[us] == firewall::version(port.rule_set) && flow.rules[them] == firewall::version(entry.rule_set);
    (Some(Target { endpoint, entry }), holds)
}

/// What the packet changes of its flow.
#[inline(always)]
fn proceed(ctx: &TcContext, work: &Work, row: *mut Flow, flow: &mut Flow) -> Result<(), DropReason> {
    let packet = &work.parsed.packet;
    if packet.protocol == PROTOCOL_TCP {
        let scale = if packet.tcp.flags & TCP_SYN == 0 {
            None
        } else {
            // SAFETY: the context is this program's.
            admit::scale(unsafe { admit::cc_scale(ctx.skb.skb) })
        };
        if !matches!(work.parsed.fragment, Fragment::Later { .. })
            && !flow.tracked.segment(work.side(), &packet.tcp, scale)
        {
            return Err(DropReason::TcpReset);
        }
    } else {
        flow.tracked.spoke(work.side());
    }
    conntrack::settle(row, packet.protocol);
    let now = conntrack::now_ns();
    if flow.last_seen_ns != now {
        flow.last_seen_ns = now;
    }
    let us = work.side().index();
    flow.packets[us] = flow.packets[us].wrapping_add(parse::packets(ctx));
    flow.bytes[us] = flow.bytes[us].wrapping_add(u64::from(ctx.len()));
    Ok(())
}

/// Into the target's network namespace.
#[inline(always)]
fn deliver(ctx: &TcContext, work: &Work, target: &Target) -> Result<Verdict, Outcome> {
    let EndpointEntry { ifindex, mac, flags, .. } = *target.entry;
    rewrite::deliver_to(ctx, mac).map_err(|reason| work.refuse(reason))?;
    // Before the redirect: after it the packet is no longer ours to count.
    let (packets, bytes) = (parse::packets(ctx), u64::from(ctx.len()));
    counters::sent(work.port.endpoint, packets, bytes);
    counters::received(target.endpoint, packets, bytes);
    Ok(if flags & ENDPOINT_QUEUED != 0 { Verdict::Queue { ifindex } } else { Verdict::Deliver { ifindex } })
}
