//! Where metrics are served: plain HTTP on a loopback address, TLS and a token elsewhere, one request a connection. Refuses
//! to keep connections open, and to serve strangers without TLS and a token.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use cc_common::api::fault::Fault;

use super::answer::Answers;
use super::error::MetricsError;
use super::limits::{CONNECTION_WITHIN, CONNECTIONS_MAX, CONNECTIONS_PER_SOURCE_MAX, HEAD_BYTES_MAX, HEAD_WITHIN};
use super::registry::Registry;
use crate::api::seats::Seats;
use crate::api::tls::Identity;
use crate::auth::BearerGate;
use crate::config::{Config, Listen, METRICS_DEFAULT};
use crate::daemon::events::Events;

/// How long to wait after a failed accept, usually for file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Listening; clients are served once `serve` runs.
pub struct Door {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// What the configuration asks for. Where it does not say, a daemon that finds the default address taken does without: many
/// run side by side, and none of them must fail to start for want of it.
pub async fn open(config: &Config, identity: Option<&Identity>, events: &Events) -> Result<Option<Door>, Fault> {
    let Some(address) = config.metrics_listen.address(METRICS_DEFAULT) else { return Ok(None) };
    match Door::bind(address, config, identity).await {
        Ok(door) => Ok(Some(door)),
        Err(error) if config.metrics_listen == Listen::Default => {
            tracing::warn!(error = crate::error_chain(&error), %address, "metrics are not served");
            let why = format!("metrics are not served: {error}: {}; set metrics_listen", crate::error_chain(&error));
            events.add("metrics.off", "", &why).await;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

impl Door {
    /// `identity` is the one that is open already, if there is one.
    async fn bind(address: SocketAddr, config: &Config, identity: Option<&Identity>) -> Result<Door, MetricsError> {
        let failed = |source| MetricsError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        if bound.ip().is_loopback() {
            return Ok(Door::of(listener, None));
        }
        let opened = match identity {
            Some(identity) => identity.for_http1(),
            None => Identity::open(config).map_err(|source| MetricsError::Identity { address, source })?.for_http1(),
        };
        Ok(Door::of(listener, Some(TlsAcceptor::from(opened))))
    }

    pub(super) fn of(listener: TcpListener, tls: Option<TlsAcceptor>) -> Door {
        Door { listener, tls }
    }

    /// Where a scraper finds it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let address = self.listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string());
        format!("{scheme}://{address}/metrics")
    }

    /// Until it is dropped, and every connection with it. `gate` is asked wherever a stranger can come from.
    pub async fn serve(self, registry: Arc<Registry>, gate: BearerGate) {
        let answers = Arc::new(Answers::new(registry, self.tls.is_some().then_some(gate)));
        let seats = Seats::new(CONNECTIONS_PER_SOURCE_MAX, CONNECTIONS_MAX);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let Some(seat) = seats.take(from.ip()) else {
                            tracing::debug!(%from, "closed a connection for metrics: there are too many");
                            continue;
                        };
                        let (tls, answers) = (self.tls.clone(), Arc::clone(&answers));
                        connections.spawn(async move {
                            let _seat = seat;
                            if tokio::time::timeout(CONNECTION_WITHIN, handle(stream, tls, answers, from)).await.is_err() {
                                tracing::debug!(%from, "cut a connection for metrics: it took too long");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection for metrics");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
                Some(_ended) = connections.join_next() => {}
            }
        }
    }
}

async fn handle(stream: TcpStream, tls: Option<TlsAcceptor>, answers: Arc<Answers>, from: SocketAddr) {
    let Some(tls) = tls else { return answer_one(stream, answers, from).await };
    match tls.accept(stream).await {
        Ok(stream) => answer_one(stream, answers, from).await,
        Err(error) => tracing::debug!(%from, %error, "a TLS handshake for metrics failed"),
    }
}

async fn answer_one(stream: impl AsyncRead + AsyncWrite + Unpin, answers: Arc<Answers>, from: SocketAddr) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move {
            // The body is not read: nothing that is answered here needs one, and the connection ends with the answer.
            let (parts, _body) = request.into_parts();
            Ok::<_, Infallible>(answers.to(&parts.method, &parts.uri, &parts.headers, from).await)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%from, %error, "a connection for metrics broke off");
    }
}
