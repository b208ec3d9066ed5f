//! What is answered to a request: bytes of a known type, or why not. Refuses to let a browser guess a type, keep what is secret, or
//! show our pages within another's.

use bytes::Bytes;
use cc_common::api::fault::Fault;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use tonic::Code;

pub type Answer = Response<Full<Bytes>>;

const JSON: &str = "application/json";

/// Scripts, styles and connections are of this host alone; xterm.js writes styles of its own into the page.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const ALWAYS: [(&str, &str); 5] = [
    ("content-security-policy", CONTENT_POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
];

pub fn bytes(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    guard(headers);
    answer
}

pub fn guard(headers: &mut HeaderMap) {
    for (name, value) in ALWAYS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

pub fn json(body: &impl Serialize) -> Answer {
    bytes(StatusCode::OK, JSON, serde_json::to_vec(body).expect("what we answer becomes JSON"))
}

pub fn see(path: &'static str) -> Answer {
    let mut answer = bytes(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", "");
    answer.headers_mut().insert(LOCATION, HeaderValue::from_static(path));
    answer
}

#[derive(Serialize)]
struct FaultView<'a> {
    code: &'a str,
    what: &'a str,
    why: &'a str,
    next: &'a str,
}

pub fn fault(fault: &Fault) -> Answer {
    let Fault { kind, code, what, why, next } = fault;
    let body = serde_json::to_vec(&FaultView { code, what, why, next }).expect("strings become JSON");
    bytes(status_of(*kind), JSON, body)
}

fn status_of(kind: Code) -> StatusCode {
    match kind {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::METHOD_NOT_ALLOWED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
