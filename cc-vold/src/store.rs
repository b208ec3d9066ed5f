//! The door to an object store: its address, and S3 with what must hold of it. Refuses credentials on the command line, plain HTTP beyond
//! this host, and to make a bucket.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::error::Refusal;

/// One request. A batch of the largest size goes through a slow line in that.
const REQUEST: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);

/// `s3://BUCKET/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    bucket: String,
    prefix: Path,
}

impl StoreUrl {
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refused = || Refusal::Url(text.to_owned());
        let rest = text.strip_prefix("s3://").ok_or_else(refused)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if bucket.is_empty() || !bucket.chars().all(plain) {
            return Err(refused());
        }
        let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|_| refused())?;
        Ok(StoreUrl { bucket: bucket.to_owned(), prefix })
    }

    /// Everything of one volume is below it.
    pub fn of_volume(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }
}

/// Key, secret and region are the environment's (`AWS_ACCESS_KEY_ID` and so on): what is on a command line, everybody on the host can read.
pub fn open(url: &StoreUrl, endpoint: Option<&str>) -> Result<Arc<dyn ObjectStore>, Refusal> {
    let client = ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&url.bucket)
        // SlateDB's fence is that a write is refused where an object is already. Without it two writers could both be told yes.
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // How long is tried is decided where it is known what waits for it.
        .with_retry(RetryConfig { max_retries: 2, retry_timeout: REQUEST, backoff: BackoffConfig::default() });
    let plain = endpoint.map(is_plain_http).transpose()?.unwrap_or(false);
    builder = builder.with_client_options(client.with_allow_http(plain));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let opened = builder.build().map_err(|source| Refusal::Store { url: format!("s3://{}", url.bucket), source })?;
    Ok(Arc::new(opened))
}

/// Whether it is without TLS, which is fine on this host alone.
fn is_plain_http(endpoint: &str) -> Result<bool, Refusal> {
    let Some(rest) = endpoint.strip_prefix("http://") else { return Ok(false) };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if local { Ok(true) } else { Err(Refusal::PlainHttp(endpoint.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_buckets_with_a_prefix() {
        let url = StoreUrl::parse("s3://volumes/host-1/").expect("an address");
        assert_eq!(url.of_volume("db").as_ref(), "host-1/db");
        let url = StoreUrl::parse("s3://volumes").expect("an address");
        assert_eq!(url.of_volume("db").as_ref(), "db");
        for bad in ["volumes", "s3://", "s3:///x", "http://volumes/x", "s3://Volumes", "s3://a/b//c", "s3://a/../b"] {
            assert!(StoreUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_http_stays_on_this_host() {
        for local in ["http://127.0.0.1:8333", "http://localhost:1/", "http://[::1]:1"] {
            assert!(is_plain_http(local).expect(local), "{local}");
        }
        assert!(!is_plain_http("https://s3.example.org").expect("it is encrypted"));
        for beyond in ["http://10.0.0.1:8333", "http://127.0.0.1.example.org", "http://s3.example.org:127"] {
            assert!(is_plain_http(beyond).is_err(), "{beyond}");
        }
    }
}
