//! Packets in pieces arrive whole, in whatever order their pieces come: within a network, out of it, into it, and at the host, which gets its
//! own. What waits is bounded, and for a second.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use cc_tests::beyond::{Beyond, FAR, FAR6, HOST, HOST6, UPLINK, interface_mac};
use cc_tests::netns::Netns;
use cc_tests::packet::{Wire, ethernet, ipv4_fragments, ipv6_fragments, udp, udp6};
use cc_tests::{World, allowed, dual_stack, eventually};

const SLEEP: &[&str] = &["sleep", "600"];
const GATEWAY_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 1];
const UDP: u8 = 17;
/// Of a packet's payload in one piece.
const EACH: usize = 1208;
/// In three pieces.
const BYTES: usize = 3000;
/// In every order but the right one, which others test all the time.
const ORDERS: [[usize; 3]; 5] = [[2, 1, 0], [1, 2, 0], [1, 0, 2], [2, 0, 1], [0, 2, 1]];
const PUBLISHED: u16 = 8080;
const INSIDE: u16 = 80;
const FAR_PORT: u16 = 4000;
/// By which the host's own sockets reach a container, and on no wire.
const STAND_IN: &str = "100.64.0.3";
/// Neither the host's nor anybody's.
const ELSEWHERE: &str = "192.0.2.77";
const PATIENCE: Duration = Duration::from_secs(3);
/// Packets of a flood, ten times as many as an endpoint has places for.
const FLOOD: u16 = 20;
/// In which nothing comes.
const SILENCE: Duration = Duration::from_millis(300);
/// Longer than a fragment waits.
const TOO_LATE: Duration = Duration::from_millis(1300);

/// Whom frames go to, and from whom.
struct Door {
    wire: Wire,
    to: [u8; 6],
    from: [u8; 6],
}

impl Door {
    fn open(netns: &Netns, interface: &'static str, to: [u8; 6]) -> Door {
        let from = mac(&interface_mac(netns, interface));
        let wire = netns.run(move || Wire::open(interface)).expect("the code inside ends").expect("a packet socket");
        Door { wire, to, from }
    }

    fn of_container(world: &World, id: &str) -> Door {
        Door::open(&Netns::of_pid(world.pid(id)).expect("it runs"), "eth0", GATEWAY_MAC)
    }

    fn beyond(world: &World, beyond: &Beyond) -> Door {
        Door::open(&beyond.netns, "wan0", mac(&interface_mac(&world.netns, UPLINK)))
    }

    fn send(&self, pieces: &[Vec<u8>], order: &[usize]) {
        for &number in order {
            let ethertype = if pieces[number][0] >> 4 == 4 { 0x0800 } else { 0x86dd };
            let frame = ethernet(self.to, self.from, ethertype, &pieces[number]);
            self.wire.send(&frame).expect("the interface takes it");
        }
    }
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect();
    bytes.try_into().expect("six bytes")
}

fn at(address: impl ToString, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_string().parse().expect("an address"), port)
}

/// One that tells its number, in pieces.
fn datagram(from: SocketAddr, to: SocketAddr, id: u16, bytes: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let said: Vec<u8> = (0..bytes).map(|place| (place as u16).wrapping_mul(31).wrapping_add(id) as u8).collect();
    let pieces = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let payload = udp(from.port(), to.port(), &said);
            ipv4_fragments(source.octets(), destination.octets(), UDP, id, &payload, EACH)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let payload = udp6(source, destination, from.port(), to.port(), &said);
            ipv6_fragments(source, destination, UDP, id, &payload, EACH)
        }
        _ => panic!("of one family"),
    };
    (said, pieces)
}

/// A socket there.
fn listen(netns: &Netns, port: u16) -> UdpSocket {
    let bind = move || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("the port is free");
    let socket = netns.run(bind).expect("the code inside ends");
    socket.set_read_timeout(Some(allowed(PATIENCE))).expect("a timeout");
    socket
}

fn inside(world: &World, id: &str, port: u16) -> UdpSocket {
    listen(&Netns::of_pid(world.pid(id)).expect("it runs"), port)
}

/// What comes, whole, once, and from whom.
fn receive(socket: &UdpSocket, said: &[u8], what: &str) -> SocketAddr {
    let mut received = vec![0; 70_000];
    let (length, peer) = socket.recv_from(&mut received).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(received[..length] == *said, "{what}: {length} bytes of {}, or others", said.len());
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn silent(socket: &UdpSocket, what: &str) {
    socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let came = socket.recv_from(&mut [0; 16]);
    assert!(came.is_err(), "{what}: {came:?}");
    socket.set_read_timeout(Some(allowed(PATIENCE))).expect("a timeout");
}

/// Packets of the only flow of that port, in each direction.
fn counted(world: &World, port: u16) -> (u64, u64) {
    let listed = world.cc(&["net", "flows", "--json", "--limit", "1000"]).json();
    let flows = listed["flows"].as_array().expect("flows are a list").clone();
    let of_port = |flow: &&serde_json::Value| flow["to"]["port"] == port || flow["from"]["port"] == port;
    let of_port: Vec<_> = flows.iter().filter(of_port).collect();
    assert_eq!(of_port.len(), 1, "{flows:?}");
    let packets = |key: &str| of_port[0][key]["packets"].as_u64().expect("a number");
    (packets("sent"), packets("received"))
}

/// Packets of which fragments wait for their first.
fn waiting(world: &World) -> usize {
    let mut bpftool = world.netns.command("bpftool");
    let output = bpftool.args(["-j", "map", "dump", "pinned"]).arg(world.pins().join("CC_EARLY")).output();
    let rows: serde_json::Value = serde_json::from_slice(&output.expect("bpftool can be run").stdout).expect("JSON");
    rows.as_array().expect("rows are a list").len()
}

/// In and back out of a published port, and at a socket of the host's own beside it.
#[test]
fn from_outside() {
    let (world, beyond) = Beyond::world("");
    dual_stack::vpc(&world, "blue");
    let server = world.run("busybox", &["--vpc", "blue", "-p", &format!("{PUBLISHED}:{INSIDE}/udp")], SLEEP);
    let (heard, hosts) = (inside(&world, &server, INSIDE), listen(&world.netns, 9000));
    let door = Door::beyond(&world, &beyond);
    // What is for nobody at this host waits for nothing here, a stand-in's least of all.
    for (id, to) in [(1, STAND_IN), (2, ELSEWHERE), (3, HOST)] {
        door.send(&datagram(at(FAR, FAR_PORT), at(to, PUBLISHED), id, BYTES).1, &[2, 1]);
    }
    eventually("the host's waits", PATIENCE, || (waiting(&world) > 0).then_some(()));
    std::thread::sleep(SILENCE);
    assert_eq!(waiting(&world), 1, "and nobody else's");
    let mut id = 3;
    for (far, host) in [(FAR, HOST), (FAR6, HOST6)] {
        for (round, order) in ORDERS.iter().enumerate() {
            let from = at(far, FAR_PORT + u16::from(far == FAR6));
            id += 1;
            let what = format!("{far}, {order:?}");
            let (said, pieces) = datagram(from, at(host, PUBLISHED), id, BYTES);
            assert_eq!(pieces.len(), 3);
            door.send(&pieces, order);
            assert_eq!(receive(&heard, &said, &what), from, "{what}");
            silent(&heard, &what);
            assert_eq!(counted(&world, from.port()), (3 * (round as u64 + 1), 0), "{what}: each is counted once");
            // The host's own are the host's, and none is made two.
            id += 1;
            let (said, pieces) = datagram(from, at(host, 9000), id, BYTES);
            door.send(&pieces, order);
            assert_eq!(receive(&hosts, &said, &what), from, "{what}, at the host");
            silent(&hosts, &what);
        }
    }
    // As large as there are, the last piece first.
    let (said, pieces) = datagram(at(FAR, FAR_PORT), at(HOST, PUBLISHED), 999, 50_000);
    let order: Vec<usize> = (0..pieces.len()).rev().collect();
    door.send(&pieces, &order);
    receive(&heard, &said, "many pieces");
    // More pieces than wait for one: it is lost, and the next one is not.
    let (_, pieces) = datagram(at(FAR, FAR_PORT), at(HOST, PUBLISHED), 998, 65_000);
    let order: Vec<usize> = (0..pieces.len()).rev().collect();
    assert!(order.len() > 48 + 1);
    door.send(&pieces, &order);
    silent(&heard, "too many pieces");
    // Its first comes too late: the rest is gone. A number may come again.
    let (said, pieces) = datagram(at(FAR, FAR_PORT), at(HOST, PUBLISHED), 1000, BYTES);
    door.send(&pieces, &[2, 1]);
    std::thread::sleep(TOO_LATE);
    door.send(&pieces, &[0]);
    silent(&heard, "too late");
    door.send(&pieces, &[1, 2]);
    receive(&heard, &said, "what was missing");
    world.remove_all();
    world.assert_clean();
}

/// Out by the host's address, and the answers. What others leave waiting is in nobody's way.
#[test]
fn out_of_a_network_and_back() {
    let (world, beyond) = Beyond::world("");
    dual_stack::vpc(&world, "blue");
    let run = || world.run("busybox", &["--vpc", "blue"], SLEEP);
    let (client, hostile) = (run(), run());
    let (out, back) = (Door::of_container(&world, &client), Door::beyond(&world, &beyond));
    let flood = Door::of_container(&world, &hostile);
    let floods = |to: SocketAddr| -> Vec<Vec<Vec<u8>>> {
        let from = match to {
            SocketAddr::V4(_) => at(world.address(&hostile), 5000),
            SocketAddr::V6(_) => at(dual_stack::ip6(&world, &hostile), 5000),
        };
        (0..FLOOD).map(|id| datagram(from, to, id, BYTES).1).collect()
    };
    let (heard, own) = (listen(&beyond.netns, FAR_PORT), inside(&world, &client, 5000));
    let addresses: [(IpAddr, &str, &str); 2] = [
        (world.address(&client).parse().expect("an address"), FAR, HOST),
        (dual_stack::ip6(&world, &client).into(), FAR6, HOST6),
    ];
    let mut id = 0;
    for (address, far, host) in addresses {
        let (from, to) = (SocketAddr::new(address, 5000), at(far, FAR_PORT));
        let others = floods(to);
        for order in ORDERS {
            let what = format!("{far}, {order:?}");
            id += 1;
            let (said, pieces) = datagram(from, to, id, BYTES);
            out.send(&pieces, &order[..2]);
            // Such as have no first, between its pieces.
            others.iter().for_each(|pieces| flood.send(pieces, &[2, 1]));
            out.send(&pieces, &order[2..]);
            let seen = receive(&heard, &said, &what);
            assert_eq!(seen.ip().to_string(), host, "{what}: by the host's address");
            silent(&heard, &what);
            let (said, pieces) = datagram(to, seen, id, BYTES);
            back.send(&pieces, &order);
            assert_eq!(receive(&own, &said, &what), to, "{what}: back");
            silent(&own, &what);
        }
    }
    assert_eq!(world.drops(&hostile, "fragment_unknown"), 2 * 2 * 5 * u64::from(FLOOD), "each of them is told");
    world.remove_all();
    world.assert_clean();
}

/// An answer, which passes by the flow of what it answers, and not by any rule: its first piece alone says whose flow that is.
#[test]
fn within_a_network() {
    let world = World::new();
    dual_stack::vpc(&world, "blue");
    for name in ["asks", "answers"] {
        world.cc(&["group", "create", "--name", name]).ok();
    }
    world.cc(&["group", "allow", "answers", "ingress", "--proto", "udp", "--port", "53", "--from", "asks"]).ok();
    let run = |group: &str| world.run("busybox", &["--vpc", "blue", "--group", group], SLEEP);
    let (client, server) = (run("asks"), run("answers"));
    let (asks, answers) = (inside(&world, &client, 5000), inside(&world, &server, 53));
    let door = Door::of_container(&world, &server);
    let v4 = |id: &str| world.address(id).parse::<Ipv4Addr>().expect("an address");
    let v6 = |id: &str| dual_stack::ip6(&world, id);
    let pairs: [(IpAddr, IpAddr); 2] =
        [(v4(&client).into(), v4(&server).into()), (v6(&client).into(), v6(&server).into())];
    let (mut id, mut early) = (0, 0);
    for (from, to) in pairs {
        let (from, to) = (SocketAddr::new(from, 5000), SocketAddr::new(to, 53));
        asks.send_to(b"a question", to).expect("it is sent");
        assert_eq!(receive(&answers, b"a question", "the question"), from);
        for order in ORDERS {
            let what = format!("{to}, {order:?}");
            id += 1;
            let (said, pieces) = datagram(to, from, id, BYTES);
            door.send(&pieces, &order);
            assert_eq!(receive(&asks, &said, &what), to, "{what}");
            silent(&asks, &what);
            early += order.iter().position(|piece| *piece == 0).expect("it is sent") as u64;
            assert_eq!(world.drops(&server, "fragment_unknown"), early, "{what}: each that came too early is told");
            // Of no flow.
            id += 1;
            let (_, pieces) = datagram(to, SocketAddr::new(from.ip(), 5001), id, BYTES);
            door.send(&pieces, &order);
            silent(&asks, &what);
            early += order.iter().position(|piece| *piece == 0).expect("it is sent") as u64;
        }
    }
    assert!(world.drops(&client, "firewall_ingress") > 0, "what no flow is for is denied");
    world.remove_all();
    world.assert_clean();
}
