//! Two containers of one network and one of another, a way out and a published port; what the programs would do there, what they do, and
//! every word that they write. Refuses to judge either.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap};
use cc_common::counters::{Counters, DropCount, DropKey};
use cc_common::event::Told;
use cc_common::firewall::PROTOCOL_CLASS_SOME;
use cc_common::flow::{Flow, FlowKey, NatEntry};
use cc_common::fragment::{Early, FragmentEntry, FragmentPlace};
use cc_common::limits::ENDPOINTS_MAX;
use cc_common::names::{PROGRAM_FROM_ENDPOINT, PROGRAM_FROM_HOST, PROGRAM_FROM_UPLINK};
use cc_common::nat::Block;
use cc_common::quota::Quota;
use cc_common::rate::Rate;
use cc_common::verdict::DropReason;
use cc_host::datapath::{
    CompiledRules, Door, DryRun, Endpoint, Entrance, Fate, NatPorts, PortProtocol, PrefixTable, Published, RuleRow,
};

use crate::datapath_support::outside::{HOST, HOST6, Outside, network};
use crate::datapath_support::packets::run;
use crate::datapath_support::{Container, World};
use crate::random::{ANY, From, Rule};

/// Two containers of one network and one of another, a way out, and a published port.
pub struct Scene {
    pub world: World,
    pub containers: [Container; 3],
    pub outside: Outside,
}

impl Scene {
    pub fn new() -> Scene {
        let mut world = World::new();
        for vni in [1, 2] {
            network(&world, vni, vni == 1);
        }
        let containers = [
            world.container_in_group(0, 1, 2, 7),
            world.container_in_group(1, 1, 3, 8),
            world.container_in_group(2, 2, 9, 9),
        ];
        let outside = Outside::of(&world, NatPorts::within(61_056, 65_535).unwrap());
        let scene = Scene { world, containers, outside };
        scene.publish(true);
        scene
    }

    /// Another endpoint, which may send no faster, or gets what is for it by a queue.
    pub fn limited(&self, egress_rate: Option<Rate>, queued: bool) -> (Endpoint, OwnedFd) {
        let (id, mac) = (3, [2, 0, 0, 0, 1, 4]);
        let (ifindex, netns) = self.world.veth(id, mac);
        let (ipv4, ipv6) = (Ipv4Addr::new(10, 0, 0, 4), None);
        let endpoint = Endpoint { id, vni: 1, rule_set: 7, ifindex, mac, ipv4, ipv6, queued, egress_rate };
        self.world.datapath().attach(&endpoint, "00000000000000a3", &self.containers[2].cgroup).unwrap();
        (endpoint, netns)
    }

    pub fn publish(&self, published: bool) {
        let at = |(address, door)| Published {
            address,
            port: 8080,
            protocol: PortProtocol::Tcp,
            endpoint: 0,
            to_port: 80,
            door,
        };
        let both = [IpAddr::from(HOST), HOST6.into()];
        let all = [Door::Everybody, Door::StandIn].map(|door| both.map(|address| at((address, door)))).concat();
        self.world.datapath().set_published(&[HOST.into(), HOST6.into()], if published { &all } else { &[] }).unwrap();
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.world.datapath().pin_dir().join(name)).unwrap()
    }

    pub fn nat(&self) -> HashMap<MapData, FlowKey, NatEntry> {
        Map::HashMap(self.map("CC_NAT")).try_into().unwrap()
    }

    pub fn flows(&self) -> HashMap<MapData, FlowKey, Flow> {
        Map::HashMap(self.map("CC_FLOWS")).try_into().unwrap()
    }

    /// As if no packet had ever been.
    pub fn forget(&self) {
        let (mut flows, mut nat) = (self.flows(), self.nat());
        for key in flows.keys().map(Result::unwrap).collect::<Vec<_>>() {
            flows.remove(&key).unwrap();
        }
        for key in nat.keys().map(Result::unwrap).collect::<Vec<_>>() {
            nat.remove(&key).unwrap();
        }
        let mut quotas: Array<_, Quota> = Map::Array(self.map("CC_QUOTAS")).try_into().unwrap();
        for id in [0, 1, 2, ENDPOINTS_MAX] {
            quotas.set(id, Quota::default(), 0).unwrap();
        }
    }

    /// Every word that programs write, as text by map and row; what is zero is left out.
    pub fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        let mut put = |map: &str, key: String, value: String| drop(state.insert(format!("{map} {key}"), value));
        for row in self.flows().iter().map(Result::unwrap) {
            put("flows", format!("{:?}", row.0), format!("{:?}", row.1));
        }
        for row in self.nat().iter().map(Result::unwrap) {
            put("nat", format!("{:?}", row.0), format!("{:?}", row.1));
        }
        let fragments: HashMap<_, FragmentPlace, FragmentEntry> =
            Map::HashMap(self.map("CC_FRAGMENTS")).try_into().unwrap();
        for row in fragments.iter().map(Result::unwrap) {
            put("fragments", format!("{:?}", row.0), format!("{:?}", row.1));
        }
        let drops: PerCpuHashMap<_, DropKey, DropCount> = Map::PerCpuHashMap(self.map("CC_DROPS")).try_into().unwrap();
        for row in drops.iter().map(Result::unwrap) {
            put("drops", format!("{:?}", row.0), format!("{:?}", row.1.to_vec()));
        }
        let counters: PerCpuArray<_, Counters> = Map::PerCpuArray(self.map("CC_COUNTERS")).try_into().unwrap();
        let quotas: Array<_, Quota> = Map::Array(self.map("CC_QUOTAS")).try_into().unwrap();
        let rates: Array<_, Rate> = Map::Array(self.map("CC_RATES")).try_into().unwrap();
        for id in (0..8).chain([ENDPOINTS_MAX]) {
            put("quotas", id.to_string(), format!("{:?}", quotas.get(&id, 0).unwrap()));
        }
        for id in 0..8 {
            put("counters", id.to_string(), format!("{:?}", counters.get(&id, 0).unwrap().to_vec()));
            put("rates", id.to_string(), format!("{:?}", rates.get(&id, 0).unwrap()));
        }
        for id in 0..4 {
            let logged = self.world.datapath().logged(id).unwrap();
            if logged != Told::default() {
                put("logged", id.to_string(), format!("{logged:?}"));
            }
        }
        let blocks: Array<_, Block> = Map::Array(self.map("CC_BLOCKS")).try_into().unwrap();
        for (number, block) in blocks.iter().map(Result::unwrap).enumerate().filter(|(_, b)| *b != Block::default()) {
            put("blocks", number.to_string(), format!("{block:?}"));
        }
        state
    }

    pub fn dry(&self, from: From, frame: &[u8]) -> DryRun {
        let entrance = match from {
            From::Container(n) => Entrance::Endpoint(self.containers[n].endpoint.id),
            From::Outside => Entrance::Uplink,
            From::Host => Entrance::Host,
        };
        self.world.datapath().dry_run(entrance, frame).unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// What the programs do that packets run, and where to.
    pub fn real(&self, from: From, frame: &[u8]) -> (Fate, u32) {
        let (program, ifindex) = match from {
            From::Container(n) => (PROGRAM_FROM_ENDPOINT, self.containers[n].endpoint.ifindex),
            From::Outside => (PROGRAM_FROM_UPLINK, self.outside.uplink),
            From::Host => (PROGRAM_FROM_HOST, self.outside.host),
        };
        // No fragment waits for its first: both would come in once more by the interface, and whoever answers there changes the world.
        let mut early: HashMap<_, FragmentPlace, [u8; size_of::<Early>()]> =
            Map::HashMap(self.map("CC_EARLY")).try_into().unwrap();
        let waiting: Vec<FragmentPlace> = early.keys().map(Result::unwrap).collect();
        waiting.iter().for_each(|place| early.remove(place).unwrap());
        let outcome = run(&self.world, program, ifindex, 0, frame).unwrap();
        let reason = outcome.reason as u16;
        let fate = match outcome.verdict {
            1 => Fate::Passed,
            2 | 5 => Fate::Delivered,
            3 => Fate::Answered,
            4 => Fate::Dropped(DropReason::from_number(reason).ok_or(reason)),
            6 => Fate::Out,
            7 => Fate::Host,
            other => panic!("verdict {other}"),
        };
        (fate, outcome.target)
    }

    /// The interface that a dry run would have sent to.
    pub fn target(&self, said: &DryRun) -> Option<u32> {
        match said.fate {
            Fate::Delivered => Some(self.containers[said.trace.to as usize].endpoint.ifindex),
            Fate::Out | Fate::Host => Some(said.trace.to_ifindex),
            _ => None,
        }
    }

    pub fn load(&self, rules: &[Rule]) {
        for number in [7, 8] {
            let mut rows = Vec::new();
            for rule in rules.iter().filter(|rule| rule.of == number) {
                let of_one = rule.protocol..rule.protocol + 1;
                rows.extend((if rule.protocol == ANY { 0..ANY } else { of_one }).map(|protocol| {
                    let ports = if matches!(rule.protocol, 1 | 2) && !rule.some { rule.port } else { None };
                    RuleRow {
                        class: rule.class,
                        direction: rule.direction,
                        protocol: protocol | if rule.some { PROTOCOL_CLASS_SOME } else { 0 },
                        port: ports.unwrap_or(0),
                        port_bits: if ports.is_some() { 16 } else { 0 },
                        entry: rule.entry,
                    }
                }));
            }
            let compiled = CompiledRules { rows, names_prefixes: 0, names_groups: 3 };
            self.world.datapath().load_rules(number, &compiled, PrefixTable::EMPTY).unwrap();
        }
    }
}
