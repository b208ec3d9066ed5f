//! Whoever the guard denies does not reach the host by its uplink, from one packet to the next; and nobody else notices.

use std::net::TcpListener;
use std::time::Duration;

use cc_tests::beyond::wait_until_local;
use cc_tests::daemon::Leave;
use cc_tests::netns::Netns;
use cc_tests::packet::Wire;
use cc_tests::{World, eventually};
use serde_json::Value;

const UPLINK: &str = "up0";
const US: &str = "192.0.2.1";
const SOON: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_millis(400);

/// A world with an uplink, and what is behind it: 192.0.2.2 and .3, fd00:9::2.
fn world(extra: &str) -> (World, Netns) {
    let (host, outside) = (Netns::new().unwrap(), Netns::new().unwrap());
    let ip = |netns: &Netns, args: &str| {
        let status = netns.command("ip").args(args.split(' ')).status().unwrap();
        assert!(status.success(), "ip {args}");
    };
    // Made where it stays: the other end moves to the namespace of a process there.
    let mut sleeper = outside.command("sleep").arg("600").spawn().unwrap();
    ip(&host, &format!("link add {UPLINK} type veth peer name far0 netns {}", sleeper.id()));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    for (netns, name, addresses) in [
        (&host, UPLINK, &["192.0.2.1/24", "fd00:9::1/64"][..]),
        (&outside, "far0", &["192.0.2.2/24", "192.0.2.3/24", "fd00:9::2/64"]),
    ] {
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            ip(netns, &format!("address add {address} dev {name}{nodad}"));
        }
        ip(netns, &format!("link set {name} up"));
        for address in addresses.iter().filter_map(|address| address.strip_suffix("/64")) {
            wait_until_local(netns, address);
        }
    }
    ip(&host, "route add default via 192.0.2.2");
    (World::in_netns(host, extra), outside)
}

/// Listens on the host's port 80, in every family, for as long as the test lasts.
fn listen(world: &World) {
    world
        .netns
        .run(|| {
            let listener = TcpListener::bind("[::]:80").unwrap();
            std::thread::spawn(move || listener.incoming().for_each(drop));
        })
        .unwrap();
}

/// Whether a connection from this address of the outside reaches the host.
fn reaches(outside: &Netns, from: &'static str) -> bool {
    let to = if from.contains(':') { "[fd00:9::1]:80".to_owned() } else { format!("{US}:80") };
    let connect = move || {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
        };
        use std::os::fd::AsRawFd as _;
        let family = if from.contains(':') { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let own: std::net::SocketAddr = (from.parse::<std::net::IpAddr>().unwrap(), 0).into();
        bind(socket.as_raw_fd(), &SockaddrStorage::from(own)).unwrap();
        let bound =
            nix::sys::time::TimeVal::from(nix::libc::timeval { tv_sec: 0, tv_usec: TIMEOUT.as_micros() as i64 });
        setsockopt(&socket, sockopt::SendTimeout, &bound).unwrap();
        let to: std::net::SocketAddr = to.parse().unwrap();
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).is_ok()
    };
    outside.run(connect).unwrap()
}

fn dropped(state: &Value, reason: &str) -> u64 {
    let drops = state["drops"].as_array().unwrap();
    drops
        .iter()
        .find(|of| of["reason"] == reason)
        .and_then(|of| of["packets"].as_u64())
        .expect("every reason is listed")
}

/// The program on the uplink, as the kernel shows it.
fn program(world: &World) -> Option<String> {
    let output = world.netns.command("ip").args(["-json", "link", "show", "dev", UPLINK]).output().unwrap();
    let links: Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["xdp"]["prog"]["name"].as_str().map(str::to_owned)
}

#[test]
fn who_is_denied_does_not_get_in_and_nobody_else_notices() {
    let (mut world, outside) = world("");
    listen(&world);
    let list = |world: &World| world.cc(&["guard", "list", "--json"]).json();
    assert_eq!((list(&world)["wanted"].as_bool(), program(&world)), (Some(false), None));
    assert!(["192.0.2.2", "192.0.2.3", "fd00:9::2"].into_iter().all(|from| reaches(&outside, from)));

    let state = world.cc(&["guard", "deny", "192.0.2.3", "fd00:9::2/128", "--json"]).json();
    assert_eq!(state["denied"].as_array().unwrap().len(), 2);
    assert_eq!((&state["uplinks"][0]["name"], state["wanted"].as_bool()), (&UPLINK.into(), Some(true)));
    assert!(state["uplinks"][0]["mode"].is_string(), "{state}");
    assert_eq!(program(&world).as_deref(), Some("cc_xdp_guard"));
    assert!(reaches(&outside, "192.0.2.2"));
    assert!(!reaches(&outside, "192.0.2.3") && !reaches(&outside, "fd00:9::2"));
    assert!(dropped(&list(&world), "denied") > 0);

    // A prefix list, and what becomes of it.
    world.cc(&["prefixes", "create", "--name", "bad"]).ok();
    world.cc(&["guard", "deny", "bad"]).ok();
    assert!(reaches(&outside, "192.0.2.2"), "nobody is in it");
    world.cc(&["prefixes", "add", "bad", "192.0.2.2/31", "203.0.113.0/24"]).ok();
    assert!(!reaches(&outside, "192.0.2.2"));
    world.cc(&["prefixes", "delete", "bad"]).fails(1, "the guard names it");
    world.cc(&["prefixes", "add", "bad", "0.0.0.0/0"]).fails(1, "everybody");

    // The list outlives its daemon, and is in force while there is none.
    world.leave(Leave::Killed);
    assert!(!reaches(&outside, "192.0.2.2"));
    world.start();
    assert!(!reaches(&outside, "192.0.2.2") && !reaches(&outside, "192.0.2.3"));
    world.cc(&["guard", "allow", "bad", "192.0.2.3/32"]).ok();
    assert!(reaches(&outside, "192.0.2.2") && reaches(&outside, "192.0.2.3"));
    world.cc(&["prefixes", "delete", "bad"]).ok();

    // Somebody removes it: it comes back by itself.
    let pins = world.pins().join("guard");
    for pin in std::fs::read_dir(&pins).unwrap() {
        std::fs::remove_file(pin.unwrap().path()).unwrap();
    }
    // The kernel takes the program off some time after its pin has gone: that there is one says nothing yet.
    let pinned = || std::fs::read_dir(&pins).unwrap().count() > 0;
    eventually("the guard is back", SOON, || program(&world).filter(|_| pinned()));
    assert!(!reaches(&outside, "fd00:9::2"));
    world.cc(&["guard", "allow", "fd00:9::2/128"]).ok();
    assert!(reaches(&outside, "fd00:9::2"));
    assert_eq!((program(&world), std::fs::read_dir(&pins).unwrap().count()), (None, 0), "nobody is denied");
}

#[test]
fn malformed_packets_end_at_the_uplink_though_nobody_is_denied() {
    let (world, outside) = world("guard = true");
    eventually("it is guarded", SOON, || program(&world));
    let send = |frame: Vec<u8>| {
        outside.run(move || Wire::open("far0").and_then(|wire| wire.send(&frame))).unwrap().unwrap();
    };
    let mut land = vec![0xff; 12];
    land.extend([8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 1]);
    land.resize(60, 0);
    (0..5).for_each(|_| send(land.clone()));
    let state = eventually("they are counted", SOON, || {
        let state = world.cc(&["guard", "list", "--json"]).json();
        (dropped(&state, "land") == 5).then_some(state)
    });
    assert_eq!((state["denied"].as_array().unwrap().len(), dropped(&state, "denied")), (0, 0));
    assert!(world.cc(&["guard", "list"]).ok().stdout.contains("land"));
    let (status, text) = world.curl(&["http://127.0.0.1:9477/metrics"]);
    assert_eq!(status, 200);
    assert!(text.contains("cc_guard_dropped_packets_total{reason=\"land\"} 5\n"), "{text}");

    for (what, why) in [("0.0.0.0/0", "everybody"), ("10.0.0.1/8", "host bits"), ("nobody", "no prefix list")] {
        world.cc(&["guard", "deny", what]).fails(1, why);
    }
}
