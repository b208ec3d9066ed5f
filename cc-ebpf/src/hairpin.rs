//! Conversations between two containers by a published port of their host: a flow in each one's network, each the other's outside.
//! Refuses to send anything, as `beyond` does.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use cc_common::flow::{FLAG_FORWARDED, FLAG_LEASED, FLAG_TRANSLATED, Flow, Side};
use cc_common::nat::FORWARD_FROM_ALL;
use cc_common::net::{Be16, Ip};
use cc_common::settings::Settings;
use cc_common::verdict::{Direction, DropReason};

use crate::beyond::{address_of, endpoint_of, forward_of, is_shut};
use crate::firewall::version;
use crate::maps::{CC_FLOWS, CC_SETTINGS};
use crate::work::{Outcome, TRANSLATE_PACKET, Work};
use crate::{admit, conntrack, nat, trace};

/// To a published port of this host, of three steps the first: whether the rules allow it. It goes into its container from the host's
/// address, so that the answer comes back here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cc_hairpin() -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    work.hairpin.beyond_version = settings.beyond_version as u32;
    match hairpin(work) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

/// A conversation between two containers by a published port, as its first half leaves it to the second.
#[repr(C)]
pub struct Hairpin {
    /// Where it is published, and what it leads to.
    pub host: Ip,
    pub target: Ip,
    pub generation: u64,
    /// Of the rules of who begins and of who answers.
    pub versions: [u64; 2],
    pub rules: [u32; 2],
    pub endpoint: u32,
    /// Of the container's network.
    pub vni: u32,
    pub service: Be16,
    pub port: Be16,
    pub leased: Be16,
    pub pad: Be16,
    /// Last bits of it.
    pub beyond_version: u32,
    /// `FLAG_SHARED` if the port that was leased last is from somebody else's block, or nothing.
    pub shared: u8,
    pub pad2: [u8; 3],
}

/// Neighbours know each other by their groups and addresses; to another network, each is the host.
#[inline(always)]
fn hairpin(work: &mut Work) -> Result<Outcome, Outcome> {
    let forward = forward_of(work, FORWARD_FROM_ALL);
    let packet = &work.parsed.packet;
    let Some((forward, entry)) = forward.and_then(|forward| Some((forward, endpoint_of(&forward)?))) else {
        return Err(work.refuse(DropReason::NoRoute));
    };
    let target = address_of(entry, packet.destination.is_v4());
    if target.is_unspecified() {
        return Err(work.refuse(DropReason::NoRoute));
    }
    work.hairpin.versions = [version(work.port.rule_set), version(entry.rule_set)];
    let neighbours = entry.vni == work.port.vni;
    let question = match neighbours {
        true => work.question.about(target, entry.rule_set),
        false => work.question.about(packet.destination, 0),
    };
    let egress = question.ask(work.port.rule_set, Direction::Egress, packet);
    if !egress.allowed {
        return Err(work.refuse(DropReason::FirewallEgress));
    }
    let question = match neighbours {
        true => work.question.about(packet.source, work.port.rule_set),
        false => work.question.about(packet.destination, 0),
    };
    // At its own port, as for whoever comes from outside.
    work.quoted.begin(packet.source, target, packet.protocol);
    (work.quoted.source_port, work.quoted.destination_port) = (packet.source_port, forward.port);
    let ingress = question.ask(entry.rule_set, Direction::Ingress, &work.quoted);
    if is_shut(&ingress) {
        return Err(Outcome::refused(forward.endpoint, Direction::Ingress, DropReason::FirewallIngress));
    }
    work.hairpin.rules = [egress.rule, ingress.rule];
    let hairpin = &mut work.hairpin;
    hairpin.host = packet.destination;
    hairpin.target = target;
    hairpin.generation = entry.generation;
    hairpin.endpoint = forward.endpoint;
    (hairpin.service, hairpin.port) = (packet.destination_port, forward.port);
    hairpin.vni = entry.vni;
    Ok(Outcome::GO)
}

/// The second: the flow in the container's network, from the leased port that makes it unique there.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_hairpin_there(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    // SAFETY: the context is this program's.
    let take = |port: Be16| Outcome::from_bits(unsafe { cc_hairpin_from(skb, port.get().into()) });
    let leased = nat::lease(settings, work, take);
    match leased {
        Ok(_) => Outcome::GO.bits(),
        Err(refused) => refused.bits(),
    }
}

/// Whether the flow there is unique with this port.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cc_hairpin_from(skb: *mut __sk_buff, port: u32) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    let leased = Be16::new(port as u16);
    work.hairpin.leased = leased;
    work.quoted.begin(work.hairpin.host, work.hairpin.target, work.key.protocol);
    (work.quoted.source_port, work.quoted.destination_port) = (leased, work.hairpin.port);
    let sender = work.other_key.set(work.hairpin.vni, &work.quoted);
    pair(work, sender);
    let (client, server) = (sender.index(), sender.other().index());
    work.flow.flags = FLAG_TRANSLATED | FLAG_FORWARDED;
    work.flow.outer_addresses[client] = work.parsed.packet.source;
    work.flow.outer_addresses[server] = work.hairpin.host;
    work.flow.outer_ports[client] = work.parsed.packet.source_port;
    work.flow.outer_ports[server] = work.hairpin.service;
    admit::begin(&TcContext::new(skb), work);
    let unique = match conntrack::open(settings, &work.other_key, &work.flow, work.port.endpoint) {
        Ok(()) => Ok(true),
        Err(DropReason::FlowClosing) => Ok(false),
        Err(reason) => Err(reason),
    };
    work.unique(unique).bits()
}

/// The third: the flow in the client's own network.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_hairpin_back(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    match hairpin_back(&TcContext::new(skb), work, settings) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

#[inline(always)]
fn hairpin_back(ctx: &TcContext, work: &mut Work, settings: &Settings) -> Result<Outcome, Outcome> {
    pair(work, work.side());
    let (us, them) = (work.side().index(), work.side().other().index());
    work.flow.flags = FLAG_TRANSLATED | FLAG_FORWARDED | FLAG_LEASED | work.hairpin.shared;
    work.flow.outer_addresses[us] = work.hairpin.host;
    work.flow.outer_addresses[them] = work.hairpin.target;
    work.flow.outer_ports[us] = work.hairpin.leased;
    work.flow.outer_ports[them] = work.hairpin.port;
    admit::begin(ctx, work);
    if let Err(reason) = conntrack::open(settings, &work.key, &work.flow, work.port.endpoint) {
        nat::release(work.flow.flags, work.hairpin.leased, work.port.endpoint, work.port.generation);
        if let Some(flow) = other_flow(work) {
            conntrack::forget(conntrack::By::Packet, &work.other_key, flow);
        }
        return Err(work.refuse(reason));
    }
    work.to = work.hairpin.endpoint;
    work.translate = TRANSLATE_PACKET;
    work.out = work.flow.outward(work.side());
    Ok(Outcome::GO)
}

#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
pub fn other_flow(work: &Work) -> Option<*mut Flow> {
    trace::partner(CC_FLOWS.get_ptr_mut(&work.other_key))
}

/// The flow of the hairpin, which the port begins from `side` of the key at hand.
#[inline(always)]
fn pair(work: &mut Work, side: Side) {
    let (us, them) = (side.index(), side.other().index());
    let (flow, hairpin) = (&mut work.flow, &work.hairpin);
    // SAFETY: a flow is plain numbers, for which zeros are a value.
    unsafe { core::ptr::write_bytes(&raw mut *flow, 0, 1) };
    flow.rules[us] = hairpin.versions[0];
    flow.rules[them] = hairpin.versions[1];
    flow.generations[us] = work.port.generation;
    flow.generations[them] = hairpin.generation;
    flow.endpoints[us] = work.port.endpoint;
    flow.endpoints[them] = hairpin.endpoint;
    flow.allowed_by[us] = hairpin.rules[0];
    flow.allowed_by[them] = hairpin.rules[1];
    flow.initiator = us as u8;
    flow.owner = us as u8;
    flow.beyond_version = hairpin.beyond_version;
}
