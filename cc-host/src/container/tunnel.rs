//! Connections from outside into a container, made inside its network namespace: that is how overlapping VPCs are told apart.
//! Refuses to move bytes; it hands over a connected socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::error::ContainerError;
use super::record::{Attachment, ContainerRecord};
use super::room::Containers;
use crate::kernel::netns;

/// Inside one namespace a connection is made or refused at once; longer means a full backlog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Containers {
    /// Loopback first, as a program that listens on all addresses or only on loopback answers there; else its own addresses. Of
    /// either IPv4 first.
    pub async fn connect(&self, record: &ContainerRecord, port: u16) -> Result<TcpStream, ContainerError> {
        let name = record.name.to_string();
        let Some(live) = self.live(&record.id) else { return Err(ContainerError::NotRunning { name }) };
        let own: Vec<IpAddr> = record.vpc.iter().flat_map(Attachment::addresses).map(|own| own.address).collect();
        connect_in(&live.netns, &own, port).await.map_err(|source| ContainerError::Connect { name, port, source })
    }
}

async fn connect_in(netns: &Arc<OwnedFd>, own: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let mut refusal = None;
    for address in loopback.iter().chain(own) {
        match connect_one(netns, SocketAddr::from((*address, port))).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            // Nobody listens there, or there is no such address: a namespace without IPv6 has no `::1`.
            Err(error) if is_refusal(&error) => refusal = refusal.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(refusal.expect("loopback was tried"))
}

fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionRefused | Kind::AddrNotAvailable | Kind::NetworkUnreachable)
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// A thread is needed only to make the socket: it stays in its namespace, and connects and is waited for out here. A
/// listener that never accepts so costs its caller no thread.
async fn connect_one(netns: &Arc<OwnedFd>, to: SocketAddr) -> io::Result<TcpStream> {
    let netns = Arc::clone(netns);
    let new = if to.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
    let made = tokio::task::spawn_blocking(move || netns::in_netns(netns.as_fd(), new));
    let socket = made.await.map_err(io::Error::other)?.map_err(io::Error::other)??;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "nothing accepted the connection in time");
    tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A namespace of the test's own, with nothing in it but a loopback that is up.
    fn fresh() -> Arc<OwnedFd> {
        let unshared = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            netns::open(std::path::Path::new("/proc/thread-self/ns/net")).unwrap()
        });
        Arc::new(unshared.join().unwrap())
    }

    async fn up(netns: &OwnedFd) {
        crate::kernel::link::loopback_up(netns.try_clone().unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn connects_inside_and_nowhere_else() {
        let (netns, other) = (fresh(), fresh());
        up(&netns).await;
        up(&other).await;
        let listener = netns::in_netns(netns.as_fd(), || TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect_in(&netns, &[], port).await.unwrap();
        assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
        let refused = connect_in(&other, &[], port).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn what_loopback_refuses_its_own_address_may_take() {
        let netns = fresh();
        up(&netns).await;
        let own = Ipv4Addr::new(127, 0, 0, 7);
        let listener = netns::in_netns(netns.as_fd(), || TcpListener::bind((own, 0))).unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect_in(&netns, &[own.into()], port).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), SocketAddr::from((own, port)));
    }

    #[tokio::test]
    async fn what_speaks_ipv6_alone_is_reached() {
        let netns = fresh();
        up(&netns).await;
        let listener = netns::in_netns(netns.as_fd(), || TcpListener::bind("[::1]:0")).unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect_in(&netns, &[Ipv4Addr::new(127, 0, 0, 7).into()], port).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
        assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
        drop(listener);
        let refused = connect_in(&netns, &[], port).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
