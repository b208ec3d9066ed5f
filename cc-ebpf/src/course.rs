//! Where a packet of a container goes: by the flow that it belongs to, or as the first of a new one. Refuses to change it or to send it.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use cc_common::flow::{FLAG_TRANSLATED, Flow, Side, is_beyond};
use cc_common::fragment::{FragmentEntry, FragmentKey, FragmentPlace};
use cc_common::net::PROTOCOL_TCP;
use cc_common::packet::{Kind, Place, TCP_ACK, TCP_SYN};
use cc_common::route;
use cc_common::trace::{STANDING_CHANGED, STANDING_FOREIGN, STANDING_HOLDS};
use cc_common::verdict::DropReason;

use crate::conntrack::By;
use crate::maps::{CC_ENDPOINTS, CC_FRAGMENTS, CC_SETTINGS};
use crate::work::{Outcome, TRANSLATE_PACKET, Work};
use crate::{admit, again, beyond, conntrack, decisions, firewall, hairpin, icmp, parse, recycle, trace};

/// Where the packet goes: `work.to`, and how it is translated; false if it was turned into its own answer.
#[inline(always)]
pub fn destination(ctx: &TcContext, work: &mut Work) -> Result<bool, Outcome> {
    if matches!(work.parsed.packet.kind, Kind::Error) {
        // SAFETY: the context is this program's.
        return match Outcome::from_bits(unsafe { icmp::cc_related(ctx.skb.skb) }) {
            Outcome::GO => Ok(true),
            refused => Err(refused),
        };
    }
    if matches!(work.parsed.packet.kind, Kind::Advice) {
        return Err(work.refuse(DropReason::IcmpUnrelated));
    }
    (work.headless, work.hosts) = (false, false);
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
            let outcome = Outcome::from_bits(judge_again(ctx, work, known));
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
    begin(ctx, work)
}

/// Whether a flow that stands is still allowed, by the rules and the world as they are now.
#[inline(always)]
fn judge_again(ctx: &TcContext, work: &Work, known: &Flow) -> u64 {
    if known.flags & FLAG_TRANSLATED == 0 {
        return admit::cc_again();
    }
    // SAFETY: the context is this program's.
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
fn begin(ctx: &TcContext, work: &mut Work) -> Result<bool, Outcome> {
    work.decided.begin(false);
    let mut outcome = begin_once(ctx, work);
    // By a published port it is two flows.
    for _ in 0..2 {
        if !recycle::makes_room(outcome) {
            break;
        }
        work.decided.begin(false);
        outcome = begin_once(ctx, work);
    }
    decisions::tell(work, outcome);
    match outcome {
        Outcome::GO => Ok(true),
        Outcome::ANSWER => Ok(false),
        refused => Err(refused),
    }
}

#[inline(always)]
fn begin_once(ctx: &TcContext, work: &mut Work) -> Outcome {
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
            work.decided.begin(true);
            outcome = Outcome::from_bits(hairpin::cc_hairpin());
            if outcome == Outcome::GO {
                outcome = Outcome::from_bits(hairpin::cc_hairpin_there(ctx.skb.skb));
            }
            if outcome == Outcome::GO {
                outcome = Outcome::from_bits(hairpin::cc_hairpin_back(ctx.skb.skb));
            }
        }
    }
    outcome
}

/// A first fragment is remembered for those that follow, which get its ports.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cc_fragment() -> u64 {
    let Some(work) = Work::mine() else { return 0 };
    let (vni, id) = (work.port.vni, work.parsed.fragment.id);
    let place = FragmentPlace::of(work.port.endpoint, &work.parsed.packet, id);
    match work.parsed.fragment.place {
        Place::Whole => {}
        Place::First => {
            // Whose place it was has been sent long ago, or can be sent again.
            if !trace::dry_run() {
                let _ = CC_FRAGMENTS.insert(place, FragmentEntry::of(vni, &work.parsed.packet, id, work.hosts), 0);
            }
        }
        Place::Later => {
            // SAFETY: the row stays as it was written until the program ends: another takes its place by a row of its own.
            match unsafe { CC_FRAGMENTS.get(place) } {
                Some(entry) if entry.packet == FragmentKey::of(vni, &work.parsed.packet, id) => {
                    entry.complete(&mut work.parsed.packet);
                    work.hosts = entry.hosts != 0;
                }
                _ => work.headless = true,
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
