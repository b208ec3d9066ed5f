//! Packets of strangers through the kernel programs, one after the other, by every hook. What the programs make of each is held against
//! what etherparse reads, against a dry run of the same, and against the books. Refuses to say what should pass: rules have their own target.

use cc_common::flow::is_beyond;
use cc_common::net::{GATEWAY_MAC, Ip};
use cc_common::packet::{Packet, has_ports};
use cc_common::verdict::{DropReason, Verdict};
use programs::frame::Skb;
use programs::hooks::{sweep, xdp_guard};
use programs::kernel::{Kernel, said};
use programs::maps;
use programs::programs::{TcContext, XdpContext};
use programs::work::{TRANSLATE_NOT, Work};

use crate::books;
use crate::door::Door;
use crate::host::{self, ENDPOINTS, Endpoint, HOST, HOST_V6, PUBLISHED};
use crate::input::Input;
use crate::wire::{self, ETHERNET_BYTES};

const STEPS_MAX: usize = 40;
const FRAME_BYTES_MAX: usize = 255;
const SHOT: i32 = 2;
const UNSPEC: i32 = -1;
const REDIRECT: i32 = 7;
const STOLEN: i32 = 4;

pub fn run(bytes: &[u8]) {
    let _kernel = Kernel::new();
    host::set_up();
    steps(bytes);
}

fn steps(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    // What was sent last, and where its answer would come in.
    let mut last: Option<(Door, Vec<u8>)> = None;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let step = input.u8();
        match step & 0x0f {
            at @ 0..=3 => last = send(Door::Endpoint(at.into()), step, &mut input).or(last),
            4 | 5 => last = send(Door::Uplink, step, &mut input).or(last),
            6 => last = send(Door::Host, step, &mut input).or(last),
            7 => last = send(Door::ToEndpoint, step, &mut input).or(last),
            8 => guard(input.piece()),
            9 => change_the_world(&mut input),
            _ => {
                if let Some((door, frame)) = last.take() {
                    last = pass(door, &frame, step);
                }
            }
        }
        books::check();
    }
}

/// A frame of the input's, dressed as one of those that are let in if the step says so.
fn send(door: Door, step: u8, input: &mut Input<'_>) -> Option<(Door, Vec<u8>)> {
    let mut frame = input.piece().to_vec();
    if step & 0x10 == 0 {
        dress(door, &mut frame);
    }
    if step & 0x20 == 0 {
        wire::set_sums(&mut frame);
    }
    pass(door, &frame, step)
}

/// The addresses that may come in here; the rest is the input's.
fn dress(door: Door, frame: &mut [u8]) {
    let Some(version) = frame.get(ETHERNET_BYTES).map(|byte| byte >> 4) else { return };
    let (ethertype, sources, destinations) = match version {
        4 if frame.len() >= 34 => ([8, 0], 26..30, 30..34),
        6 if frame.len() >= 54 => ([0x86, 0xdd], 22..38, 38..54),
        _ => return,
    };
    frame[12..14].copy_from_slice(&ethertype);
    let v4 = version == 4;
    match door {
        Door::Endpoint(at) => {
            let endpoint = &ENDPOINTS[at];
            frame[..6].copy_from_slice(&GATEWAY_MAC.0);
            frame[6..12].copy_from_slice(&endpoint.mac().0);
            let (own, own_v6) = (endpoint.ipv4().0, endpoint.ipv6().octets);
            frame[sources].copy_from_slice(if v4 { &own } else { &own_v6 });
        }
        Door::Uplink => frame[destinations].copy_from_slice(if v4 { &HOST } else { &HOST_V6 }),
        Door::Host => {
            let stand_in = host::STAND_INS.of(v4, 0);
            let (from, to) = (stand_in_host(v4), stand_in.octets);
            frame[sources].copy_from_slice(if v4 { &from[12..] } else { &from });
            frame[destinations].copy_from_slice(if v4 { &to[12..] } else { &to });
        }
        Door::ToEndpoint => {}
    }
    // To what is published there, mostly.
    if !matches!(door, Door::Endpoint(_))
        && let Some(seen) = wire::see(frame)
        && has_ports(seen.protocol)
        && let Some(port) = frame.get_mut(seen.transport + 2..seen.transport + 4)
        && port[0] & 1 == 0
    {
        port.copy_from_slice(&PUBLISHED.to_be_bytes());
    }
}

fn stand_in_host(v4: bool) -> [u8; 16] {
    host::STAND_INS.host(v4).octets
}

/// Runs it, dry first if the step says so. Gives where its answer would come in, and that answer.
fn pass(door: Door, frame: &[u8], step: u8) -> Option<(Door, Vec<u8>)> {
    let foretold = (step & 0x40 != 0).then(|| foretell(door, frame));
    let mut skb = Skb::new(door.ifindex(), frame);
    let drops = dropped();
    let result = door.run(&mut skb);
    let [code, target, reason, ..] = skb.context.cb;
    let comes_again = code == Verdict::Again.code();
    // What waits for a packet's first fragment, nobody asks about.
    if let Some(foretold) = foretold.filter(|_| !comes_again) {
        assert_eq!(foretold, [code, target, reason], "a dry run says what becomes of it");
    }
    let dropped = dropped() - drops;
    match (code, result) {
        (1, UNSPEC) => assert_eq!(dropped, 0),
        (Verdict::DROP_CODE, SHOT) => {
            assert!(u16::try_from(reason).ok().and_then(DropReason::from_number).is_some(), "reason {reason}");
            assert_eq!(dropped, 1, "every drop is counted once");
        }
        (_, STOLEN) if comes_again => {
            assert_eq!(dropped, 0);
            again(door, frame);
            return None;
        }
        // A packet that is answered by an error was dropped.
        (3, REDIRECT) => assert!(dropped <= 1),
        (2 | 5 | 6 | 7, REDIRECT) => {
            assert_eq!(dropped, 0);
            went(door, frame, &skb, target);
        }
        other => panic!("verdict and result disagree: {other:?}"),
    }
    read_alike(door, frame);
    let at = match code {
        2 | 5 => Door::Endpoint(ENDPOINTS.iter().position(|endpoint| endpoint.ifindex == target)?),
        6 => Door::Uplink,
        7 => Door::Host,
        _ => return None,
    };
    Some((at, from_there(at, wire::answer(&skb.bytes)?)))
}

/// A first fragment comes again, and behind it those of its packet that came too early.
fn again(door: Door, frame: &[u8]) {
    let all = said(|said| std::mem::take(&mut said.again));
    assert!(all.len() > 1 && all.iter().all(|(ifindex, _)| *ifindex == door.ifindex()), "{all:?}");
    assert_eq!(all[0].1, frame, "as it came");
    let seen = |frame: &[u8]| wire::see(frame).map(|seen| (seen.source, seen.destination));
    for (_, copy) in &all {
        assert_eq!(seen(copy), seen(frame), "of one packet");
        pass(door, copy, 0);
    }
}

/// What a dry run says; it changes nothing.
fn foretell(door: Door, frame: &[u8]) -> [u32; 3] {
    let (before, random) = (tables(), said(|said| said.random));
    maps::CC_DRY_RUN.set(1);
    maps::CC_TRACE.clear();
    let mut skb = Skb::new(door.ifindex(), frame);
    door.run(&mut skb);
    maps::CC_DRY_RUN.set(0);
    said(|said| said.random = random);
    assert_eq!(before, tables(), "a dry run changes nothing");
    let [code, target, reason, ..] = skb.context.cb;
    [code, target, reason]
}

fn tables() -> String {
    let (flows, nat, quotas) = (maps::CC_FLOWS.all(), maps::CC_NAT.all(), maps::CC_QUOTAS.all());
    let (blocks, fragments, rates) = (maps::CC_BLOCKS.all(), maps::CC_FRAGMENTS.all(), maps::CC_RATES.all());
    let quotas: Vec<_> = quotas.into_iter().filter(|(_, quota)| *quota != Default::default()).collect();
    let blocks: Vec<_> = blocks.into_iter().filter(|(_, block)| *block != Default::default()).collect();
    format!("{flows:?} {nat:?} {quotas:?} {blocks:?} {fragments:?} {rates:?} {}", dropped())
}

fn dropped() -> u64 {
    maps::CC_DROPS.all().iter().map(|(_, count)| count.packets).sum()
}

/// A packet that goes on: it came from whom it says, and what it is has not changed, whatever its ends are now.
fn went(door: Door, frame: &[u8], skb: &Skb, target: u32) {
    assert_eq!(frame.len(), skb.bytes.len());
    let work = Work::mine().expect("a program has run");
    let packet = &work.parsed.packet;
    if let Door::Endpoint(at) = door {
        let own = if packet.source.is_v4() { Ip::v4(ENDPOINTS[at].ipv4()) } else { ENDPOINTS[at].ipv6() };
        assert_eq!(packet.source, own, "nobody sends as somebody else");
    }
    if !is_beyond(work.to) {
        let endpoint = of_number(work.to);
        assert_eq!(endpoint.ifindex, target);
        assert_eq!(&skb.bytes[..6], &endpoint.mac().0);
        assert_eq!(&skb.bytes[6..12], &GATEWAY_MAC.0);
        match door {
            Door::Endpoint(at) if work.translate == TRANSLATE_NOT => assert_eq!(ENDPOINTS[at].vni, endpoint.vni),
            _ => {}
        }
    }
    let Some(seen) = wire::see(frame) else { return };
    if work.translate == TRANSLATE_NOT {
        assert_eq!(frame[ETHERNET_BYTES..], skb.bytes[ETHERNET_BYTES..]);
        return;
    }
    let now = wire::see(&skb.bytes).expect("a packet stays one");
    assert_eq!((now.protocol, now.transport, now.end), (seen.protocol, seen.transport, seen.end));
    assert_eq!(now.ttl, seen.ttl - 1);
    assert_eq!((now.source, now.destination), (work.out.source.octets, work.out.destination.octets));
    if wire::sums_hold(frame) {
        assert!(wire::sums_hold(&skb.bytes), "sums stay right: {frame:02x?} {:02x?}", skb.bytes);
    }
}

fn of_number(number: u32) -> &'static Endpoint {
    ENDPOINTS.iter().find(|endpoint| endpoint.number == number).expect("only endpoints that are there get packets")
}

/// Where the programs have read headers, etherparse reads the same.
fn read_alike(door: Door, frame: &[u8]) {
    use programs::parse::{self, EthernetIpv4};
    if door == Door::ToEndpoint {
        return;
    }
    let mut skb = Skb::new(door.ifindex(), frame);
    let context = TcContext::new(skb.pointer());
    let work = Work::mine().expect("there is room to work in");
    let is_v4 = skb.context.protocol == u32::from(0x0800_u16.to_be());
    let parsed = if is_v4 {
        parse::header::<EthernetIpv4>(&context, 0).and_then(|both| parse::ipv4(&context, &both.ipv4, &mut work.parsed))
    } else {
        parse::ipv6(&context, &mut work.parsed)
    };
    if parsed.is_err() {
        return;
    }
    let (packet, transport) = (&work.parsed.packet, work.parsed.transport as usize);
    let Some(seen) = wire::see(frame) else { return };
    assert_eq!((packet.source.octets, packet.destination.octets), (seen.source, seen.destination));
    assert_eq!((packet.protocol, transport, work.parsed.ttl), (seen.protocol, seen.transport, seen.ttl));
    assert_eq!(!work.parsed.fragment.is_whole(), seen.fragmented);
    assert!(transport <= seen.end && seen.end <= frame.len());
    if !work.parsed.fragment.is_later() && has_ports(packet.protocol) {
        read_ports_alike(packet, &frame[transport..seen.end]);
    }
}

/// Ports are the packet's own, not of what follows it in the frame.
fn read_ports_alike(packet: &Packet, transport: &[u8]) {
    let ports = [packet.source_port.0, packet.destination_port.0].concat();
    match packet.protocol {
        6 => {
            assert!(transport.len() >= 16, "TCP's header is in the packet");
            assert_eq!((&transport[..4], transport[13]), (&ports[..], packet.tcp.flags));
        }
        17 => {
            assert!(transport.len() >= 8, "UDP's header is in the packet");
            assert_eq!(transport[..4], ports);
        }
        _ => {
            assert!(transport.len() >= 8, "ICMP's header is in the packet");
            assert_eq!(transport[..2], packet.icmp);
        }
    }
}

/// As it would come in there.
fn from_there(door: Door, mut answer: Vec<u8>) -> Vec<u8> {
    if let Door::Endpoint(at) = door {
        answer[..6].copy_from_slice(&GATEWAY_MAC.0);
        answer[6..12].copy_from_slice(&ENDPOINTS[at].mac().0);
    }
    answer
}

/// The guard reads nothing beyond the frame; what it lets pass is a packet, if it is one of IP's.
fn guard(frame: &[u8]) {
    let exact: Box<[u8]> = frame.into();
    let passed = xdp_guard::run(&XdpContext::new(&exact)) == programs::bindings::xdp_action::XDP_PASS;
    if passed && matches!(frame.get(12..14), Some([8, 0])) {
        let header = &frame[ETHERNET_BYTES..];
        let (length, total) = (usize::from(header[0] & 0xf) * 4, u16::from_be_bytes([header[2], header[3]]));
        assert!(
            header[0] >> 4 == 4 && (20..=usize::from(total)).contains(&length) && usize::from(total) <= header.len()
        );
        assert_ne!(&header[12..15], &[203, 0, 113], "the denied do not pass");
    }
}

/// Time passes, rules and routes change, an endpoint goes and another takes its place.
fn change_the_world(input: &mut Input<'_>) {
    let (what, value) = (input.u8(), input.u8());
    match what % 6 {
        0 => said(|said| said.now_ns += u64::from(value) * 1_000_000_000),
        1 => {
            let mut skb = Skb::new(0, &[0; FRAME_BYTES_MAX]);
            sweep::run(&TcContext::new(skb.pointer()));
        }
        2 => host::rules(1 + u32::from(value % 3), 2 + u64::from(value)),
        3 => replace(&ENDPOINTS[usize::from(value % 4)]),
        4 => said(|said| {
            said.mtu = 576 + u32::from(value) * 8;
            // Found, or the host's own, or nowhere.
            said.route = [0, 0, 0, 4, 3][usize::from(value % 5)];
        }),
        _ => {
            let mut settings = *maps::CC_SETTINGS.get(0).expect("there are settings");
            settings.beyond_version = 1 + u64::from(value);
            maps::CC_SETTINGS.set(0, settings);
        }
    }
}

/// As the daemon does it: the slot is another's, then what it held is given back.
fn replace(endpoint: &Endpoint) {
    let before = endpoint.generation();
    endpoint.attach(before + 1_000);
    let mut skb = Skb::new(0, &[0; FRAME_BYTES_MAX]);
    skb.context.mark = endpoint.number + 1;
    (skb.context.cb[0], skb.context.cb[1]) = (before as u32, (before >> 32) as u32);
    sweep::run(&TcContext::new(skb.pointer()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds;
    use cc_common::flow::{BEYOND_HOST, BEYOND_UPLINK};
    use cc_common::tcp::Phase;

    /// Of a seed: between whom flows are afterwards, and whether they are established.
    fn flows(seed: &str) -> Vec<([u32; 2], bool)> {
        let _kernel = Kernel::new();
        host::set_up();
        let all = seeds::all();
        steps(&all.iter().find(|(target, name, _)| (*target, *name) == ("datapath", seed)).expect("there is one").2);
        let mut flows: Vec<([u32; 2], bool)> = maps::CC_FLOWS
            .all()
            .into_iter()
            .map(|(key, flow)| {
                let mut ends = flow.endpoints;
                ends.sort_unstable();
                (ends, flow.tracked.phase(key.protocol == 6) == Phase::Established)
            })
            .collect();
        flows.sort_unstable();
        flows
    }

    fn reasons() -> Vec<&'static str> {
        let reasons = maps::CC_DROPS.all().into_iter().filter_map(|(key, _)| DropReason::from_number(key.reason));
        reasons.map(DropReason::name).collect()
    }

    #[test]
    fn seeds_go_where_they_are_meant_to() {
        assert_eq!(flows("tcp"), [([0, 1], true)]);
        assert_eq!(flows("tcp6"), [([0, 1], true)]);
        assert_eq!(flows("gateway"), [([0, ENDPOINTS[3].number], true)]);
        assert_eq!(flows("out"), [([0, BEYOND_UPLINK], true), ([2, BEYOND_UPLINK], true)]);
        let (out, host) = (([0, BEYOND_UPLINK], true), ([0, BEYOND_HOST], true));
        // The second client is an endpoint of another network: a flow in each one's.
        assert_eq!(flows("published"), [([0, 2], true), ([0, 2], true), host, out, out]);
        assert_eq!(flows("errors"), [([0, 1], false)]);
    }

    #[test]
    fn what_is_refused_is_refused_for_its_reason() {
        let after = |bytes: &[u8]| {
            let _kernel = Kernel::new();
            host::set_up();
            steps(bytes);
            reasons()
        };
        let frame = |name: &str| seeds::all().into_iter().find(|seed| seed.1 == name).expect("there is one").2;
        assert_eq!(after(&frame("tcp")), ["firewall_ingress"], "the second goes to a port that is closed");
        let syn = &frame("tcp")[2..];
        let length = frame("tcp")[1];
        let as_it_is = |frame: &[u8]| after(&[&[0x10, length], &frame[..length.into()]].concat());
        let mut spoofed = syn.to_vec();
        spoofed[29] = 9;
        assert_eq!(as_it_is(&spoofed), ["spoofed_ipv4"]);
        spoofed = syn.to_vec();
        spoofed[11] = 9;
        assert_eq!(as_it_is(&spoofed), ["spoofed_mac"]);
    }
}
