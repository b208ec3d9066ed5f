//! Serves the routes it is given behind the gate, on the doors that the configuration opens, until told to stop. Refuses to
//! know the services.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use cc_common::api::fault::Fault;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::service::Routes;

use super::listen::{Accepted, Connection, ListenError, accept_loopback, accept_tls, accept_unix, bind_tcp, bind_unix};
use super::tls::Identity;
use crate::auth::AuthLayer;
use crate::config::{CONSOLE_DEFAULT, Config, Listen};

/// From the signal to the cut of whatever still streams; the rest of the 5 s of a stop is for everything after it.
const GRACE: Duration = Duration::from_secs(3);
const ACCEPTED_MAX: usize = 64;
/// RPCs at a time on one connection; each attached container is one.
const STREAMS_MAX: u32 = 1024;
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The doors, open: clients can connect, and are served once `serve_on` runs.
pub struct Doors {
    unix: UnixListener,
    tls: Option<(TcpListener, Identity)>,
    console: Option<TcpListener>,
    /// Where TLS is served, as a client is told.
    pub endpoint_url: Option<String>,
    pub tls_address: Option<SocketAddr>,
    /// Where the console is served without TLS.
    pub console_address: Option<SocketAddr>,
    /// Why it is not, where nobody asked for it.
    pub console_missing: Option<ListenError>,
}

impl Doors {
    pub async fn open(config: &Config) -> Result<Self, Fault> {
        let unix = bind_unix(&config.socket())?;
        let mut doors = Doors {
            unix,
            tls: None,
            console: None,
            endpoint_url: None,
            tls_address: None,
            console_address: None,
            console_missing: None,
        };
        if let Some(address) = config.listen {
            let identity = Identity::open(config)?;
            let listener = bind_tcp(address).await?;
            let bound = listener.local_addr().map_err(|source| ListenError::Tcp { address, source })?;
            doors.endpoint_url = Some(identity.endpoint_url(config, bound));
            doors.tls_address = Some(bound);
            doors.tls = Some((listener, identity));
        }
        if let Some(address) = config.console_listen.address(CONSOLE_DEFAULT) {
            match bind_console(address).await {
                Ok((listener, bound)) => (doors.console, doors.console_address) = (Some(listener), Some(bound)),
                Err(error) if config.console_listen == Listen::Default => doors.console_missing = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(doors)
    }

    /// `None` when TLS is not served here.
    pub fn identity(&self) -> Option<&Identity> {
        self.tls.as_ref().map(|(_, identity)| identity)
    }

    /// What signatures are for: the hash of the public key that clients see.
    pub fn server_key_hash(&self) -> Option<[u8; 32]> {
        self.identity().map(|identity| identity.pin)
    }
}

async fn bind_console(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    if !address.ip().is_loopback() {
        return Err(ListenError::NotLoopback { address });
    }
    let listener = bind_tcp(address).await?;
    let bound = listener.local_addr().map_err(|source| ListenError::Tcp { address, source })?;
    Ok((listener, bound))
}

/// Serves until `stop` is ready, then waits for running calls, at most `GRACE`. What streams longer is cut when the
/// caller's runtime ends. Connections that speak HTTP/1.1 go to `web`.
pub async fn serve_on(
    doors: Doors,
    routes: Routes,
    auth: AuthLayer,
    web: Option<mpsc::Sender<Connection>>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Fault> {
    let (sender, accepted) = mpsc::channel::<io::Result<Connection>>(ACCEPTED_MAX);
    tokio::spawn(accept_unix(doors.unix, sender.clone()));
    if let (Some(listener), Some(web)) = (doors.console, web.clone()) {
        tokio::spawn(accept_loopback(listener, web));
    }
    if let Some((listener, identity)) = doors.tls {
        tokio::spawn(accept_tls(listener, identity.server_config, Accepted { grpc: sender, web }));
    }
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let signal = async move {
        stop.await;
        stopping.send_replace(true);
    };
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .layer(auth)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), signal);
    let grace = async move {
        // The sender lives within the server's future, so this cannot end before it is told.
        drop(stopped.wait_for(|stopped| *stopped).await);
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = server => result.map_err(|error| {
            Fault::new(Code::Internal, "server.failed", "the server ended", error.to_string())
        }),
        () = grace => {
            tracing::info!("cut the calls that were still running");
            Ok(())
        }
    }
}

impl From<ListenError> for Fault {
    fn from(error: ListenError) -> Fault {
        let mut why = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            why = format!("{why}: {source}");
        }
        let next = match error {
            ListenError::InUse { .. } => "stop it, or give this one its own run_dir and state_dir",
            ListenError::Tcp { .. } => "choose another address in `listen` or `console_listen`, or stop what uses it",
            ListenError::NotLoopback { .. } => {
                "set console_listen to a loopback address such as 127.0.0.1:7480; elsewhere it is served by TLS at `listen`"
            }
            _ => "check the directory's permissions; cc-host serve needs root",
        };
        Fault::new(Code::FailedPrecondition, "server.listen", "cannot serve", why).next(next)
    }
}
