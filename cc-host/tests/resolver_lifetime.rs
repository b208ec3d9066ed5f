//! A resolver comes with its namespace and goes with it, and leaves nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod resolver_support;

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;

use cc_host::kernel::netns::in_netns;
use cc_host::resolver::{ResolverError, Upstreams};
use hickory_proto::rr::RecordType::A;
use nix::net::if_::if_nametoindex;
use resolver_support::{World, eventually, join, question};

fn own_namespace() -> u64 {
    std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

fn setting(namespace: BorrowedFd<'_>, name: &str) -> String {
    let path = format!("/proc/sys/net/{name}");
    in_netns(namespace, || std::fs::read_to_string(path).unwrap().trim().to_owned()).unwrap()
}

#[test]
fn what_is_dropped_goes_with_its_interface() {
    let world = World::new();
    let mut vpc = world.vpc(1);
    world.publish(1, 2, "web", &[]);
    assert_eq!(vpc.look_up("web.", A).unwrap(), ["10.0.0.2"]);
    // What is under way must not hold it: a query that waits, and a connection.
    world.server("127.0.0.1", |_| vec![]);
    let socket = vpc.udp();
    socket.send(&question("www.example.com.", A).to_vec().unwrap()).unwrap();
    let _connection = vpc.tcp();
    vpc.handle = None;
    // The kernel removes a pair with the namespace of either end.
    eventually("the client's interface is gone", || vpc.inside(|| if_nametoindex("eth0").is_err()).then_some(()));
}

#[test]
fn one_that_was_never_started_goes_as_well() {
    let world = World::new();
    let open = world.open(1, Upstreams::Host);
    let client = join(open.namespace());
    drop(open);
    let gone = || in_netns(client.as_fd(), || if_nametoindex("eth0").is_err()).unwrap();
    eventually("the client's interface is gone", || gone().then_some(()));
}

#[test]
fn without_its_address_it_does_not_start_and_says_so() {
    let world = World::new();
    let error = world.open(1, Upstreams::Host).start().unwrap_err();
    assert!(matches!(error, ResolverError::Listen { protocol: "UDP", .. }), "{error}");
    assert!(error.to_string().contains("10.0.0.1:53"), "{error}");
}

#[test]
fn it_listens_in_a_namespace_of_its_own_that_does_not_route() {
    let world = World::new();
    // As on a host that routes: new namespaces inherit it.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    let before = own_namespace();
    let vpc = world.vpc(1);
    assert_eq!(own_namespace(), before, "the caller was not moved");
    let service = vpc.handle.as_ref().unwrap().namespace();
    let at = std::fs::metadata(format!("/proc/self/fd/{}", service.as_raw_fd())).unwrap().ino();
    assert_ne!(at, before);
    assert_eq!(setting(service, "ipv4/ip_forward"), "0");
    assert_eq!(setting(service, "ipv6/conf/all/forwarding"), "0");
    let interfaces = in_netns(service, || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
    assert_eq!(interfaces.lines().skip(2).count(), 2, "lo and the gateway's: {interfaces}");
    let routes = in_netns(service, || std::fs::read_to_string("/proc/thread-self/net/route").unwrap()).unwrap();
    assert_eq!(routes.lines().skip(1).count(), 1, "the VPC's range: {routes}");
    assert!(std::net::UdpSocket::bind("127.0.0.1:53").is_ok(), "port 53 of the host is free");
}

#[test]
fn many_come_and_go() {
    let world = World::new();
    for _ in 0..3 {
        let vpcs: Vec<_> = (1..=20).map(|vni| world.vpc(vni)).collect();
        for (vni, vpc) in (1..).zip(&vpcs) {
            let id = world.publish(vni, 3, "web", &[]);
            assert_eq!(vpc.look_up("web.", A).unwrap(), ["10.0.0.3"]);
            world.directory.withdraw(vni, &id);
        }
    }
}
