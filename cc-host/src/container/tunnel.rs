//! Connections from outside into a container, made inside its network namespace: that is how overlapping VPCs are told apart.
//! Refuses to move bytes; it hands over a connected socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use super::error::ContainerError;
use super::record::{ContainerRecord, State};
use super::room::Containers;
use crate::kernel::netns;

/// Inside one namespace a connection is made or refused at once; longer means a full backlog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Containers {
    /// Loopback first, as a program that listens on all addresses or only on loopback answers there; else its own address.
    pub async fn connect(&self, record: &ContainerRecord, port: u16) -> Result<tokio::net::TcpStream, ContainerError> {
        let name = record.name.to_string();
        let State::Running { pid, .. } = record.state else { return Err(ContainerError::NotRunning { name }) };
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let own = record.vpc.as_ref().map(|vpc| IpAddr::V4(vpc.ipv4));
        let connect = move || {
            let first = TcpStream::connect_timeout(&SocketAddr::new(loopback, port), CONNECT_TIMEOUT);
            match (first, own) {
                (Err(error), Some(own)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    TcpStream::connect_timeout(&SocketAddr::new(own, port), CONNECT_TIMEOUT)
                }
                (first, _) => first,
            }
        };
        let connected = tokio::task::spawn_blocking(move || -> std::io::Result<TcpStream> {
            let netns = netns::of_pid(pid.cast_unsigned()).map_err(std::io::Error::other)?;
            let stream = netns::in_netns(netns.as_fd(), connect).map_err(std::io::Error::other)??;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
        .await
        .expect("connecting does not panic");
        connected.and_then(tokio::net::TcpStream::from_std).map_err(|source| ContainerError::Connect {
            name,
            port,
            source,
        })
    }
}
