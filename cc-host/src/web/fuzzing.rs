//! What is made of a browser's bytes before anybody is asked, for the fuzz target. Refuses to be in the daemon.

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue};

use super::{channel, origin, query};
pub use channel::FromClient;

pub fn frame(bytes: &[u8]) -> Option<FromClient> {
    channel::read(bytes).ok()
}

pub fn exec(text: &str) -> Result<v1::ExecStart, Fault> {
    query::exec("web", text)
}

pub fn attach(text: &str) -> Result<v1::AttachStart, Fault> {
    query::attach("web", text)
}

pub fn logs(text: &str) -> Result<(v1::LogsRequest, bool), Fault> {
    query::logs("web", text)
}

/// Whether a browser's request passes at the loopback door; `None` where the bytes are no header.
pub fn passes_at_loopback(host: &[u8], from: &[u8]) -> Option<bool> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_bytes(host).ok()?);
    headers.insert(ORIGIN, HeaderValue::from_bytes(from).ok()?);
    Some(origin::check(&headers, false).is_ok())
}
