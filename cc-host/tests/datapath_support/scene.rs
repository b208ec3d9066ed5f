//! Two containers of one network, a way out and a published port, and packets whose fate is told as a result. Refuses to hold a test.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part of it, and fails by panicking")]

use aya::maps::{Array, Map, MapData};
use cc_common::limits::{ENDPOINT_UNKNOWN, NAT_BLOCK_PORTS};
use cc_common::names::{PROGRAM_FROM_ENDPOINT, PROGRAM_FROM_UPLINK};
use cc_common::quota::Quota;
use cc_common::settings::Settings;
use cc_common::verdict::{DropReason, Verdict};
use cc_host::datapath::{Datapath, DatapathConfig, Door, NatPorts, PortProtocol, Published};

use super::outside::{HOST, Outside, network};
use super::packets::{OWN, run};
use super::{Container, World};

/// Where PEER's port 80 is published.
pub const SERVICE: u16 = 8080;

/// OWN and PEER in one group of a network, and a way out with ports of so many blocks.
pub struct Scene {
    pub world: World,
    pub own: Container,
    pub peer: Container,
    pub outside: Outside,
}

impl Scene {
    pub fn new() -> Scene {
        Scene::with(|settings| settings, 71)
    }

    pub fn with(change: impl FnOnce(Settings) -> Settings, blocks: u32) -> Scene {
        let mut world = World::new();
        let config = world.config();
        let settings = change(config.settings);
        world.datapath = Some(Datapath::open(&DatapathConfig { settings, ..config }).unwrap());
        network(&world, 1, true);
        let (own, peer) = (world.container(0, 1, 2), world.container(1, 1, 3));
        let first = 65_536 - blocks * NAT_BLOCK_PORTS;
        let outside = Outside::of(&world, NatPorts::within(first as u16, 65_535).unwrap());
        let scene = Scene { world, own, peer, outside };
        scene.world.datapath().set_published(&[HOST.into()], &[scene.published()]).unwrap();
        scene
    }

    pub fn published(&self) -> Published {
        let (address, port, protocol, door) = (HOST.into(), SERVICE, PortProtocol::Tcp, Door::Everybody);
        Published { address, port, protocol, endpoint: self.peer.endpoint.id, to_port: 80, door }
    }

    /// What becomes of a packet of OWN's or of PEER's.
    pub fn leaves(&self, packet: &[u8]) -> Result<(), DropReason> {
        let ifindex = if packet[26..30] == OWN { self.own.endpoint.ifindex } else { self.peer.endpoint.ifindex };
        self.run(PROGRAM_FROM_ENDPOINT, ifindex, packet)
    }

    /// What becomes of a packet that comes in by the uplink.
    pub fn enters(&self, packet: &[u8]) -> Result<(), DropReason> {
        self.run(PROGRAM_FROM_UPLINK, self.outside.uplink, packet)
    }

    pub fn run(&self, program: &str, ifindex: u32, packet: &[u8]) -> Result<(), DropReason> {
        let outcome = run(&self.world, program, ifindex, 0, packet).unwrap();
        match DropReason::from_number(outcome.reason as u16) {
            Some(reason) if outcome.verdict == Verdict::DROP_CODE => Err(reason),
            _ => {
                assert!(matches!(outcome.verdict, 2 | 6), "verdict {}", outcome.verdict);
                Ok(())
            }
        }
    }

    pub fn drops(&self, endpoint: u32, direction: &str, reason: DropReason) -> u64 {
        let drops = match endpoint {
            ENDPOINT_UNKNOWN => self.world.datapath().unknown_drops().unwrap(),
            _ => self.world.datapath().counters(endpoint).unwrap().drops,
        };
        let of_it = drops.iter().filter(|drop| (drop.direction, drop.reason) == (direction, reason.name()));
        of_it.map(|drop| drop.packets).sum()
    }

    pub fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.world.datapath().pin_dir().join(name)).unwrap()
    }

    pub fn quota(&self, row: u32) -> Quota {
        let quotas: Array<_, Quota> = Map::Array(self.map("CC_QUOTAS")).try_into().unwrap();
        quotas.get(&row, 0).unwrap()
    }
}
