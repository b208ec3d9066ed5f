//! Conversations that cross the network's border: out by the host's routes, in by a published port, and between networks by one. Finds
//! their tuple on the other face and opens their flows. Refuses to send anything, as `admit` does.

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use aya_ebpf::programs::TcContext;
use cc_common::firewall::{self, Decision, Peer};
use cc_common::flow::{
    BEYOND_HOST, BEYOND_UPLINK, FLAG_FORWARDED, FLAG_LEASED, FLAG_OUTSIDE, FLAG_TRANSLATED, Flow, Side,
};
use cc_common::nat::{Forward, ForwardKey};
use cc_common::net::{Be16, Ip, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use cc_common::packet::Packet;
use cc_common::route::EndpointEntry;
use cc_common::settings::Settings;
use cc_common::verdict::{Direction, DropReason};

use crate::firewall::{Maps, rule_set, version};
use crate::maps::{CC_ENDPOINTS, CC_FLOWS, CC_FORWARDS, CC_NAT, CC_SETTINGS};
use crate::nat::{self, Way};
use crate::work::{Outcome, TRANSLATE_PACKET, Work};
use crate::{admit, conntrack, parse};

/// The forward that a packet is for.
#[inline(always)]
fn forward_of(packet: &Packet) -> Option<&'static Forward> {
    if packet.protocol != PROTOCOL_TCP && packet.protocol != PROTOCOL_UDP {
        return None;
    }
    let key = ForwardKey {
        address: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        pad: 0,
    };
    // SAFETY: a row changes as a whole, by being replaced; the endpoint's generation tells whether it is still meant.
    unsafe { CC_FORWARDS.get(key) }
}

/// The endpoint that a forward is for, if it is still the same.
#[inline(always)]
fn endpoint_of(forward: &Forward) -> Option<&'static EndpointEntry> {
    CC_ENDPOINTS.get(forward.endpoint).filter(|entry| entry.generation == forward.generation && entry.generation != 0)
}

#[inline(always)]
fn address_of(entry: &EndpointEntry, v4: bool) -> Ip {
    if v4 { Ip::v4(entry.ipv4) } else { entry.ipv6 }
}

#[inline(always)]
fn ask(packet: &Packet, number: u32, direction: Direction, address: &Ip, groups: u32, beyond: bool) -> Decision {
    let peer = Peer { address, groups, beyond };
    firewall::decide(&Maps, rule_set(number), direction, &peer, packet.protocol, packet.service(), false)
}

/// A published port is open to whom no rule denies: publishing it is the rule.
#[inline(always)]
fn is_shut(decision: &Decision) -> bool {
    !decision.allowed && decision.rule != 0
}

/// Out of the network, for `from_endpoint`: whether the rules allow it, and by which way.
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
    if forward_of(&work.parsed.packet).is_some() {
        return Ok(Outcome::PUBLISHED);
    }
    let packet = &work.parsed.packet;
    let decision = ask(packet, work.port.rule_set, Direction::Egress, &packet.destination, 0, true);
    if !decision.allowed {
        let reason = if decision.closed { DropReason::ClosedDestination } else { DropReason::FirewallEgress };
        return Err(work.refuse(reason));
    }
    let (v4, destination) = (packet.destination.is_v4(), packet.destination);
    let versions = [version(work.port.rule_set), settings.beyond_version];
    match nat::way(ctx, settings, work, &destination).map_err(|reason| work.refuse(reason))? {
        Way::Out { ifindex } => {
            let source = nat::source(work, v4);
            admit::fill(ctx, work, BEYOND_UPLINK, 0, versions, [decision.rule, 0]);
            work.flow.flags = FLAG_TRANSLATED | FLAG_OUTSIDE | FLAG_LEASED;
            work.flow.ifindex = ifindex;
            (work.to, work.to_ifindex) = (BEYOND_UPLINK, ifindex);
            masquerade(work, settings, source)
        }
        Way::Host => {
            if settings.host_ifindex == 0 || !settings.stand_ins.has(v4) {
                return Err(work.refuse(DropReason::NoWayOut));
            }
            let source = settings.stand_ins.of(v4, work.port.endpoint);
            admit::fill(ctx, work, BEYOND_HOST, 0, versions, [decision.rule, 0]);
            work.flow.flags = FLAG_TRANSLATED | FLAG_OUTSIDE;
            work.flow.ifindex = settings.host_ifindex;
            (work.to, work.to_ifindex) = (BEYOND_HOST, settings.host_ifindex);
            stand_in(work, settings, source)
        }
    }
}

/// From the host's address, and a port of it that makes the conversation unique for the world.
#[inline(always)]
fn masquerade(work: &mut Work, settings: &Settings, source: Ip) -> Result<Outcome, Outcome> {
    let packet = &work.parsed.packet;
    let has_ports = matches!(packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_ICMP | PROTOCOL_ICMPV6);
    if !has_ports {
        return Err(work.refuse(DropReason::NatProtocol));
    }
    let is_query = packet.protocol == PROTOCOL_ICMP || packet.protocol == PROTOCOL_ICMPV6;
    let leased = nat::lease(settings, work, |work, port| {
        outer(work, source, port, is_query);
        register(work)
    });
    leased.map_err(|reason| work.refuse(reason))?;
    finish(work, settings)
}

/// From its stand-in, with its own port: nobody else has that address.
#[inline(always)]
fn stand_in(work: &mut Work, settings: &Settings, source: Ip) -> Result<Outcome, Outcome> {
    let port = work.parsed.packet.source_port;
    outer(work, source, port, false);
    if !register(work) {
        return Err(work.refuse(DropReason::FlowClosing));
    }
    finish(work, settings)
}

/// The tuple on the other face: another source, and for a query, which has one number for both ends, another number.
#[inline(always)]
fn outer(work: &mut Work, source: Ip, port: Be16, is_query: bool) {
    let (us, them) = (work.side().index(), work.side().other().index());
    work.flow.outer_addresses[us] = source;
    work.flow.outer_addresses[them] = work.parsed.packet.destination;
    work.flow.outer_ports[us] = port;
    work.flow.outer_ports[them] = if is_query { port } else { work.parsed.packet.destination_port };
}

/// Makes the flow known to the outside, unless another one is known there so.
#[inline(always)]
fn register(work: &mut Work) -> bool {
    work.other_key.set_outer(&work.flow, work.key.protocol);
    work.nat.flow = work.key;
    work.nat.beyond = work.side().other() as u8;
    work.nat.pad = [0; 3];
    insert_nat(work)
}

#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value they would be copied onto the stack")]
fn insert_nat(work: &Work) -> bool {
    CC_NAT.insert(&work.other_key, &work.nat, BPF_NOEXIST.into()).is_ok()
}

#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
fn remove_nat(work: &Work) {
    let _ = CC_NAT.remove(&work.other_key);
}

/// Opens the flow, or takes back what the outside was told of it.
#[inline(always)]
fn finish(work: &mut Work, settings: &Settings) -> Result<Outcome, Outcome> {
    if let Err(reason) = conntrack::open(settings, &work.key, &work.flow, work.port.endpoint) {
        remove_nat(work);
        let us = work.side().index();
        if work.flow.flags & FLAG_LEASED != 0 {
            nat::release(settings, work.flow.outer_ports[us], work.port.endpoint, work.port.generation);
        }
        return Err(work.refuse(reason));
    }
    work.translate = TRANSLATE_PACKET;
    work.out = work.flow.outward(work.side());
    Ok(Outcome::GO)
}

/// To a published port of this host: into its container, from the host's address, so that the answer comes back here.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_hairpin(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    match hairpin(&TcContext::new(skb), work, settings) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

#[inline(always)]
fn hairpin(ctx: &TcContext, work: &mut Work, settings: &Settings) -> Result<Outcome, Outcome> {
    let packet = &work.parsed.packet;
    let v4 = packet.destination.is_v4();
    let Some((forward, entry)) = forward_of(packet).and_then(|forward| Some((forward, endpoint_of(forward)?))) else {
        return Err(work.refuse(DropReason::NoRoute));
    };
    let (endpoint, generation, set) = (forward.endpoint, entry.generation, entry.rule_set);
    let versions = [version(work.port.rule_set), version(set)];
    let [egress, ingress] = between(work, packet, (endpoint, entry))?;
    let (host, service) = (packet.destination, packet.destination_port);
    let (target, port) = (address_of(entry, v4), forward.port);
    if target.is_unspecified() {
        return Err(work.refuse(DropReason::NoRoute));
    }
    // First the target's side of it, by the port that makes it unique there.
    let vni = entry.vni;
    let theirs = End { endpoint, generation, version: versions[1], rule: ingress };
    let leased = nat::lease(settings, work, |work, leased| {
        work.quoted.begin(host, target, work.key.protocol);
        (work.quoted.source_port, work.quoted.destination_port) = (leased, port);
        let sender = work.other_key.set(vni, &work.quoted);
        let (address, number) = (work.parsed.packet.source, work.parsed.packet.source_port);
        pair(work, sender, &theirs, versions[0], egress);
        let (client, server) = (sender.index(), sender.other().index());
        work.flow.flags = FLAG_TRANSLATED | FLAG_FORWARDED;
        work.flow.outer_addresses[client] = address;
        work.flow.outer_addresses[server] = host;
        work.flow.outer_ports[client] = number;
        work.flow.outer_ports[server] = service;
        admit::begin(ctx, work);
        conntrack::open(settings, &work.other_key, &work.flow, work.port.endpoint).is_ok()
    });
    let leased = leased.map_err(|reason| work.refuse(reason))?;
    // Then the client's.
    pair(work, work.side(), &theirs, versions[0], egress);
    let (us, them) = (work.side().index(), work.side().other().index());
    work.flow.flags = FLAG_TRANSLATED | FLAG_FORWARDED | FLAG_LEASED;
    work.flow.outer_addresses[us] = host;
    work.flow.outer_addresses[them] = target;
    work.flow.outer_ports[us] = leased;
    work.flow.outer_ports[them] = port;
    admit::begin(ctx, work);
    if let Err(reason) = conntrack::open(settings, &work.key, &work.flow, work.port.endpoint) {
        nat::release(settings, leased, work.port.endpoint, work.port.generation);
        if let Some(flow) = other_flow(work) {
            conntrack::forget(conntrack::By::Packet, &work.other_key, flow);
        }
        return Err(work.refuse(reason));
    }
    work.to = endpoint;
    work.translate = TRANSLATE_PACKET;
    work.out = work.flow.outward(work.side());
    Ok(Outcome::GO)
}

#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
fn other_flow(work: &Work) -> Option<*mut Flow> {
    CC_FLOWS.get_ptr_mut(&work.other_key)
}

/// The end of a conversation that answers it.
struct End {
    endpoint: u32,
    generation: u64,
    version: u64,
    rule: u32,
}

/// A flow between the port, which begins it from `side`, and another endpoint.
#[inline(always)]
fn pair(work: &mut Work, side: Side, theirs: &End, version: u64, rule: u32) {
    let (us, them) = (side.index(), side.other().index());
    let flow = &mut work.flow;
    // SAFETY: a flow is plain numbers, for which zeros are a value.
    unsafe { core::ptr::write_bytes(&raw mut *flow, 0, 1) };
    flow.rules[us] = version;
    flow.rules[them] = theirs.version;
    flow.generations[us] = work.port.generation;
    flow.generations[them] = theirs.generation;
    flow.endpoints[us] = work.port.endpoint;
    flow.endpoints[them] = theirs.endpoint;
    flow.allowed_by[us] = rule;
    flow.allowed_by[them] = theirs.rule;
    flow.initiator = us as u8;
    flow.owner = us as u8;
}

/// Asks both ends' rules for a conversation by a published port. Neighbours know each other by their groups and addresses; to another
/// network, the client is the host.
#[inline(always)]
fn between(work: &Work, packet: &Packet, (endpoint, entry): (u32, &EndpointEntry)) -> Result<[u32; 2], Outcome> {
    let v4 = packet.destination.is_v4();
    let neighbours = entry.vni == work.port.vni;
    let target = address_of(entry, v4);
    let (to, to_groups) = if neighbours { (&target, entry.rule_set) } else { (&packet.destination, 0) };
    let egress = ask(packet, work.port.rule_set, Direction::Egress, to, to_groups, false);
    if !egress.allowed {
        return Err(work.refuse(DropReason::FirewallEgress));
    }
    let (from, groups) =
        if neighbours { (&packet.source, work.port.rule_set) } else { (&packet.destination, 0) };
    let ingress = ask(packet, entry.rule_set, Direction::Ingress, from, groups, false);
    if is_shut(&ingress) {
        return Err(Outcome::refused(endpoint, Direction::Ingress, DropReason::FirewallIngress));
    }
    Ok([egress.rule, ingress.rule])
}

/// From outside, for `from_uplink`: a packet that no flow stands for. Passes what is no published port's.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_enter(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::PASS.bits() };
    match enter(&TcContext::new(skb), work, settings) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

#[inline(always)]
fn enter(ctx: &TcContext, work: &mut Work, settings: &Settings) -> Result<Outcome, Outcome> {
    let packet = &work.parsed.packet;
    let v4 = packet.destination.is_v4();
    let Some(forward) = forward_of(packet) else { return Ok(Outcome::PASS) };
    let (endpoint, port) = (forward.endpoint, forward.port);
    let shut = |reason| Outcome::refused(endpoint, Direction::Ingress, reason);
    let entry = endpoint_of(forward).ok_or(shut(DropReason::StaleEndpoint))?;
    let target = address_of(entry, v4);
    if target.is_unspecified() {
        return Err(shut(DropReason::NoRoute));
    }
    admitted(ctx, work, settings, BEYOND_UPLINK, endpoint, entry, target, port)
}

/// From the host's own sockets, for `from_host`: to an endpoint's stand-in.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_enter_host(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    match enter_host(&TcContext::new(skb), work, settings) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

#[inline(always)]
fn enter_host(ctx: &TcContext, work: &mut Work, settings: &Settings) -> Result<Outcome, Outcome> {
    let packet = &work.parsed.packet;
    let Some(endpoint) = settings.stand_ins.endpoint_of(&packet.destination) else {
        return Err(work.refuse(DropReason::NoRoute));
    };
    let shut = |reason| Outcome::refused(endpoint, Direction::Ingress, reason);
    let entry = CC_ENDPOINTS.get(endpoint).filter(|entry| entry.generation != 0);
    let entry = entry.ok_or(shut(DropReason::NoRoute))?;
    let target = address_of(entry, packet.destination.is_v4());
    let has_ports = packet.protocol == PROTOCOL_TCP || packet.protocol == PROTOCOL_UDP;
    if target.is_unspecified() || !has_ports {
        return Err(shut(DropReason::NoRoute));
    }
    let port = packet.destination_port;
    admitted(ctx, work, settings, BEYOND_HOST, endpoint, entry, target, port)
}

/// Opens the flow of a conversation that comes in.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two callers, and nothing of it belongs together")]
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
    let decision = ask(&work.quoted, entry.rule_set, Direction::Ingress, &packet.source, 0, true);
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
    if !insert_nat(work) {
        return Err(shut(DropReason::FlowClosing));
    }
    if let Err(reason) = conntrack::open(settings, &work.key, &work.flow, endpoint) {
        remove_nat(work);
        return Err(shut(reason));
    }
    work.to = endpoint;
    work.translate = TRANSLATE_PACKET;
    work.out = work.key.inward(sender);
    Ok(Outcome::GO)
}

/// For a translated flow whose rules, or whose world, have changed since it was judged. `work.sender` has sent the packet, `work.port` is
/// whose packet it is; for one from outside, `work.to` is whom it is for.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cc_beyond_again() -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    let Some(flow) = work.known_flow() else { return work.refuse(DropReason::FlowClosing).bits() };
    // SAFETY: the row stays mapped until the program ends, and these words change by re-judging only.
    beyond_again(work, settings, unsafe { &mut *flow }).bits()
}

#[inline(always)]
fn beyond_again(work: &mut Work, settings: &Settings, flow: &mut Flow) -> Outcome {
    let begins = flow.initiator();
    let (from, to) = (begins.index(), begins.other().index());
    work.quoted.begin(work.key.addresses[from], work.key.addresses[to], work.key.protocol);
    work.quoted.source_port = work.key.ports[from];
    work.quoted.destination_port = work.key.ports[to];
    if work.key.protocol == PROTOCOL_ICMP {
        work.quoted.icmp = [8, 0];
    } else if work.key.protocol == PROTOCOL_ICMPV6 {
        work.quoted.icmp = [128, 0];
    }
    let entry = |side: usize| CC_ENDPOINTS.get(flow.endpoints[side & 1]);
    let (client, server) = (entry(from), entry(to));
    let mut rules = [0, 0];
    let mut versions = [settings.beyond_version; 2];
    let packet = &work.quoted;
    match (client, server) {
        // Two containers, by a published port.
        (Some(client), Some(server)) => {
            versions = [version(client.rule_set), version(server.rule_set)];
            let neighbours = client.vni == server.vni;
            // On the client's side the key's destination is the host; on the target's its source is.
            let host = if client.vni == work.key.vni { packet.destination } else { packet.source };
            let v4 = packet.source.is_v4();
            let (client_address, server_address) = (address_of(client, v4), address_of(server, v4));
            let (peer, groups) = if neighbours { (&server_address, server.rule_set) } else { (&host, 0) };
            let egress = ask(packet, client.rule_set, Direction::Egress, peer, groups, false);
            let (peer, groups) = if neighbours { (&client_address, client.rule_set) } else { (&host, 0) };
            let ingress = ask(packet, server.rule_set, Direction::Ingress, peer, groups, false);
            if !egress.allowed {
                return Outcome::refused(flow.endpoints[from], Direction::Egress, DropReason::FirewallEgress);
            }
            if is_shut(&ingress) {
                return Outcome::refused(flow.endpoints[to], Direction::Ingress, DropReason::FirewallIngress);
            }
            rules = [egress.rule, ingress.rule];
        }
        (Some(client), None) => {
            versions[0] = version(client.rule_set);
            let egress = ask(packet, client.rule_set, Direction::Egress, &packet.destination, 0, true);
            if !egress.allowed {
                let closed = egress.closed;
                let reason = if closed { DropReason::ClosedDestination } else { DropReason::FirewallEgress };
                return Outcome::refused(flow.endpoints[from], Direction::Egress, reason);
            }
            rules[0] = egress.rule;
        }
        (None, Some(server)) => {
            versions[1] = version(server.rule_set);
            let ingress = ask(packet, server.rule_set, Direction::Ingress, &packet.source, 0, true);
            if is_shut(&ingress) {
                return Outcome::refused(flow.endpoints[to], Direction::Ingress, DropReason::FirewallIngress);
            }
            rules[1] = ingress.rule;
        }
        (None, None) => return work.refuse(DropReason::StaleEndpoint),
    }
    flow.allowed_by[from] = rules[0];
    flow.allowed_by[to] = rules[1];
    flow.rules[from] = versions[0];
    flow.rules[to] = versions[1];
    Outcome::GO
}
