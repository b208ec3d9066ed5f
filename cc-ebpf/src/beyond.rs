//! Conversations that cross the network's border: out by the host's routes, in by a published port, and between networks by one. Finds
//! their tuple on the other face and opens their flows. Refuses to send anything, as `admit` does.

use core::ptr::read_volatile;

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use aya_ebpf::programs::TcContext;
use cc_common::firewall::Decision;
use cc_common::flow::{BEYOND_HOST, BEYOND_UPLINK, FLAG_FORWARDED, FLAG_LEASED, FLAG_OUTSIDE, FLAG_TRANSLATED};
use cc_common::nat::{FORWARD_FROM_ALL, FORWARD_FROM_HOST, FORWARD_IS_HOST, Forward, ForwardKey};
use cc_common::net::{Be16, Ip, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use cc_common::route::{EndpointEntry, KIND_INTERNET, KIND_NO_INTERNET};
use cc_common::settings::Settings;
use cc_common::verdict::{Direction, DropReason};

use crate::firewall::version;
use crate::maps::{CC_ENDPOINTS, CC_FORWARDS, CC_NAT, CC_SETTINGS};
use crate::nat::{self, Way};
use crate::work::{Outcome, TRANSLATE_PACKET, Work};
use crate::{admit, conntrack, parse, recycle, trace};

/// The forward that the packet is for, if packets from there may use it.
#[inline(always)]
pub fn forward_of(work: &mut Work, from: u8) -> Option<Forward> {
    let (packet, key) = (&work.parsed.packet, &mut work.forward);
    if packet.protocol != PROTOCOL_TCP && packet.protocol != PROTOCOL_UDP {
        return None;
    }
    key.address = packet.destination;
    key.port = packet.destination_port;
    key.protocol = packet.protocol;
    key.pad = 0;
    find_forward(key).filter(|forward| forward.from == from).inspect(trace::forward)
}

/// The kernel gives the memory of a row that is removed to the next one that is written, and a program that has found the first reads
/// another port's. What is read twice, found anew each time, is this port's; where it is not, the port is just being withdrawn.
#[inline(always)]
pub fn find_forward(key: &ForwardKey) -> Option<Forward> {
    let read = || {
        let found = CC_FORWARDS.get_ptr(key)?;
        // SAFETY: the kernel keeps a row's memory mapped for as long as a program runs; what is in it is looked at again.
        Some(unsafe { read_volatile(found) })
    };
    let (first, again) = (read()?, read()?);
    (first == again).then_some(first)
}

/// Whether an address is the host's.
#[inline(always)]
pub fn is_at_host(key: &mut ForwardKey, address: &Ip) -> bool {
    key.address = *address;
    key.port = Be16([0; 2]);
    key.protocol = 0;
    key.pad = 0;
    find_forward(key).is_some_and(|forward| forward.from == FORWARD_IS_HOST)
}

/// The endpoint that a forward is for, if it is still the same.
#[inline(always)]
pub fn endpoint_of(forward: &Forward) -> Option<&'static EndpointEntry> {
    CC_ENDPOINTS.get(forward.endpoint).filter(|entry| entry.generation == forward.generation && entry.generation != 0)
}

#[inline(always)]
pub fn address_of(entry: &EndpointEntry, v4: bool) -> Ip {
    if v4 { Ip::v4(entry.ipv4) } else { entry.ipv6 }
}

/// A published port is open to whom no rule denies: publishing it is the rule.
#[inline(always)]
pub fn is_shut(decision: &Decision) -> bool {
    !decision.allowed && decision.rule != 0
}

/// Out of the network, first half: whether the rules allow it, and by which way.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_beyond(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    match out(&TcContext::new(skb), work, settings) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

#[inline(always)]
fn out(ctx: &TcContext, work: &mut Work, settings: &Settings) -> Result<Outcome, Outcome> {
    if work.headless {
        return Err(work.refuse(DropReason::FragmentUnknown));
    }
    if forward_of(work, FORWARD_FROM_ALL).is_some() {
        return Ok(Outcome::PUBLISHED);
    }
    let packet = &work.parsed.packet;
    let question = work.question.about_outside(packet.destination);
    let decision = question.ask(work.port.rule_set, Direction::Egress, packet);
    if !decision.allowed {
        let reason = if decision.closed { DropReason::ClosedDestination } else { DropReason::FirewallEgress };
        return Err(work.refuse(reason));
    }
    let versions = [version(work.port.rule_set), settings.beyond_version];
    let them = work.side().other();
    let way = nat::way(ctx, settings, work, them).map_err(|reason| work.refuse(reason))?;
    // The routes call everything so that they would not forward: also what they do not know, and broadcasts.
    if matches!(way, Way::Host) && !is_at_host(&mut work.forward, &work.parsed.packet.destination) {
        return Err(work.refuse(DropReason::NoWayOut));
    }
    let to = match way {
        Way::Out { .. } => BEYOND_UPLINK,
        Way::Host => BEYOND_HOST,
    };
    admit::fill(ctx, work, to, 0, versions, [decision.rule, 0]);
    match way {
        Way::Out { ifindex } => {
            work.flow.flags = FLAG_TRANSLATED | FLAG_OUTSIDE | FLAG_LEASED;
            work.flow.ifindex = ifindex;
        }
        Way::Host => {
            work.flow.flags = FLAG_TRANSLATED | FLAG_OUTSIDE;
            work.flow.ifindex = settings.host_ifindex;
        }
    }
    (work.to, work.to_ifindex) = (to, work.flow.ifindex);
    Ok(Outcome::GO)
}

/// Second half: by which address and port the world knows it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cc_masquerade() -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    let named = if work.to == BEYOND_UPLINK { masquerade(work, settings) } else { stand_in(work, settings) };
    match named.and_then(|()| finish(work, settings)) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

/// From the host's address, and a port of it that makes the conversation unique for the world.
#[inline(always)]
fn masquerade(work: &mut Work, settings: &Settings) -> Result<(), Outcome> {
    let packet = &work.parsed.packet;
    if !matches!(packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_ICMP | PROTOCOL_ICMPV6) {
        return Err(work.refuse(DropReason::NatProtocol));
    }
    let (us, them) = (work.side().index(), work.side().other().index());
    work.flow.outer_addresses[us] = nat::source(work);
    work.flow.outer_addresses[them] = work.parsed.packet.destination;
    let leased = nat::lease(settings, work, |port| Outcome::from_bits(cc_masquerade_from(port.get().into())));
    work.flow.flags |= work.hairpin.shared;
    leased.map(drop)
}

/// Whether the conversation is unique with this port.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cc_masquerade_from(port: u32) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    let (us, them) = (work.side().index(), work.side().other().index());
    let (port, packet) = (Be16::new(port as u16), &work.parsed.packet);
    // A query has one number for both ends.
    let is_query = packet.protocol == PROTOCOL_ICMP || packet.protocol == PROTOCOL_ICMPV6;
    work.flow.outer_ports[them] = if is_query { port } else { packet.destination_port };
    work.flow.outer_ports[us] = port;
    let unique = register(work);
    work.unique(unique).bits()
}

/// From its stand-in, with its own port: nobody else has that address.
#[inline(always)]
fn stand_in(work: &mut Work, settings: &Settings) -> Result<(), Outcome> {
    let packet = &work.parsed.packet;
    let v4 = packet.destination.is_v4();
    if settings.host_ifindex == 0 || !settings.stand_ins.has(v4) {
        return Err(work.refuse(DropReason::NoWayOut));
    }
    let (us, them) = (work.side().index(), work.side().other().index());
    work.flow.outer_addresses[us] = settings.stand_ins.of(v4, work.port.endpoint);
    work.flow.outer_addresses[them] = packet.destination;
    work.flow.outer_ports[us] = packet.source_port;
    work.flow.outer_ports[them] = packet.destination_port;
    match register(work) {
        Ok(true) => Ok(()),
        Ok(false) => Err(work.refuse(DropReason::FlowClosing)),
        Err(reason) => Err(work.refuse(reason)),
    }
}

/// Makes the flow known to the outside, unless another one is known there so.
#[inline(always)]
fn register(work: &mut Work) -> Result<bool, DropReason> {
    work.other_key.set_outer(&work.flow, work.key.protocol);
    work.nat.flow = work.key;
    work.nat.beyond = work.side().other() as u8;
    work.nat.pad = [0; 3];
    insert_nat(work)
}

/// Whether it is the only one that is known so, or that no row is left for anybody.
#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value they would be copied onto the stack")]
fn insert_nat(work: &Work) -> Result<bool, DropReason> {
    if trace::dry_run() {
        return Ok(CC_NAT.get_ptr(&work.other_key).is_none() || trace::has_forgotten());
    }
    match CC_NAT.insert(&work.other_key, &work.nat, BPF_NOEXIST.into()) {
        Ok(()) => Ok(true),
        Err(conntrack::EXISTS) => Ok(false),
        Err(_) => Err(DropReason::NatExhausted),
    }
}

#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
fn remove_nat(work: &Work) {
    if trace::dry_run() {
        return;
    }
    let _ = CC_NAT.remove(&work.other_key);
}

/// Opens the flow, or takes back what the outside was told of it.
#[inline(always)]
fn finish(work: &mut Work, settings: &Settings) -> Result<Outcome, Outcome> {
    if let Err(reason) = conntrack::open(settings, &work.key, &work.flow, work.port.endpoint) {
        remove_nat(work);
        let us = work.side().index();
        if work.flow.flags & FLAG_LEASED != 0 {
            nat::release(work.flow.flags, work.flow.outer_ports[us], work.port.endpoint, work.port.generation);
        }
        return Err(work.refuse(reason));
    }
    work.translate = TRANSLATE_PACKET;
    work.out = work.flow.outward(work.side());
    Ok(Outcome::GO)
}

/// From outside, for `from_uplink`: a packet that no flow stands for. Passes what is no published port's.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_enter(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::PASS.bits() };
    match enter(&TcContext::new(skb), work, settings, BEYOND_UPLINK) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

#[inline(always)]
fn enter(ctx: &TcContext, work: &mut Work, settings: &Settings, beyond: u32) -> Result<Outcome, Outcome> {
    let from = if beyond == BEYOND_HOST { FORWARD_FROM_HOST } else { FORWARD_FROM_ALL };
    let Some(forward) = forward_of(work, from) else { return Ok(Outcome::PASS) };
    let v4 = work.parsed.packet.destination.is_v4();
    let (endpoint, port) = (forward.endpoint, forward.port);
    let shut = |reason| Outcome::refused(endpoint, Direction::Ingress, reason);
    if work.parsed.packet.begins_nothing() {
        return Err(shut(DropReason::TcpUnrelated));
    }
    let entry = endpoint_of(&forward).ok_or(shut(DropReason::StaleEndpoint))?;
    let target = address_of(entry, v4);
    if target.is_unspecified() {
        return Err(shut(DropReason::NoRoute));
    }
    work.hairpin.vni = entry.vni;
    if cc_is_foreign() == 0 {
        return Err(shut(if v4 { DropReason::SpoofedIpv4 } else { DropReason::SpoofedIpv6 }));
    }
    admitted(ctx, work, settings, beyond, endpoint, entry, target, port)
}

/// Whether a packet that came from `work.to` may come from there: the addresses of the network `work.hairpin.vni` are its own, and what the
/// host forwards for others is not from the host.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cc_is_foreign() -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return 0 };
    let source = &work.parsed.packet.source;
    let is_foreign = if work.to == BEYOND_HOST {
        is_at_host(&mut work.forward, source) || *source == settings.stand_ins.host(source.is_v4())
    } else {
        let route = admit::lookup(work.hairpin.vni, source);
        route.is_some_and(|route| matches!(route.kind, KIND_INTERNET | KIND_NO_INTERNET))
    };
    is_foreign.into()
}

/// From the host's own sockets, for `from_host`: to a port that is published at an endpoint's stand-in.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_enter_host(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    match enter(&TcContext::new(skb), work, settings, BEYOND_HOST) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

/// Opens the flow of a conversation that comes in.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one caller, and nothing of it belongs together")]
fn admitted(
    ctx: &TcContext,
    work: &mut Work,
    settings: &Settings,
    beyond: u32,
    endpoint: u32,
    entry: &EndpointEntry,
    target: Ip,
    port: Be16,
) -> Result<Outcome, Outcome> {
    let shut = |reason| Outcome::refused(endpoint, Direction::Ingress, reason);
    let packet = &work.parsed.packet;
    work.quoted.begin(packet.source, target, packet.protocol);
    (work.quoted.source_port, work.quoted.destination_port) = (packet.source_port, port);
    let question = work.question.about_outside(packet.source);
    let decision = question.ask(entry.rule_set, Direction::Ingress, &work.quoted);
    if is_shut(&decision) {
        return Err(shut(DropReason::FirewallIngress));
    }
    // The key so far is what the outside knows it by.
    work.other_key = work.key;
    let sender = work.key.set(entry.vni, &work.quoted);
    work.sender = sender as u8;
    let (client, ours) = (sender.index(), sender.other().index());
    let flow = &mut work.flow;
    // SAFETY: a flow is plain numbers, for which zeros are a value.
    unsafe { core::ptr::write_bytes(&raw mut *flow, 0, 1) };
    flow.rules[client] = settings.beyond_version;
    flow.rules[ours] = version(entry.rule_set);
    flow.generations[ours] = entry.generation;
    flow.endpoints[client] = beyond;
    flow.endpoints[ours] = endpoint;
    flow.allowed_by[ours] = decision.rule;
    flow.initiator = client as u8;
    flow.owner = ours as u8;
    flow.flags = FLAG_TRANSLATED | FLAG_FORWARDED | FLAG_OUTSIDE;
    flow.ifindex = parse::ifindex(ctx);
    flow.outer_addresses[client] = packet.source;
    flow.outer_addresses[ours] = packet.destination;
    flow.outer_ports[client] = packet.source_port;
    flow.outer_ports[ours] = packet.destination_port;
    if beyond == BEYOND_HOST {
        flow.ifindex = settings.host_ifindex;
    }
    admit::begin(ctx, work);
    work.nat.flow = work.key;
    work.nat.beyond = client as u8;
    work.nat.pad = [0; 3];
    match insert_nat(work) {
        Ok(true) => {}
        Ok(false) => return Err(shut(DropReason::FlowClosing)),
        Err(reason) => return Err(shut(reason)),
    }
    if let Err(reason) = conntrack::open(settings, &work.key, &work.flow, endpoint) {
        remove_nat(work);
        return Err(shut(reason));
    }
    recycle::remember(settings, work, endpoint);
    work.to = endpoint;
    work.translate = TRANSLATE_PACKET;
    work.out = work.key.inward(sender);
    Ok(Outcome::GO)
}
