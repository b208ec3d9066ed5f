//! The slow path: a conversation that no flow stands for, or one whose rules have changed. Finds its way, asks both ends' rules,
//! and opens its flow. Refuses to send anything: it prepares the flow by which the hook does.
//!
//! What is called from a hook is a global function: the verifier looks at it once, by itself, and not again for each way that
//! leads to it. So it takes the context alone, and finds the rest in this CPU's `Work`.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use cc_common::flow::{Flow, Side};
use cc_common::life::{LIFE_HALF_OPEN, LIFE_LIVE};
use cc_common::net::{Ip, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use cc_common::packet::{Packet, TCP_SYN};
use cc_common::route::{self, ENDPOINT_RESOLVER, HOST_PREFIX_BITS, Hop, NO_ENDPOINT, Route, RouteKey};
use cc_common::settings::Settings;
use cc_common::tcp;
use cc_common::verdict::{Direction, DropReason};

use crate::firewall::{Question, version};
use crate::maps::{CC_ENDPOINTS, CC_ROUTES, CC_SETTINGS};
use crate::work::{Outcome, Work};
use crate::{conntrack, parse, rewrite, trace};

const DNS_PORT: u16 = 53;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

#[inline(always)]
pub fn lookup(vni: u32, address: &Ip) -> Option<&'static Route> {
    CC_ROUTES.get(&Key::new(HOST_PREFIX_BITS, RouteKey::new(vni, *address)))
}

/// One end of a conversation: the endpoint, and its rule set's number.
#[derive(Clone, Copy)]
struct End {
    endpoint: u32,
    rule_set: u32,
}

/// What an endpoint begins, for `from_endpoint`.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_admit(skb: *mut __sk_buff) -> u64 {
    let (Some(work), Some(settings)) = (Work::mine(), CC_SETTINGS.get(0)) else { return Outcome::NONE.bits() };
    match decide(&TcContext::new(skb), work, settings) {
        Ok(outcome) | Err(outcome) => outcome.bits(),
    }
}

#[inline(always)]
fn decide(ctx: &TcContext, work: &mut Work, settings: &Settings) -> Result<Outcome, Outcome> {
    if work.parsed.packet.begins_nothing() {
        return Err(work.refuse(DropReason::TcpUnrelated));
    }
    let route = lookup(work.port.vni, &work.parsed.packet.destination);
    trace::route(route);
    match route::decide(route).map_err(|reason| work.refuse(reason))? {
        Hop::Local { endpoint } => to_local(ctx, work, settings, endpoint),
        Hop::Gateway { resolver } => to_gateway(ctx, work, settings, resolver),
        // Another function's: one is verified as fast as it is short.
        Hop::Internet => Ok(Outcome::BEYOND),
        Hop::Nobody | Hop::NoInternet => Err(work.refuse(DropReason::NoInternet)),
    }
}

/// To another endpoint of the same network: its ingress rules are asked here, since redirecting into it skips its own program.
#[inline(always)]
fn to_local(ctx: &TcContext, work: &mut Work, settings: &Settings, id: u32) -> Result<Outcome, Outcome> {
    let entry = route::current(CC_ENDPOINTS.get(id), work.port.vni, &work.parsed.packet.destination)
        .map_err(|reason| work.refuse(reason))?;
    let (generation, we) = (entry.generation, End { endpoint: work.port.endpoint, rule_set: work.port.rule_set });
    let they = End { endpoint: id, rule_set: entry.rule_set };
    // Before the rules are read: if they change meanwhile, the flow is judged once more.
    let versions = [version(we.rule_set), version(they.rule_set)];
    let rules = judge(&mut work.question, &work.parsed.packet, work.headless, we, they)?;
    open(ctx, work, settings, id, generation, versions, rules)
}

/// Asks the rules of who begins and of who is to answer, both endpoints of ours. Gives the rules that allowed it. The packet is
/// as who begins sends it.
#[inline(always)]
fn judge(question: &mut Question, packet: &Packet, headless: bool, from: End, to: End) -> Result<[u32; 2], Outcome> {
    let question = question.about(packet.destination, to.rule_set).headless(headless);
    let egress = question.ask(from.rule_set, Direction::Egress, packet);
    if !egress.allowed {
        return Err(Outcome::refused(from.endpoint, Direction::Egress, DropReason::FirewallEgress));
    }
    let question = question.about(packet.source, from.rule_set).headless(headless);
    let ingress = question.ask(to.rule_set, Direction::Ingress, packet);
    if !ingress.allowed {
        return Err(Outcome::refused(to.endpoint, Direction::Ingress, DropReason::FirewallIngress));
    }
    Ok([egress.rule, ingress.rule])
}

/// For a flow whose ends' rules have changed since it was judged: by the new ones, as who began it would be now. A flow that may
/// go on remembers them.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cc_again() -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    let Some(flow) = work.known_flow() else { return work.refuse(DropReason::FlowClosing).bits() };
    // SAFETY: the row stays mapped until the program ends, and these words change by re-judging only.
    again(work, unsafe { &mut *flow }).bits()
}

#[inline(always)]
fn again(work: &mut Work, flow: &mut Flow) -> Outcome {
    let (us, them) = (work.side().index(), work.side().other().index());
    let other = flow.endpoints[them];
    let Some(entry) = CC_ENDPOINTS.get(other) else { return work.refuse(DropReason::StaleEndpoint) };
    let we = End { endpoint: work.port.endpoint, rule_set: work.port.rule_set };
    let they = End { endpoint: other, rule_set: entry.rule_set };
    let versions = [version(we.rule_set), version(they.rule_set)];
    // The resolver's conversations are everybody's, whatever the rules say.
    if entry.flags & ENDPOINT_RESOLVER == 0 {
        let began = flow.initiator as usize == us;
        let (from, to) = if began { (we, they) } else { (they, we) };
        work.quoted = work.parsed.packet;
        if !began {
            work.quoted.turn_to_begun();
        }
        match judge(&mut work.question, &work.quoted, false, from, to) {
            Ok([egress, ingress]) => {
                flow.allowed_by[us] = if began { egress } else { ingress };
                flow.allowed_by[them] = if began { ingress } else { egress };
            }
            Err(outcome) => return outcome,
        }
    }
    flow.rules[us] = versions[0];
    flow.rules[them] = versions[1];
    Outcome::GO
}

/// The gateway is the network's resolver, which everybody may ask whatever the rules say, and answers pings.
#[inline(always)]
fn to_gateway(ctx: &TcContext, work: &mut Work, settings: &Settings, resolver: u32) -> Result<Outcome, Outcome> {
    let packet = &work.parsed.packet;
    let is_echo = match packet.protocol {
        PROTOCOL_ICMP => packet.icmp[0] == ECHO_REQUEST_V4,
        PROTOCOL_ICMPV6 => packet.icmp[0] == ECHO_REQUEST_V6,
        _ => false,
    };
    if is_echo && work.parsed.fragment.is_whole() {
        rewrite::echo_reply(ctx, &work.port, &work.parsed).map_err(|reason| work.refuse(reason))?;
        return Ok(Outcome::ANSWER);
    }
    let may_ask = packet.protocol == PROTOCOL_UDP || packet.protocol == PROTOCOL_TCP;
    if may_ask && work.headless {
        return Err(work.refuse(DropReason::FragmentUnknown));
    }
    let asks = may_ask && packet.destination_port.get() == DNS_PORT;
    if resolver == NO_ENDPOINT || !asks {
        return Err(work.refuse(DropReason::GatewayClosed));
    }
    let entry = route::current(CC_ENDPOINTS.get(resolver), work.port.vni, &packet.destination)
        .map_err(|reason| work.refuse(reason))?;
    let (generation, versions) = (entry.generation, [version(work.port.rule_set), version(entry.rule_set)]);
    open(ctx, work, settings, resolver, generation, versions, [0, 0])
}

/// Fills in the flow of a conversation that may be, and puts it into the table.
#[inline(always)]
fn open(
    ctx: &TcContext,
    work: &mut Work,
    settings: &Settings,
    other: u32,
    generation: u64,
    versions: [u64; 2],
    rules: [u32; 2],
) -> Result<Outcome, Outcome> {
    fill(ctx, work, other, generation, versions, rules);
    if !work.headless {
        let opened = conntrack::open(settings, &work.key, &work.flow, work.port.endpoint);
        opened.map_err(|reason| work.refuse(reason))?;
    }
    work.to = other;
    Ok(Outcome::GO)
}

/// The flow of a conversation that the port begins.
#[inline(always)]
pub fn fill(ctx: &TcContext, work: &mut Work, other: u32, generation: u64, versions: [u64; 2], rules: [u32; 2]) {
    let (us, them) = (work.side().index(), work.side().other().index());
    let flow = &mut work.flow;
    // SAFETY: a flow is plain numbers, for which zeros are a value; written where it is, and not made on the stack first.
    unsafe { core::ptr::write_bytes(&raw mut *flow, 0, 1) };
    flow.rules[us] = versions[0];
    flow.rules[them] = versions[1];
    flow.generations[us] = work.port.generation;
    flow.generations[them] = generation;
    flow.endpoints[us] = work.port.endpoint;
    flow.endpoints[them] = other;
    flow.allowed_by[us] = rules[0];
    flow.allowed_by[them] = rules[1];
    flow.initiator = us as u8;
    flow.owner = us as u8;
    begin(ctx, work);
}

/// What its first packet says of a flow.
#[inline(always)]
pub fn begin(ctx: &TcContext, work: &mut Work) {
    let packet = &work.parsed.packet;
    let is_syn = packet.protocol == PROTOCOL_TCP && packet.tcp.flags & TCP_SYN != 0;
    // SAFETY: the context is this program's.
    let scale = if is_syn { scale(unsafe { cc_scale(ctx.skb.skb) }) } else { None };
    let side = Side::from_index(work.flow.initiator);
    let flow = &mut work.flow;
    let now = conntrack::now_ns();
    flow.life = LIFE_LIVE | LIFE_HALF_OPEN;
    flow.created_ns = now;
    flow.last_seen_ns = now;
    if packet.protocol == PROTOCOL_TCP {
        flow.tracked.begin(side, &packet.tcp, scale);
    } else {
        flow.tracked.spoke(side);
    }
    flow.packets[side.index()] = parse::packets(ctx);
    flow.bytes[side.index()] = u64::from(ctx.len());
}

/// No scale, as `cc_scale` says it.
const NO_SCALE: u64 = u64::MAX;

/// What `cc_scale` has found.
#[inline(always)]
pub fn scale(found: u64) -> Option<u8> {
    if found == NO_SCALE { None } else { Some(found as u8) }
}

/// The window scale that a SYN announces. Options one at a time, for the verifier's sake: each is looked at where it is.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_scale(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return NO_SCALE };
    scale_of(&TcContext::new(skb), work.parsed.transport).map_or(NO_SCALE, u64::from)
}

#[inline(always)]
fn scale_of(ctx: &TcContext, transport: u32) -> Option<u8> {
    let words: [u8; 1] = parse::header(ctx, transport as usize + 12).ok()?;
    let length = usize::from(words[0] >> 4) * 4;
    let mut at = 20usize;
    // Four are usual before it; a SYN has room for a few more.
    for _ in 0..8 {
        if at + 3 > length {
            return None;
        }
        let option: [u8; 3] = parse::header(ctx, transport as usize + at).ok()?;
        match tcp::option(&option) {
            tcp::Opt::End => return None,
            tcp::Opt::Scale(scale) => return Some(scale),
            tcp::Opt::Skip(bytes) => at += usize::from(bytes),
        }
    }
    None
}
