//! A world beyond the host: a network namespace behind an uplink, with addresses of the documentation ranges, and servers that tell who
//! has asked. Refuses to lead anywhere: it is one wire and two ends.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::eventually::{allowed, eventually};
use crate::netns::Netns;
use crate::world::World;

/// The host's on the wire.
pub const HOST: &str = "192.0.2.1";
pub const HOST6: &str = "2001:db8:1::1";
/// The far end's on the wire, which is the host's way to everything.
pub const ROUTER: &str = "192.0.2.254";
pub const ROUTER6: &str = "2001:db8:1::fe";
/// The far end's, behind the router as far as anybody can tell.
pub const FAR: &str = "203.0.113.5";
pub const FAR6: &str = "2001:db8:ffff::5";
/// The host's interface.
pub const UPLINK: &str = "up0";
const FAR_INTERFACE: &str = "wan0";
/// Servers end by themselves, should nobody come.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Beyond {
    pub netns: Netns,
}

fn ip(netns: &Netns, commands: &[&str]) {
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        let output = netns.command("ip").args(&words).output().expect("ip can be run");
        assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The kernel takes packets for an IPv6 address some time after it was given: then.
pub fn wait_until_local(netns: &Netns, address: &str) {
    eventually(&format!("{address} is local"), PATIENCE, || {
        let output = netns.command("ip").args(["-6", "route", "get", address]).output().expect("ip can be run");
        output.stdout.starts_with(b"local ").then_some(())
    });
}

/// The address of an interface in a namespace.
pub fn interface_mac(netns: &Netns, name: &str) -> String {
    let output = netns.command("ip").args(["-json", "link", "show", name]).output().expect("ip can be run");
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).expect("ip prints JSON");
    links[0]["address"].as_str().expect("it has an address").to_owned()
}

impl Beyond {
    /// Connects `host` to a new world beyond.
    pub fn of(host: &Netns) -> Beyond {
        let netns = Netns::new().expect("root can make a network namespace");
        // Made inside, and sent to the host by the descriptor of its namespace.
        let pid = Holder::of(host);
        ip(&netns, &[&format!("link add {FAR_INTERFACE} type veth peer name {UPLINK} netns {}", pid.0.id())]);
        drop(pid);
        ip(
            host,
            &[
                // No address that comes a moment later.
                &format!("link set {UPLINK} addrgenmode none"),
                &format!("addr add {HOST}/24 dev {UPLINK}"),
                &format!("addr add {HOST6}/64 dev {UPLINK} nodad"),
                &format!("link set {UPLINK} up"),
            ],
        );
        ip(
            &netns,
            &[
                &format!("link set {FAR_INTERFACE} addrgenmode none"),
                &format!("addr add {ROUTER}/24 dev {FAR_INTERFACE}"),
                &format!("addr add {ROUTER6}/64 dev {FAR_INTERFACE} nodad"),
                &format!("addr add {FAR}/32 dev lo"),
                &format!("addr add {FAR6}/128 dev lo nodad"),
                &format!("link set {FAR_INTERFACE} up"),
            ],
        );
        wait_until_local(host, HOST6);
        wait_until_local(&netns, ROUTER6);
        wait_until_local(&netns, FAR6);
        ip(
            host,
            &[
                &format!("route add default via {ROUTER} dev {UPLINK}"),
                &format!("-6 route add default via {ROUTER6} dev {UPLINK}"),
            ],
        );
        Beyond { netns }
    }

    /// A world whose host has an uplink from the start.
    pub fn world(extra: &str) -> (World, Beyond) {
        let netns = Netns::new().expect("root can make a network namespace");
        let beyond = Beyond::of(&netns);
        (World::in_netns(netns, extra), beyond)
    }

    /// Answers connections, as many as `count`, with the address that each comes from; returns those.
    pub fn tcp_server(&self, at: &str, port: u16, count: usize) -> JoinHandle<Vec<SocketAddr>> {
        let at = SocketAddr::new(at.parse::<IpAddr>().expect("an address"), port);
        let listener = self.netns.run(move || TcpListener::bind(at).expect("the port is free")).expect("it is bound");
        std::thread::spawn(move || {
            let serve = |_| {
                let (mut stream, peer) = listener.accept().expect("somebody comes");
                stream.set_read_timeout(Some(allowed(PATIENCE))).expect("a timeout");
                let mut line = [0; 64];
                let read = stream.read(&mut line).expect("it says something");
                let said = String::from_utf8_lossy(&line[..read]).trim().to_owned();
                writeln!(stream, "{said} from {}", peer.ip()).expect("it listens");
                peer
            };
            (0..count).map(serve).collect()
        })
    }

    /// As `tcp_server`, datagram by datagram.
    pub fn udp_server(&self, at: &str, port: u16, count: usize) -> JoinHandle<Vec<SocketAddr>> {
        let at = SocketAddr::new(at.parse::<IpAddr>().expect("an address"), port);
        let socket = self.netns.run(move || UdpSocket::bind(at).expect("the port is free")).expect("it is bound");
        socket.set_read_timeout(Some(allowed(PATIENCE))).expect("a timeout");
        std::thread::spawn(move || {
            let serve = |_| {
                let mut line = [0; 2048];
                let (read, peer) = socket.recv_from(&mut line).expect("somebody comes");
                let said = String::from_utf8_lossy(&line[..read]).trim().to_owned();
                socket.send_to(format!("{said} from {}\n", peer.ip()).as_bytes(), peer).expect("it is sent");
                peer
            };
            (0..count).map(serve).collect()
        })
    }

    /// One line there, and what comes back; or why not.
    pub fn ask_tcp(&self, to: SocketAddr, said: &str) -> std::io::Result<String> {
        let said = said.to_owned();
        self.netns.run(move || ask_tcp(to, &said)).expect("the code inside ends")
    }

    pub fn ask_udp(&self, to: SocketAddr, said: &str) -> std::io::Result<String> {
        let said = said.to_owned();
        self.netns.run(move || ask_udp(to, &said)).expect("the code inside ends")
    }
}

/// In the calling thread's namespace.
pub fn ask_tcp(to: SocketAddr, said: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, allowed(Duration::from_secs(3)))?;
    stream.set_read_timeout(Some(allowed(Duration::from_secs(5))))?;
    // In one piece: what the other end has not read when it closes resets the connection.
    stream.write_all(format!("{said}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// In the calling thread's namespace; the socket is connected.
pub fn ask_udp(to: SocketAddr, said: &str) -> std::io::Result<String> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(allowed(Duration::from_secs(3))))?;
    socket.send(said.as_bytes())?;
    let mut answer = [0; 2048];
    let read = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..read]).trim().to_owned())
}

/// A process inside, by whose number `ip` finds the namespace.
struct Holder(std::process::Child);

impl Holder {
    fn of(netns: &Netns) -> Holder {
        let mut command: Command = netns.command("sleep");
        Holder(command.arg("60").spawn().expect("sleep can be run"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
