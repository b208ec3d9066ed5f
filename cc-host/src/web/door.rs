//! HTTP/1.1 on the connections that are handed in. Refuses heads that are long or slow, and never looks at what is asked.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Web;
use crate::api::listen::Connection;
use crate::auth::Peer;

const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// For a connection to show whose it is: the pages are anybody's, and take no longer.
const STRANGER_FOR: Duration = Duration::from_secs(60);
/// A command line in a query is the longest that is asked.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Until it is dropped, and every connection with it but those that have become WebSockets.
pub async fn serve(web: Arc<Web>, mut accepted: mpsc::Receiver<Connection>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            connection = accepted.recv() => match connection {
                Some(connection) => { connections.spawn(serve_one(Arc::clone(&web), connection)); }
                None => return,
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Where requests come from, and whether one of them has shown who asks.
#[derive(Clone)]
pub struct From {
    pub peer: Peer,
    pub tls: bool,
    pub known: Arc<AtomicBool>,
}

async fn serve_one(web: Arc<Web>, connection: Connection) {
    let from = From { peer: connection.peer(), tls: connection.is_tls(), known: Arc::default() };
    let (peer, known) = (from.peer, Arc::clone(&from.known));
    let service = service_fn(move |request: Request<Incoming>| {
        let (web, from) = (Arc::clone(&web), from.clone());
        async move { Ok::<_, Infallible>(web.respond(request, &from).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let served = match tokio::time::timeout(STRANGER_FOR, served.as_mut()).await {
        Ok(served) => served,
        Err(_) if known.load(Ordering::Relaxed) => served.await,
        Err(_) => return tracing::debug!(?peer, "cut an HTTP connection of nobody's"),
    };
    if let Err(error) = served {
        tracing::debug!(?peer, %error, "an HTTP connection broke off");
    }
}
