//! A host as the daemon leaves it in the programs' maps: two networks with the same addresses, four endpoints, an uplink, published
//! ports. Refuses to hold what a packet does to it.

use cc_common::firewall::{
    ACTION_ALLOW, ACTION_DENY, Be32Hash, Be64, CLASS_ANY_V4, CLASS_ANY_V6, PROTOCOL_CLASS_SOME, PROTOCOL_CLASSES,
    Prefix4Key, PrefixEntry, RULE_EXACT_BITS, RuleEntry, RuleKey, RuleSet,
};
use cc_common::limits::CONTAINERS_MAX;
use cc_common::nat::{FORWARD_FROM_ALL, FORWARD_FROM_HOST, FORWARD_IS_HOST, Forward, ForwardKey, StandIns, Uplink};
use cc_common::net::{Be16, Be32, Ip, MacAddr, PROTOCOL_TCP, PROTOCOL_UDP};
use cc_common::port::{PORT_RATED, Port, PortKey};
use cc_common::rate::Rate;
use cc_common::route::{ENDPOINT_QUEUED, ENDPOINT_RESOLVER, EndpointEntry, NO_ENDPOINT, Route, RouteKey, prefix_bits};
use cc_common::settings::Settings;
use cc_common::verdict::Direction;
use programs::btf_maps::lpm_trie::Key;
use programs::kernel::{Said, said};
use programs::maps;

pub const UPLINK: u32 = 3;
pub const HOST_DEVICE: u32 = 5;
pub const HOST: [u8; 4] = [192, 0, 2, 1];
pub const HOST_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const PUBLISHED: u16 = 8080;
pub const STAND_INS: StandIns = StandIns {
    ipv4: Be32([198, 18, 0, 0]),
    ipv6: Ip { octets: [0xfd, 0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
};
pub const NAT_BLOCK_FIRST: u16 = 954;
/// Few, so that they run out.
pub const NAT_BLOCKS: u16 = 6;
/// Few, likewise.
pub const FLOWS_PER_ENDPOINT: u32 = 70;
const DENIED: [u8; 4] = [203, 0, 113, 0];
const DENIED_TABLE: u32 = 9;

/// An endpoint, and what its frames may claim.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    pub number: u32,
    pub vni: u32,
    pub last: u8,
    pub has_v6: bool,
    pub ifindex: u32,
    pub rule_set: u32,
    port_flags: u16,
    flags: u32,
}

/// The third has the first one's addresses, in another network; the last is the first network's resolver.
pub const ENDPOINTS: [Endpoint; 4] = [
    Endpoint { number: 0, vni: 7, last: 2, has_v6: true, ifindex: 10, rule_set: 1, port_flags: 0, flags: 0 },
    Endpoint {
        number: 1,
        vni: 7,
        last: 3,
        has_v6: true,
        ifindex: 11,
        rule_set: 2,
        port_flags: 0,
        flags: ENDPOINT_QUEUED,
    },
    Endpoint { number: 2, vni: 8, last: 2, has_v6: false, ifindex: 12, rule_set: 1, port_flags: PORT_RATED, flags: 0 },
    Endpoint {
        number: CONTAINERS_MAX,
        vni: 7,
        last: 1,
        has_v6: true,
        ifindex: 13,
        rule_set: 3,
        port_flags: 0,
        flags: ENDPOINT_RESOLVER,
    },
];

impl Endpoint {
    pub fn ipv4(&self) -> Be32 {
        Be32([10, 0, 0, self.last])
    }

    pub fn ipv6(&self) -> Ip {
        if self.has_v6 { v6(self.last) } else { Ip::UNSPECIFIED }
    }

    pub fn mac(&self) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, self.ifindex as u8])
    }

    pub fn generation(&self) -> u64 {
        maps::CC_ENDPOINTS.get(self.number).map_or(0, |entry| entry.generation)
    }

    /// Into the slot, as the daemon attaches one.
    pub fn attach(&self, generation: u64) {
        let Endpoint { number, vni, ifindex, rule_set, .. } = *self;
        let (ipv4, ipv6, mac) = (self.ipv4(), self.ipv6(), self.mac());
        let entry = EndpointEntry {
            generation,
            ifindex,
            vni,
            rule_set,
            flags: self.flags,
            ipv4,
            ipv6,
            mac,
            ..EndpointEntry::default()
        };
        maps::CC_ENDPOINTS.set(number, entry);
        let port = Port { generation, endpoint: number, vni, rule_set, ipv4, ipv6, mac, flags: self.port_flags };
        maps::CC_PORTS.insert(PortKey { ifindex }, port, 0).expect("there is room for ports");
        maps::CC_RATES.set(number, Rate::new(1_000_000, 100_000));
    }
}

pub fn v6(last: u8) -> Ip {
    Ip { octets: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last] }
}

/// Writes it all into empty maps.
pub fn set_up() {
    let first = Said {
        now_ns: 1_000_000_000,
        random: 1,
        route: 0,
        route_ifindex: UPLINK,
        sources: [Ip::v4(Be32(HOST)), Ip { octets: HOST_V6 }],
        mtu: 1500,
        again: Vec::new(),
    };
    said(|said| *said = first);
    maps::CC_SETTINGS.set(
        0,
        Settings {
            host_ifindex: HOST_DEVICE,
            stand_ins: STAND_INS,
            nat_block_first: NAT_BLOCK_FIRST,
            nat_blocks: NAT_BLOCKS,
            flows_per_endpoint: FLOWS_PER_ENDPOINT,
            ..Settings::DEFAULT
        },
    );
    for endpoint in ENDPOINTS {
        endpoint.attach(100 + u64::from(endpoint.number));
    }
    maps::CC_UPLINKS.insert(PortKey { ifindex: UPLINK }, Uplink { ifindex: UPLINK }, 0).expect("there is room");
    routes();
    for number in 1..4 {
        rules(number, 1);
    }
    forwards();
    let table = Be32Hash(DENIED_TABLE.to_be_bytes());
    let denied = Key::new(32 + 24, Prefix4Key { table, address: DENIED });
    maps::CC_PREFIX4.insert(&denied, PrefixEntry::default(), 0).expect("there is room for prefixes");
    maps::CC_GUARD.set(0, cc_common::guard::Guard { table: DENIED_TABLE, has_picture: 0 });
}

fn routes() {
    let put = |vni, address: Ip, length, route| {
        let key = Key::new(prefix_bits(&address, length), RouteKey::new(vni, address));
        maps::CC_ROUTES.insert(&key, route, 0).expect("there is room for routes");
    };
    let everything = [(Ip::v4(Be32([0; 4])), 0), (Ip::UNSPECIFIED, 0)];
    let own = [(Ip::v4(Be32([10, 0, 0, 0])), 24), (v6(0), 64)];
    for vni in [7, 8] {
        for (address, length) in everything {
            put(vni, address, length, Route::internet());
        }
        for (address, length) in own {
            put(vni, address, length, Route::nobody());
        }
    }
    for endpoint in &ENDPOINTS[..3] {
        put(endpoint.vni, Ip::v4(endpoint.ipv4()), 32, Route::local(endpoint.number));
        if endpoint.has_v6 {
            put(endpoint.vni, endpoint.ipv6(), 128, Route::local(endpoint.number));
        }
    }
    let resolver = Route::gateway(ENDPOINTS[3].number);
    put(7, Ip::v4(ENDPOINTS[3].ipv4()), 32, resolver);
    put(7, ENDPOINTS[3].ipv6(), 128, resolver);
    put(8, Ip::v4(Be32([10, 0, 0, 1])), 32, Route::gateway(NO_ENDPOINT));
}

/// All may go out. In comes what is even by port, or by ICMP's code; of the third set nothing.
pub fn rules(number: u32, version: u64) {
    maps::CC_RULESETS
        .set(number, RuleSet { generation: number.into(), version, prefix_table: 1, ..RuleSet::default() });
    for class in [CLASS_ANY_V4, CLASS_ANY_V6] {
        for protocol in PROTOCOL_CLASSES.into_iter().flat_map(|class| [class, class | PROTOCOL_CLASS_SOME]) {
            let put = |direction: Direction, port, bits, action| {
                let key = RuleKey {
                    generation: Be64::new(number.into()),
                    class: Be32Hash(class.to_be_bytes()),
                    direction: direction as u8,
                    protocol,
                    port: Be16::new(port),
                };
                let entry = RuleEntry { rule: number * 10 + u32::from(action), priority: 1, action, log: 0 };
                maps::CC_RULES
                    .insert(&Key::new(RULE_EXACT_BITS + bits, key), entry, 0)
                    .expect("there is room for rules");
            };
            put(Direction::Egress, 0, 0, ACTION_ALLOW);
            // The half of the ports below 32,768 for one set, the rest for another.
            put(Direction::Ingress, 0, 1, if number == 3 { ACTION_DENY } else { ACTION_ALLOW });
            if number == 2 {
                put(Direction::Ingress, 0x8000, 1, ACTION_DENY);
            }
        }
    }
}

fn forwards() {
    let put = |address: Ip, port, protocol, endpoint: &Endpoint, to, from| {
        let key = ForwardKey { address, port: Be16::new(port), protocol, pad: 0 };
        let generation = endpoint.generation();
        let forward = Forward { generation, endpoint: endpoint.number, port: Be16::new(to), from, pad: 0 };
        maps::CC_FORWARDS.insert(key, forward, 0).expect("there is room for forwards");
    };
    let [web, _, other, _] = &ENDPOINTS;
    for address in [Ip::v4(Be32(HOST)), Ip { octets: HOST_V6 }] {
        put(address, 0, 0, web, 0, FORWARD_IS_HOST);
        put(address, PUBLISHED, PROTOCOL_TCP, web, 80, FORWARD_FROM_ALL);
        put(address, PUBLISHED, PROTOCOL_UDP, other, 53, FORWARD_FROM_ALL);
    }
    for v4 in [true, false] {
        put(STAND_INS.of(v4, web.number), PUBLISHED, PROTOCOL_TCP, web, 80, FORWARD_FROM_HOST);
    }
}
