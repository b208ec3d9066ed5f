//! Compiled rules against the same rules read one by one. Refuses to know how they are compiled.

use super::*;
use crate::firewall::model::RuleSpec;
use crate::firewall::naive::{Asked, Case, group, list};
use cc_common::firewall::{Be32Hash, Be64, PREFIX_CLOSED, RuleKey};
use cc_common::net::Be16;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[test]
fn ranges_become_prefixes() {
    assert_eq!(prefixes_of(PortRange::ALL), [(0, 0)]);
    assert_eq!(prefixes_of(PortRange { first: 80, last: 80 }), [(80, 16)]);
    assert_eq!(prefixes_of(PortRange { first: 8000, last: 8099 }), [(8000, 10), (8064, 11), (8096, 14)]);
    assert_eq!(prefixes_of(PortRange { first: 1, last: 65534 }).len(), 30);
    assert_eq!(prefixes_of(PortRange { first: 65535, last: 65535 }), [(65535, 16)]);
}

proptest! {
    #[test]
    fn prefixes_cover_their_range_and_nothing_else(a: u16, b: u16, port: u16) {
        let range = PortRange { first: a.min(b), last: a.max(b) };
        let covering = prefixes_of(range).into_iter().filter(|&(at, bits)| {
            u32::from(port ^ at).checked_shr(16 - u32::from(bits)).unwrap_or(0) == 0
        });
        prop_assert_eq!(covering.count(), usize::from((range.first..=range.last).contains(&port)));
    }
}

/// Four bits at the top of an IPv4 address, or of an IPv6 one.
fn net() -> impl Strategy<Value = IpNet> {
    (any::<bool>(), 0u8..16, 0u8..=4).prop_map(|(v4, bits, length)| {
        let net = if v4 {
            IpNet::new(Ipv4Addr::new(bits << 4, 0, 0, 0).into(), length)
        } else {
            IpNet::new(Ipv6Addr::from((u128::from(bits)) << 124).into(), length)
        };
        net.unwrap().trunc()
    })
}

fn address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0u8..16).prop_map(|(v4, bits)| {
        if v4 { Ipv4Addr::new(bits << 4, 0, 0, 1).into() } else { Ipv6Addr::from(u128::from(bits) << 124 | 1).into() }
    })
}

fn ports() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        Just(PortRange::ALL),
        (0u16..8, 0u16..8).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) }),
    ]
}

fn rule(number: u32) -> impl Strategy<Value = Rule> {
    let protocol = prop_oneof![
        Just(Protocol::Any),
        ports().prop_map(Protocol::Tcp),
        ports().prop_map(Protocol::Udp),
        Just(Protocol::Icmp(None)),
        (0u8..3, prop::option::of(0u8..2)).prop_map(|(t, code)| Protocol::Icmp(Some(IcmpType {
            v4: Some(t),
            v6: Some(t + 128),
            code
        }))),
    ];
    let peer = prop_oneof![
        Just(Peer::Any),
        net().prop_map(Peer::Cidr),
        (0u8..3).prop_map(|n| Peer::Group(group(n))),
        (0u8..2).prop_map(|n| Peer::Prefixes(list(n))),
    ];
    (any::<bool>(), any::<bool>(), protocol, peer, 0u16..4).prop_map(
        move |(allow, ingress, protocol, peer, priority)| {
            let spec = RuleSpec {
                action: if allow { Action::Allow } else { Action::Deny },
                direction: if ingress { Direction::Ingress } else { Direction::Egress },
                protocol,
                peer,
                priority,
                log: false,
            };
            Rule { number, spec, created_ms: 0 }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn compiled_rules_decide_as_rules_read_one_by_one(
        rules in proptest::collection::vec(rule(0), 0..12),
        lists in proptest::collection::vec(proptest::collection::vec(net(), 0..4), 2),
        closed in proptest::collection::vec(net(), 0..2),
        packets in proptest::collection::vec(
            (address(), 0u8..3, any::<bool>(), any::<bool>(), prop_oneof![Just(6u8), Just(17), Just(1), Just(58), Just(47)], 0u16..9),
            8,
        ),
    ) {
        let case = Case {
            rules: rules.into_iter().zip(1..).map(|(rule, number)| Rule { number, ..rule }).collect(),
            lists: (0..).map(list).zip(lists).collect(),
            closed: closed.into_iter().filter(|net| net.prefix_len() > 0).collect(),
            // Set 1 is in group 0, set 2 in groups 1 and 2; whoever has number 0 is in none.
            memberships: BTreeMap::from([
                (1, BTreeSet::from([group(0)])),
                (2, BTreeSet::from([group(1), group(2)])),
            ]),
        };
        let compiled = case.compile();
        for (address, groups, ingress, beyond, protocol, service) in packets {
            let asked = Asked {
                direction: if ingress { Direction::Ingress } else { Direction::Egress },
                address,
                groups: if beyond { 0 } else { groups.into() },
                beyond,
                protocol,
                service: if protocol == 1 { service & 0x101 | (service & 3) << 8 } else { service },
            };
            // Ingress from a closed range beyond is asked of nobody in particular: what hides there is tested by egress.
            prop_assume!(!(ingress && beyond && case.closed.iter().any(|net| net.contains(&address))));
            let (decision, expected) = (compiled.decide(&asked, false), case.read(&asked));
            prop_assert_eq!(decision.rule, expected.map_or(0, |entry| entry.rule));
            prop_assert_eq!(decision.allowed, expected.is_some_and(|entry| entry.action == ACTION_ALLOW));
        }
    }

    #[test]
    fn a_headless_fragment_passes_where_some_port_does(
        rules in proptest::collection::vec(rule(0), 0..8), address in address(),
    ) {
        let rules: Vec<Rule> = rules.into_iter().zip(1..)
            .filter(|(rule, _)| !matches!(rule.spec.peer, Peer::Prefixes(_)))
            .map(|(rule, number)| Rule { number, ..rule }).collect();
        let case = Case { rules, ..Case::default() };
        let compiled = case.compile();
        let ask = |service, fragment| {
            let direction = Direction::Egress;
            let asked = Asked { direction, address, groups: 0, beyond: false, protocol: 17, service };
            compiled.decide(&asked, fragment).allowed
        };
        // Never stricter than what whole packets get.
        if (0..9).any(|port| ask(port, false)) {
            prop_assert!(ask(0, true));
        }
        if case.rules.iter().all(|rule| rule.spec.action == Action::Deny) {
            prop_assert!(!ask(0, true));
        }
    }
}

#[test]
fn keys_lead_with_the_generation() {
    let key = RuleKey {
        generation: Be64::new(1),
        class: Be32Hash(CLASS_ANY_V4.to_be_bytes()),
        direction: 0,
        protocol: PROTOCOL_CLASS_TCP,
        port: Be16::new(80),
    };
    assert_ne!(key, RuleKey { generation: Be64::new(2), ..key });
    assert_eq!(PREFIX_CLOSED.count_ones(), 1);
}
