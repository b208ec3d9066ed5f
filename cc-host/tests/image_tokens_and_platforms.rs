//! What large registries do: tokens from a realm, and indexes of several platforms. Needs root, docker-registry and skopeo.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod image_support;
use image_support::registry::{Registry, pull};
use image_support::*;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use base64::Engine as _;
use cc_host::image::Auth;

const TOKEN: &str = "a-token-for-this-test";

/// Before the registry: lets those pass who show the token, and gives the token to those who show the password.
fn token_gate(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(client, port, to));
        }
    });
    port
}

fn serve(mut client: TcpStream, own: u16, to: u16) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let (mut head, mut authorization) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.split_once(": ") {
            _ if line == "\r\n" => break,
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                authorization = value.trim().to_owned()
            }
            Some((name, _)) if name.eq_ignore_ascii_case("connection") => {}
            _ => head.push_str(&line),
        }
    }
    let answer = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("user:secret"));
    let said = if head.starts_with("GET /token?") {
        match authorization == basic {
            true => answer("200 OK", "Content-Type: application/json\r\n", &format!("{{\"token\":\"{TOKEN}\"}}")),
            false if authorization.is_empty() => {
                answer("200 OK", "Content-Type: application/json\r\n", "{\"token\":\"a-guests\"}")
            }
            false => answer("401 Unauthorized", "", ""),
        }
    } else if authorization == format!("Bearer {TOKEN}") {
        let mut server = TcpStream::connect(("127.0.0.1", to)).ok()?;
        server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).ok()?;
        let mut all = Vec::new();
        server.read_to_end(&mut all).ok()?;
        return client.write_all(&all).ok();
    } else {
        let realm =
            format!("Bearer realm=\"http://127.0.0.1:{own}/token\",service=\"test\",scope=\"repository:one:pull\"");
        answer("401 Unauthorized", &format!("WWW-Authenticate: {realm}\r\n"), "{\"errors\":[]}")
    };
    client.write_all(said.as_bytes()).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_gives_tokens() {
    let registry = Registry::start(None);
    registry.push("one", &Layout::plain(&[tar_of(&[file("f", b"x")])]), None);
    let world = world();
    let name = format!("127.0.0.1:{}/one", token_gate(registry.port));
    let auth = |password: &str| Some(Auth { username: "user".into(), password: password.into() });
    for (who, auth) in [("a guest", None), ("a stranger", auth("another-word"))] {
        let denied = why(pull(&world, &name, auth).await.0.unwrap_err());
        assert!(denied.starts_with("image.unauthorized") && !denied.contains("another-word"), "{who}: {denied}");
    }
    let record = pull(&world, &name, auth("secret")).await.0.unwrap();
    assert_eq!(std::fs::read(world.images.layer_dirs(&record)[0].join("f")).unwrap(), b"x");
}

/// Puts an index over two manifests that the repository has, each for the architecture named.
fn put_index(registry: &Registry, tag: &str, of: &[(&str, &str)]) {
    let manifests: Vec<_> = of
        .iter()
        .map(|(digest, architecture)| {
            let hex = digest.strip_prefix("sha256:").unwrap();
            let blob = registry.blobs(0).into_iter().find(|file| file.to_string_lossy().contains(hex)).unwrap();
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": std::fs::metadata(blob).unwrap().len(),
                "platform": {"os": "linux", "architecture": architecture},
            })
        })
        .collect();
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).to_string();
    let mut http = TcpStream::connect(("127.0.0.1", registry.port)).unwrap();
    let head = format!(
        "PUT /v2/multi/manifests/{tag} HTTP/1.1\r\nHost: registry\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        index.len()
    );
    http.write_all(format!("{head}{index}").as_bytes()).unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_index_the_entry_for_this_host_is_taken() {
    let registry = Registry::start(None);
    let world = world();
    let mut digests = Vec::new();
    for (tag, content) in [("ours", &b"ours"[..]), ("other", b"other")] {
        let name = format!("multi:{tag}");
        registry.push(&name, &Layout::plain(&[tar_of(&[file("f", content)])]), None);
        digests.push(pull(&world, &registry.name(&name), None).await.0.unwrap().digest);
    }
    let here = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    put_index(&registry, "both", &[(&digests[1], "s390x"), (&digests[0], here)]);
    let record = pull(&world, &registry.name("multi:both"), None).await.0.unwrap();
    assert_eq!(record.digest, digests[0]);
    assert_eq!(std::fs::read(world.images.layer_dirs(&record)[0].join("f")).unwrap(), b"ours");
    put_index(&registry, "foreign", &[(&digests[1], "s390x")]);
    let refused = why(pull(&world, &registry.name("multi:foreign"), None).await.0.unwrap_err());
    assert!(refused.contains("s390x") && refused.contains(here), "{refused}");
}
