//! Interfaces as the daemon makes them: names, addresses, MTU, and what they say on their own accord, which is nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use cc_host::kernel::link::loopback_up;
use cc_host::kernel::uplink;
use datapath_support::{GATEWAY, World, new_netns};
use std::net::Ipv4Addr;

#[test]
fn a_container_has_what_it_was_given_and_says_nothing_unasked() {
    let mut world = World::new();
    world.network(1);
    let a = world.container(0, 1, 2);
    assert!(a.run("ip -o link show dev eth0 | grep -q 'mtu 1450 .*state UP .*link/ether 02:00:00:00:01:02'"));
    assert!(a.run("ip -4 -o addr show dev eth0 | grep -q 'inet 10.0.0.2/24 '"));
    assert!(a.run(&format!("ip route show default | grep -q 'via {GATEWAY} dev eth0'")));
    assert!(a.run("ip -o link show dev lo | grep -q LOWER_UP"));
    assert!(a.pings(Ipv4Addr::LOCALHOST));
    assert!(a.pings(GATEWAY), "whatever was sent before has been counted by now");
    let counters = world.datapath().counters(0).unwrap();
    assert_eq!(counters.drops, [], "neither end talks by itself");
}

#[test]
fn the_uplink_is_found_by_name_or_by_the_default_route() {
    let mut world = World::new();
    world.network(1);
    let a = world.container(0, 1, 2);
    let mtu = |name| uplink::mtu(name).unwrap();
    assert_eq!((mtu(None), mtu(Some("lo")), mtu(Some("no-such"))), (None, Some(65536), None));
    let inside = a.inside(|| uplink::mtu(None).unwrap());
    assert_eq!(inside, Some(1450));
}

#[test]
fn a_container_without_a_vpc_has_its_loopback() {
    let world = World::new();
    let netns = new_netns();
    world.block_on(loopback_up(netns.try_clone().unwrap())).unwrap();
    let listening = cc_host::kernel::netns::in_netns(std::os::fd::AsFd::as_fd(&netns), || {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).is_ok()
    });
    assert!(listening.unwrap());
}
