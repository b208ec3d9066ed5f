//! Translated conversations whose rules, or whose world, have changed since they were judged: whether they go on as they are. Refuses to
//! judge those within one network, which `admit` does.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use cc_common::flow::{BEYOND_HOST, BEYOND_UPLINK, FLAG_FORWARDED, FLAG_LEASED, Flow, Side};
use cc_common::net::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use cc_common::port::PortKey;
use cc_common::settings::Settings;
use cc_common::verdict::{Direction, DropReason};

use crate::beyond::{address_of, find_forward, is_at_host, is_shut};
use crate::firewall::version;
use crate::hairpin::Hairpin;
use crate::maps::{CC_ENDPOINTS, CC_SETTINGS, CC_UPLINKS};
use crate::nat::{self, Way};
use crate::work::{Outcome, Work};

/// For a translated flow whose rules, or whose world, have changed: first, whether it still has the way that it has taken, and the port that
/// it lives by is published. `BEYOND` if it has not: whoever goes on begins anew. The flow is `work.key`'s.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_same_way(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    let Some(flow) = work.known_flow() else { return work.refuse(DropReason::FlowClosing).bits() };
    // SAFETY: the row stays mapped until the program ends; these words are written only before the flow is in the table.
    same_way(&TcContext::new(skb), work, settings, unsafe { &*flow }).bits()
}

#[inline(always)]
fn same_way(ctx: &TcContext, work: &mut Work, settings: &Settings, flow: &Flow) -> Outcome {
    let begins = flow.initiator();
    let (from, to) = (begins.index(), begins.other().index());
    let goes_on = |same| if same { Outcome::GO } else { Outcome::BEYOND };
    if flow.flags & FLAG_FORWARDED == 0 {
        return goes_on(match nat::way(ctx, settings, work, begins.other()) {
            Ok(Way::Out { ifindex }) => {
                flow.endpoints[to] == BEYOND_UPLINK
                    && flow.ifindex == ifindex
                    && flow.outer_addresses[from] == nat::source(work)
            }
            Ok(Way::Host) => {
                flow.endpoints[to] == BEYOND_HOST && is_at_host(&mut work.forward, &work.key.addresses[to])
            }
            Err(_) => false,
        });
    }
    if flow.endpoints[from] == BEYOND_UPLINK {
        // SAFETY: only its presence is looked at.
        if unsafe { CC_UPLINKS.get(PortKey { ifindex: flow.ifindex }) }.is_none() {
            return Outcome::BEYOND;
        }
    }
    // Who comes by way of the host knows the published port by its own key, and the container's by the other face.
    let by_key = flow.flags & FLAG_LEASED != 0;
    let forward = &mut work.forward;
    let port = if by_key {
        forward.address = work.key.addresses[to];
        forward.port = work.key.ports[to];
        flow.outer_ports[to]
    } else {
        forward.address = flow.outer_addresses[to];
        forward.port = flow.outer_ports[to];
        work.key.ports[to]
    };
    forward.protocol = work.key.protocol;
    forward.pad = 0;
    let endpoint = flow.endpoints[to];
    match find_forward(forward) {
        Some(forward) if forward.endpoint == endpoint && forward.port.get() == port.get() => Outcome::GO,
        _ => Outcome::refused(endpoint, Direction::Ingress, DropReason::NoRoute),
    }
}

/// Then, whether the rules allow it as they are now. `work.sender` has sent the packet, `work.port` is whose packet it is; for one from
/// outside, `work.to` is whom it is for.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cc_beyond_again() -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    let Some(flow) = work.known_flow() else { return work.refuse(DropReason::FlowClosing).bits() };
    // SAFETY: the row stays mapped until the program ends, and these words change by re-judging only.
    beyond_again(work, settings, unsafe { &mut *flow }).bits()
}

/// The packet as whoever began the flow would send it, into `work.quoted`.
#[inline(always)]
fn as_it_began(work: &mut Work, begins: Side) {
    let (from, to) = (begins.index(), begins.other().index());
    work.quoted.begin(work.key.addresses[from], work.key.addresses[to], work.key.protocol);
    work.quoted.source_port = work.key.ports[from];
    work.quoted.destination_port = work.key.ports[to];
    if work.key.protocol == PROTOCOL_ICMP {
        work.quoted.icmp = [8, 0];
    } else if work.key.protocol == PROTOCOL_ICMPV6 {
        work.quoted.icmp = [128, 0];
    }
}

#[inline(always)]
fn beyond_again(work: &mut Work, settings: &Settings, flow: &mut Flow) -> Outcome {
    let begins = flow.initiator();
    let (from, to) = (begins.index(), begins.other().index());
    as_it_began(work, begins);
    let entry = |side: usize| CC_ENDPOINTS.get(flow.endpoints[side & 1]);
    let now = &mut work.hairpin;
    now.versions = [settings.beyond_version; 2];
    now.rules = [0; 2];
    let packet = &work.quoted;
    match (entry(from), entry(to)) {
        (Some(client), None) => {
            now.versions[0] = version(client.rule_set);
            let question = work.question.about_outside(packet.destination);
            let egress = question.ask(client.rule_set, Direction::Egress, packet);
            if !egress.allowed {
                let reason = if egress.closed { DropReason::ClosedDestination } else { DropReason::FirewallEgress };
                return Outcome::refused(flow.endpoints[from], Direction::Egress, reason);
            }
            now.rules[0] = egress.rule;
        }
        (None, Some(server)) => {
            now.versions[1] = version(server.rule_set);
            let question = work.question.about_outside(packet.source);
            let ingress = question.ask(server.rule_set, Direction::Ingress, packet);
            if is_shut(&ingress) {
                return Outcome::refused(flow.endpoints[to], Direction::Ingress, DropReason::FirewallIngress);
            }
            now.rules[1] = ingress.rule;
        }
        _ => return work.refuse(DropReason::StaleEndpoint),
    }
    judged(flow, now, settings);
    Outcome::GO
}

/// What it was judged by, from here on.
#[inline(always)]
fn judged(flow: &mut Flow, now: &Hairpin, settings: &Settings) {
    let begins = flow.initiator();
    let (from, to) = (begins.index(), begins.other().index());
    flow.allowed_by[from] = now.rules[0];
    flow.allowed_by[to] = now.rules[1];
    flow.rules[from] = now.versions[0];
    flow.rules[to] = now.versions[1];
    flow.beyond_version = settings.beyond_version as u32;
}

/// The same of a flow between two containers, by a published port.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cc_hairpin_again() -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    let Some(flow) = work.known_flow() else { return work.refuse(DropReason::FlowClosing).bits() };
    // SAFETY: as in `cc_beyond_again`.
    hairpin_again(work, settings, unsafe { &mut *flow }).bits()
}

#[inline(always)]
fn hairpin_again(work: &mut Work, settings: &Settings, flow: &mut Flow) -> Outcome {
    let begins = flow.initiator();
    let (from, to) = (begins.index(), begins.other().index());
    as_it_began(work, begins);
    let (Some(client), Some(server)) = (CC_ENDPOINTS.get(flow.endpoints[from]), CC_ENDPOINTS.get(flow.endpoints[to]))
    else {
        return work.refuse(DropReason::StaleEndpoint);
    };
    let now = &mut work.hairpin;
    now.versions = [version(client.rule_set), version(server.rule_set)];
    let neighbours = client.vni == server.vni;
    let v4 = work.quoted.source.is_v4();
    // On the client's side the key's destination is the host; on the target's its source is.
    if flow.flags & FLAG_LEASED != 0 {
        now.host = work.key.addresses[to];
        now.port = flow.outer_ports[to];
    } else {
        now.host = work.key.addresses[from];
        now.port = work.key.ports[to];
        work.quoted.destination_port = flow.outer_ports[to];
    }
    let question = match neighbours {
        true => work.question.about(address_of(server, v4), server.rule_set),
        false => work.question.about(now.host, 0),
    };
    let egress = question.ask(client.rule_set, Direction::Egress, &work.quoted);
    if !egress.allowed {
        return Outcome::refused(flow.endpoints[from], Direction::Egress, DropReason::FirewallEgress);
    }
    now.rules[0] = egress.rule;
    work.quoted.destination_port = now.port;
    let question = match neighbours {
        true => work.question.about(address_of(client, v4), client.rule_set),
        false => work.question.about(now.host, 0),
    };
    let ingress = question.ask(server.rule_set, Direction::Ingress, &work.quoted);
    if is_shut(&ingress) {
        return Outcome::refused(flow.endpoints[to], Direction::Ingress, DropReason::FirewallIngress);
    }
    now.rules[1] = ingress.rule;
    judged(flow, now, settings);
    Outcome::GO
}
