//! What a container sends: admitted against its port, answered, or carried by its flow into the destination's network namespace,
//! counted on both sides. A conversation without a flow is admitted first, by both ends' rules. Refuses to let anything else
//! through: whatever is not delivered or answered is dropped, with a reason.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use aya_ebpf::programs::TcContext;
use cc_common::flow::{BEYOND_UPLINK, FLAG_TRANSLATED, Flow, Side, is_beyond};
use cc_common::fragment::{FragmentEntry, FragmentKey};
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::net::{ArpPacket, Ethernet, Ip, PROTOCOL_ICMPV6, PROTOCOL_TCP};
use cc_common::packet::{Kind, Place, TCP_ACK, TCP_SYN};
use cc_common::port::{self, PORT_RATED, Payload, PortKey};
use cc_common::route;
use cc_common::trace::{STANDING_CHANGED, STANDING_FOREIGN, STANDING_HOLDS};
use cc_common::verdict::{Direction, DropReason, Verdict};
use cc_common::{arp, ipv4, ipv6, nd};

use crate::conntrack::By;
use crate::maps::{CC_ENDPOINTS, CC_FRAGMENTS, CC_PORTS, CC_SETTINGS};
use crate::parse::EthernetIpv4;
use crate::rewrite::ETHERNET_BYTES;
use crate::send::{deliver, send, translated};
use crate::work::{Outcome, TRANSLATE_NOT, TRANSLATE_PACKET, Work};
use crate::{admit, again, beyond, conntrack, counters, firewall, hairpin, icmp, parse, rate, rewrite, trace};

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
    trace::port(work);
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
    trace::admitted();
    if work.port.flags & PORT_RATED != 0 {
        // SAFETY: the context is this program's.
        match Outcome::from_bits(unsafe { rate::cc_rate(ctx.skb.skb) }) {
            Outcome::GO => {}
            refused => return Err(refused),
        }
    }
    work.translate = TRANSLATE_NOT;
    if !destination(ctx, work)? {
        let (packets, bytes) = (parse::packets(ctx), u64::from(ctx.len()));
        counters::sent(work.port.endpoint, packets, bytes);
        counters::received(work.port.endpoint, packets, bytes);
        return Ok(Verdict::Answer);
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
    let verdict = deliver(ctx, work.to).ok_or(work.refuse(DropReason::StaleEndpoint))?;
    counters::sent(work.port.endpoint, parse::packets(ctx), ctx.len().into());
    Ok(verdict)
}

/// Where the packet goes: `work.to`, and how it is translated; false if it was turned into its own answer.
#[inline(always)]
fn destination(ctx: &TcContext, work: &mut Work) -> Result<bool, Outcome> {
    if matches!(work.parsed.packet.kind, Kind::Error) {
        // SAFETY: the context is this program's.
        return match Outcome::from_bits(unsafe { icmp::cc_related(ctx.skb.skb) }) {
            Outcome::GO => Ok(true),
            refused => Err(refused),
        };
    }
    work.headless = false;
    if !work.parsed.fragment.is_whole() {
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
        let standing = standing(work, known);
        trace::standing(standing as u32);
        let mut goes_on = !matches!(standing, Standing::Foreign);
        if matches!(standing, Standing::Changed) {
            // SAFETY: the context is this program's.
            let outcome = Outcome::from_bits(unsafe { judge_again(ctx, work, known) });
            // Its way is another one now.
            goes_on = outcome == Outcome::GO;
            if !goes_on && outcome != Outcome::BEYOND {
                conntrack::forget(By::Packet, &work.key, flow);
                return Err(outcome);
            }
        }
        if goes_on {
            let side = work.side();
            proceed(ctx, work, side, flow, known).map_err(|reason| work.refuse(reason))?;
            work.to = known.endpoints[side.other().index()];
            if known.flags & FLAG_TRANSLATED != 0 {
                work.to_ifindex = known.ifindex;
                work.translate = TRANSLATE_PACKET;
                work.out = known.outward(side);
                if !is_beyond(work.to) {
                    // SAFETY: the context is this program's.
                    let outcome = Outcome::from_bits(unsafe { cc_partner(ctx.skb.skb) });
                    if outcome != Outcome::GO {
                        conntrack::forget(By::Packet, &work.key, flow);
                        return Err(outcome);
                    }
                }
            }
            return Ok(true);
        }
        // Of an endpoint that is gone, or over: whoever goes on begins anew.
        conntrack::forget(By::Packet, &work.key, flow);
    }
    begin(ctx)
}

/// Whether a flow that stands is still allowed, by the rules and the world as they are now.
///
/// # Safety
/// `ctx` is the program's own.
#[inline(always)]
unsafe fn judge_again(ctx: &TcContext, work: &Work, known: &Flow) -> u64 {
    if known.flags & FLAG_TRANSLATED == 0 {
        return admit::cc_again();
    }
    // SAFETY: as this function's contract says.
    let same = unsafe { again::cc_same_way(ctx.skb.skb) };
    if Outcome::from_bits(same) != Outcome::GO {
        return same;
    }
    if is_beyond(known.endpoints[work.side().other().index()]) {
        again::cc_beyond_again()
    } else {
        again::cc_hairpin_again()
    }
}

/// Two containers that talk by a published port have a flow each, which sees one's packets only: this goes on with the other one, so that
/// both know both directions, and live equally long. By `work.out`, to `work.to`.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cc_partner(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    let Some(entry) = CC_ENDPOINTS.get(work.to) else { return work.refuse(DropReason::StaleEndpoint).bits() };
    work.quoted.begin(work.out.source, work.out.destination, work.key.protocol);
    (work.quoted.source_port, work.quoted.destination_port) = (work.out.source_port, work.out.destination_port);
    let side = work.other_key.set(entry.vni, &work.quoted);
    let Some(flow) = hairpin::other_flow(work) else { return work.refuse(DropReason::FlowClosing).bits() };
    let went_on = conntrack::keep(flow).and_then(|()| {
        // SAFETY: as in `destination`.
        proceed(&TcContext::new(skb), work, side, flow, unsafe { &mut *flow })
    });
    work.outcome(went_on.map(|()| Outcome::GO))
}

/// A conversation that no flow stands for. What it may come to is decided by one function after the other, each verified by itself.
#[inline(always)]
fn begin(ctx: &TcContext) -> Result<bool, Outcome> {
    // SAFETY: the context is this program's.
    let mut outcome = Outcome::from_bits(unsafe { admit::cc_admit(ctx.skb.skb) });
    // SAFETY: as above.
    unsafe {
        if outcome == Outcome::BEYOND {
            outcome = Outcome::from_bits(beyond::cc_beyond(ctx.skb.skb));
            if outcome == Outcome::GO {
                outcome = Outcome::from_bits(beyond::cc_masquerade());
            }
        }
        if outcome == Outcome::PUBLISHED {
            outcome = Outcome::from_bits(hairpin::cc_hairpin());
            if outcome == Outcome::GO {
                outcome = Outcome::from_bits(hairpin::cc_hairpin_there(ctx.skb.skb));
            }
            if outcome == Outcome::GO {
                outcome = Outcome::from_bits(hairpin::cc_hairpin_back(ctx.skb.skb));
            }
        }
    }
    match outcome {
        Outcome::GO => Ok(true),
        Outcome::ANSWER => Ok(false),
        refused => Err(refused),
    }
}

/// A first fragment is remembered for those that follow, which get its ports.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cc_fragment() -> u64 {
    let Some(work) = Work::mine() else { return 0 };
    let vni = work.port.vni;
    let id = work.parsed.fragment.id;
    match work.parsed.fragment.place {
        Place::Whole => {}
        Place::First => {
            let packet = &work.parsed.packet;
            // A full table forgets its oldest: nothing is lost that cannot be sent again.
            if !trace::dry_run() {
                let _ = CC_FRAGMENTS.insert(FragmentKey::of(vni, packet, id), FragmentEntry::of(packet), 0);
            }
        }
        Place::Later => {
            // SAFETY: eight bytes, copied at once.
            match unsafe { CC_FRAGMENTS.get(FragmentKey::of(vni, &work.parsed.packet, id)) } {
                Some(entry) => entry.complete(&mut work.parsed.packet),
                None => work.headless = true,
            }
        }
    }
    0
}

/// Whether what a flow was judged by still holds.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Standing {
    Holds = STANDING_HOLDS,
    /// Its ends are the same; their rules, or the world, are not.
    Changed = STANDING_CHANGED,
    /// It is another's, or over.
    Foreign = STANDING_FOREIGN,
}

#[inline(always)]
fn standing(work: &Work, flow: &Flow) -> Standing {
    let (us, them) = (work.side().index(), work.side().other().index());
    let (port, packet) = (&work.port, &work.parsed.packet);
    // The same ports again after both were done: a new conversation.
    let begins_again =
        packet.protocol == PROTOCOL_TCP && packet.tcp.flags & (TCP_SYN | TCP_ACK) == TCP_SYN && flow.tracked.is_over();
    if flow.generations[us] != port.generation || begins_again {
        return Standing::Foreign;
    }
    let other = flow.endpoints[them];
    let version = if is_beyond(other) {
        match CC_SETTINGS.get(0) {
            Some(settings) => settings.beyond_version,
            None => return Standing::Foreign,
        }
    } else {
        let Some(entry) = CC_ENDPOINTS.get(other) else { return Standing::Foreign };
        let is_there = if flow.flags & FLAG_TRANSLATED == 0 {
            route::current(Some(entry), port.vni, &packet.destination)
        } else {
            route::current(Some(entry), entry.vni, &flow.outer_addresses[them])
        };
        if entry.generation != flow.generations[them] || is_there.is_err() {
            return Standing::Foreign;
        }
        // Two containers' flow by a published port.
        if flow.flags & FLAG_TRANSLATED != 0
            && CC_SETTINGS.get(0).is_none_or(|settings| settings.beyond_version as u32 != flow.beyond_version)
        {
            return Standing::Changed;
        }
        firewall::version(entry.rule_set)
    };
    let holds = flow.rules[us] == firewall::version(port.rule_set) && flow.rules[them] == version;
    if holds { Standing::Holds } else { Standing::Changed }
}

/// What the packet changes of its flow.
#[inline(always)]
pub fn proceed(ctx: &TcContext, work: &Work, side: Side, row: *mut Flow, flow: &mut Flow) -> Result<(), DropReason> {
    let packet = &work.parsed.packet;
    if packet.protocol == PROTOCOL_TCP {
        let scale = if packet.tcp.flags & TCP_SYN == 0 {
            None
        } else {
            // SAFETY: the context is this program's.
            admit::scale(unsafe { admit::cc_scale(ctx.skb.skb) })
        };
        if !work.parsed.fragment.is_later() && !flow.tracked.segment(side, &packet.tcp, scale) {
            return Err(DropReason::TcpReset);
        }
    } else {
        flow.tracked.spoke(side);
    }
    conntrack::settle(row, packet.protocol);
    let now = conntrack::now_ns();
    if flow.last_seen_ns != now {
        flow.last_seen_ns = now;
    }
    let us = side.index();
    flow.packets[us] = flow.packets[us].wrapping_add(parse::packets(ctx));
    flow.bytes[us] = flow.bytes[us].wrapping_add(u64::from(ctx.len()));
    Ok(())
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

/// Smaller packets fit every interface (RFC 8200).
const ALWAYS_FITS_BYTES: u32 = 1280 + ETHERNET_BYTES as u32;

/// Whether the packet, or each of the segments that it stands for, fits the way out; the sender is told what would.
#[inline(always)]
fn fits(ctx: &TcContext) -> Result<(), Outcome> {
    if ctx.len() <= ALWAYS_FITS_BYTES {
        return Ok(());
    }
    // SAFETY: the context is this program's.
    match Outcome::from_bits(unsafe { icmp::cc_fits(ctx.skb.skb) }) {
        Outcome::GO => Ok(()),
        refused => Err(refused),
    }
}
