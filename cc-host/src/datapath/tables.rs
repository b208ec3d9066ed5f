//! The maps, typed. Everything that is written to one is written here. Refuses to decide the order of writes: that is what
//! keeps packets decided, and it is one room's business (`mod.rs`).

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use cc_common::counters::{Counters, DropCount, DropKey, SocketKey};
use cc_common::event::Told;
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::names;
use cc_common::nat::{Forward, ForwardKey, Uplink};
use cc_common::net::Ip;
use cc_common::port::{Port, PortKey};
use cc_common::rate::Rate;
use cc_common::route::{EndpointEntry, KIND_GATEWAY, KIND_LOCAL, NO_ENDPOINT, Route, RouteKey, prefix_bits};
use cc_common::settings::Settings;
use cc_common::verdict::{Direction, DropReason};

use super::error::DatapathError;
use super::object::take_map;
use super::rules::Rules;

pub struct Tables {
    pub ports: HashMap<MapData, PortKey, Port>,
    pub routes: LpmTrie<MapData, RouteKey, Route>,
    pub endpoints: Array<MapData, EndpointEntry>,
    pub counters: PerCpuArray<MapData, Counters>,
    pub drops: PerCpuHashMap<MapData, DropKey, DropCount>,
    pub sockets: PerCpuHashMap<MapData, SocketKey, Counters>,
    pub rules: Rules,
    rates: Array<MapData, Rate>,
    settings: Array<MapData, Settings>,
    told: Array<MapData, Told>,
    logged: Array<MapData, Told>,
    uplinks: HashMap<MapData, PortKey, Uplink>,
    forwards: HashMap<MapData, ForwardKey, Forward>,
    cpus: usize,
}

fn failed(operation: &'static str, name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| match source {
        source if is_full(&source) => DatapathError::Full { name, source },
        source => DatapathError::Map { operation, name, source },
    }
}

/// What a hash table says when no row is left, and what a trie says.
fn is_full(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(nix::libc::E2BIG | nix::libc::ENOSPC))
}

/// What is gone already needs no removing.
fn removed(result: Result<(), MapError>, name: &'static str) -> Result<(), DatapathError> {
    match result {
        Err(error) if !is_absent(&error) => Err(failed("remove from", name)(error)),
        _ => Ok(()),
    }
}

fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(nix::libc::ENOENT),
        _ => false,
    }
}

/// An address of a network, or a range of them.
fn route_key(vni: u32, address: Ip, prefix_len: u8) -> Key<RouteKey> {
    Key::new(prefix_bits(&address, prefix_len), RouteKey::new(vni, address))
}

fn host_key(vni: u32, address: Ip) -> Key<RouteKey> {
    route_key(vni, address, if address.is_v4() { 32 } else { 128 })
}

impl Tables {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        macro_rules! typed {
            ($kind:ident, $name:expr) => {
                $kind::try_from(take_map(ebpf, $name)?).map_err(failed("open", $name))?
            };
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| DatapathError::Cpus { source })?;
        let mut tables = Tables {
            ports: typed!(HashMap, names::MAP_PORTS),
            routes: typed!(LpmTrie, names::MAP_ROUTES),
            endpoints: typed!(Array, names::MAP_ENDPOINTS),
            counters: typed!(PerCpuArray, names::MAP_COUNTERS),
            drops: typed!(PerCpuHashMap, names::MAP_DROPS),
            sockets: typed!(PerCpuHashMap, names::MAP_SOCKETS),
            rules: Rules::take(ebpf)?,
            rates: typed!(Array, names::MAP_RATES),
            settings: typed!(Array, names::MAP_SETTINGS),
            told: typed!(Array, names::MAP_TOLD),
            logged: typed!(Array, names::MAP_LOGGED),
            uplinks: typed!(HashMap, names::MAP_UPLINKS),
            forwards: typed!(HashMap, names::MAP_FORWARDS),
            cpus,
        };
        // The rows that a full table of drops counts into: there from the start, or there would be no room for them either.
        for direction in Direction::ALL {
            let key = drop_key(ENDPOINT_UNKNOWN, direction, DropReason::Uncounted);
            if tables.drops.get(&key, 0).is_err() {
                let zeros = zeros(cpus);
                tables.drops.insert(key, zeros, 0).map_err(failed("write", names::MAP_DROPS))?;
            }
        }
        Ok(tables)
    }

    pub fn endpoint(&self, id: u32) -> Result<EndpointEntry, DatapathError> {
        self.endpoints.get(&id, 0).map_err(failed("read", names::MAP_ENDPOINTS))
    }

    pub fn set_endpoint(&mut self, id: u32, entry: EndpointEntry) -> Result<(), DatapathError> {
        self.endpoints.set(id, entry, 0).map_err(failed("write", names::MAP_ENDPOINTS))
    }

    pub fn set_rate(&mut self, id: u32, rate: Rate) -> Result<(), DatapathError> {
        self.rates.set(id, rate, 0).map_err(failed("write", names::MAP_RATES))
    }

    pub fn set_port(&mut self, ifindex: u32, port: Port) -> Result<(), DatapathError> {
        self.ports.insert(PortKey { ifindex }, port, 0).map_err(failed("write", names::MAP_PORTS))
    }

    pub fn remove_port(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        removed(self.ports.remove(&PortKey { ifindex }), names::MAP_PORTS)
    }

    /// A route for a range of a network's addresses.
    pub fn set_range(&mut self, vni: u32, address: Ip, prefix_len: u8, route: Route) -> Result<(), DatapathError> {
        let key = route_key(vni, address, prefix_len);
        self.routes.insert(&key, route, 0).map_err(failed("write", names::MAP_ROUTES))
    }

    /// A route for one address.
    pub fn set_route(&mut self, vni: u32, address: Ip, route: Route) -> Result<(), DatapathError> {
        self.routes.insert(&host_key(vni, address), route, 0).map_err(failed("write", names::MAP_ROUTES))
    }

    /// What leads to an address, if anything does.
    pub fn route(&self, vni: u32, address: Ip) -> Result<Option<Route>, DatapathError> {
        match self.routes.get(&host_key(vni, address), 0) {
            Ok(route) => Ok(Some(route)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("read", names::MAP_ROUTES)(error)),
        }
    }

    /// What an interface is known as, if it is.
    pub fn port(&self, ifindex: u32) -> Result<Option<Port>, DatapathError> {
        match self.ports.get(&PortKey { ifindex }, 0) {
            Ok(port) => Ok(Some(port)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("read", names::MAP_PORTS)(error)),
        }
    }

    pub fn interfaces(&self) -> Result<Vec<u32>, DatapathError> {
        let listed = self.ports.keys().map(|key| key.map(|key| key.ifindex));
        listed.collect::<Result<_, _>>().map_err(failed("list", names::MAP_PORTS))
    }

    pub fn remove_route(&mut self, key: &Key<RouteKey>) -> Result<(), DatapathError> {
        removed(self.routes.remove(key), names::MAP_ROUTES)
    }

    /// Removes the endpoint's routes, unless an address leads to another endpoint by now. A resolver's leave the gateway closed.
    pub fn remove_routes_of(&mut self, id: u32, entry: &EndpointEntry) -> Result<(), DatapathError> {
        for address in [Ip::v4(entry.ipv4), entry.ipv6] {
            let key = host_key(entry.vni, address);
            match self.routes.get(&key, 0) {
                Ok(Route { kind: KIND_LOCAL, endpoint }) if endpoint == id => self.remove_route(&key)?,
                Ok(Route { kind: KIND_GATEWAY, endpoint }) if endpoint == id => {
                    self.set_route(entry.vni, address, Route::gateway(NO_ENDPOINT))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub fn all_routes(&self) -> Result<Vec<(Key<RouteKey>, Route)>, DatapathError> {
        self.routes.iter().collect::<Result<_, _>>().map_err(failed("list", names::MAP_ROUTES))
    }

    /// VNIs that have a gateway.
    pub fn networks(&self) -> Result<BTreeSet<u32>, DatapathError> {
        let routes = self.all_routes()?;
        let gateways = routes.into_iter().filter(|(_, route)| route.kind == KIND_GATEWAY);
        Ok(gateways.map(|(key, _)| vni_of(&key)).collect())
    }

    /// Every route of a network but those to its endpoints, which go by themselves.
    pub fn remove_network(&mut self, vni: u32) -> Result<(), DatapathError> {
        for (key, route) in self.all_routes()? {
            if vni_of(&key) == vni && route.kind != KIND_LOCAL {
                self.remove_route(&key)?;
            }
        }
        Ok(())
    }

    pub fn set_settings(&mut self, settings: Settings) -> Result<(), DatapathError> {
        self.settings.set(0, settings, 0).map_err(failed("write", names::MAP_SETTINGS))
    }

    pub fn rate(&self, id: u32) -> Result<Rate, DatapathError> {
        self.rates.get(&id, 0).map_err(failed("read", names::MAP_RATES))
    }

    /// Of an endpoint's row, or the one after the last.
    pub fn told(&self, row: u32) -> Result<Told, DatapathError> {
        self.told.get(&row, 0).map_err(failed("read", names::MAP_TOLD))
    }

    /// Of an endpoint, what its rules have decided that was to be told.
    pub fn logged(&self, id: u32) -> Result<Told, DatapathError> {
        self.logged.get(&id, 0).map_err(failed("read", names::MAP_LOGGED))
    }

    pub fn settings(&self) -> Result<Settings, DatapathError> {
        self.settings.get(&0, 0).map_err(failed("read", names::MAP_SETTINGS))
    }

    pub fn add_uplink(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.uplinks.insert(PortKey { ifindex }, Uplink { ifindex }, 0).map_err(failed("write", names::MAP_UPLINKS))
    }

    pub fn remove_uplink(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        removed(self.uplinks.remove(&PortKey { ifindex }), names::MAP_UPLINKS)
    }

    pub fn uplinks(&self) -> Result<Vec<u32>, DatapathError> {
        let listed = self.uplinks.keys().map(|key| key.map(|key| key.ifindex));
        listed.collect::<Result<_, _>>().map_err(failed("list", names::MAP_UPLINKS))
    }

    pub fn set_forward(&mut self, key: ForwardKey, forward: Forward) -> Result<(), DatapathError> {
        self.forwards.insert(key, forward, 0).map_err(failed("write", names::MAP_FORWARDS))
    }

    pub fn remove_forward(&mut self, key: &ForwardKey) -> Result<(), DatapathError> {
        removed(self.forwards.remove(key), names::MAP_FORWARDS)
    }

    pub fn forwards(&self) -> Result<Vec<(ForwardKey, Forward)>, DatapathError> {
        self.forwards.iter().collect::<Result<_, _>>().map_err(failed("list", names::MAP_FORWARDS))
    }

    pub fn zero_counters(&mut self, id: u32) -> Result<(), DatapathError> {
        self.told.set(id, Told::default(), 0).map_err(failed("write", names::MAP_TOLD))?;
        self.logged.set(id, Told::default(), 0).map_err(failed("write", names::MAP_LOGGED))?;
        let zeros = zeros(self.cpus);
        self.counters.set(id, zeros, 0).map_err(failed("write", names::MAP_COUNTERS))
    }

    pub fn remove_drops(&mut self, id: u32) -> Result<(), DatapathError> {
        for key in drop_keys(id) {
            removed(self.drops.remove(&key), names::MAP_DROPS)?;
        }
        Ok(())
    }

    pub fn add_socket(&mut self, cgroup: u64) -> Result<(), DatapathError> {
        let zeros = zeros(self.cpus);
        self.sockets.insert(SocketKey { cgroup }, zeros, 0).map_err(failed("write", names::MAP_SOCKETS))
    }

    pub fn remove_socket(&mut self, cgroup: u64) -> Result<(), DatapathError> {
        removed(self.sockets.remove(&SocketKey { cgroup }), names::MAP_SOCKETS)
    }

    pub fn counters_of(&self, id: u32) -> Result<Counters, DatapathError> {
        let values = self.counters.get(&id, 0).map_err(failed("read", names::MAP_COUNTERS))?;
        Ok(sum(&values))
    }

    pub fn sockets_of(&self, cgroup: u64) -> Result<Counters, DatapathError> {
        match self.sockets.get(&SocketKey { cgroup }, 0) {
            Ok(values) => Ok(sum(&values)),
            Err(error) if is_absent(&error) => Ok(Counters::default()),
            Err(error) => Err(failed("read", names::MAP_SOCKETS)(error)),
        }
    }

    /// Added up over the CPUs; `None` when nothing was ever counted there.
    pub fn drops_of(&self, key: &DropKey) -> Result<Option<DropCount>, DatapathError> {
        match self.drops.get(key, 0) {
            Ok(values) => Ok(Some(total(&values))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("read", names::MAP_DROPS)(error)),
        }
    }
}

/// Over the CPUs.
pub fn total(counts: &[DropCount]) -> DropCount {
    counts.iter().fold(DropCount::default(), |mut total, count| {
        total.add(count.packets, count.bytes);
        total
    })
}

fn vni_of(key: &Key<RouteKey>) -> u32 {
    u32::from_be_bytes(key.data().vni.0)
}

pub fn drop_key(endpoint: u32, direction: Direction, reason: DropReason) -> DropKey {
    DropKey { endpoint, direction: direction as u16, reason: reason as u16 }
}

/// Every row that an endpoint can have.
fn drop_keys(endpoint: u32) -> impl Iterator<Item = DropKey> {
    Direction::ALL
        .into_iter()
        .flat_map(move |direction| DropReason::ALL.iter().map(move |&reason| drop_key(endpoint, direction, reason)))
}

fn zeros<T: aya::Pod + Default>(cpus: usize) -> PerCpuValues<T> {
    PerCpuValues::try_from(vec![T::default(); cpus]).expect("one value per CPU, counted by the same function")
}

fn sum(values: &PerCpuValues<Counters>) -> Counters {
    values.iter().fold(Counters::default(), |mut total, one| {
        total.sent(one.sent_packets, one.sent_bytes);
        total.received(one.received_packets, one.received_bytes);
        total
    })
}
