//! What can go wrong before a scrape is served, and how a person is told. Refuses to know of single scrapes: their trouble
//! is answered in HTTP, and counted.

use std::io;
use std::net::SocketAddr;

use cc_common::api::fault::Fault;
use tonic::Code;

use crate::api::tls::TlsError;

#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("cannot listen on {address} for metrics")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot open the TLS identity for metrics on {address}")]
    Identity { address: SocketAddr, source: TlsError },
}

impl From<MetricsError> for Fault {
    fn from(error: MetricsError) -> Fault {
        let why = format!("{error}: {}", crate::error_chain(&error));
        match error {
            MetricsError::Listen { .. } => {
                Fault::new(Code::FailedPrecondition, "metrics.listen", "cannot serve metrics", why)
                    .next("choose another address in `metrics_listen`, set it to \"off\", or stop what uses it")
            }
            MetricsError::Identity { source, .. } => Fault { what: "cannot serve metrics".to_owned(), ..source.into() },
        }
    }
}
