//! Packets that come in from beyond the networks: the flow that one belongs to, or the conversation that it begins. Refuses to send
//! anything, and to judge what is none of ours.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use cc_common::flow::{BEYOND_UPLINK, Side, VNI_OUTSIDE};
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_TCP};
use cc_common::packet::{Kind, Place, TCP_ACK, TCP_SYN};
use cc_common::trace::{STANDING_CHANGED, STANDING_FOREIGN, STANDING_HOLDS};
use cc_common::verdict::{Direction, DropReason, Verdict};

use crate::beyond::is_at_host;
use crate::conntrack::By;
use crate::course::{cc_fragment, proceed};
use crate::maps::{CC_ENDPOINTS, CC_SETTINGS};
use crate::parse::EthernetIpv4;
use crate::send::{deliver, translated};
use crate::work::{NO_PLACE, Outcome, TRANSLATE_NOT, TRANSLATE_PACKET, Work};
use crate::{again, conntrack, decisions, early, firewall, icmp, parse, recycle, trace};

/// What becomes of a packet.
pub enum Fate {
    Go(Verdict),
    /// None of ours.
    Pass,
    Drop(Outcome),
}

#[inline(always)]
pub fn decide(ctx: &TcContext, beyond: u32, enter: impl Fn(&TcContext) -> u64) -> Fate {
    let Some(work) = Work::mine() else { return Fate::Pass };
    trace::begin(work);
    match find(ctx, work, beyond, enter) {
        Ok(true) => {}
        Ok(false) | Err(Outcome::PASS) => return Fate::Pass,
        Err(Outcome::AGAIN) => return Fate::Go(Verdict::Again),
        Err(refused) => return Fate::Drop(refused),
    }
    let shut = |reason| Fate::Drop(Outcome::refused(work.to, Direction::Ingress, reason));
    if work.parsed.ttl <= 1 {
        return shut(DropReason::TtlExceeded);
    }
    if translated(ctx, work).is_err() {
        return shut(DropReason::Rewrite);
    }
    match deliver(ctx, work.to, false) {
        Ok(verdict) => Fate::Go(verdict),
        Err(reason) => shut(reason),
    }
}

/// Whether the packet, which came from `beyond`, is for an endpoint: then `work.to`, and how it is translated.
#[inline(always)]
fn find(ctx: &TcContext, work: &mut Work, beyond: u32, enter: impl Fn(&TcContext) -> u64) -> Result<bool, Outcome> {
    let protocol = parse::protocol(ctx);
    if parse::tagged(ctx) {
        return Ok(false);
    }
    if protocol == u32::from(ETHERTYPE_IPV4.to_be()) {
        let Ok(both) = parse::header::<EthernetIpv4>(ctx, 0) else { return Ok(false) };
        if parse::ipv4(ctx, &both.ipv4, &mut work.parsed).is_err() {
            return Ok(false);
        }
    } else if protocol == u32::from(ETHERTYPE_IPV6.to_be()) {
        // SAFETY: the context is this program's.
        if Outcome::from_bits(unsafe { cc_ipv6_outside(ctx.skb.skb) }) != Outcome::GO {
            return Ok(false);
        }
    } else {
        return Ok(false);
    }
    work.translate = TRANSLATE_NOT;
    work.port.vni = VNI_OUTSIDE;
    work.port.endpoint = ENDPOINT_UNKNOWN;
    work.to = beyond;
    if matches!(work.parsed.packet.kind, Kind::Error) {
        // SAFETY: the context is this program's.
        return Ok(Outcome::from_bits(unsafe { icmp::cc_related_outside(ctx.skb.skb) }) == Outcome::GO);
    }
    // The host's own affair.
    if matches!(work.parsed.packet.kind, Kind::Advice) {
        return Ok(false);
    }
    (work.headless, work.hosts) = (false, false);
    if work.parsed.fragment.is_later() {
        cc_fragment();
    }
    if work.hosts {
        return Ok(false);
    }
    if work.headless {
        // The host's, or ours: as the host's it passes, and a copy waits for what says so. The host's own sockets send in order.
        if beyond == BEYOND_UPLINK && is_at_host(&mut work.forward, &work.parsed.packet.destination) {
            // SAFETY: the context is this program's.
            if unsafe { early::cc_keep(ctx.skb.skb) } != early::NOTHING {
                return Err(Outcome::AGAIN);
            }
        }
        return Ok(false);
    }
    let is_ours = carried(ctx, work, beyond, enter)?;
    if matches!(work.parsed.fragment.place, Place::First) {
        work.hosts = !is_ours;
        cc_fragment();
        let (packets, bytes) = (parse::packets(ctx), ctx.len());
        // SAFETY: the context is this program's.
        if is_ours && beyond == BEYOND_UPLINK && unsafe { early::cc_again_with_early(ctx.skb.skb) } != early::NOTHING {
            uncount(work, packets, bytes.into());
            return Err(Outcome::AGAIN);
        }
    }
    Ok(is_ours)
}

/// The packet has counted for its flow, and will once more when it comes in again.
#[inline(always)]
fn uncount(work: &Work, packets: u64, bytes: u64) {
    let Some(flow) = work.known_flow() else { return };
    let us = work.side().index();
    // SAFETY: as in `follow`.
    let flow = unsafe { &mut *flow };
    flow.packets[us] = flow.packets[us].wrapping_sub(packets);
    flow.bytes[us] = flow.bytes[us].wrapping_sub(bytes);
}

/// A packet by its flow, or one that begins one.
#[inline(always)]
fn carried(ctx: &TcContext, work: &mut Work, beyond: u32, enter: impl Fn(&TcContext) -> u64) -> Result<bool, Outcome> {
    work.other_key.set(VNI_OUTSIDE, &work.parsed.packet);
    if let Some(entry) = work.outside() {
        work.key = entry.flow;
        work.sender = entry.beyond;
        if follow(ctx, work, beyond)? {
            return Ok(true);
        }
        // Whoever goes on begins anew: by the key of the outside.
        work.other_key.set(VNI_OUTSIDE, &work.parsed.packet);
    }
    // Stand-ins are not on any wire.
    if beyond == BEYOND_UPLINK
        && CC_SETTINGS
            .get(0)
            .is_some_and(|settings| settings.stand_ins.endpoint_of(&work.parsed.packet.destination).is_some())
    {
        return Err(Outcome::refused(ENDPOINT_UNKNOWN, Direction::Ingress, DropReason::NoRoute));
    }
    work.key = work.other_key;
    work.decided.begin(true);
    work.left = NO_PLACE;
    let mut outcome = Outcome::from_bits(enter(ctx));
    if recycle::makes_room(outcome) {
        work.key = work.other_key;
        work.decided.begin(true);
        outcome = Outcome::from_bits(enter(ctx));
    }
    decisions::tell(work, outcome);
    match outcome {
        Outcome::GO => Ok(true),
        refused => Err(refused),
    }
}

/// A packet of a flow that stands; false if it does not, and is forgotten.
#[inline(always)]
fn follow(ctx: &TcContext, work: &mut Work, from: u32) -> Result<bool, Outcome> {
    let Some(flow) = work.known_flow() else { return Ok(false) };
    let side = work.side();
    let (beyond, ours) = (side.index(), side.other().index());
    // SAFETY: the row stays mapped until the program ends. It may be given to another flow meanwhile, if it was forgotten within this
    // very run: what is read of it is compared with the endpoint it leads to.
    let known = unsafe { &mut *flow };
    let endpoint = known.endpoints[ours];
    // The same tuple on the other side of the host is another conversation.
    if known.endpoints[beyond] != from {
        return Err(Outcome::PASS);
    }
    let shut = |reason| Outcome::refused(endpoint, Direction::Ingress, reason);
    conntrack::keep(flow).map_err(shut)?;
    let packet = &work.parsed.packet;
    let begins_again =
        packet.protocol == PROTOCOL_TCP && packet.tcp.flags & (TCP_SYN | TCP_ACK) == TCP_SYN && known.tracked.is_over();
    let (Some(entry), Some(settings)) = (CC_ENDPOINTS.get(endpoint), CC_SETTINGS.get(0)) else {
        return Err(shut(DropReason::StaleEndpoint));
    };
    if entry.generation != known.generations[ours] || entry.vni != work.key.vni || begins_again {
        trace::standing(STANDING_FOREIGN);
        conntrack::forget(By::Packet, &work.key, flow);
        return Ok(false);
    }
    let holds =
        known.rules[ours] == firewall::version(entry.rule_set) && known.rules[beyond] == settings.beyond_version;
    trace::standing(if holds { STANDING_HOLDS } else { STANDING_CHANGED });
    if !holds {
        // SAFETY: the context is this program's.
        let mut outcome = Outcome::from_bits(unsafe { again::cc_same_way(ctx.skb.skb) });
        if outcome == Outcome::GO {
            outcome = Outcome::from_bits(again::cc_beyond_again());
        }
        if outcome != Outcome::GO {
            conntrack::forget(By::Packet, &work.key, flow);
            return if outcome == Outcome::BEYOND { Ok(false) } else { Err(outcome) };
        }
    }
    proceed(ctx, work, side, flow, known).map_err(shut)?;
    work.to = endpoint;
    work.translate = TRANSLATE_PACKET;
    work.out = work.key.inward(Side::from_index(work.sender));
    Ok(true)
}

/// Parses IPv6. Verified by itself, as `admit`'s.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cc_ipv6_outside(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::PASS.bits() };
    match parse::ipv6(&TcContext::new(skb), &mut work.parsed) {
        // An IPv4 address in IPv6's clothes would be taken for one.
        Ok(()) if work.parsed.packet.source.is_v4() || work.parsed.packet.destination.is_v4() => Outcome::PASS.bits(),
        Ok(()) => Outcome::GO.bits(),
        Err(_) => Outcome::PASS.bits(),
    }
}
