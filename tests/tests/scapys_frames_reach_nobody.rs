//! Whatever scapy can make of frames, inside a container or outside the host: neighbours and the host never see what is not for them,
//! conversations lose nothing, each frame is counted as passed or as dropped for a reason, and nothing is left behind.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cc_tests::beyond::{Beyond, HOST, HOST6, UPLINK, interface_mac};
use cc_tests::dual_stack::{Ear, ip6, mac, vpc};
use cc_tests::echo::dual_stack_echo_server;
use cc_tests::netns::Netns;
use cc_tests::scapy::{Talk, send};
use cc_tests::{World, eventually};
use serde_json::{Value, json};

const GATEWAY: &str = "10.0.0.1";
const GATEWAY6: &str = "fd00:1::1";
const GATEWAY_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 1];
const PORT: u16 = 7;
const SERVICE: u16 = 8080;
const SLEEP: &[&str] = &["sleep", "600"];
/// Frames of each class; some classes have a part of it.
const COUNT: u64 = 40;
const FLOOD: u64 = 3_000;
const SOON: Duration = Duration::from_secs(10);

/// One who hears: what a frame that comes to it may be.
struct Hearer {
    mac: [u8; 6],
    own: [IpAddr; 2],
    /// Whoever may speak to it.
    may: Box<dyn Fn(IpAddr) -> bool>,
}

impl Hearer {
    /// Why a frame should not have been heard.
    fn objects(&self, frame: &[u8]) -> Option<&'static str> {
        if frame[..6] != self.mac || frame[6..12] != GATEWAY_MAC {
            return Some("it is not the gateway's, to us");
        }
        let (source, destination, protocol, at) = match (frame[12], frame[13]) {
            (0x08, 0x00) => {
                let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
                (ip(26), ip(30), frame[23], 14 + usize::from(frame[14] & 15) * 4)
            }
            (0x86, 0xdd) => {
                let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
                (ip(22), ip(38), frame[20], 54)
            }
            // An answer, which names the gateway.
            (0x08, 0x06) => {
                return (frame[21] != 2 || frame[22..28] != GATEWAY_MAC).then_some("ARP is not the gateway's");
            }
            _ => return Some("neither IP nor ARP"),
        };
        // The gateway answers for whomever was asked for, so that no neighbour's own answer is ever heard.
        if protocol == 58 && frame.get(at) == Some(&136) {
            let names_gateway = frame.windows(8).any(|option| option == [&[2, 1][..], &GATEWAY_MAC].concat());
            return (!names_gateway).then_some("an advertisement is not the gateway's");
        }
        let is_misleading = match (protocol, frame.get(at)) {
            (1, Some(kind)) => matches!(kind, 3 | 4 | 5 | 9 | 10 | 11 | 12),
            (58, Some(kind)) => matches!(kind, 1..=4 | 133..=137),
            _ => false,
        };
        match (self.own.contains(&destination), (self.may)(source)) {
            (false, _) => Some("it is for another address"),
            (_, false) => Some("nobody who may speak to us has that address"),
            // Of what is said here, nothing is wrong, and nobody leads anywhere.
            _ if is_misleading => Some("an error or advice that nobody had a reason for"),
            _ if protocol == 43 => Some("a routing header"),
            _ => None,
        }
    }

    #[track_caller]
    fn assert_none_objectionable(&self, heard: &[Vec<u8>]) {
        let bad: Vec<_> = heard.iter().filter_map(|frame| Some((self.objects(frame)?, frame))).collect();
        assert!(bad.is_empty(), "{} of {}: {:02x?}", bad.len(), heard.len(), bad.first());
        assert!(!heard.is_empty(), "the conversation at least was heard");
    }
}

/// What is counted of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Books {
    sent: u64,
    received: u64,
    egress: BTreeMap<String, u64>,
    ingress: BTreeMap<String, u64>,
}

impl Books {
    fn of(world: &World, id: &str) -> Books {
        let metrics = world.cc(&["metrics", id, "--json"]).json()[0].clone();
        let number = |value: &Value| value.as_u64().expect("a number");
        let drops = |direction: &str| {
            let drops =
                metrics["drops"].as_array().expect("drops").iter().filter(|drop| drop["direction"] == direction);
            drops
                .map(|drop| (drop["reason"].as_str().expect("a reason").to_owned(), number(&drop["packets"])))
                .collect()
        };
        Books {
            sent: number(&metrics["sent"]["packets"]),
            received: number(&metrics["received"]["packets"]),
            egress: drops("egress"),
            ingress: drops("ingress"),
        }
    }
}

/// Of packets: what gave way was delivered before.
fn sum(drops: &BTreeMap<String, u64>) -> u64 {
    drops.iter().filter(|(reason, _)| *reason != "half_open_recycled").map(|(_, packets)| packets).sum()
}

/// Frames that have left an interface, its own kernel's among them.
fn left(netns: &Netns, interface: &str) -> u64 {
    let output = netns.command("ip").args(["-json", "-statistics", "link", "show", interface]).output().unwrap();
    let links: Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["stats64"]["tx"]["packets"].as_u64().expect("a number")
}

/// Packets that the host's own stack was given, of each family, and the neighbours that it knows.
fn host_has_seen(world: &World) -> (String, String, String) {
    let read = |name: &'static str| {
        let path = format!("/proc/thread-self/net/{name}");
        world.netns.run(move || std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let v4 = read("snmp")
        .lines()
        .filter(|line| line.starts_with("Ip:"))
        .nth(1)
        .unwrap()
        .split(' ')
        .nth(3)
        .unwrap()
        .to_owned();
    let v6 = read("snmp6").lines().find(|line| line.starts_with("Ip6InReceives")).unwrap().to_owned();
    let neighbours = world.netns.command("ip").args(["neigh", "show"]).output().unwrap().stdout;
    (v4, v6, String::from_utf8(neighbours).unwrap())
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn from_inside() {
    let world = World::new();
    vpc(&world, "blue");
    let run = || world.run("busybox", &["--vpc", "blue"], SLEEP);
    let (own, peer, client) = (run(), run(), run());
    dual_stack_echo_server(&world, &peer, PORT);
    let netns = |id: &str| Netns::of_pid(world.pid(id)).unwrap();
    let address = |id: &str| -> [IpAddr; 2] { [world.address(id).parse().unwrap(), ip6(&world, id).into()] };
    let [peer4, peer6] = address(&peer);
    let talks = [peer4, peer6].map(|to| Talk::begin(&netns(&client), SocketAddr::new(to, PORT)));
    let (talkers, gateways) =
        ([address(&own), address(&client)].concat(), [GATEWAY, GATEWAY6].map(|text| text.parse().unwrap()));
    let may = Box::new(move |source| talkers.contains(&source) || gateways.contains(&source));
    let hearer = Hearer { mac: mac(&world, &peer), own: address(&peer), may };
    let (sender, ear) = (netns(&own), Ear::at(&world, &peer));
    let books = || [&own, &peer, &client].map(|id| Books::of(&world, id));
    // Its own kernel reports its groups for a while after the start: what it sends is in both numbers, or in none.
    let (before, gone) = eventually("nothing is sent in between", SOON, || {
        let (books_then, gone) = (books(), left(&sender, "eth0"));
        // Of the others, which talk meanwhile, only drops are looked at.
        (Books::of(&world, &own) == books_then[0]).then_some((books_then, gone))
    });
    let seen = host_has_seen(&world);
    let sent = send(
        &world,
        &sender,
        "inside.py",
        json!({
            "interface": "eth0", "count": COUNT, "port": PORT, "flow_port": talks[0].local.port(),
            "own": world.address(&own), "own6": ip6(&world, &own).to_string(), "mac": text(mac(&world, &own)),
            "peer": peer4.to_string(), "peer6": peer6.to_string(), "peer_mac": text(mac(&world, &peer)),
            "client": world.address(&client), "client6": ip6(&world, &client).to_string(),
            "gateway": GATEWAY, "gateway6": GATEWAY6,
        }),
    );
    assert!(sent.0.len() > 40 && sent.total() > 1_500, "{sent:?}");
    let lines = talks.map(Talk::end);
    assert!(lines.iter().all(|&lines| lines > 100), "{lines:?}");
    // A packet is between two counters for a moment.
    let mut last = String::new();
    let within = cc_tests::eventually::within(SOON, || {
        let ([own, peer, client], out) = (books(), left(&sender, "eth0") - gone);
        let [own0, peer0, client0] = &before;
        let passed = own.sent - own0.sent;
        let at_own_door = sum(&own.egress) - sum(&own0.egress);
        let at_others = sum(&peer.ingress) - sum(&peer0.ingress) + sum(&client.ingress) - sum(&client0.ingress);
        last = format!(
            "{out} out: {passed} passed, {at_own_door} + {at_others} dropped; {:?} {:?}",
            own.egress, peer.ingress
        );
        (out == passed + at_own_door + at_others).then_some(out)
    });
    println!("{last}");
    let out = within.unwrap_or_else(|| panic!("not each frame is accounted for: {last}"));
    assert!(out >= sent.total());
    let drops = Books::of(&world, &own).egress;
    for reason in [
        "truncated",
        "vlan",
        "spoofed_mac",
        "spoofed_ipv4",
        "spoofed_ipv6",
        "spoofed_arp",
        "spoofed_nd",
        "ipv4_header",
        "ipv4_length",
        "ipv6_extension",
        "ethertype",
        "broadcast",
        "multicast",
        "wrong_destination_mac",
        "nd_announcement",
        "icmp_unrelated",
    ] {
        assert!(drops.contains_key(reason), "{reason} did not occur: {drops:?}");
    }
    hearer.assert_none_objectionable(&ear.heard());
    assert_eq!(host_has_seen(&world), seen, "the host's own stack was given nothing");
    assert!(world.cc(&["ps"]).ok().stdout.contains(&own[..8]), "the daemon lives");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn from_outside() {
    let (world, beyond) = Beyond::world("");
    vpc(&world, "blue");
    let web = world.run("busybox", &["--vpc", "blue", "-p", &format!("{SERVICE}:{PORT}")], SLEEP);
    let neighbour = world.run("busybox", &["--vpc", "blue"], SLEEP);
    dual_stack_echo_server(&world, &web, PORT);
    let own: [IpAddr; 2] = [world.address(&web).parse().unwrap(), ip6(&world, &web).into()];
    let neighbours: [IpAddr; 2] = [world.address(&neighbour).parse().unwrap(), ip6(&world, &neighbour).into()];
    let told = |what: &str, count: u64| {
        json!({
            "what": what, "interface": "wan0", "count": count, "port": SERVICE, "host": HOST, "host6": HOST6,
            "mac": interface_mac(&beyond.netns, "wan0"), "host_mac": interface_mac(&world.netns, UPLINK),
            "inner": own[0].to_string(), "inner6": own[1].to_string(),
        })
    };

    // Nobody at the far end says that the strangers are none of its: what is delivered is the flood alone.
    for (family, strangers) in [("-4", "198.19.0.0/16"), ("-6", "2001:db8:5::/48")] {
        let route = ["route", "add", "blackhole", strangers];
        assert!(beyond.netns.command("ip").arg(family).args(route).status().unwrap().success());
    }

    // A flood of beginnings, from everywhere: each is delivered, or dropped at the container's door for a reason.
    let before = Books::of(&world, &web);
    let sent = send(&world, &beyond.netns, "outside.py", told("flood", FLOOD));
    assert_eq!(sent.total(), 2 * FLOOD);
    let mut last = String::new();
    let accounted = cc_tests::eventually::within(SOON, || {
        let now = Books::of(&world, &web);
        let (received, dropped) = (now.received - before.received, sum(&now.ingress) - sum(&before.ingress));
        last = format!("{received} delivered, {dropped} dropped: {:?}", now.ingress);
        // The container's own kernel may have asked for its gateway meanwhile, which answered.
        (received + dropped >= sent.total()).then_some(received + dropped - sent.total())
    });
    println!("{last}");
    let more = accounted.unwrap_or_else(|| panic!("not each frame is accounted for: {last}"));
    assert!(more <= 20, "{more} more than were sent: {last}");

    // Everything that is odd, while somebody outside and somebody inside talk to it.
    let outside = [HOST, HOST6].map(|host| SocketAddr::new(host.parse().unwrap(), SERVICE));
    let inside = Netns::of_pid(world.pid(&neighbour)).unwrap();
    let mut talks: Vec<Talk> = own.iter().map(|&to| Talk::begin(&inside, SocketAddr::new(to, PORT))).collect();
    talks.extend(outside.iter().map(|&to| {
        eventually("a client gets in again", SOON * 4, || {
            let connect = move || std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok();
            beyond.netns.run(connect).unwrap().then_some(())
        });
        Talk::begin(&beyond.netns, to)
    }));
    let (range, range6) = ([10, 0, 0], own[1]);
    let may = Box::new(move |source: IpAddr| match source {
        IpAddr::V4(v4) => v4.octets()[..3] != range && !v4.is_loopback() || source == neighbours[0],
        IpAddr::V6(v6) => {
            let IpAddr::V6(range6) = range6 else { return false };
            v6.segments()[..4] != range6.segments()[..4] || source == neighbours[1]
        }
    });
    let hearer = Hearer { mac: mac(&world, &web), own, may };
    let ear = Ear::at(&world, &web);
    let sent = send(&world, &beyond.netns, "outside.py", told("odd", COUNT));
    assert!(sent.total() > 1_000, "{sent:?}");
    let lines: Vec<u64> = talks.into_iter().map(Talk::end).collect();
    assert!(lines.iter().all(|&lines| lines > 100), "{lines:?}");
    hearer.assert_none_objectionable(&ear.heard());
    let drops = Books::of(&world, &web).ingress;
    for reason in ["spoofed_ipv4", "spoofed_ipv6"] {
        assert!(drops.contains_key(reason), "{reason} did not occur: {drops:?}");
    }
    assert!(world.cc(&["ps"]).ok().stdout.contains(&web[..8]), "the daemon lives");
    world.remove_all();
    world.assert_clean();
}
