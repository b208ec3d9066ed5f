//! The resolver behind a gateway: everybody in its network may ask it, whatever the rules say, and it begins nothing itself.
//! Packets run by BPF_PROG_TEST_RUN.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use cc_common::limits::{CONTAINERS_MAX, ENDPOINTS_MAX};
use cc_common::names::PROGRAM_FROM_ENDPOINT;
use cc_common::net::GATEWAY_MAC;
use cc_common::verdict::DropReason;
use cc_host::datapath::{DatapathError, Endpoint};
use datapath_support::packets::{
    OWN, PEER, TC_REDIRECT, TC_SHOT, echo, ethernet, ipv6, run, tcp, udp_ports, with_source_mac,
};
use datapath_support::{Container, GATEWAY, NETWORK_V6, World, address_v6};

const SYN: u8 = 2;
const ACK: u8 = 16;
const ID: u32 = CONTAINERS_MAX;
const MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const CLIENT: ([u8; 4], u16) = (OWN, 40_000);
const DNS: ([u8; 4], u16) = ([10, 0, 0, 1], 53);

struct Scene {
    world: World,
    own: Container,
    peer: Container,
    resolver: Endpoint,
    /// With it the interface would go.
    _netns: OwnedFd,
}

impl Scene {
    /// OWN and PEER in one network with a resolver, in groups whose rules deny everything.
    fn new() -> Scene {
        let mut world = World::new();
        world.network(1);
        let (own, peer) = (world.container_in_group(0, 1, 2, 7), world.container_in_group(1, 1, 3, 8));
        [7, 8].into_iter().for_each(|number| world.datapath().unload_rules(number).unwrap());
        let (ifindex, _netns) = world.veth(ID, MAC);
        let resolver = Endpoint {
            id: ID,
            vni: 1,
            rule_set: 0,
            ifindex,
            mac: MAC,
            ipv4: GATEWAY,
            ipv6: Some(NETWORK_V6.gateway),
            queued: false,
            egress_rate: None,
        };
        world.datapath().attach_resolver(&resolver).unwrap();
        Scene { world, own, peer, resolver, _netns }
    }

    fn opened() -> Scene {
        let scene = Scene::new();
        scene.world.datapath().lead_to_resolver(ID).unwrap();
        scene
    }

    fn send(&self, ifindex: u32, packet: &[u8]) -> Result<u32, DropReason> {
        let outcome = run(&self.world, PROGRAM_FROM_ENDPOINT, ifindex, 0, packet).unwrap();
        match outcome.action {
            TC_REDIRECT => Ok(outcome.target),
            TC_SHOT => Err(DropReason::from_number(outcome.reason as u16).unwrap()),
            other => panic!("action {other}"),
        }
    }

    fn asks(&self, packet: &[u8]) -> Result<u32, DropReason> {
        self.send(self.own.endpoint.ifindex, packet)
    }

    fn answers(&self, packet: Vec<u8>) -> Result<u32, DropReason> {
        self.send(self.resolver.ifindex, &with_source_mac(MAC, packet))
    }
}

#[test]
fn everybody_may_ask_it_whatever_the_rules_say() {
    let scene = Scene::opened();
    let (there, back) = (Ok(scene.resolver.ifindex), Ok(scene.own.endpoint.ifindex));
    assert_eq!(scene.asks(&udp_ports(CLIENT, DNS)), there);
    assert_eq!(scene.answers(udp_ports(DNS, CLIENT)), back);
    assert_eq!(scene.asks(&tcp(CLIENT, DNS, SYN, 100, 0)), there);
    assert_eq!(scene.answers(tcp(DNS, CLIENT, SYN | ACK, 500, 101)), back);
    // Rules that change, for whatever reason, change nothing about it.
    scene.world.default_rules(7);
    assert_eq!(scene.asks(&udp_ports(CLIENT, DNS)), there);
    assert_eq!(scene.answers(udp_ports(DNS, CLIENT)), back);
    let v6 = |source, destination, ports: [u16; 2], from| {
        let datagram = [ports[0].to_be_bytes(), ports[1].to_be_bytes(), [0, 12], [0, 0]].concat();
        with_source_mac(from, ipv6(source, destination, 17, 64, &[datagram, vec![0; 4]].concat()))
    };
    let (own, gateway) = (address_v6(2), NETWORK_V6.gateway);
    assert_eq!(scene.asks(&v6(own, gateway, [40_000, 53], scene.own.endpoint.mac)), there);
    assert_eq!(scene.answers(v6(gateway, own, [53, 40_000], MAC)), back);
}

#[test]
fn its_other_ports_are_closed_and_pings_never_reach_it() {
    let scene = Scene::opened();
    for closed in [udp_ports(CLIENT, (DNS.0, 54)), tcp(CLIENT, (DNS.0, 853), SYN, 1, 0), echo(5, 0)] {
        assert_eq!(scene.asks(&closed), Err(DropReason::GatewayClosed));
    }
    let answered = run(&scene.world, PROGRAM_FROM_ENDPOINT, scene.own.endpoint.ifindex, 0, &echo(5, 8)).unwrap();
    assert_eq!((answered.action, answered.target), (TC_REDIRECT, 0), "by the program");
    // A later fragment without its first has no port that could be 53.
    let mut fragment = udp_ports(CLIENT, DNS);
    fragment[20..22].copy_from_slice(&[0, 3]);
    assert_eq!(scene.asks(&fragment), Err(DropReason::FragmentUnknown));
}

#[test]
fn it_begins_nothing_and_is_nobody_else() {
    let scene = Scene::opened();
    [7, 8].into_iter().for_each(|number| scene.world.default_rules(number));
    assert_eq!(scene.answers(udp_ports(DNS, CLIENT)), Err(DropReason::FirewallEgress));
    assert_eq!(scene.answers(tcp(DNS, (PEER, 80), SYN, 1, 0)), Err(DropReason::FirewallEgress));
    assert_eq!(scene.answers(udp_ports((PEER, 53), CLIENT)), Err(DropReason::SpoofedIpv4));
    let stranger = udp_ports(DNS, CLIENT);
    let forged = [ethernet(GATEWAY_MAC.0, scene.peer.endpoint.mac, 0x0800), stranger[14..].to_vec()].concat();
    assert_eq!(scene.send(scene.resolver.ifindex, &forged), Err(DropReason::SpoofedMac));
    // Nor is anybody it: the gateway's address is not to be had by saying so.
    let claimed = [ethernet(GATEWAY_MAC.0, scene.own.endpoint.mac, 0x0800), stranger[14..].to_vec()].concat();
    assert_eq!(scene.asks(&claimed), Err(DropReason::SpoofedIpv4));
}

#[test]
fn another_networks_resolver_is_never_reached() {
    let mut scene = Scene::opened();
    scene.world.network(2);
    let other = scene.world.container(2, 2, 2);
    let question = with_source_mac(other.endpoint.mac, udp_ports(CLIENT, DNS));
    assert_eq!(scene.send(other.endpoint.ifindex, &question), Err(DropReason::GatewayClosed));
    assert_eq!(scene.asks(&udp_ports(CLIENT, DNS)), Ok(scene.resolver.ifindex));
}

#[test]
fn the_gateway_is_closed_before_it_and_after_it() {
    let scene = Scene::new();
    let datapath = scene.world.datapath();
    let question = udp_ports(CLIENT, DNS);
    let closed = Err(DropReason::GatewayClosed);
    assert_eq!(scene.asks(&question), closed, "nobody listens yet");
    datapath.lead_to_resolver(ID).unwrap();
    assert_eq!(scene.asks(&question), Ok(scene.resolver.ifindex));
    datapath.silence(ID).unwrap();
    assert_eq!(scene.asks(&question), closed);
    assert_eq!(scene.answers(udp_ports(DNS, CLIENT)), Err(DropReason::UnknownPort));
    datapath.detach(ID).unwrap();
    // The next one has the same place.
    let (ifindex, _netns) = scene.world.veth(ID + 1, MAC);
    datapath.attach_resolver(&Endpoint { ifindex, ..scene.resolver.clone() }).unwrap();
    datapath.lead_to_resolver(ID).unwrap();
    assert_eq!(scene.asks(&question), Ok(ifindex));
    // At boot, one that no daemon holds any more is a stray, and its gateway is closed.
    let removed = datapath.reconcile(&HashSet::from([0, 1])).unwrap();
    assert_eq!(removed.endpoints, [ID]);
    assert_eq!(scene.asks(&question), closed);
    assert_eq!(scene.world.pinned_links().len(), 4, "the containers' are as they were");
}

#[test]
fn a_container_cannot_have_its_place() {
    let scene = Scene::opened();
    let attach = |id| scene.world.datapath().attach_resolver(&Endpoint { id, ..scene.resolver.clone() });
    assert!(matches!(attach(ID), Err(DatapathError::EndpointInUse { id: ID })));
    for id in [0, ID - 1, ENDPOINTS_MAX] {
        assert!(matches!(attach(id), Err(DatapathError::EndpointOutOfRange { .. })), "{id}");
    }
}
