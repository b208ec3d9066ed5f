//! Rules and packets of every kind that a program tells apart, at random; few addresses and ports, so that packets often meet a flow.
//! Refuses to know what becomes of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cc_common::firewall::{ACTION_ALLOW, ACTION_DENY, CLASS_ANY_V4, CLASS_ANY_V6, RuleEntry, class_of_groups};
use cc_common::flow::VNI_OUTSIDE;
use cc_common::net::GATEWAY_MAC;
use cc_common::verdict::Direction;
use proptest::prelude::*;

use crate::datapath_support::address_v6;
use crate::datapath_support::outside::{HOST, HOST6};
use crate::scene::Scene;

pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);
/// As whom the first container knows the host, and the host it.
const HOSTS_STAND_IN: usize = 9;
const STAND_IN: usize = 10;
/// In a rule, behind the classes of protocols: all of them.
pub const ANY: u8 = 5;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum From {
    Container(usize),
    Outside,
    Host,
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub of: u32,
    pub class: u32,
    pub direction: Direction,
    pub protocol: u8,
    pub port: Option<u16>,
    pub some: bool,
    pub entry: RuleEntry,
}

#[derive(Debug, Clone)]
pub struct Packet {
    pub from: From,
    pub v6: bool,
    /// Indices of the addresses in `address`.
    pub source: Option<usize>,
    pub destination: usize,
    pub protocol: u8,
    pub ports: (u16, u16),
    pub flags: u8,
    pub ttl: u8,
    /// IPv4's word of flags and offset.
    pub fragment: u16,
    pub wrong_mac: bool,
    /// From outside, to whatever port a conversation has leased.
    pub answers: bool,
    /// An ICMP error about a packet the other way.
    pub quotes: bool,
    pub length: usize,
}

#[derive(Debug, Clone)]
pub enum Step {
    Rules(Vec<Rule>),
    Published(bool),
    Packet(Packet),
    /// As the last one, with these flags of TCP.
    Again(u8),
    /// Its answer.
    Answer(u8),
}

pub fn address(v6: bool, n: usize) -> IpAddr {
    const LAST: [u8; 5] = [2, 3, 9, 77, 1];
    match (n, v6) {
        (0..5, false) => Ipv4Addr::new(10, 0, 0, LAST[n]).into(),
        (0..5, true) => address_v6(LAST[n]).into(),
        (5, false) => FAR.into(),
        (5, true) => FAR6.into(),
        (6, false) => HOST.into(),
        (6, true) => HOST6.into(),
        (7, false) => Ipv4Addr::LOCALHOST.into(),
        (7, true) => Ipv6Addr::LOCALHOST.into(),
        (HOSTS_STAND_IN, false) => Ipv4Addr::new(100, 64, 0, 1).into(),
        (HOSTS_STAND_IN, true) => Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 1).into(),
        (STAND_IN, false) => Ipv4Addr::new(100, 64, 0, 2).into(),
        (STAND_IN, true) => Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 2).into(),
        (_, false) => Ipv4Addr::new(224, 0, 0, 1).into(),
        (_, true) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

pub fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![53, 80, 8080, 40_000])
}

fn rule() -> impl Strategy<Value = Rule> {
    let class = prop_oneof![
        3 => Just(CLASS_ANY_V4),
        1 => Just(CLASS_ANY_V6),
        1 => (7..10u32).prop_map(class_of_groups),
    ];
    let entry = (1..99u32, 1..4u16, prop::bool::weighted(0.8)).prop_map(|(rule, priority, allows)| RuleEntry {
        rule,
        priority,
        action: if allows { ACTION_ALLOW } else { ACTION_DENY },
        log: 1,
    });
    let direction = prop::sample::select(Direction::ALL.to_vec());
    let protocol = prop_oneof![0..ANY, Just(ANY)];
    (7..9u32, class, direction, protocol, prop::option::weighted(0.3, port()), prop::bool::weighted(0.1), entry)
        .prop_map(|(of, class, direction, protocol, port, some, entry)| Rule {
            of,
            class,
            direction,
            protocol,
            port,
            some,
            entry,
        })
}

fn flags() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![2u8, 2, 2, 0x12, 0x10, 0x11, 4])
}

/// Of both groups; half of the time with one at the end that allows everything.
pub fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let open = |of, class, direction| {
        let entry = RuleEntry { rule: 100 + of, priority: 9, action: ACTION_ALLOW, log: 1 };
        Rule { of, class, direction, protocol: ANY, port: None, some: false, entry }
    };
    (prop::collection::vec(rule(), 0..8), any::<bool>()).prop_map(move |(mut rules, is_open)| {
        for of in [7, 8] {
            for class in [CLASS_ANY_V4, CLASS_ANY_V6] {
                rules
                    .extend(Direction::ALL.into_iter().filter(|_| is_open).map(|direction| open(of, class, direction)));
            }
        }
        rules
    })
}

pub fn packet() -> impl Strategy<Value = Packet> {
    let from = prop_oneof![
        4 => Just(From::Container(0)), 3 => Just(From::Container(1)), 1 => Just(From::Container(2)),
        3 => Just(From::Outside), 2 => Just(From::Host),
    ];
    // There and back between the same few, mostly.
    let destination = prop_oneof![6 => 0..2usize, 2 => Just(5), 2 => Just(6), 2 => 0..12usize];
    let ports = prop_oneof![
        4 => Just((40_000, 80)), 3 => Just((80, 40_000)), 2 => Just((40_000, 8080)), 1 => Just((8080, 40_000)),
        2 => (port(), port()),
    ];
    let ends = (prop::option::weighted(0.05, 0..12usize), destination, ports);
    let protocol = prop_oneof![4 => Just(6u8), 3 => Just(17), 2 => Just(1), 1 => Just(47)];
    let ttl = prop_oneof![10 => Just(64u8), 1 => Just(1), 1 => Just(0)];
    let fragment = prop_oneof![10 => Just(0u16), 1 => Just(0x2000), 1 => Just(0x2010), 1 => Just(0x0010)];
    let odd = (prop::bool::weighted(0.03), prop::bool::weighted(0.3), prop::bool::weighted(0.1));
    let length = prop_oneof![5 => Just(12usize), 1 => Just(1480)];
    (from, prop::bool::weighted(0.3), ends, protocol, flags(), ttl, fragment, odd, length).prop_map(
        |(
            from,
            v6,
            (source, destination, ports),
            protocol,
            flags,
            ttl,
            fragment,
            (wrong_mac, answers, quotes),
            length,
        )| {
            Packet {
                from,
                v6,
                source,
                destination,
                protocol,
                ports,
                flags,
                ttl,
                fragment,
                wrong_mac,
                answers,
                quotes,
                length,
            }
        },
    )
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => packet().prop_map(Step::Packet),
        3 => flags().prop_map(Step::Again),
        4 => flags().prop_map(Step::Answer),
        2 => rules().prop_map(Step::Rules),
        2 => prop::bool::weighted(0.7).prop_map(Step::Published),
    ]
}

impl Packet {
    /// What whoever gets it would answer.
    pub fn answer(&self, flags: u8) -> Packet {
        let to = match (self.from, self.destination) {
            (From::Outside, _) => 5,
            (From::Host, _) => HOSTS_STAND_IN,
            (From::Container(n), _) => n,
        };
        let from = match (self.from, self.destination) {
            (_, n @ 0..3) => From::Container(n),
            // By the published port, which is the first one's.
            (From::Outside | From::Host, _) | (_, 6) => From::Container(0),
            _ => From::Outside,
        };
        // To a port that is published, from the one that it is published for.
        let port = if self.ports.1 == 8080 { 80 } else { self.ports.1 };
        Packet { from, destination: to, ports: (port, self.ports.0), flags, answers: true, ..self.clone() }
    }

    pub fn frame(&self, scene: &Scene) -> Vec<u8> {
        let own = match self.from {
            From::Container(n) => n,
            From::Outside => 5,
            From::Host => HOSTS_STAND_IN,
        };
        let mut source = address(self.v6, self.source.unwrap_or(own));
        // From outside, to where anything is at all.
        let to = match self.from {
            From::Outside if self.destination < 5 => 6,
            From::Host if self.destination < 7 => STAND_IN,
            _ => self.destination,
        };
        let mut destination = address(self.v6, to);
        let (mut protocol, mut ports) = (self.protocol, self.ports);
        if self.from == From::Outside
            && self.answers
            && let Some((key, entry)) = scene.nat().iter().map(Result::unwrap).next()
        {
            assert_eq!(key.vni, VNI_OUTSIDE);
            let far = scene.flows().get(&entry.flow, 0).map_or(0, |flow| {
                let beyond = usize::from(entry.beyond);
                usize::from(key.addresses[0].octets != flow.outer_addresses[beyond].octets)
            });
            let address = |ip: cc_common::net::Ip| Ipv6Addr::from(ip.octets).to_canonical();
            (source, destination) = (address(key.addresses[far]), address(key.addresses[1 - far]));
            (protocol, ports) = (key.protocol, (key.ports[far].get(), key.ports[1 - far].get()));
        }
        let v6 = source.is_ipv6();
        let mac = match self.from {
            From::Container(n) if !self.wrong_mac => scene.containers[n].endpoint.mac,
            _ => [2, 9, 9, 9, 9, 9],
        };
        let mut payload = Vec::new();
        match protocol {
            6 => {
                payload.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
                payload.extend([0, 0, 0, 9, 0, 0, 0, 7, 0x50, self.flags, 0x10, 0, 0, 0, 0, 0]);
            }
            17 => payload.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes(), [0, 20], [0, 0]].concat()),
            1 | 58 => {
                let kind = if protocol == 58 || v6 { 128 } else { 8 };
                payload.extend([kind, 0, 0, 0]);
                payload.extend(ports.1.to_be_bytes());
                payload.extend([0, 1]);
            }
            _ => {}
        }
        payload.extend(std::iter::repeat_n(0xa5, self.length));
        if self.quotes && payload.len() > self.length {
            (protocol, payload) = (1, quoted(destination, source, protocol, ports));
        }
        let ethertype = if v6 { 0x86ddu16 } else { 0x0800 };
        let mut frame = [&GATEWAY_MAC.0[..], &mac, &ethertype.to_be_bytes()].concat();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x45, 0]);
                frame.extend((20 + payload.len() as u16).to_be_bytes());
                frame.extend([0, 7]);
                frame.extend(self.fragment.to_be_bytes());
                frame.extend([self.ttl, protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x60, 0, 0, 0]);
                frame.extend((payload.len() as u16).to_be_bytes());
                frame.extend([if protocol == 1 { 58 } else { protocol }, self.ttl]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => unreachable!("both are of one family"),
        }
        frame.extend(payload);
        frame
    }
}

pub fn tcp(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16), flags: u8) -> Packet {
    let index = |wanted: Ipv4Addr| (0..9).find(|&n| address(false, n) == IpAddr::from(wanted)).unwrap();
    let from = match index(source) {
        n @ 0..3 => From::Container(n),
        _ => From::Outside,
    };
    Packet {
        from,
        v6: false,
        source: None,
        destination: index(destination),
        protocol: 6,
        ports,
        flags,
        ttl: 64,
        fragment: 0,
        wrong_mac: false,
        answers: false,
        quotes: false,
        length: 12,
    }
}

/// "Nobody is there", about a packet with these ends, which `source` has sent.
fn quoted(source: IpAddr, destination: IpAddr, protocol: u8, ports: (u16, u16)) -> Vec<u8> {
    let transport = match protocol {
        6 | 17 => [ports.1.to_be_bytes(), ports.0.to_be_bytes(), [0, 20], [0, 0]].concat(),
        _ => [&[if source.is_ipv4() { 8 } else { 128 }, 0, 0, 0], &ports.1.to_be_bytes()[..], &[0, 1]].concat(),
    };
    let header = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let fixed = [0x45, 0, 0, 40, 0, 7, 0, 0, 63, protocol, 0, 0];
            [&fixed[..], &source.octets(), &destination.octets()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let next = if protocol == 1 { 58 } else { protocol };
            [&[0x60, 0, 0, 0, 0, 20, next, 63][..], &source.octets(), &destination.octets()].concat()
        }
        _ => unreachable!("both are of one family"),
    };
    let kind = if source.is_ipv4() { [3, 3] } else { [1, 4] };
    [&kind[..], &[0; 6], &header, &transport].concat()
}
