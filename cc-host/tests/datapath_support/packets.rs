//! Packets by hand, and the programs run on them by BPF_PROG_TEST_RUN. Refuses to judge what comes of them.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part of it, and fails by panicking")]

use std::net::Ipv6Addr;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use cc_common::limits::EARLY_BYTES;
use cc_common::names::PROGRAM_FROM_ENDPOINT;
use cc_common::net::GATEWAY_MAC;
use cc_common::verdict::{DropReason, Verdict};

use super::{Container, GATEWAY, World};

/// Offsets in `struct __sk_buff`.
const CTX_BYTES: usize = 192;
const CTX_MARK: usize = 8;
const CTX_IFINDEX: usize = 40;
const CTX_CB: usize = 48;

pub const TC_SHOT: u32 = 2;
pub const TC_REDIRECT: u32 = 7;
pub const TC_UNSPEC: u32 = u32::MAX;

pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 3];
pub const BROADCAST: [u8; 6] = [0xff; 6];
pub const OWN: [u8; 4] = [10, 0, 0, 2];
pub const PEER: [u8; 4] = [10, 0, 0, 3];
/// In the same VPC and another group.
pub const STRANGER: [u8; 4] = [10, 0, 0, 5];
/// Only in the other VPC.
pub const ELSEWHERE: [u8; 4] = [10, 0, 0, 9];

pub struct Outcome {
    pub action: u32,
    pub verdict: u32,
    pub target: u32,
    pub reason: u32,
    pub data: Vec<u8>,
}

/// `None` when the kernel itself refuses to run the packet: it takes no frame shorter than its own header.
pub fn run(world: &World, program: &str, ifindex: u32, mark: u32, packet: &[u8]) -> Option<Outcome> {
    Runner::open(world, program).run(ifindex, mark, packet)
}

/// A program that is run many times.
pub struct Runner(SchedClassifier);

impl Runner {
    pub fn open(world: &World, program: &str) -> Runner {
        let path = world.datapath().pin_dir().join("programs").join(program);
        Runner(SchedClassifier::from_pin(path).unwrap())
    }

    pub fn run(&self, ifindex: u32, mark: u32, packet: &[u8]) -> Option<Outcome> {
        let mut ctx = [0u8; CTX_BYTES];
        ctx[CTX_MARK..][..4].copy_from_slice(&mark.to_ne_bytes());
        ctx[CTX_IFINDEX..][..4].copy_from_slice(&ifindex.to_ne_bytes());
        // It may be made into another that waited for it.
        let (mut ctx_out, mut data) = ([0u8; CTX_BYTES], vec![0u8; packet.len().max(EARLY_BYTES as usize) + 256]);
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut data),
            ctx_in: Some(&ctx),
            ctx_out: Some(&mut ctx_out),
            ..TestRunOptions::new()
        };
        let result = self.0.test_run(options).ok()?;
        data.truncate(result.data_size_out as usize);
        let word = |i: usize| u32::from_ne_bytes(ctx_out[CTX_CB + 4 * i..][..4].try_into().unwrap());
        Some(Outcome { action: result.return_value, verdict: word(0), target: word(1), reason: word(2), data })
    }
}

pub fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes()].concat()
}

pub fn ipv4_header(words: u8, total_len: u16, source: [u8; 4], destination: [u8; 4], protocol: u8) -> Vec<u8> {
    let mut header = vec![0x40 | words, 0];
    header.extend(total_len.to_be_bytes());
    header.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    header.extend(source);
    header.extend(destination);
    header.resize(usize::from(words.max(5)) * 4, 1);
    header
}

/// UDP with 12 bytes of payload to `destination`.
pub fn udp(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut packet = ethernet(GATEWAY_MAC.0, OWN_MAC, 0x0800);
    packet.extend(ipv4_header(5, 40, source, destination, 17));
    packet.extend([0u8; 20]);
    packet
}

pub fn with_destination_mac(destination: [u8; 6], mut packet: Vec<u8>) -> Vec<u8> {
    packet[..6].copy_from_slice(&destination);
    packet
}

pub fn with_source_mac(source: [u8; 6], mut packet: Vec<u8>) -> Vec<u8> {
    packet[6..12].copy_from_slice(&source);
    packet
}

pub fn arp(operation: u16, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut packet = ethernet(BROADCAST, OWN_MAC, 0x0806);
    packet.extend([0, 1, 8, 0, 6, 4]);
    packet.extend(operation.to_be_bytes());
    packet.extend(sender_mac);
    packet.extend(sender);
    packet.extend([0; 6]);
    packet.extend(target);
    packet
}

pub fn echo(header_words: u8, kind: u8) -> Vec<u8> {
    let mut packet = ethernet(GATEWAY_MAC.0, OWN_MAC, 0x0800);
    packet.extend(ipv4_header(header_words, u16::from(header_words) * 4 + 16, OWN, GATEWAY.octets(), 1));
    let icmp = packet.len();
    packet.extend([kind, 0, 0, 0, 0x12, 0x34, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    let sum = checksum(&packet[icmp..]);
    packet[icmp + 2..icmp + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}

pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// TCP without options from `source`, as its host sends it.
pub fn tcp(
    source: ([u8; 4], u16),
    destination: ([u8; 4], u16),
    flags: u8,
    sequence: u32,
    acknowledged: u32,
) -> Vec<u8> {
    let source_mac = if source.0 == OWN { OWN_MAC } else { PEER_MAC };
    let mut packet = ethernet(GATEWAY_MAC.0, source_mac, 0x0800);
    packet.extend(ipv4_header(5, 40, source.0, destination.0, 6));
    packet.extend(source.1.to_be_bytes());
    packet.extend(destination.1.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(acknowledged.to_be_bytes());
    packet.extend([0x50, flags, 0x10, 0x00, 0, 0, 0, 0]);
    packet
}

/// UDP with ports, and 12 bytes of payload.
pub fn udp_ports(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Vec<u8> {
    let mut packet = udp(source.0, destination.0);
    packet[6..12].copy_from_slice(if source.0 == OWN { &OWN_MAC } else { &PEER_MAC });
    packet[34..36].copy_from_slice(&source.1.to_be_bytes());
    packet[36..38].copy_from_slice(&destination.1.to_be_bytes());
    packet
}

/// IPv6 with `payload` behind the fixed header, from OWN's place.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = ethernet(GATEWAY_MAC.0, OWN_MAC, 0x86dd);
    packet.extend([0x60, 0, 0, 0]);
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// Runs a packet that is dropped for `reason`, and sees it counted there and nowhere else.
pub fn assert_dropped(
    world: &World,
    from: &Container,
    at: u32,
    direction: &str,
    reason: DropReason,
    name: &str,
    packet: &[u8],
) {
    let count = || {
        let counters = world.datapath().counters(at).unwrap();
        let drop = counters.drops.iter().find(|drop| (drop.direction, drop.reason) == (direction, reason.name()));
        drop.map_or((0, 0), |drop| (drop.packets, drop.bytes))
    };
    let sent = || world.datapath().counters(from.endpoint.id).unwrap().sent;
    let ((packets, bytes), sent_before) = (count(), sent());
    let outcome = run(world, PROGRAM_FROM_ENDPOINT, from.endpoint.ifindex, 0, packet).expect(name);
    assert_eq!(DropReason::from_number(outcome.reason as u16), Some(reason), "{name}");
    assert_eq!((outcome.action, outcome.verdict), (TC_SHOT, Verdict::Drop(reason).code()), "{name}");
    assert_eq!(outcome.target, 0, "{name}");
    assert_eq!(count(), (packets + 1, bytes + packet.len() as u64), "{name}");
    assert_eq!(sent(), sent_before, "{name}: a dropped packet was not sent");
}

/// A message with its checksum, which covers the addresses, behind no header.
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], rest].concat();
    let sum = icmpv6_checksum(source, destination, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// 0 over a message whose checksum is right.
pub fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    checksum(&[&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, 58], message].concat())
}

/// "Who has `target`?", with the asker's own address beside it if `option` says so.
pub fn solicitation(source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr, option: bool) -> Vec<u8> {
    let mut rest = [&[0; 4], &target.octets()[..]].concat();
    if option {
        rest.extend([&[1, 1][..], &OWN_MAC].concat());
    }
    ipv6(source, destination, 58, 255, &icmpv6(source, destination, 135, &rest))
}
