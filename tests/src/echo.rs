//! Servers that say again what they are told, in any network namespace. Refuses to run in a container's own process tree: each is a
//! thread of the test's.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use crate::netns::Netns;
use crate::world::World;

/// Listens on `port` inside a container, and echoes what each connection says until it ends.
pub fn echo_server(world: &World, id: &str, port: u16) {
    let netns = Netns::of_pid(world.pid(id)).expect("the container runs");
    tcp(&netns, ([0, 0, 0, 0], port).into());
}

/// The same for both families.
pub fn dual_stack_echo_server(world: &World, id: &str, port: u16) {
    let netns = Netns::of_pid(world.pid(id)).expect("the container runs");
    tcp(&netns, (std::net::Ipv6Addr::UNSPECIFIED, port).into());
}

/// As `echo_server`, at any address. At `::`, over IPv4 too.
pub fn tcp(netns: &Netns, at: SocketAddr) {
    let listener = netns.run(move || TcpListener::bind(at).expect("the port is free")).expect("the code inside ends");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Says each datagram again, and behind it the port that it came from.
pub fn udp(netns: &Netns, at: SocketAddr) {
    let socket = netns.run(move || UdpSocket::bind(at).expect("the port is free")).expect("the code inside ends");
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _gone = socket.send_to(&[&buffer[..length], &peer.port().to_be_bytes()].concat(), peer);
        }
    });
}
