//! Conversations that cross the border, there and back: what comes back is what went out, every sum stays right, no two conversations look
//! alike to the outside, and an error about one reaches whoever sent it, quoting what he sent. Refuses packets that nobody would send.

use cc_common::limits::NAT_BLOCK_PORTS;
use cc_common::net::GATEWAY_MAC;
use cc_common::verdict::Verdict;
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use programs::frame::Skb;
use programs::kernel::{Kernel, said};

use crate::books;
use crate::door::Door;
use crate::host::{self, ENDPOINTS, HOST, HOST_V6, PUBLISHED};
use crate::input::Input;
use crate::wire::{self, ETHERNET_BYTES};

const CONVERSATIONS_MAX: usize = 24;
const OUT: u32 = 6;
const DELIVER: u32 = 2;
const QUEUE: u32 = 5;
const TTL: u8 = 64;
const ROUTER: [u8; 4] = [203, 0, 114, 9];
const ROUTER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

pub fn run(bytes: &[u8]) {
    let _kernel = Kernel::new();
    host::set_up();
    let mut input = Input::new(bytes);
    for _ in 0..CONVERSATIONS_MAX {
        if input.is_empty() {
            break;
        }
        let choice = input.u8();
        said(|said| said.random = said.random.wrapping_add(u32::from(choice)));
        if choice & 0x80 == 0 {
            leave(&mut input, choice);
        } else {
            enter(&mut input, choice);
        }
        books::check();
    }
}

/// Out by the uplink, and the answer back.
fn leave(input: &mut Input<'_>, choice: u8) {
    let at = usize::from(choice & 3) % 3;
    let endpoint = &ENDPOINTS[at];
    let v4 = !endpoint.has_v6 || choice & 4 == 0;
    let remote = input.u8() & 3;
    let (from, to) = if v4 {
        (wire::mapped(endpoint.ipv4().0), wire::mapped([203, 0, 114, remote]))
    } else {
        (endpoint.ipv6().octets, [0x20, 1, 0xd, 0xb8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, remote])
    };
    let mut frame = packet(from, to, choice >> 4 & 3, input);
    frame[..6].copy_from_slice(&GATEWAY_MAC.0);
    frame[6..12].copy_from_slice(&endpoint.mac().0);
    let (code, _, out) = through(Door::Endpoint(at), &frame);
    if code == Verdict::DROP_CODE {
        // Ports and quotas end.
        return;
    }
    assert_eq!(code, OUT);
    let outer = wire::see(&out).expect("a packet stays one");
    assert!(wire::sums_hold(&out), "{frame:02x?} {out:02x?}");
    assert_eq!(outer.source, if v4 { wire::mapped(HOST) } else { HOST_V6 });
    assert_eq!(outer.destination, to);
    let own_port = source_port(&out, &outer);
    assert!(is_leased(own_port), "{own_port}");
    comes_back(at, &frame, &out);
    error_comes_back(at, &frame, &out, choice);
}

/// The answer to what went out is the answer to what was sent.
fn comes_back(at: usize, frame: &[u8], out: &[u8]) {
    let answer = wire::answer(out).expect("it is a packet");
    let (code, target, back) = through(Door::Uplink, &answer);
    assert!(matches!(code, DELIVER | QUEUE), "an answer is let in");
    assert_eq!(target, ENDPOINTS[at].ifindex);
    assert!(wire::sums_hold(&back), "{answer:02x?} {back:02x?}");
    let mut expected = wire::answer(frame).expect("we made it");
    expected[..12].copy_from_slice(&back[..12]);
    // It has come by two borders.
    let ttl = if frame[ETHERNET_BYTES] >> 4 == 4 { 22 } else { 21 };
    expected[ttl] = TTL - 2;
    wire::set_sums(&mut expected);
    if frame[ETHERNET_BYTES + usize::from(ttl == 22) * 3 + 6] == 17 {
        keep_no_sum(&mut expected, &back);
    }
    assert_eq!(back, expected, "what comes back is the answer to what was sent");
}

/// A datagram without a sum stays without one, and so is its answer here.
fn keep_no_sum(expected: &mut [u8], back: &[u8]) {
    let Some(seen) = wire::see(back) else { return };
    let at = seen.transport + 6;
    if back[at..at + 2] == [0; 2] {
        expected[at..at + 2].fill(0);
    }
}

/// Somebody on the way says that a packet did not arrive: its sender is told, of the packet as he sent it.
fn error_comes_back(at: usize, frame: &[u8], out: &[u8], choice: u8) {
    let v4 = out[ETHERNET_BYTES] >> 4 == 4;
    let whole = &out[ETHERNET_BYTES..];
    let most = if choice & 8 == 0 { whole.len() } else { if v4 { 28 } else { 48 } };
    let quoted = &whole[..whole.len().min(most)];
    let mut error = Vec::new();
    let made = if v4 {
        let builder = PacketBuilder::ethernet2([4; 6], [6; 6]).ipv4(ROUTER, HOST, TTL);
        builder.icmpv4_raw(11, 0, [0; 4]).write(&mut error, quoted)
    } else {
        let builder = PacketBuilder::ethernet2([4; 6], [6; 6]).ipv6(ROUTER_V6, HOST_V6, TTL);
        builder.icmpv6_raw(3, 0, [0; 4]).write(&mut error, quoted)
    };
    made.expect("a vector takes it");
    let (code, target, back) = through(Door::Uplink, &error);
    assert!(matches!(code, DELIVER | QUEUE), "an error about a conversation is let in");
    assert_eq!(target, ENDPOINTS[at].ifindex);
    assert!(wire::sums_hold(&back), "{error:02x?} {back:02x?}");
    let seen = wire::see(&back).expect("a packet stays one");
    let mut told = back[..ETHERNET_BYTES].to_vec();
    told.extend_from_slice(&back[seen.transport + 8..seen.end]);
    let mut sent = frame[..told.len()].to_vec();
    sent[..ETHERNET_BYTES].copy_from_slice(&told[..ETHERNET_BYTES]);
    // As it was when it left: one hop further.
    let (ttl, header) = if v4 { (22, 34) } else { (21, 54) };
    sent[ttl] = TTL - 1;
    if v4 {
        sent[24..26].fill(0);
        let right = wire::sum(&[&sent[ETHERNET_BYTES..header]]);
        sent[24..26].copy_from_slice(&right.to_be_bytes());
    }
    // Its sums, as far as they are quoted, are not adjusted: nobody looks at them.
    let compared = header + 4;
    let icmp = matches!(seen_protocol(frame), 1 | 58);
    if !icmp {
        assert_eq!(told[..compared], sent[..compared], "what is quoted is what was sent");
    } else {
        assert_eq!(told[..header], sent[..header], "what is quoted is what was sent");
        assert_eq!(told[header + 4..header + 6], sent[header + 4..header + 6], "under its own number");
    }
}

fn seen_protocol(frame: &[u8]) -> u8 {
    wire::see(frame).map_or(0, |seen| seen.protocol)
}

/// In by a published port, and the answer out again.
fn enter(input: &mut Input<'_>, choice: u8) {
    let v4 = choice & 4 == 0;
    let client = input.u8();
    let (from, to) = if v4 {
        (wire::mapped([203, 0, 114, client]), wire::mapped(HOST))
    } else {
        ([0x20, 1, 0xd, 0xb8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, client], HOST_V6)
    };
    let mut frame = packet(from, to, choice >> 4 & 1, input);
    let seen = wire::see(&frame).expect("we made it");
    frame[seen.transport + 2..seen.transport + 4].copy_from_slice(&PUBLISHED.to_be_bytes());
    wire::set_sums(&mut frame);
    let (code, target, inside) = through(Door::Uplink, &frame);
    if !matches!(code, DELIVER | QUEUE) {
        return;
    }
    let at = ENDPOINTS.iter().position(|endpoint| endpoint.ifindex == target).expect("it went to an endpoint");
    assert!(wire::sums_hold(&inside), "{frame:02x?} {inside:02x?}");
    let mut answer = wire::answer(&inside).expect("a packet stays one");
    answer[..6].copy_from_slice(&GATEWAY_MAC.0);
    answer[6..12].copy_from_slice(&ENDPOINTS[at].mac().0);
    let (code, _, out) = through(Door::Endpoint(at), &answer);
    if code == Verdict::DROP_CODE {
        // A port that was opened by a reset, or is limited.
        return;
    }
    assert_eq!(code, OUT);
    assert!(wire::sums_hold(&out), "{answer:02x?} {out:02x?}");
    let (asked, answered) = (wire::see(&frame).expect("we made it"), wire::see(&out).expect("a packet stays one"));
    assert_eq!((asked.source, asked.destination), (answered.destination, answered.source));
    let (there, back) = (&frame[asked.transport..][..4], &out[answered.transport..][..4]);
    assert_eq!((&there[..2], &there[2..]), (&back[2..], &back[..2]));
}

fn is_leased(port: u16) -> bool {
    let block = u32::from(port) / NAT_BLOCK_PORTS;
    let first = u32::from(host::NAT_BLOCK_FIRST);
    (first..first + u32::from(host::NAT_BLOCKS)).contains(&block)
}

/// By which number the outside knows it.
fn source_port(frame: &[u8], seen: &wire::Seen) -> u16 {
    let at = seen.transport + if matches!(seen.protocol, 1 | 58) { 4 } else { 0 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn through(door: Door, frame: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut skb = Skb::new(door.ifindex(), frame);
    door.run(&mut skb);
    let [code, target, ..] = skb.context.cb;
    (code, target, skb.bytes.clone())
}

/// TCP, UDP with and without a sum, an echo request: with ports, flags and data of the input.
fn packet(from: [u8; 16], to: [u8; 16], kind: u8, input: &mut Input<'_>) -> Vec<u8> {
    let (source, destination, flags) = (input.u16(), input.u16(), input.u8());
    let data = input.piece();
    // Never all zero: see `wire::sums_hold`.
    let data = &[&[1], &data[..data.len().min(64)]].concat();
    let link = PacketBuilder::ethernet2([4; 6], [6; 6]);
    let v4 = from[..12] == wire::mapped([0; 4])[..12];
    let last = |address: [u8; 16]| [address[12], address[13], address[14], address[15]];
    let ip: PacketBuilderStep<IpHeaders> =
        if v4 { link.ipv4(last(from), last(to), TTL) } else { link.ipv6(from, to, TTL) };
    let mut frame = Vec::new();
    let made = match kind {
        0 => {
            let mut tcp = ip.tcp(source, destination, u32::from(flags), 4096);
            // A reset begins nothing.
            if flags & 1 != 0 {
                tcp = tcp.syn();
            }
            if flags & 2 != 0 {
                tcp = tcp.ack(7);
            }
            if flags & 4 != 0 {
                tcp = tcp.fin();
            }
            tcp.write(&mut frame, data)
        }
        1 | 2 => ip.udp(source, destination).write(&mut frame, data),
        _ if v4 => ip.icmpv4_echo_request(source, destination).write(&mut frame, data),
        _ => ip.icmpv6_echo_request(source, destination).write(&mut frame, data),
    };
    made.expect("a vector takes it");
    if kind == 2 && v4 {
        frame[40..42].fill(0);
    }
    frame
}
