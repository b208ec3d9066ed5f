//! The way to a daemon: over the local socket as root, or over TLS to a pinned key with signed requests. Refuses to know
//! the commands, plain HTTP, and servers that it cannot verify.

mod endpoint;
mod signer;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::api::signing::{KeyId, SecretKey, SigningError};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::Code;
use tonic::transport::{Channel, Uri};
use tower::service_fn;
use zeroize::Zeroizing;

pub use endpoint::{DEFAULT_ENDPOINT, Endpoint, EndpointError};
pub use signer::Connection;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longer than a laptop's nap would be wrong; shorter cuts busy hosts.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a person says of where the daemon is and who calls.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    /// `unix:///path`, `/path` or `https://host:port#sha256=…`; empty: the local socket.
    pub endpoint: String,
    pub token: Option<String>,
    pub secret: Option<Zeroizing<String>>,
    /// Root on the local socket chooses; a key has one project, and a call for another is refused.
    pub project: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("{0}")]
    BadToken(SigningError),
    #[error("{0}")]
    BadSecret(SigningError),
    #[error("it needs an access token and a secret key")]
    NoKey,
    #[error("the project's name {0:?} is not valid")]
    BadProject(String),
    #[error("nobody listens on {}", path.display())]
    NoSocket { path: PathBuf },
    #[error("only root may use {}", path.display())]
    NotRoot { path: PathBuf },
    #[error("the key that answers there is not the pinned one")]
    WrongPin,
    #[error("{why}")]
    Unreachable { why: String },
}

/// Connects and verifies the other end. The result can be cloned, and given to any generated client:
/// `VpcServiceClient::new(connection)`.
pub async fn connect(options: &ConnectOptions) -> Result<Connection, Fault> {
    let shown = if options.endpoint.is_empty() { DEFAULT_ENDPOINT } else { &options.endpoint };
    try_connect(options, shown).await.map_err(|error| fault(shown, error))
}

async fn try_connect(options: &ConnectOptions, endpoint: &str) -> Result<Connection, ConnectError> {
    let endpoint = Endpoint::parse(endpoint)?;
    let project = options.project.as_deref().filter(|project| !project.is_empty());
    let bad = |project: &str| ConnectError::BadProject(project.to_owned());
    let project = project.map(|project| http::HeaderValue::from_str(project).map_err(|_| bad(project))).transpose()?;
    match endpoint {
        Endpoint::Unix(path) => Ok(Connection::local(connect_unix(path).await?, project)),
        Endpoint::Tls { host, port, pin } => {
            let (Some(token), Some(secret)) = (&options.token, &options.secret) else {
                return Err(ConnectError::NoKey);
            };
            let key = KeyId::parse(token).map_err(ConnectError::BadToken)?;
            let secret = SecretKey::parse(secret).map_err(ConnectError::BadSecret)?;
            Ok(Connection::signed(connect_tls(host, port, pin).await?, key, secret, pin, project))
        }
    }
}

async fn connect_unix(path: PathBuf) -> Result<Channel, ConnectError> {
    let socket = path.clone();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name is never looked up; HTTP/2 wants one.
    let channel = transport(Uri::from_static("http://local"));
    channel.connect_with_connector(connector).await.map_err(|error| match io_kind(&error) {
        Some(std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
            ConnectError::NoSocket { path: socket }
        }
        Some(std::io::ErrorKind::PermissionDenied) => ConnectError::NotRoot { path: socket },
        _ => ConnectError::Unreachable { why: chain(&error) },
    })
}

async fn connect_tls(host: String, port: u16, pin: [u8; 32]) -> Result<Channel, ConnectError> {
    // To the HTTP library it is a plain stream: the TLS within it is ours, and it alone decides whom to trust.
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let uri = Uri::try_from(format!("http://{authority}"))
        .map_err(|error| ConnectError::Unreachable { why: error.to_string() })?;
    let connector = service_fn(move |_: Uri| {
        let host = host.clone();
        async move {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            tcp.set_nodelay(true)?;
            tls::handshake(tcp, &host, pin).await.map(TokioIo::new)
        }
    });
    transport(uri).connect_with_connector(connector).await.map_err(|error| {
        let why = chain(&error);
        if why.contains(tls::WRONG_PIN) { ConnectError::WrongPin } else { ConnectError::Unreachable { why } }
    })
}

fn transport(uri: Uri) -> tonic::transport::Endpoint {
    Channel::builder(uri)
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(KEEPALIVE)
        .http2_adaptive_window(true)
        .user_agent(concat!("cc/", env!("CARGO_PKG_VERSION")))
        .expect("a constant of printable characters")
}

/// The kind of the input/output error at the root of it, if that is what it is.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut error = Some(error);
    while let Some(current) = error {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        error = current.source();
    }
    None
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn fault(endpoint: &str, error: ConnectError) -> Fault {
    use ConnectError as E;
    let (kind, code, next) = match &error {
        E::Endpoint(_) => (
            Code::InvalidArgument,
            "endpoint.bad_url",
            "use unix:///path or https://host:port#sha256=…, as cc-host prints it at its start",
        ),
        E::BadToken(_) => (Code::InvalidArgument, "endpoint.bad_token", "check CC_ACCESS_TOKEN"),
        E::BadSecret(_) => (Code::InvalidArgument, "endpoint.bad_secret", "check CC_SECRET_KEY"),
        E::NoKey => (Code::Unauthenticated, "endpoint.no_key", "set CC_ACCESS_TOKEN and CC_SECRET_KEY"),
        E::BadProject(_) => (Code::InvalidArgument, "endpoint.bad_project", "use a-z, 0-9 and '-'"),
        E::NoSocket { .. } => (Code::Unavailable, "endpoint.no_daemon", "start the daemon: cc-host serve"),
        E::NotRoot { .. } => {
            (Code::PermissionDenied, "endpoint.not_root", "run as root, or use a TLS endpoint with an access key")
        }
        E::WrongPin => (
            Code::Unauthenticated,
            "endpoint.wrong_key",
            "do not go on: compare the endpoint URL with what cc-host prints at its start",
        ),
        E::Unreachable { .. } => (Code::Unavailable, "endpoint.unreachable", "check the address and that cc-host runs"),
    };
    // The fragment is public, but long; the address is what a person recognises.
    let shown = endpoint.split('#').next().unwrap_or(endpoint);
    Fault::new(kind, code, format!("cannot connect to {shown}"), error.to_string()).next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_have_codes_and_advice() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = dir.path().join("sock").display().to_string();
        let pinned = format!("https://127.0.0.1:1#sha256={}", "0".repeat(64));
        let key = || Some(KeyId::from_random([0; 12]).to_string());
        let secret = || Some(SecretKey::from_seed(&[1; 32]).to_text());
        for (endpoint, token, secret, code) in [
            (nobody.as_str(), None, None, "endpoint.no_daemon"),
            ("http://127.0.0.1:1", None, None, "endpoint.bad_url"),
            (pinned.as_str(), None, None, "endpoint.no_key"),
            (pinned.as_str(), Some("x".to_owned()), secret(), "endpoint.bad_token"),
            (pinned.as_str(), key(), Some(Zeroizing::new("x".to_owned())), "endpoint.bad_secret"),
            (pinned.as_str(), key(), secret(), "endpoint.unreachable"),
        ] {
            let options = ConnectOptions { endpoint: endpoint.to_owned(), token, secret, project: None };
            let fault = connect(&options).await.err().unwrap();
            assert_eq!(fault.code, code, "{fault:?}");
            assert!(!fault.next.is_empty());
        }
    }
}
