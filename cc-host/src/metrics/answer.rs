//! What is answered to an HTTP request: a scrape, or why not. Refuses everything but GET and HEAD of `/metrics`, unread.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use cc_common::api::fault::Fault;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use http_body_util::Full;
use tonic::Code;

use super::encoder;
use super::registry::Registry;
use crate::auth::{BearerGate, Scope};

const PATH: &str = "/metrics";

pub(super) struct Answers {
    registry: Arc<Registry>,
    /// `None` where everybody who can connect may see everything.
    gate: Option<BearerGate>,
}

impl Answers {
    pub(super) fn new(registry: Arc<Registry>, gate: Option<BearerGate>) -> Self {
        Answers { registry, gate }
    }

    /// The body of an answer to HEAD is cut off by the server.
    pub(super) async fn to(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        from: SocketAddr,
    ) -> Response<Full<Bytes>> {
        if uri.path() != PATH {
            return text(StatusCode::NOT_FOUND, "there is nothing but /metrics\n");
        }
        if method != Method::GET && method != Method::HEAD {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "metrics can only be read\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let scope = match &self.gate {
            None => Scope::Host,
            Some(gate) => match gate.admit(from, headers).await {
                Ok(scope) => scope,
                Err(fault) => return refused(&fault),
            },
        };
        self.scrape(scope).await
    }

    async fn scrape(&self, scope: Scope) -> Response<Full<Bytes>> {
        match self.registry.scrape(scope).await {
            Ok(scrape) => {
                let mut answer = Response::new(Full::new(Bytes::from(scrape)));
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(encoder::CONTENT_TYPE));
                answer
            }
            Err(error) => {
                tracing::error!(%error, "a scrape broke off");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the scrape broke off; see the daemon's log\n")
            }
        }
    }
}

fn refused(fault: &Fault) -> Response<Full<Bytes>> {
    let status = match fault.kind {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut answer = text(status, &format!("{}: {} [{}]\nnext: {}\n", fault.what, fault.why, fault.code, fault.next));
    let header = match status {
        StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"metrics\"")),
        _ => (RETRY_AFTER, HeaderValue::from_static("60")),
    };
    answer.headers_mut().insert(header.0, header.1);
    answer
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
