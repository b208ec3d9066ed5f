//! What a container sends: admitted against its port, answered, or carried by its flow into the destination's network namespace,
//! counted on both sides. A conversation without a flow is admitted first, by both ends' rules. Refuses to let anything else
//! through: whatever is not delivered or answered is dropped, with a reason.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use aya_ebpf::programs::TcContext;
use cc_common::flow::{BEYOND_UPLINK, is_beyond};
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::net::{ArpPacket, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ip, PROTOCOL_ICMPV6};
use cc_common::packet::{Kind, Place};
use cc_common::port::{self, PORT_NETKIT, PORT_RATED, Payload, PortKey};
use cc_common::verdict::{Direction, DropReason, Verdict};
use cc_common::{arp, ipv4, ipv6, nd};

use crate::maps::{CC_ENDPOINTS, CC_PORTS};
use crate::parse::EthernetIpv4;
use crate::rewrite::ETHERNET_BYTES;
use crate::send::{deliver, send, translated};
use crate::work::{Outcome, TRANSLATE_NOT, Work};
use crate::{admit, counters, course, early, icmp, parse, rate, rewrite, trace};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let ifindex = parse::ifindex(ctx);
    let verdict = match decide(ctx, ifindex) {
        Ok(verdict) => verdict,
        Err(Outcome::ANSWER) => Verdict::Answer,
        Err(refused) => {
            counters::dropped(ctx, refused.endpoint(), refused.direction(), refused.reason());
            rewrite::record_drop(ctx, refused.reason());
            return TC_ACT_SHOT;
        }
    };
    rewrite::record(ctx, verdict);
    send(ctx, ifindex, verdict)
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
    work.port.rule_set = CC_ENDPOINTS.get(work.port.endpoint).ok_or(unknown)?.rule_set;
    trace::port(work);
    // One copy for what nearly every packet is; a shorter one is looked at by parts.
    let both = parse::header::<EthernetIpv4>(ctx, 0);
    let frame: Ethernet = match both {
        Ok(both) => both.ethernet,
        Err(_) => parse::header(ctx, 0).map_err(|reason| work.refuse(reason))?,
    };
    match port::admit(&work.port, &frame, parse::tagged(ctx)).map_err(|reason| work.refuse(reason))? {
        Payload::Ipv4 => {
            carries(ctx, ETHERTYPE_IPV4).map_err(|reason| work.refuse(reason))?;
            let header = both.map_err(|reason| work.refuse(reason))?.ipv4;
            parse::ipv4(ctx, &header, &mut work.parsed).map_err(|reason| work.refuse(reason))?;
            ipv4::is_own(&work.port, header.source).map_err(|reason| work.refuse(reason))?;
        }
        // SAFETY: the context is this program's.
        Payload::Arp => return answered(ctx, work, unsafe { cc_arp(ctx.skb.skb) }),
        Payload::Ipv6 => {
            // SAFETY: as above.
            match Outcome::from_bits(unsafe { cc_ipv6(ctx.skb.skb) }) {
                Outcome::GO => {}
                // SAFETY: as above.
                Outcome::NEIGHBOR => return answered(ctx, work, unsafe { cc_nd(ctx.skb.skb) }),
                refused => return Err(refused),
            }
        }
    }
    // One copy of it: what the kernel does with a program grows with its length, and with the square of it.
    carry(ctx, work)
}

/// Whether the kernel takes the packet for what its frame says it is: by that it chooses ways. It makes that from the frame before it receives
/// one, but from a netkit pair the sender's word stands.
#[inline(always)]
fn carries(ctx: &TcContext, ethertype: u16) -> Result<(), DropReason> {
    if parse::protocol(ctx) == u32::from(ethertype.to_be()) { Ok(()) } else { Err(DropReason::Ethertype) }
}

#[inline(always)]
fn answered(ctx: &TcContext, work: &Work, bits: u64) -> Result<Verdict, Outcome> {
    match Outcome::from_bits(bits) {
        Outcome::ANSWER => Ok(answer(ctx, work)),
        refused => Err(refused),
    }
}

/// The frame was rewritten into its own answer: the endpoint has sent one, and receives one.
#[inline(always)]
fn answer(ctx: &TcContext, work: &Work) -> Verdict {
    let (packets, bytes) = (parse::packets(ctx), u64::from(ctx.len()));
    counters::sent(work.port.endpoint, packets, bytes);
    counters::received(work.port.endpoint, packets, bytes);
    Verdict::Answer
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
    carries(ctx, ETHERTYPE_ARP)?;
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
    carries(ctx, ETHERTYPE_IPV6)?;
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
    let asked = parse::neighbor(ctx, &work.parsed)?;
    let target = nd::question(&work.port, &work.parsed.packet.source, work.parsed.ttl, &asked)?;
    let flags = nd::answer_flags(admit::lookup(work.port.vni, &target))?;
    rewrite::nd_reply(ctx, &work.port, &target, flags)?;
    Ok(Outcome::ANSWER)
}

#[inline(always)]
fn carry(ctx: &TcContext, work: &mut Work) -> Result<Verdict, Outcome> {
    trace::admitted();
    if matches!((work.parsed.fragment.place, work.parsed.packet.kind), (Place::First, Kind::Plain)) {
        work.hosts = false;
        course::cc_fragment();
        // SAFETY: the context is this program's.
        if unsafe { early::cc_again_with_early(ctx.skb.skb) } != early::NOTHING {
            return Ok(Verdict::Again);
        }
    }
    if work.port.flags & PORT_RATED != 0 {
        // SAFETY: the context is this program's.
        match Outcome::from_bits(unsafe { rate::cc_rate(ctx.skb.skb) }) {
            Outcome::GO => {}
            refused => return Err(refused),
        }
    }
    work.translate = TRANSLATE_NOT;
    let went = match course::destination(ctx, work) {
        // SAFETY: the context is this program's.
        Err(refused) if work.headless => return unsafe { headless(ctx, work, refused) },
        went => went?,
    };
    if !went {
        return Ok(answer(ctx, work));
    }
    if work.translate != TRANSLATE_NOT {
        if work.parsed.ttl <= 1 {
            return expired(ctx, work);
        }
        if work.to == BEYOND_UPLINK {
            fits(ctx)?;
        }
        translated(ctx, work)?;
    }
    if is_beyond(work.to) {
        counters::sent(work.port.endpoint, parse::packets(ctx), ctx.len().into());
        let ifindex = work.to_ifindex;
        return Ok(if work.to == BEYOND_UPLINK { Verdict::Out { ifindex } } else { Verdict::Host { ifindex } });
    }
    let verdict = deliver(ctx, work.to, work.port.flags & PORT_NETKIT != 0).map_err(|reason| match reason {
        DropReason::TooBig => Outcome::refused(work.to, Direction::Ingress, reason),
        reason => work.refuse(reason),
    })?;
    counters::sent(work.port.endpoint, parse::packets(ctx), ctx.len().into());
    Ok(verdict)
}

/// A fragment that was refused for want of its first, which it waits for: it comes again with it.
///
/// # Safety
/// `ctx` is what the kernel gave the program.
#[inline(always)]
unsafe fn headless(ctx: &TcContext, work: &Work, refused: Outcome) -> Result<Verdict, Outcome> {
    const FOR_THAT: [u16; 3] =
        [DropReason::FragmentUnknown as u16, DropReason::FirewallEgress as u16, DropReason::FirewallIngress as u16];
    if !FOR_THAT.contains(&refused.reason()) {
        return Err(refused);
    }
    // SAFETY: the caller's promise.
    let again = unsafe { early::cc_keep(ctx.skb.skb) } != early::NOTHING;
    if again { Ok(Verdict::Again) } else { Err(work.refuse(DropReason::FragmentUnknown)) }
}

/// Its time to live ends here, at the border: the sender is told.
#[inline(always)]
fn expired(ctx: &TcContext, work: &mut Work) -> Result<Verdict, Outcome> {
    if !icmp::may_be_told(work) {
        return Err(work.refuse(DropReason::TtlExceeded));
    }
    counters::dropped(ctx, work.port.endpoint, Direction::Egress, DropReason::TtlExceeded as u16);
    // SAFETY: the context is this program's.
    match Outcome::from_bits(unsafe { icmp::cc_expired(ctx.skb.skb) }) {
        Outcome::ANSWER => Ok(Verdict::Answer),
        refused => Err(refused),
    }
}

/// Whether the packet, or each of the segments that it stands for, fits the way out; the sender is told what would.
#[inline(always)]
fn fits(ctx: &TcContext) -> Result<(), Outcome> {
    if ctx.len() <= icmp::ALWAYS_FITS_BYTES {
        return Ok(());
    }
    // SAFETY: the context is this program's.
    match Outcome::from_bits(unsafe { icmp::cc_fits(ctx.skb.skb) }) {
        Outcome::GO => Ok(()),
        refused => Err(refused),
    }
}
