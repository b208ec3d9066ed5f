//! Interfaces as the daemon makes them: names, addresses, MTU, and what they say on their own accord, which is nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use cc_host::kernel::host_device::HostAddresses;
use cc_host::kernel::link::{EndpointAddress, Links, Pair, PairKind, configure_endpoint, loopback_up};
use cc_host::kernel::{carrier, netns, uplink};
use datapath_support::{GATEWAY, World, new_netns};
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Otherwise the host's end loses what it sends, until the kernel comes to it: the answer to a container's first question. And the container
/// refuses what comes for its IPv6 address.
#[test]
fn both_ends_send_as_soon_as_they_are_settled() {
    let world = World::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Others change interfaces too, so that the kernel's worker has to wait.
        for _ in 0..6 {
            scope.spawn(|| {
                let other = new_netns();
                netns::in_netns(other.as_fd(), || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let links = Links::open().unwrap();
                    let end = new_netns();
                    let pair = Pair {
                        kind: PairKind::Veth,
                        host_name: "cctx",
                        netns: end.as_fd(),
                        mac: [2, 0, 0, 0, 0, 1],
                        mtu: 1450,
                        alias: "cc:x",
                    };
                    while !done.load(Ordering::Relaxed) {
                        many_addresses();
                        let ifindex = runtime.block_on(links.create_pair(&pair)).unwrap();
                        runtime.block_on(links.delete(ifindex)).unwrap();
                    }
                })
                .unwrap();
            });
        }
        // And there is other work to do.
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _done = Done(&done);
        settles(&world);
    });
    assert!(carrier::settle("no-such").is_err());
    assert!(carrier::settle("a-name-that-is-too-long").is_err());
}

/// Gives and takes addresses that the kernel's worker has to make routes for, one after the other.
fn many_addresses() {
    let change = |verb: &str| -> String {
        (0..64).map(|number| format!("addr {verb} fd00:2::{number:x}/128 dev lo nodad\n")).collect()
    };
    for verb in ["add", "del"] {
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(change(verb).as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success());
    }
}

/// Tells the others that it is over, also when that is because of a failure.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn settles(world: &World) {
    for number in 0..200u8 {
        let (_, netns) = world.veth(number.into(), [2, 0, 0, 0, 1, number]);
        let address = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, u16::from(number) + 2);
        let given = EndpointAddress { address: address.into(), prefix_len: 64, gateway: None };
        world.block_on(configure_endpoint(netns.try_clone().unwrap(), vec![given])).unwrap();
        assert!(is_local(netns.as_fd(), address), "pair {number}: what comes for {address} is refused");
        let name = format!("cct{number}");
        assert!(carrier::settle(&name).unwrap(), "there is a carrier");
        assert!(is_running(&name), "pair {number}: what its host end sends is lost");
    }
}

/// Whether the kernel takes packets for an address, asked without waiting for what others do to interfaces.
fn is_local(netns: BorrowedFd<'_>, address: Ipv6Addr) -> bool {
    let routes = netns::in_netns(netns, || std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap());
    let mine = format!("{:032x} 80 ", address.to_bits());
    // Of the flags, the one of a local address: RTF_LOCAL.
    let is_local = |line: &str| {
        let flags = line.split_ascii_whitespace().nth(8).map(|word| u32::from_str_radix(word, 16).unwrap());
        line.starts_with(&mine) && flags.is_some_and(|flags| flags & 0x8000_0000 != 0)
    };
    routes.unwrap().lines().any(is_local)
}

/// Whether the kernel has noticed the carrier, asked without waiting for what others do to interfaces.
fn is_running(name: &str) -> bool {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: plain numbers, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request lives past the call, and is what this command takes.
    assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) }, 0, "{name}");
    // SAFETY: the command has filled in this one.
    i32::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_RUNNING != 0
}

/// Whoever has such rules loses IPv6 between the host and its containers, and nothing else.
#[test]
fn a_host_whose_rules_claim_its_address_has_its_device_all_the_same() {
    let host = new_netns();
    netns::in_netns(host.as_fd(), || {
        for args in ["add pref 100 lookup local", "del pref 0", "add pref 10 to fd64::1 prohibit"] {
            assert!(
                Command::new("ip").args(["-6", "rule"]).args(args.split(' ')).status().unwrap().success(),
                "{args}"
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let addresses =
            HostAddresses { ipv4: ([100, 64, 0, 1].into(), 16), ipv6: Some(("fd64::1".parse().unwrap(), 112)) };
        runtime.block_on(async {
            let links = Links::open().unwrap();
            let device = links.ensure_host_device("host-0123456789ab", &addresses).await.unwrap();
            assert!(device.host != device.peer);
        });
    })
    .unwrap();
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
    let inside = new_netns();
    world.block_on(loopback_up(inside.try_clone().unwrap())).unwrap();
    let listening = netns::in_netns(inside.as_fd(), || {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).is_ok()
    });
    assert!(listening.unwrap());
}
