//! The connection to a daemon. Refuses to know any command.

use std::path::PathBuf;

use cc_common::api::fault::Fault;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use zeroize::Zeroizing;

pub type Connection = Channel;

#[derive(Debug, Default)]
pub struct ConnectOptions {
    pub endpoint: Option<String>,
    pub token: Option<String>,
    pub secret: Option<Zeroizing<String>>,
    pub project: Option<String>,
}

pub async fn connect(opts: &ConnectOptions) -> Result<Connection, Fault> {
    let url = opts.endpoint.as_deref().unwrap_or("unix:///run/cc/cc.sock");
    let path = PathBuf::from(url.strip_prefix("unix://").unwrap_or(url));
    let endpoint = Endpoint::from_static("http://localhost");
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
    })))
}
