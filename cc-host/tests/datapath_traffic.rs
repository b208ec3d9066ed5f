//! Real traffic through real interfaces: neighbours of one VPC reach each other, and two VPCs with the same addresses do not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use datapath_support::{Container, GATEWAY, World};

const TIMEOUT: Duration = Duration::from_millis(300);

fn listen(container: &Container) -> TcpListener {
    let address = SocketAddr::from((container.endpoint.ipv4, 80));
    container.inside(|| TcpListener::bind(address).unwrap())
}

fn connect(from: &Container, to: Ipv4Addr) -> std::io::Result<TcpStream> {
    from.inside(|| TcpStream::connect_timeout(&SocketAddr::from((to, 80)), TIMEOUT))
}

#[test]
fn neighbours_talk_and_twins_in_another_vpc_do_not() {
    let mut world = World::new();
    world.network(1);
    world.network(2);
    let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
    let (c, d) = (world.container(2, 2, 2), world.container(3, 2, 4));

    assert!(a.pings(GATEWAY), "the gateway answers");
    assert!(a.pings(b.endpoint.ipv4), "a neighbour answers");
    assert!(!a.pings(Ipv4Addr::new(10, 0, 0, 4)), "10.0.0.4 exists in the other VPC only");
    assert!(!c.pings(b.endpoint.ipv4), "10.0.0.3 exists in the other VPC only");

    let listener = listen(&b);
    let mut client = connect(&a, b.endpoint.ipv4).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), a.endpoint.ipv4);
    let sent = vec![7u8; 1 << 20];
    let writer = {
        let sent = sent.clone();
        std::thread::spawn(move || client.write_all(&sent).unwrap())
    };
    let mut received = Vec::new();
    server.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert_eq!(received, sent);
    assert!(connect(&d, b.endpoint.ipv4).is_err(), "the other VPC does not");

    let (sender, receiver) =
        (world.datapath().counters(a.endpoint.id).unwrap(), world.datapath().counters(b.endpoint.id).unwrap());
    assert!(sender.sent.bytes > 1 << 20 && receiver.received.bytes > 1 << 20, "{sender:?} {receiver:?}");
    // A MiB in segments of at most 1,450 bytes.
    assert!(sender.sent.packets > 700, "large buffers count as their segments: {sender:?}");
    assert!(receiver.drops.is_empty(), "{receiver:?}");
    let names: HashSet<_> = sender.drops.iter().map(|drop| (drop.direction, drop.reason)).collect();
    assert_eq!(names, HashSet::from([("egress", "arp_unknown_target")]), "only the ping to nobody");
    // The pings ran in the containers' cgroups.
    assert!(sender.socket_sent.packets >= 2 && sender.socket_received.packets >= 2, "{sender:?}");
}

#[test]
fn another_group_is_refused_and_counted_at_its_door() {
    let mut world = World::new();
    world.network(1);
    let (a, b) = (world.container_in_group(0, 1, 2, 1), world.container_in_group(1, 1, 3, 2));
    assert!(!a.pings(b.endpoint.ipv4));
    let drops = world.datapath().counters(b.endpoint.id).unwrap().drops;
    assert_eq!((drops.len(), drops[0].direction, drops[0].reason), (1, "ingress", "firewall_ingress"));
    let sent = world.datapath().counters(a.endpoint.id).unwrap().sent.packets;
    assert_eq!(sent, 1, "the question for an address, which the program answered");
    assert_eq!(world.datapath().counters(b.endpoint.id).unwrap().received.packets, 0);
}

#[test]
fn the_host_cannot_send_past_the_datapath() {
    let mut world = World::new();
    world.network(1);
    let a = world.container(0, 1, 2);
    // A raw frame out of the host's end.
    let frame = [&a.endpoint.mac[..], &[2, 9, 9, 9, 9, 9], &[0x08, 0x00], &[0; 46]].concat();
    datapath_support::send_raw(&datapath_support::raw_socket(), a.endpoint.ifindex, &frame);
    let drops = world.datapath().counters(a.endpoint.id).unwrap().drops;
    assert_eq!(drops.len(), 1, "{drops:?}");
    assert_eq!((drops[0].direction, drops[0].reason, drops[0].packets), ("ingress", "not_from_datapath", 1));
}

#[test]
fn detach_ends_traffic_and_leaves_nothing() {
    let mut world = World::new();
    world.network(1);
    let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
    assert!(a.pings(b.endpoint.ipv4));
    assert_eq!(world.pinned_links().len(), 4);
    world.datapath().detach(b.endpoint.id).unwrap();
    world.datapath().detach(b.endpoint.id).unwrap();
    assert_eq!(world.pinned_links().len(), 2);
    assert!(!a.pings(b.endpoint.ipv4));
    assert_eq!(world.datapath().counters(b.endpoint.id).unwrap(), Default::default());
    world.delete_link(&b);
    let again = world.container(1, 1, 4);
    assert!(a.pings(again.endpoint.ipv4), "the id is free for another");
}

#[test]
fn a_restart_adopts_the_living_and_removes_the_rest() {
    let mut world = World::new();
    world.network(1);
    world.network(2);
    let (a, b, c) = (world.container(0, 1, 2), world.container(1, 1, 3), world.container(2, 1, 4));
    world.datapath = None;
    assert!(a.pings(b.endpoint.ipv4), "pins carry the traffic while no daemon runs");
    world.datapath = Some(world.open());

    let done = world.datapath().reconcile(&HashSet::from([0, 1])).unwrap();
    assert_eq!((done.endpoints.as_slice(), done.links.len()), ([2].as_slice(), 2));
    assert!(world.datapath().reconcile(&HashSet::from([0, 1])).unwrap().is_empty(), "nothing is left the second time");
    assert_eq!(world.datapath().reconcile_networks(&HashSet::from([1])).unwrap(), [2]);
    assert!(a.pings(b.endpoint.ipv4), "what is alive was left alone");
    assert!(!a.pings(c.endpoint.ipv4));
    assert_eq!(world.pinned_links().len(), 4);
}
