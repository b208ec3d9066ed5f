//! Rules out of bytes, compiled, and asked about conversations: they decide as the same rules do when they are read one by one. Refuses
//! large numbers: where everything is small, everything meets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cc_common::firewall::ACTION_ALLOW;
use cc_common::verdict::Direction;
use cc_host::firewall::naive::{Asked, Case, group, list};
use cc_host::firewall::{Action, IcmpType, Peer, PortRange, Protocol, Rule, RuleSpec};
use ipnet::IpNet;

use crate::input::Input;

const RULES_MAX: usize = 24;
const QUESTIONS_MAX: usize = 32;
const PROTOCOLS: [u8; 5] = [6, 17, 1, 58, 47];

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let case = case(&mut input);
    let compiled = case.compile();
    for _ in 0..QUESTIONS_MAX {
        if input.is_empty() {
            break;
        }
        let asked = asked(&mut input);
        // Ingress from a closed range beyond is asked of nobody in particular: what hides there is told by egress.
        let is_closed = case.closed.iter().any(|net| net.contains(&asked.address));
        if asked.beyond && asked.direction == Direction::Ingress && is_closed {
            continue;
        }
        let (decision, read) = (compiled.decide(&asked, false), case.read(&asked));
        assert_eq!(decision.rule, read.map_or(0, |entry| entry.rule), "{asked:?} {case:#?}");
        assert_eq!(decision.allowed, read.is_some_and(|entry| entry.action == ACTION_ALLOW));
        assert_eq!(decision.log, read.is_some_and(|entry| entry.log != 0));
        if decision.allowed {
            assert!(compiled.decide(&asked, true).allowed, "a fragment without a port passes where a port does");
        }
    }
}

fn case(input: &mut Input<'_>) -> Case {
    let lists = (0..2).map(|n| (list(n), nets(input))).collect();
    // Nobody closes everything.
    let closed = nets(input).into_iter().filter(|net| net.prefix_len() > 0).take(2).collect();
    let memberships = (1..4).map(|set| (set, groups(input))).collect();
    let count = input.below(RULES_MAX + 1) as u32;
    let rules = (1..=count).map(|number| Rule { number, spec: spec(input), created_ms: 0 }).collect();
    Case { rules, lists, closed, memberships }
}

fn groups(input: &mut Input<'_>) -> BTreeSet<cc_host::firewall::GroupId> {
    let bits = input.u8();
    (0..4).filter(|n| bits & 1 << n != 0).map(group).collect()
}

fn nets(input: &mut Input<'_>) -> Vec<IpNet> {
    (0..input.below(5)).map(|_| net(input)).collect()
}

fn spec(input: &mut Input<'_>) -> RuleSpec {
    let flags = input.u8();
    RuleSpec {
        action: if flags & 1 == 0 { Action::Allow } else { Action::Deny },
        direction: if flags & 2 == 0 { Direction::Ingress } else { Direction::Egress },
        log: flags & 4 != 0,
        priority: u16::from(flags >> 3 & 3),
        protocol: protocol(input),
        peer: peer(input),
    }
}

fn protocol(input: &mut Input<'_>) -> Protocol {
    match input.below(6) {
        0 => Protocol::Any,
        1 => Protocol::Tcp(ports(input)),
        2 => Protocol::Udp(ports(input)),
        3 => Protocol::Icmp(None),
        _ => {
            let (types, code) = (input.u8(), input.u8());
            let of = |bit: u8, number: u8| (types & bit != 0).then_some(number);
            let code = (code & 4 != 0).then_some(code & 3);
            Protocol::Icmp(Some(IcmpType { v4: of(0x80, types & 3), v6: of(0x40, 128 + (types & 3)), code }))
        }
    }
}

fn ports(input: &mut Input<'_>) -> PortRange {
    let (a, b) = (input.u16(), input.u16());
    match a & 3 {
        0 => PortRange::ALL,
        // Near each other and at both ends of the range, where ranges meet.
        1 => PortRange { first: a >> 2 & 15, last: (a >> 2 & 15) + (b & 15) },
        2 => PortRange { first: u16::MAX - (b & 15), last: u16::MAX },
        _ => PortRange { first: a.min(b), last: a.max(b) },
    }
}

fn peer(input: &mut Input<'_>) -> Peer {
    match input.below(4) {
        0 => Peer::Any,
        1 => Peer::Group(group(input.u8() & 3)),
        2 => Peer::Prefixes(list(input.u8() & 1)),
        _ => Peer::Cidr(net(input)),
    }
}

/// Of few bits at the top, so that many lie within others.
fn net(input: &mut Input<'_>) -> IpNet {
    let (at, length) = (input.u8(), input.u8() % 6);
    let net = IpNet::new(address_of(at, 0), length).expect("a length of five bits at most");
    net.trunc()
}

fn address_of(at: u8, last: u8) -> IpAddr {
    if at & 1 == 0 {
        Ipv4Addr::new(at & 0xf8, 0, 0, last).into()
    } else {
        Ipv6Addr::from(u128::from(at & 0xf8) << 120 | u128::from(last)).into()
    }
}

fn asked(input: &mut Input<'_>) -> Asked {
    let flags = input.u8();
    let beyond = flags & 1 != 0;
    let service = input.u16();
    Asked {
        direction: if flags & 2 == 0 { Direction::Ingress } else { Direction::Egress },
        address: address_of(input.u8(), 1),
        // Beyond the networks nobody is in a group.
        groups: if beyond { 0 } else { u32::from(flags >> 2 & 3) },
        beyond,
        protocol: input.pick(&PROTOCOLS),
        service: if flags & 0x40 == 0 { service & 31 } else { service },
    }
}
