//! Each refusal, made by a real server over TLS on loopback, and its absence for honest calls.

use std::path::Path;
use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::signing::{
    Claim, HEADER_KEY, HEADER_MESSAGE, HEADER_NONCE, HEADER_SIGNATURE, HEADER_TIME, KeyId, SecretKey, WINDOW_MS,
};
use cc_common::api::v1::host_service_client::HostServiceClient;
use cc_common::api::v1::host_service_server::{HostService, HostServiceServer};
use cc_common::api::v1::{
    DiskUsageReport, DiskUsageRequest, EventsRequest, EventsResponse, HostInfo, InfoRequest, Ticket, TicketRequest,
};
use http::{HeaderMap, HeaderValue};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpStream, UnixStream};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::*;
use crate::api::server::{Doors, serve_on};
use crate::config::{Config, Listen};
use crate::ids::{Name, now_ms};
use crate::store::{SqliteStore, Store};

const INFO: &str = "/cc.v1.HostService/Info";
const EVENTS: &str = "/cc.v1.HostService/Events";

/// `Info` is for viewers and answers with the caller's project; `Events` is for admins.
struct Service;

#[tonic::async_trait]
impl HostService for Service {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<HostInfo>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        Ok(Response::new(HostInfo { host_id: caller.project.to_string(), ..HostInfo::default() }))
    }
    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<EventsResponse>, Status> {
        Caller::of(&request)?.require(Role::Admin)?;
        Ok(Response::new(EventsResponse::default()))
    }
    async fn ticket(&self, _: Request<TicketRequest>) -> Result<Response<Ticket>, Status> {
        Err(Status::unimplemented("not here"))
    }
    async fn disk_usage(&self, _: Request<DiskUsageRequest>) -> Result<Response<DiskUsageReport>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

struct World {
    dir: tempfile::TempDir,
    config: Config,
    store: Arc<dyn Store>,
    pin: [u8; 32],
    client: HostServiceClient<Channel>,
    stop: tokio::sync::oneshot::Sender<()>,
    served: tokio::task::JoinHandle<Result<(), Fault>>,
}

impl World {
    async fn new() -> Self {
        Self::start(tempfile::tempdir().unwrap(), 1000, now_ms).await
    }

    async fn start(dir: tempfile::TempDir, refusals_per_minute: u32, clock: fn() -> u64) -> Self {
        let config = Config {
            state_dir: dir.path().to_owned(),
            run_dir: dir.path().join("run"),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            console_listen: Listen::Off,
            ..Config::default()
        };
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&config.store_path()).unwrap());
        let doors = Doors::open(&config).await.unwrap();
        let pin = doors.server_key_hash().unwrap();
        let address = doors.tls_address.unwrap();
        let auth = AuthConfig { store: store.clone(), server: Some(pin), refusals_per_minute };
        let auth = AuthLayer::with_clock(auth, clock);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let routes = Routes::new(HostServiceServer::new(Service));
        let served = tokio::spawn(serve_on(doors, routes, auth, None, async move { drop(stopped.await) }));
        let client = HostServiceClient::new(dial(address, &dir.path().join("tls/ca.pem")).await);
        World { dir, config, store, pin, client, stop, served }
    }

    /// Stops in order; what was kept stays.
    async fn stop(self) -> tempfile::TempDir {
        drop(self.client);
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
        self.dir
    }

    async fn key(&self, role: Role) -> (KeyId, SecretKey) {
        let key = keys::create(&*self.store, Name::parse("blue").unwrap(), role).await.unwrap();
        (key.id, SecretKey::parse(&key.secret).unwrap())
    }

    fn signed(&self, (id, secret): &(KeyId, SecretKey), path: &str, message: &[u8]) -> HeaderMap {
        self.signed_at(now_ms(), (id, secret), path, message)
    }

    fn signed_at(&self, unix_ms: u64, (id, secret): (&KeyId, &SecretKey), path: &str, message: &[u8]) -> HeaderMap {
        let mut frame = vec![0];
        frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
        frame.extend_from_slice(message);
        let claim = Claim { key: id.clone(), unix_ms, nonce: rand::random(), message: Sha256::digest(&frame).into() };
        let mut headers = HeaderMap::new();
        claim.sign(secret, path, &self.pin).unwrap().write(&mut headers);
        headers
    }

    /// The project that answered, or the code of the refusal.
    async fn info(&self, headers: HeaderMap) -> Result<String, String> {
        let result = self.client.clone().info(request(InfoRequest {}, headers)).await;
        result.map(|answer| answer.into_inner().host_id).map_err(code)
    }

    async fn events(&self, headers: HeaderMap, since_ms: u64) -> Result<(), String> {
        self.client.clone().events(request(EventsRequest { since_ms }, headers)).await.map(drop).map_err(code)
    }
}

fn request<T>(message: T, headers: HeaderMap) -> Request<T> {
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request
}

fn code(status: Status) -> String {
    Fault::from(status).code
}

/// Trusts the CA as any HTTPS client would; that clients pin the key is the command line's part.
async fn dial(address: std::net::SocketAddr, ca: &Path) -> Channel {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connector = tower::service_fn(move |_: http::Uri| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            connector.connect(name, tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

#[tokio::test]
async fn honest_calls_pass_with_their_project() {
    let world = World::new().await;
    let key = world.key(Role::Viewer).await;
    for _ in 0..3 {
        assert_eq!(world.info(world.signed(&key, INFO, &[])).await, Ok("blue".to_owned()));
    }
    let admin = world.key(Role::Admin).await;
    let message = EventsRequest { since_ms: 7 }.encode_to_vec();
    assert_eq!(world.events(world.signed(&admin, EVENTS, &message), 7).await, Ok(()));
}

#[tokio::test]
async fn a_tampered_header_is_refused() {
    let world = World::new().await;
    let key = world.key(Role::Viewer).await;
    let good = world.signed(&key, INFO, &[]);
    let other = world.signed(&key, INFO, &[1]);
    for name in [HEADER_NONCE, HEADER_MESSAGE, HEADER_SIGNATURE] {
        let mut headers = good.clone();
        headers.insert(name, other[name].clone());
        assert_eq!(world.info(headers).await, Err("auth.bad_signature".to_owned()), "{name}");
    }
    let mut headers = good.clone();
    headers.insert(HEADER_TIME, HeaderValue::from(now_ms() + 1));
    assert_eq!(world.info(headers).await, Err("auth.bad_signature".to_owned()));
    let mut headers = good.clone();
    headers.insert(HEADER_KEY, HeaderValue::from_str(world.key(Role::Admin).await.0.as_str()).unwrap());
    assert_eq!(world.info(headers).await, Err("auth.bad_signature".to_owned()));
    let mut headers = good.clone();
    headers.insert(HEADER_TIME, HeaderValue::from_static("soon"));
    assert_eq!(world.info(headers).await, Err("auth.malformed".to_owned()));
    assert_eq!(world.info(world.signed(&key, EVENTS, &[])).await, Err("auth.bad_signature".to_owned()), "another path");
    assert_eq!(world.info(good).await, Ok("blue".to_owned()), "tampering took nothing from the honest call");
}

#[tokio::test]
async fn a_tampered_first_message_is_refused() {
    let world = World::new().await;
    let key = world.key(Role::Admin).await;
    let message = EventsRequest { since_ms: 7 }.encode_to_vec();
    let headers = world.signed(&key, EVENTS, &message);
    assert_eq!(world.events(headers, 8).await, Err("auth.bad_message".to_owned()));
}

#[tokio::test]
async fn a_replayed_call_is_refused() {
    let world = World::new().await;
    let key = world.key(Role::Viewer).await;
    let headers = world.signed(&key, INFO, &[]);
    assert_eq!(world.info(headers.clone()).await, Ok("blue".to_owned()));
    assert_eq!(world.info(headers).await, Err("auth.replayed".to_owned()));
}

#[tokio::test]
async fn a_call_replayed_across_a_restart_is_refused() {
    let world = World::new().await;
    let key = world.key(Role::Viewer).await;
    let headers = world.signed(&key, INFO, &[]);
    assert_eq!(world.info(headers.clone()).await, Ok("blue".to_owned()));
    let dir = world.stop().await;
    // The next process starts a second later, well within the window; only its start can give the replay away.
    let world = World::start(dir, 1000, || now_ms() + 1000).await;
    assert_eq!(world.info(headers).await, Err("auth.expired".to_owned()));
    let later = world.signed_at(now_ms() + 1500, (&key.0, &key.1), INFO, &[]);
    assert_eq!(world.info(later).await, Ok("blue".to_owned()), "the key itself is still good");
}

#[tokio::test]
async fn an_expired_or_early_call_is_refused() {
    let world = World::new().await;
    let (id, secret) = world.key(Role::Viewer).await;
    for unix_ms in [now_ms() - WINDOW_MS - 1000, now_ms() + WINDOW_MS + 5000, 0, u64::MAX] {
        let headers = world.signed_at(unix_ms, (&id, &secret), INFO, &[]);
        assert_eq!(world.info(headers).await, Err("auth.expired".to_owned()), "{unix_ms}");
    }
}

#[tokio::test]
async fn an_unsigned_call_is_refused() {
    let world = World::new().await;
    assert_eq!(world.info(HeaderMap::new()).await, Err("auth.unsigned".to_owned()));
    let mut headers = HeaderMap::new();
    headers.insert("cc-project", HeaderValue::from_static("blue"));
    assert_eq!(world.info(headers).await, Err("auth.unsigned".to_owned()), "a project's name is no identity here");
}

#[tokio::test]
async fn an_unknown_or_revoked_key_is_refused() {
    let world = World::new().await;
    let stranger = (KeyId::from_random([7; 12]), SecretKey::from_seed(&[7; 32]));
    assert_eq!(world.info(world.signed(&stranger, INFO, &[])).await, Err("auth.unknown_key".to_owned()));
    let key = world.key(Role::Viewer).await;
    assert_eq!(world.info(world.signed(&key, INFO, &[])).await, Ok("blue".to_owned()));
    // As `cc-host key revoke` does it: another opener of the same file.
    let other = SqliteStore::open(&world.config.store_path()).unwrap();
    keys::revoke(&other, &key.0).await.unwrap();
    assert_eq!(world.info(world.signed(&key, INFO, &[])).await, Err("auth.unknown_key".to_owned()));
}

#[tokio::test]
async fn a_call_signed_for_another_server_is_refused() {
    let (world, other) = (World::new().await, World::new().await);
    let key = world.key(Role::Viewer).await;
    assert_eq!(world.info(other.signed(&key, INFO, &[])).await, Err("auth.bad_signature".to_owned()));
}

#[tokio::test]
async fn a_wrong_role_is_refused() {
    let world = World::new().await;
    for role in [Role::Viewer, Role::Operator] {
        let key = world.key(role).await;
        let headers = world.signed(&key, EVENTS, &[]);
        assert_eq!(world.events(headers, 0).await, Err("auth.role".to_owned()));
    }
}

#[tokio::test]
async fn a_call_that_names_another_project_is_refused() {
    let world = World::new().await;
    let key = world.key(Role::Operator).await;
    let named = |project: &'static str| {
        let mut headers = world.signed(&key, INFO, &[]);
        headers.insert("cc-project", HeaderValue::from_static(project));
        headers
    };
    assert_eq!(world.info(named("blue")).await, Ok("blue".to_owned()), "the key's own may be named");
    assert_eq!(world.info(named("green")).await, Err("auth.project".to_owned()));
    assert_eq!(world.info(named("No!")).await, Err("auth.bad_project".to_owned()));
}

#[tokio::test]
async fn refusals_are_rate_limited_per_source() {
    let world = World::start(tempfile::tempdir().unwrap(), 3, now_ms).await;
    let key = world.key(Role::Viewer).await;
    for _ in 0..3 {
        assert_eq!(world.info(HeaderMap::new()).await, Err("auth.unsigned".to_owned()));
    }
    let honest = world.signed(&key, INFO, &[]);
    assert_eq!(world.info(honest).await, Err("auth.rate_limited".to_owned()), "turned away unread");
    assert_eq!(local_info(&world.config.socket(), None).await, Ok("default".to_owned()), "another source is not hurt");
}

async fn local_info(socket: &Path, project: Option<&'static str>) -> Result<String, String> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://local").connect_with_connector(connector).await.unwrap();
    let mut headers = HeaderMap::new();
    if let Some(project) = project {
        headers.insert("cc-project", HeaderValue::from_static(project));
    }
    let result = HostServiceClient::new(channel).info(request(InfoRequest {}, headers)).await;
    result.map(|answer| answer.into_inner().host_id).map_err(code)
}

#[tokio::test]
async fn the_local_socket_is_roots() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new().await;
    let mode = std::fs::metadata(world.config.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    if rustix::process::geteuid().is_root() {
        assert_eq!(local_info(&world.config.socket(), None).await, Ok("default".to_owned()));
        assert_eq!(local_info(&world.config.socket(), Some("green")).await, Ok("green".to_owned()));
        assert_eq!(local_info(&world.config.socket(), Some("No!")).await, Err("auth.bad_project".to_owned()));
    } else {
        assert_eq!(local_info(&world.config.socket(), None).await, Err("auth.not_root".to_owned()));
    }
}

#[tokio::test]
async fn a_second_server_does_not_take_a_socket_that_answers() {
    let world = World::new().await;
    let fault = Doors::open(&world.config).await.err().unwrap();
    assert_eq!(fault.code, "server.listen", "{fault:?}");
    assert!(fault.why.contains("another daemon"), "{fault:?}");
}

/// The socket's mode keeps other users out; should it be widened, the kernel's word on the uid still does.
#[tokio::test]
async fn another_user_of_the_local_socket_is_refused() {
    use tower::{Layer as _, ServiceExt as _};
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.path().join("s")).unwrap());
    let layer = AuthLayer::new(AuthConfig { store, server: None, refusals_per_minute: 1 });
    let reached =
        tower::service_fn(|_| async { Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty())) });
    let call = |uid: u32| {
        let request = http::Request::builder().uri(INFO).extension(Peer::Local { uid }).body(Body::empty()).unwrap();
        let answer = layer.layer(reached).oneshot(request);
        async move { Status::from_header_map(answer.await.unwrap().headers()).map(code) }
    };
    assert_eq!(call(1000).await.as_deref(), Some("auth.not_root"));
    assert_eq!(call(1000).await.as_deref(), Some("auth.rate_limited"));
    assert_eq!(call(0).await, None, "root passes");
}
