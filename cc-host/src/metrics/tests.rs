//! The door, knocked at as scrapers and strangers would. Refuses to need root: what is behind it is a registry of one figure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::limits::{CONNECTIONS_PER_SOURCE_MAX, HEAD_BYTES_MAX, HEAD_WITHIN};
use super::*;
use crate::api::tls::Identity;
use crate::auth::{BearerGate, Scope, Tally, tokens};
use crate::config::Config;
use crate::ids::Name;
use crate::store::{SqliteStore, Store};

static THINGS: Family = Family::of_projects(Kind::Gauge, "cc_things", "Things.", &["project"]);
static ALL: [&Family; 1] = [&THINGS];

struct Things;

impl Collect for Things {
    fn families(&self) -> &'static [&'static Family] {
        &ALL
    }
    fn collect(&self, out: &mut Encoder) {
        for project in ["blue", "red"] {
            out.add(&THINGS, &[project], 1.0);
        }
    }
}

struct House {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    address: std::net::SocketAddr,
    _serving: tokio::task::JoinSet<()>,
}

/// On loopback either way: which addresses need TLS is the end-to-end test's part.
async fn house(tls: bool, refusals_per_minute: u32) -> House {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.path().join("s")).unwrap());
    let config = Config { state_dir: dir.path().to_owned(), ..Config::default() };
    let tls = tls.then(|| TlsAcceptor::from(Identity::open(&config).unwrap().for_http1()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gate = BearerGate::new(store.clone(), refusals_per_minute, Tally::default());
    let registry = Arc::new(Registry::default().with(Arc::new(Things)));
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(Door::of(listener, tls).serve(registry, gate));
    House { dir, store, address, _serving: serving }
}

impl House {
    async fn plain(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn tls(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.dir.path().join("tls/ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::try_from("localhost").unwrap(), self.plain().await).await.unwrap()
    }

    async fn with_token(&self, authorization: &str) -> String {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{authorization}\r\n");
        exchange(&mut self.tls().await, &request).await
    }
}

/// The whole answer: the server closes behind it.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that cuts off a request it did not read may reset the connection.
    let _reset = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn metrics_are_read_and_nothing_else_is_there() {
    let house = house(false, 10).await;
    let ask = async |first_line: &str| {
        let request = format!("{first_line} HTTP/1.1\r\nHost: x\r\n\r\n");
        exchange(&mut house.plain().await, &request).await
    };
    let got = ask("GET /metrics").await;
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.contains("\ncc_things{project=\"blue\"} 1\ncc_things{project=\"red\"} 1\n"), "{body}");
    assert!(ask("GET /metrics?x=y").await.starts_with("HTTP/1.1 200 "));

    let head_only = ask("HEAD /metrics").await;
    assert!(head_only.starts_with("HTTP/1.1 200 ") && head_only.ends_with("\r\n\r\n"), "{head_only}");
    assert!(head_only.contains(&format!("content-length: {}\r\n", body.len())), "{head_only}");

    for path in ["GET /", "GET /metrics/", "GET /metricsx", "GET //metrics", "POST /x", "GET /Metrics"] {
        assert!(ask(path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let got = ask(&format!("{method} /metrics")).await;
        assert!(got.starts_with("HTTP/1.1 405 ") && got.contains("\r\nallow: GET, HEAD\r\n"), "{method}: {got}");
    }
    assert!(ask("nonsense").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_connection_has_one_request_of_bounded_size() {
    let house = house(false, 10).await;
    let twice = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    let got = exchange(&mut house.plain().await, &twice).await;
    assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 1, "{got}");
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
    let got = exchange(&mut house.plain().await, &long).await;
    assert!(got.is_empty() || got.starts_with("HTTP/1.1 431 "), "{got}");
    assert!(exchange(&mut house.plain().await, "GET /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_hung_up_on_and_keeps_no_place() {
    let house = house(false, 10).await;
    let start = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_PER_SOURCE_MAX {
        let mut stream = house.plain().await;
        stream.write_all(b"GET /metr").await.unwrap();
        silent.push(stream);
    }
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(exchange(&mut house.plain().await, request).await, "", "there is no place left");
    for mut stream in silent {
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
    }
    let took = start.elapsed();
    assert!((HEAD_WITHIN..HEAD_WITHIN + Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(exchange(&mut house.plain().await, request).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_stranger_needs_a_token_and_sees_its_project_only() {
    let house = house(true, 100).await;
    let red = tokens::create(&*house.store, Scope::Project(Name::parse("red").unwrap())).await.unwrap();
    let all = tokens::create(&*house.store, Scope::Host).await.unwrap();

    let got = house.with_token(&format!("Authorization: Bearer {}\r\n", *red.text)).await;
    assert!(got.contains("\ncc_things{project=\"red\"} 1\n") && !got.contains("blue"), "{got}");
    assert!(got.contains("\ncc_scrape_truncated 0\n") && !got.contains("cc_scrape_failures_total"), "{got}");
    let got = house.with_token(&format!("Authorization: Bearer {}\r\n", *all.text)).await;
    assert!(got.contains("project=\"red\"") && got.contains("project=\"blue\""), "{got}");

    tokens::revoke(&*house.store, &red.id).await.unwrap();
    let revoked = format!("Authorization: Bearer {}\r\n", *red.text);
    for header in ["", "Authorization: Bearer x\r\n", "cc-key-id: cck_000000000000000000000000\r\n", &revoked] {
        let got = house.with_token(header).await;
        assert!(got.starts_with("HTTP/1.1 401 ") && got.contains("www-authenticate: Bearer"), "{header}: {got}");
        assert!(!got.contains("cc_things"), "{got}");
    }
    // What is not there needs no token to be told so.
    let got = exchange(&mut house.tls().await, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 404 "), "{got}");
    // Nor does plain HTTP get in where TLS is spoken.
    let got = exchange(&mut house.plain().await, "GET /metrics HTTP/1.0\r\n\r\n").await;
    assert!(!got.contains("cc_things"), "{got}");
}

#[tokio::test]
async fn who_guesses_tokens_is_turned_away() {
    let house = house(true, 2).await;
    let token = tokens::create(&*house.store, Scope::Host).await.unwrap();
    for _ in 0..2 {
        assert!(house.with_token("Authorization: Bearer x\r\n").await.starts_with("HTTP/1.1 401 "));
    }
    let got = house.with_token(&format!("Authorization: Bearer {}\r\n", *token.text)).await;
    assert!(got.starts_with("HTTP/1.1 429 ") && got.contains("retry-after: 60"), "{got}");
}
