//! Connections as they come in, each knowing its peer: those that speak gRPC as one stream, those that speak HTTP/1.1 as another.
//! Refuses to read requests.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tonic::transport::server::Connected;

use super::seats::{Seat, Seats};
use crate::auth::Peer;
use crate::mutation::{self, Control};

/// A handshake that takes longer is not worth its memory.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes at a time: each costs a signature and up to 64 KiB.
const HANDSHAKES_MAX: usize = 64;
/// What a gRPC client says of itself in the handshake; whoever says less speaks HTTP/1.1.
pub const ALPN_GRPC: &[u8] = b"h2";
/// How long to wait after a failed accept, usually for file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot make the directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("another daemon answers on {path}")]
    InUse { path: PathBuf },
    #[error("cannot listen on {path}")]
    Unix { path: PathBuf, source: io::Error },
    #[error("cannot listen on {address}")]
    Tcp { address: std::net::SocketAddr, source: io::Error },
    #[error(
        "cannot serve the console at {address}: it is no loopback address, and the console has no TLS of its own there"
    )]
    NotLoopback { address: std::net::SocketAddr },
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection past its handshake.
pub struct Connection {
    peer: Peer,
    stream: Box<dyn Stream>,
    /// Nobody on the way reads or changes it.
    tls: bool,
    /// Only strangers are counted.
    _seat: Option<Seat>,
}

impl Connection {
    pub fn peer(&self) -> Peer {
        self.peer
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer
    }
}

/// Binds the socket with mode 0600. A socket file that nobody answers on is what a killed daemon left.
pub fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| ListenError::Directory { path: dir.to_owned(), source })?;
    }
    let failed = |source| ListenError::Unix { path: path.to_owned(), source };
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(ListenError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Between the two calls another user may connect; the kernel's word on its uid still refuses it.
    let mode = if mutation::off(Control::SocketMode) { 0o666 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

pub async fn bind_tcp(address: std::net::SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::Tcp { address, source })
}

/// Accepts until the receiver of `accepted` is gone.
pub async fn accept_unix(listener: UnixListener, accepted: mpsc::Sender<io::Result<Connection>>) {
    loop {
        let stream = tokio::select! {
            () = accepted.closed() => return,
            result = listener.accept() => match result {
                Ok((stream, _)) => stream,
                Err(error) => { pause("the local socket", &error).await; continue }
            },
        };
        match local(stream) {
            Ok(connection) => {
                if accepted.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "the kernel does not say whose connection it is; closed it"),
        }
    }
}

fn local(stream: UnixStream) -> io::Result<Connection> {
    let uid = stream.peer_cred()?.uid();
    Ok(Connection { peer: Peer::Local { uid }, stream: Box::new(stream), tls: false, _seat: None })
}

/// Where connections go, by what they speak. Nobody there means that the daemon is stopping.
#[derive(Clone)]
pub struct Accepted {
    pub grpc: mpsc::Sender<io::Result<Connection>>,
    pub web: Option<mpsc::Sender<Connection>>,
}

/// Accepts and shakes hands until the receiver of gRPC is gone. A slow handshake keeps nobody waiting but itself.
pub async fn accept_tls(listener: TcpListener, config: Arc<rustls::ServerConfig>, accepted: Accepted) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let seats = Seats::default();
    loop {
        let (stream, address) = tokio::select! {
            () = accepted.grpc.closed() => return,
            result = listener.accept() => match result {
                Ok(connection) => connection,
                Err(error) => { pause("the TLS port", &error).await; continue }
            },
        };
        let Some(seat) = seats.take(address.ip()) else {
            tracing::debug!(%address, "closed a connection: there are too many");
            continue;
        };
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
        tokio::spawn(async move {
            let _permit = permit;
            // Requests are small and answered at once: do not wait to fill packets.
            let _best_effort = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let peer = Peer::Remote { address };
                    let speaks_grpc = stream.get_ref().1.alpn_protocol() == Some(ALPN_GRPC);
                    let connection = Connection { peer, stream: Box::new(stream), tls: true, _seat: Some(seat) };
                    match (speaks_grpc, accepted.web) {
                        (true, _) => drop(accepted.grpc.send(Ok(connection)).await),
                        (false, Some(web)) => drop(web.send(connection).await),
                        (false, None) => {}
                    }
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
            }
        });
    }
}

/// Accepts at a loopback address, until the receiver is gone.
pub async fn accept_loopback(listener: TcpListener, accepted: mpsc::Sender<Connection>) {
    let seats = Seats::default();
    loop {
        let (stream, address) = tokio::select! {
            () = accepted.closed() => return,
            result = listener.accept() => match result {
                Ok(connection) => connection,
                Err(error) => { pause("the console's port", &error).await; continue }
            },
        };
        let Some(seat) = seats.take(address.ip()) else {
            tracing::debug!(%address, "closed a connection to the console: there are too many");
            continue;
        };
        let _best_effort = stream.set_nodelay(true);
        let peer = Peer::Remote { address };
        let connection = Connection { peer, stream: Box::new(stream), tls: false, _seat: Some(seat) };
        if accepted.send(connection).await.is_err() {
            return;
        }
    }
}

async fn pause(door: &str, error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection on {door}");
    tokio::time::sleep(ACCEPT_RETRY).await;
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
