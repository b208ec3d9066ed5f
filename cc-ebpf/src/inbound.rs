//! Packets that come in from beyond the networks: the flow that one belongs to, or the conversation that it begins. Refuses to send
//! anything, and to judge what is none of ours.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use cc_common::flow::{Side, VNI_OUTSIDE};
use cc_common::net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_TCP};
use cc_common::packet::{Kind, TCP_ACK, TCP_SYN};
use cc_common::trace::{STANDING_CHANGED, STANDING_FOREIGN, STANDING_HOLDS};
use cc_common::verdict::{Direction, DropReason, Verdict};

use crate::conntrack::By;
use crate::hooks::from_endpoint::{cc_fragment, proceed};
use crate::maps::{CC_ENDPOINTS, CC_SETTINGS};
use crate::parse::EthernetIpv4;
use crate::send::{deliver, translated};
use crate::work::{Outcome, TRANSLATE_NOT, TRANSLATE_PACKET, Work};
use crate::{beyond, conntrack, firewall, icmp, parse, trace};

/// What becomes of a packet.
pub enum Fate {
    Go(Verdict),
    /// None of ours.
    Pass,
    Drop(Outcome),
}

#[inline(always)]
pub fn decide(ctx: &TcContext, enter: impl Fn(&TcContext) -> u64) -> Fate {
    let Some(work) = Work::mine() else { return Fate::Pass };
    trace::begin(work);
    match find(ctx, work, enter) {
        Ok(true) => {}
        Ok(false) | Err(Outcome::PASS) => return Fate::Pass,
        Err(refused) => return Fate::Drop(refused),
    }
    let shut = |reason| Fate::Drop(Outcome::refused(work.to, Direction::Ingress, reason));
    if work.parsed.ttl <= 1 {
        return shut(DropReason::TtlExceeded);
    }
    if translated(ctx, work).is_err() {
        return shut(DropReason::Rewrite);
    }
    match deliver(ctx, work.to) {
        Some(verdict) => Fate::Go(verdict),
        None => shut(DropReason::StaleEndpoint),
    }
}

/// Whether the packet is for an endpoint: then `work.to`, and how it is translated.
#[inline(always)]
fn find(ctx: &TcContext, work: &mut Work, enter: impl Fn(&TcContext) -> u64) -> Result<bool, Outcome> {
    // SAFETY: as in `parse::ifindex`.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
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
    if matches!(work.parsed.packet.kind, Kind::Error) {
        // SAFETY: the context is this program's.
        return Ok(Outcome::from_bits(unsafe { icmp::cc_related_outside(ctx.skb.skb) }) == Outcome::GO);
    }
    work.headless = false;
    if !work.parsed.fragment.is_whole() {
        cc_fragment();
    }
    if work.headless {
        return Ok(false);
    }
    work.other_key.set(VNI_OUTSIDE, &work.parsed.packet);
    if let Some(entry) = work.outside() {
        work.key = entry.flow;
        work.sender = entry.beyond;
        if follow(ctx, work)? {
            return Ok(true);
        }
        // Whoever goes on begins anew: by the key of the outside.
        work.other_key.set(VNI_OUTSIDE, &work.parsed.packet);
    }
    work.key = work.other_key;
    match Outcome::from_bits(enter(ctx)) {
        Outcome::GO => Ok(true),
        refused => Err(refused),
    }
}

/// A packet of a flow that stands; false if it does not, and is forgotten.
#[inline(always)]
fn follow(ctx: &TcContext, work: &mut Work) -> Result<bool, Outcome> {
    let Some(flow) = work.known_flow() else { return Ok(false) };
    let side = work.side();
    let (beyond, ours) = (side.index(), side.other().index());
    // SAFETY: the row stays mapped until the program ends. It may be given to another flow meanwhile, if it was forgotten within this
    // very run: what is read of it is compared with the endpoint it leads to.
    let known = unsafe { &mut *flow };
    let endpoint = known.endpoints[ours];
    let shut = |reason| Outcome::refused(endpoint, Direction::Ingress, reason);
    conntrack::keep(flow).map_err(shut)?;
    let packet = &work.parsed.packet;
    let begins_again =
        packet.protocol == PROTOCOL_TCP && packet.tcp.flags & (TCP_SYN | TCP_ACK) == TCP_SYN && known.tracked.is_over();
    let (Some(entry), Some(settings)) = (CC_ENDPOINTS.get(endpoint), CC_SETTINGS.get(0)) else {
        return Err(shut(DropReason::StaleEndpoint));
    };
    if entry.generation != known.generations[ours] || begins_again {
        trace::standing(STANDING_FOREIGN);
        conntrack::forget(By::Packet, &work.key, flow);
        return Ok(false);
    }
    let holds =
        known.rules[ours] == firewall::version(entry.rule_set) && known.rules[beyond] == settings.beyond_version;
    trace::standing(if holds { STANDING_HOLDS } else { STANDING_CHANGED });
    if !holds {
        let mut outcome = Outcome::from_bits(beyond::cc_still_published());
        if outcome == Outcome::GO {
            outcome = Outcome::from_bits(beyond::cc_beyond_again());
        }
        if outcome != Outcome::GO {
            conntrack::forget(By::Packet, &work.key, flow);
            return Err(outcome);
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
        Ok(()) => Outcome::GO.bits(),
        Err(_) => Outcome::PASS.bits(),
    }
}
