//! Holds a published port against the host's own programs, by a socket that is bound and does nothing; and finds who has it already.
//! Refuses to listen: what comes to a published port never reaches the host's sockets.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt::Ipv6V6Only,
    sockopt::ReuseAddr,
};

use crate::datapath::PortProtocol;

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    _sockets: Vec<OwnedFd>,
}

/// At one address of this namespace, or at all of them. A family that the host does not have needs no holding.
pub fn hold(address: Option<IpAddr>, port: u16, protocol: PortProtocol) -> io::Result<Held> {
    let addresses: &[IpAddr] = match &address {
        Some(one) => std::slice::from_ref(one),
        None => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
    };
    let mut sockets = Vec::new();
    for &ip in addresses {
        match bind_to(SocketAddr::new(ip, port), protocol) {
            Ok(socket) => sockets.push(socket),
            Err(error) if ip.is_ipv6() && address.is_none() && is_without_family(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Held { _sockets: sockets })
}

fn is_without_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EAFNOSUPPORT)) || error.kind() == ErrorKind::AddrNotAvailable
}

fn bind_to(address: SocketAddr, protocol: PortProtocol) -> io::Result<OwnedFd> {
    match bind_with(address, protocol, false) {
        // Connections of a server that is gone may still be closing: whoever shares the port with those shares it with no server.
        Err(error) if error.kind() == ErrorKind::AddrInUse && protocol == PortProtocol::Tcp => {
            bind_with(address, protocol, true)
        }
        done => done,
    }
}

fn bind_with(address: SocketAddr, protocol: PortProtocol, reuse: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match protocol {
        PortProtocol::Tcp => SockType::Stream,
        PortProtocol::Udp => SockType::Datagram,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, ReuseAddr, &reuse)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd()), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// The program that has a port, as `NAME (PID)`; as far as it can be told.
pub fn program_at(port: u16, protocol: PortProtocol) -> Option<String> {
    let files = match protocol {
        PortProtocol::Tcp => ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"],
        PortProtocol::Udp => ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"],
    };
    let tables = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let inode = tables.filter_map(|table| socket_at(&table, port, protocol)).next()?;
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let numbered = processes.filter(|dir| dir.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    for process in numbered {
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let has =
            |fd: std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str());
        if descriptors.flatten().any(has) {
            let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("{} ({})", name.trim_end(), process.file_name().to_string_lossy()));
        }
    }
    None
}

/// The columns are: number, local address and port, remote ones, state, and later the inode. State 0A listens.
fn socket_at(table: &str, port: u16, protocol: PortProtocol) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local) = columns.get(1)?.rsplit_once(':')?;
        let is_server = protocol == PortProtocol::Udp || *columns.get(3)? == "0A";
        let matches = u16::from_str_radix(local, 16) == Ok(port) && is_server;
        matches.then(|| columns.get(9)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn who_listens_keeps_the_port_and_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = hold(None, port, PortProtocol::Tcp).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let named = program_at(port, PortProtocol::Tcp).unwrap();
        assert!(named.ends_with(&format!("({})", std::process::id())), "{named}");
        drop(listener);
        let held = hold(None, port, PortProtocol::Tcp).unwrap();
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "nobody else gets it");
        drop(held);
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn a_port_of_udp_is_another() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(hold(Some([127, 0, 0, 1].into()), port, PortProtocol::Udp).is_err());
        assert!(program_at(port, PortProtocol::Udp).is_some());
        assert!(hold(Some([127, 0, 0, 1].into()), port, PortProtocol::Tcp).is_ok());
        assert!(hold(Some([192, 0, 2, 1].into()), port, PortProtocol::Tcp).is_err(), "it is no address of ours");
    }
}
