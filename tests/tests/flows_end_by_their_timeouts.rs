//! How long a conversation is remembered, and how many a container may have, is configuration: running conversations live by what a
//! restarted daemon is told. What is silent for longer has ended, and what is used goes on.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use cc_tests::daemon::Leave;
use cc_tests::{World, eventually};

const SLEEP: &[&str] = &["sleep", "600"];
/// Four seconds, two sweeps, and what a busy machine adds.
const SOON: Duration = Duration::from_secs(20);
/// An answer within one machine.
const TIMEOUT: Duration = Duration::from_secs(2);

/// `web` may ask `db`, and nobody may ask `web`.
fn scene(world: &World) -> [String; 2] {
    world.vpc("blue", "10.0.0.0/24");
    world.cc(&["group", "create", "--name", "client"]).ok();
    world.cc(&["group", "create", "--name", "server"]).ok();
    for proto in ["tcp", "udp"] {
        world.cc(&["group", "allow", "server", "ingress", "--proto", proto, "--from", "client"]).ok();
    }
    let run =
        |name: &str, group: &str| world.run("busybox", &["--vpc", "blue", "--name", name, "--group", group], SLEEP);
    [run("web", "client"), run("db", "server")]
}

/// Both ends of a TCP connection between the containers, in this process.
fn connection(world: &World, from: &str, to: &str, port: u16) -> [TcpStream; 2] {
    let address: SocketAddr = format!("{}:{port}", world.address(to)).parse().unwrap();
    let listener = world.in_container(to, move || TcpListener::bind(("0.0.0.0", port)).unwrap());
    let client = world.in_container(from, move || TcpStream::connect_timeout(&address, TIMEOUT).unwrap());
    let ends = [client, listener.accept().unwrap().0];
    ends.iter().for_each(|end| end.set_read_timeout(Some(TIMEOUT)).unwrap());
    ends
}

/// Likewise of datagrams.
fn datagrams(world: &World, from: &str, to: &str, port: u16) -> [UdpSocket; 2] {
    let address: SocketAddr = format!("{}:{port}", world.address(to)).parse().unwrap();
    let server = world.in_container(to, move || UdpSocket::bind(("0.0.0.0", port)).unwrap());
    let client = world.in_container(from, || UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    client.connect(address).unwrap();
    client.send(b"hello").unwrap();
    server.set_read_timeout(Some(TIMEOUT)).unwrap();
    let (_, client_address) = server.recv_from(&mut [0; 16]).unwrap();
    server.connect(client_address).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    [client, server]
}

/// The answer comes through, to what was asked before.
fn tcp_answers([client, server]: &mut [TcpStream; 2]) {
    server.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).expect("a used connection goes on");
}

fn udp_answers([client, server]: &[UdpSocket; 2]) {
    server.send(b"x").unwrap();
    client.recv(&mut [0; 16]).expect("a used conversation goes on");
}

/// Ports of `db` that there are conversations with.
fn ports(world: &World) -> Vec<u64> {
    let flows = world.cc(&["net", "flows", "--json", "db"]).json()["flows"].clone();
    let mut ports: Vec<u64> = flows.as_array().unwrap().iter().filter_map(|flow| flow["to"]["port"].as_u64()).collect();
    ports.sort_unstable();
    ports
}

fn configure(world: &World, lines: &str) {
    let mut file = std::fs::File::options().append(true).open(world.config()).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

#[test]
fn what_is_silent_ends_and_what_is_used_goes_on() {
    let mut world = World::new();
    let [web, db] = scene(&world);
    let (mut idle, mut used) = (connection(&world, &web, &db, 81), connection(&world, &web, &db, 82));
    let (idle_udp, used_udp) = (datagrams(&world, &web, &db, 83), datagrams(&world, &web, &db, 84));
    tcp_answers(&mut idle);
    udp_answers(&idle_udp);
    assert_eq!(ports(&world), [81, 82, 83, 84]);
    assert_eq!(world.cc(&["info", "--json"]).json()["flows"]["tcp_established_s"], 8_000);

    world.leave(Leave::Stopped);
    configure(&world, "[flows]\ntcp_established_s = 4\nudp_stream_s = 4\n");
    // What the programs carry, they carry without a daemon; so it is used until its first sweep, and from there on.
    tcp_answers(&mut used);
    udp_answers(&used_udp);
    world.start();
    tcp_answers(&mut used);
    udp_answers(&used_udp);
    let told = world.cc(&["info", "--json"]).json();
    assert_eq!((&told["flows"]["tcp_established_s"], &told["flows"]["udp_s"]), (&4.into(), &30.into()), "{told}");
    eventually("what nobody uses is forgotten", SOON, || {
        tcp_answers(&mut used);
        udp_answers(&used_udp);
        (ports(&world) == [82, 84]).then_some(())
    });

    // No rule lets db begin: what lived by the flow alone is over.
    let refused = world.drops(&web, "firewall_ingress");
    idle[1].write_all(b"x").unwrap();
    idle_udp[1].send(b"x").unwrap();
    eventually("both answers are refused", SOON, || {
        (world.drops(&web, "firewall_ingress") >= refused + 2).then_some(())
    });
    idle[0].set_nonblocking(true).unwrap();
    idle_udp[0].set_nonblocking(true).unwrap();
    assert!(idle[0].read(&mut [0; 1]).is_err(), "nothing has come");
    assert!(idle_udp[0].recv(&mut [0; 1]).is_err(), "nothing has come");
    tcp_answers(&mut used);
    udp_answers(&used_udp);
}

#[test]
fn a_container_has_as_many_conversations_as_it_may() {
    let world = World::with_config("[flows]\nper_container_max = 64\n");
    let [web, db] = scene(&world);
    let address: Ipv4Addr = world.address(&db).parse().unwrap();
    world.in_container(&web, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in 1_000..1_100 {
            // One that is refused may be told to the sender.
            let _ = socket.send_to(b"x", (address, port));
        }
    });
    assert_eq!(world.drops(&web, "flow_quota"), 36);
    let seen = world.cc(&["net", "inspect", "web", "--json"]).json();
    assert_eq!((&seen["flows"]["flows"], &seen["flows"]["flows_max"]), (&64.into(), &64.into()), "{seen}");
    assert_eq!(seen["flows"]["half_open_max"], 64, "never more than there may be");
}

#[test]
fn a_value_beyond_its_bounds_is_refused_by_name() {
    let mut world = World::new();
    world.leave(Leave::Stopped);
    configure(&world, "[flows]\nudp_s = 0\n");
    let ran = world.host(&["serve"]);
    assert_eq!(ran.code, 1);
    let said = ran.stdout + &ran.stderr;
    assert!(said.contains("flows.udp_s is 0, not a whole number from 1 to 604800"), "{said}");
}
