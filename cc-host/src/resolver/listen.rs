//! The sockets of one VPC's resolver, and the tasks that serve them. Refuses to let one client hold up another: what is slow has
//! a task of its own, a time and a share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::frame::{read_message, write_message};
use super::limits::QUERY_BYTES_MAX;
use super::message::Transport;
use super::server::{Server, Step};

/// How long to wait after a socket failed, usually for memory or descriptors.
const RETRY: Duration = Duration::from_millis(50);

/// Serves for as long as it is let. Everything that it started ends with it.
pub(super) async fn serve_udp(server: Arc<Server>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut asking = JoinSet::new();
    let mut buffer = vec![0; QUERY_BYTES_MAX];
    loop {
        let (length, source) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(vni = server.zone.vni, %error, "cannot receive queries");
                    sleep(RETRY).await;
                    continue;
                }
            },
            Some(_) = asking.join_next() => continue,
        };
        match server.take(&buffer[..length], source, Transport::Udp) {
            Step::Silence => {}
            Step::Say(answer) => send(&socket, &answer, source),
            Step::Ask(query) => {
                let (server, socket) = (Arc::clone(&server), Arc::clone(&socket));
                asking.spawn(async move {
                    if let Some(answer) = server.ask(query).await {
                        send(&socket, &answer, source);
                    }
                });
            }
        }
    }
}

/// Without waiting: a client that does not let itself be sent to loses its answer, and nobody else's.
fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(answer, to) {
        tracing::debug!(%to, %error, "an answer was lost");
    }
}

/// Like `serve_udp`, with a task for each connection.
pub(super) async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    let seats = Arc::new(Semaphore::new(server.limits().connections));
    let mut talks = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(vni = server.zone.vni, %error, "cannot accept connections");
                    sleep(RETRY).await;
                    continue;
                }
            },
            Some(_) = talks.join_next() => continue,
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else {
            server.counting.connection_refused();
            continue;
        };
        let server = Arc::clone(&server);
        talks.spawn(async move {
            let _seat = seat;
            talk(&server, stream, peer).await;
        });
    }
}

/// One query after the other, until the client has no more, is too slow, or says what cannot be answered.
async fn talk(server: &Server, mut stream: TcpStream, peer: SocketAddr) {
    let idle = server.limits().idle;
    while let Ok(Ok(Some(query))) = timeout(idle, read_message(&mut stream, QUERY_BYTES_MAX)).await {
        let answer = match server.take(&query, peer, Transport::Tcp) {
            Step::Say(answer) => Some(answer),
            Step::Silence => None,
            Step::Ask(query) => server.ask(query).await,
        };
        let Some(answer) = answer else { return };
        let Ok(Ok(())) = timeout(idle, write_message(&mut stream, &answer)).await else { return };
    }
}
