//! HTTP/1.1 on the connections that are handed in. Refuses heads that are long or slow, and never looks at what is asked.

use std::convert::Infallible;
use std::sync::Arc;
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

const HEAD_WITHIN: Duration = Duration::from_secs(30);
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

async fn serve_one(web: Arc<Web>, connection: Connection) {
    let (peer, tls) = (connection.peer(), connection.is_tls());
    let service = service_fn(move |request: Request<Incoming>| {
        let web = Arc::clone(&web);
        async move { Ok::<_, Infallible>(web.respond(request, peer, tls).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(?peer, %error, "an HTTP connection broke off");
    }
}
