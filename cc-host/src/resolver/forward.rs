//! Asks name servers on behalf of containers, from the daemon's own namespace: a new socket, port and id for each attempt, the
//! next server when one fails. Refuses answers to other questions, to keep any, and to ask itself.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::frame::{read_message, write_message};
use super::limits::Limits;
use super::message::{Reason, Request, ServerAnswer, Transport};
use super::servers::{HostServers, Upstreams};

/// What one VPC's resolver asks others with.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub upstreams: Upstreams,
    pub host: Arc<HostServers>,
    pub asked: Asked,
    pub limits: Limits,
    /// Which server answered last: it is asked first, so that one that is down is waited for only once.
    pub first: AtomicUsize,
}

impl Forwarder {
    /// The answer for the client. At the end of all attempts, the last server's refusal is one too.
    pub(super) async fn ask(&self, request: &Request) -> Result<Vec<u8>, Reason> {
        let servers = self.upstreams.now(&self.host);
        if servers.is_empty() {
            return Err(Reason::NO_SERVERS);
        }
        let first = self.first.load(Ordering::Relaxed);
        let mut failed: HashSet<usize> = HashSet::new();
        let mut refusal = None;
        for attempt in 0..self.limits.attempts {
            let index = (first + attempt) % servers.len();
            // Who said that it cannot is not asked twice; who was silent is.
            if failed.contains(&index) {
                continue;
            }
            match timeout(self.limits.attempt, self.attempt(request, servers[index])).await {
                Ok(Ok((ServerAnswer::Good, answer))) => {
                    self.first.store(index, Ordering::Relaxed);
                    return request.pass_on(answer).ok_or(Reason::NO_ANSWER);
                }
                Ok(Ok((ServerAnswer::Failure, answer))) => {
                    failed.insert(index);
                    refusal = Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(server = %servers[index], %error, "a name server cannot be asked"),
                Err(_) => tracing::debug!(server = %servers[index], "a name server does not answer"),
            }
        }
        refusal.and_then(|answer| request.pass_on(answer)).ok_or(Reason::NO_ANSWER)
    }

    async fn attempt(&self, request: &Request, server: SocketAddr) -> io::Result<(ServerAnswer, Vec<u8>)> {
        let id = rand::random();
        let query = request.for_server(id).ok_or(io::ErrorKind::InvalidInput)?;
        match request.transport() {
            Transport::Udp => self.over_udp(request, server, id, &query).await,
            Transport::Tcp => self.over_tcp(request, server, id, &query).await,
        }
    }

    async fn over_udp(
        &self,
        request: &Request,
        server: SocketAddr,
        id: u16,
        query: &[u8],
    ) -> io::Result<(ServerAnswer, Vec<u8>)> {
        // Of port 0 the kernel makes one at random, and connected the socket hears nobody but the server.
        let socket = UdpSocket::bind((unspecified(server), 0)).await?;
        socket.connect(server).await?;
        let _asked = self.asked.note(socket.local_addr()?.port(), id);
        socket.send(query).await?;
        // One byte more than the client takes is enough to see that it is too much.
        let mut buffer = vec![0; request.answer_bytes_max() + 1];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // What does not fit was guessed or comes late: the right answer may still follow.
            if let Some(kind) = request.server_answered(&buffer[..length], id) {
                buffer.truncate(length);
                return Ok((kind, buffer));
            }
        }
    }

    async fn over_tcp(
        &self,
        request: &Request,
        server: SocketAddr,
        id: u16,
        query: &[u8],
    ) -> io::Result<(ServerAnswer, Vec<u8>)> {
        let mut stream = TcpStream::connect(server).await?;
        let _asked = self.asked.note(stream.local_addr()?.port(), id);
        write_message(&mut stream, query).await?;
        let answer = read_message(&mut stream, usize::from(u16::MAX)).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let kind = request.server_answered(&answer, id).ok_or(io::ErrorKind::InvalidData)?;
        Ok((kind, answer))
    }
}

fn unspecified(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Ports and ids of the host's queries that wait for an answer. One that arrives at a resolver of ours has come back to where it
/// was sent from. Addresses would not tell: a VPC's gateway may have that of a name server outside.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Arc<Mutex<HashSet<(u16, u16)>>>);

/// Dropping it forgets the query.
#[derive(Debug)]
struct Noted {
    asked: Asked,
    query: (u16, u16),
}

impl Asked {
    fn note(&self, port: u16, id: u16) -> Noted {
        self.lock().insert((port, id));
        Noted { asked: self.clone(), query: (port, id) }
    }

    pub(super) fn is_ours(&self, port: u16, id: u16) -> bool {
        self.lock().contains(&(port, id))
    }

    /// Every change is one step, so a panic elsewhere leaves it true.
    fn lock(&self) -> MutexGuard<'_, HashSet<(u16, u16)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.asked.lock().remove(&self.query);
    }
}
