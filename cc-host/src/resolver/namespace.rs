//! The network namespace in which a VPC's resolver listens: it owns the gateway's address and nothing else, so that a socket in it
//! can only be reached from its VPC, and a query needs no other proof of where it comes from. Held by a descriptor alone:
//! nothing of it is in the file system, and the kernel removes it with its last descriptor and socket, also after SIGKILL.
//! Refuses to move a thread that anyone else uses.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::servers::PORT;
use crate::kernel::netns::{self, NetnsError};

/// Dropping it gives the namespace up.
#[derive(Debug)]
pub(super) struct ServiceNamespace {
    fd: OwnedFd,
}

/// A socket pair per family.
#[derive(Debug)]
pub(super) struct Sockets {
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
}

/// Which socket could not be made.
#[derive(Debug)]
pub(super) struct BindFailure {
    pub protocol: &'static str,
    pub address: SocketAddr,
    pub source: std::io::Error,
}

impl ServiceNamespace {
    /// Blocks for about a millisecond.
    pub(super) fn create() -> Result<Self, NetnsError> {
        Ok(ServiceNamespace { fd: netns::create(settle)? })
    }

    /// The addresses must be there. The sockets stay in the namespace, whoever uses them, and never make a caller wait.
    pub(super) fn bind(&self, addresses: &[IpAddr]) -> Result<Result<Sockets, BindFailure>, NetnsError> {
        netns::in_netns(self.fd.as_fd(), || bind_all(addresses))
    }
}

impl AsFd for ServiceNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Each address by itself and not all at once: an answer leaves by the address that was asked.
fn bind_all(addresses: &[IpAddr]) -> Result<Sockets, BindFailure> {
    let mut sockets = Sockets { udp: Vec::new(), tcp: Vec::new() };
    for address in addresses.iter().map(|&ip| SocketAddr::new(ip, PORT)) {
        let failed = |protocol| move |source| BindFailure { protocol, address, source };
        require(address.ip()).map_err(failed("UDP"))?;
        let udp = UdpSocket::bind(address).map_err(failed("UDP"))?;
        udp.set_nonblocking(true).map_err(failed("UDP"))?;
        let tcp = TcpListener::bind(address).map_err(failed("TCP"))?;
        tcp.set_nonblocking(true).map_err(failed("TCP"))?;
        sockets.udp.push(udp);
        sockets.tcp.push(tcp);
    }
    Ok(sockets)
}

/// In a namespace that never had an address, the kernel takes every IPv4 address for one that may be bound.
fn require(wanted: IpAddr) -> std::io::Result<()> {
    let ip = |address: SockaddrStorage| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        _ => None,
    };
    let mut there = getifaddrs()?.filter_map(|interface| interface.address.and_then(ip));
    if there.any(|ip| ip == wanted) { Ok(()) } else { Err(std::io::ErrorKind::AddrNotAvailable.into()) }
}

/// A new namespace inherits the host's IPv4 settings, and a host may route: this one never does, nor listens to a router. Best
/// effort: it has one interface and no routes.
fn settle() {
    for (setting, value) in
        [("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0"), ("ipv6/conf/default/accept_ra", "0")]
    {
        let path = format!("/proc/sys/net/{setting}");
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!(%path, %error, "a setting stays as it is");
        }
    }
}
