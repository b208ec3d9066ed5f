//! Images from a real registry: pulled, resumed, refused when altered, shared, pruned. Needs root, docker-registry and skopeo.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod image_support;
use image_support::*;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use cc_host::image::{Auth, LayerState, LoadFormat};
use image_support::registry::{Registry, pull};

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulled_shared_and_pruned() {
    let registry = Registry::start(None);
    let base = tar_of(&[dir("bin"), file("bin/tool", &noise(1, 300_000))]);
    let (a, b) = (tar_of(&[file("a", b"A")]), tar_of(&[file("b", &noise(2, 50_000)), file(".wh.gone", b"")]));
    let run = serde_json::json!({"Cmd": ["/bin/tool"], "Env": ["A=b"], "WorkingDir": "/srv"});
    registry.push("one:1", &Layout { run, ..Layout::plain(&[base.clone(), a]) }, None);
    registry.push("two", &Layout::plain(&[base.clone(), b]), None);
    let world = world();
    let (one, steps) = pull(&world, &registry.name("one:1"), None).await;
    let one = one.unwrap();
    assert_eq!((one.config.cmd.as_slice(), one.config.working_dir.as_str()), (&["/bin/tool".to_owned()][..], "/srv"));
    assert_eq!(one.size_bytes, 300_001);
    assert_eq!(steps.iter().filter(|s| s.state == LayerState::Done).count(), 2);
    let dirs = world.images.layer_dirs(&one);
    assert_eq!(std::fs::read(dirs[0].join("bin/tool")).unwrap(), noise(1, 300_000));
    assert_eq!(std::fs::read(dirs[1].join("a")).unwrap(), b"A");
    let (two, steps) = pull(&world, &registry.name("two"), None).await;
    let two = two.unwrap();
    assert!(steps.iter().any(|s| s.state == LayerState::Exists), "the shared layer was fetched again");
    assert_eq!(world.names("layers").len(), 3);
    assert!(two.reference.ends_with("/two:latest"));
    assert_eq!(world.images.get(&world.project, &two.digest).await.unwrap(), two);
    // Another project has to show the bytes before it may use them.
    let other = cc_host::ids::Name::parse("other").unwrap();
    let (to, mut from) = tokio::sync::mpsc::channel(4096);
    world.images.pull(&other, &registry.name("two"), None, false, to).await.unwrap();
    while let Some(step) = from.recv().await {
        assert_ne!(step.state, LayerState::Exists);
    }
    assert_eq!(world.names("layers").len(), 3);
    world.images.remove(&other, std::slice::from_ref(&two.reference), HashSet::new, false).await.unwrap();
    assert_eq!(world.names("layers").len(), 3, "the first project still has the image");

    let in_use = HashSet::from([two.digest.clone()]);
    let error =
        world.images.remove(&world.project, &[registry.name("two")], || in_use.clone(), false).await.unwrap_err();
    assert!(why(error).starts_with("image.in_use"));
    // A run that has not made its container yet counts as one.
    let hold = world.images.hold(&world.project, &one).await.unwrap();
    let name = [registry.name("one:1")];
    let error = world.images.remove(&world.project, &name, || in_use.clone(), false).await.unwrap_err();
    assert!(why(error).starts_with("image.in_use"));
    let gone = world.images.remove(&world.project, &name, || in_use.clone(), true).await.unwrap();
    assert_eq!(gone.removed, std::slice::from_ref(&one.reference));
    assert_eq!(world.names("layers").len(), 3, "held layers went");
    // It makes its container and lets go while a prune is under way that may have counted containers before.
    let hold = std::sync::Mutex::new(Some(hold));
    let counted_late = || {
        drop(hold.lock().unwrap().take());
        in_use.clone()
    };
    let pruned = world.images.prune(None, true, counted_late).await.unwrap();
    assert_eq!((pruned.removed.len(), world.names("layers").len()), (0, 3), "a run lost its image to a prune");
    let pruned = world.images.prune(None, true, || in_use.clone()).await.unwrap();
    assert_eq!((pruned.removed.len(), world.names("layers").len()), (1, 2));
    assert!(pruned.freed_bytes > 1, "the layer of one byte, the manifest and the config");
    let error = world.images.hold(&world.project, &one).await.unwrap_err();
    assert!(why(error).starts_with("image.not_found"), "an image without a record was held");
    let pruned = world.images.prune(Some(&world.project), true, HashSet::new).await.unwrap();
    assert_eq!(pruned.removed, std::slice::from_ref(&two.reference));
    assert!(
        world.names("layers").is_empty() && world.names("blobs/sha256").is_empty() && world.names("tmp").is_empty()
    );
    let error = world.images.get(&world.project, "nginx").await.unwrap_err();
    let fault = cc_common::api::fault::Fault::from(error);
    assert!(fault.next.contains("cc image pull nginx"), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pulls_fetch_a_layer_once() {
    let registry = Registry::start(None);
    registry.push("one", &Layout::plain(&[tar_of(&[file("f", &noise(3, 400_000))])]), None);
    let world = world();
    let name = registry.name("one");
    let pulls = futures::future::join_all((0..6).map(|_| pull(&world, &name, None))).await;
    let done = pulls.iter().flat_map(|(_, steps)| steps).filter(|s| s.state == LayerState::Done).count();
    assert!(pulls.iter().all(|(result, _)| result.is_ok()));
    assert_eq!(done, 1);
}

/// A blob that something altered in the registry, its size kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_blob_is_refused() {
    let registry = Registry::start(None);
    registry.push("one", &Layout::plain(&[tar_of(&[file("f", &noise(4, 200_000))])]), None);
    let blob = registry.blobs(100_000).pop().unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let world = world();
    let error = pull(&world, &registry.name("one"), None).await.0.unwrap_err();
    let why = why(error);
    assert!(why.starts_with("image.digest_mismatch"), "{why}");
    assert!(world.names("layers").is_empty() && world.names("tmp").is_empty());
    assert!(!world.names("blobs/sha256").iter().any(|n| n.ends_with(".partial")), "altered bytes were kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn basic_auth() {
    // The password is "secret".
    let line = "user:$2y$05$tUrFSYMKx7hV.fdKTGcQ5eVPjlGyWWDJzuqVwvzJn1LM8CEcdNeqm\n";
    let line = bcrypt_line().unwrap_or_else(|| line.to_owned());
    let registry = Registry::start(Some(&line));
    registry.push("one", &Layout::plain(&[tar_of(&[file("f", b"x")])]), Some("user:secret"));
    let world = world();
    let auth = |password: &str| Some(Auth { username: "user".into(), password: password.into() });
    let denied = why(pull(&world, &registry.name("one"), None).await.0.unwrap_err());
    assert!(denied.starts_with("image.unauthorized"), "{denied}");
    let denied = why(pull(&world, &registry.name("one"), auth("wrong")).await.0.unwrap_err());
    assert!(denied.starts_with("image.unauthorized") && !denied.contains("wrong"), "{denied}");
    pull(&world, &registry.name("one"), auth("secret")).await.0.unwrap();
}

/// A line of htpasswd made here, by the C library's crypt through perl.
fn bcrypt_line() -> Option<String> {
    let script = r#"print crypt("secret", '$2b$05$abcdefghijklmnopqrstuu')"#;
    let out = Command::new("perl").args(["-e", script]).output().ok()?;
    let hash = String::from_utf8(out.stdout).ok().filter(|h| h.starts_with("$2"))?;
    Some(format!("user:{hash}\n"))
}

/// Between puller and registry: cuts the first large answer short, and notes whether a later request names a range.
fn cutting_proxy(to: u16) -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ranges, seen) = std::sync::mpsc::channel();
    let cut = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (ranges, cut) = (ranges.clone(), cut.clone());
            std::thread::spawn(move || forward(client, to, &ranges, &cut));
        }
    });
    (port, seen)
}

fn forward(
    mut client: TcpStream,
    to: u16,
    ranges: &std::sync::mpsc::Sender<String>,
    cut: &std::sync::atomic::AtomicBool,
) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(range) = line.to_lowercase().strip_prefix("range: ") {
            let _ = ranges.send(range.trim().to_owned());
        }
        if !line.to_lowercase().starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut server = TcpStream::connect(("127.0.0.1", to)).ok()?;
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    let keep = if answer.len() > 200_000 && !cut.swap(true, std::sync::atomic::Ordering::SeqCst) {
        150_000
    } else {
        answer.len()
    };
    client.write_all(&answer[..keep]).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_download_resumes() {
    let registry = Registry::start(None);
    let data = noise(5, 400_000);
    registry.push("one", &Layout::plain(&[tar_of(&[file("f", &data)])]), None);
    let (port, ranges) = cutting_proxy(registry.port);
    let world = world();
    let record = pull(&world, &format!("127.0.0.1:{port}/one"), None).await.0.unwrap();
    assert_eq!(std::fs::read(world.images.layer_dirs(&record)[0].join("f")).unwrap(), data);
    let range = ranges.try_recv().expect("the download began anew");
    assert_ne!(range, "bytes=0-");
}

/// What a killed daemon left of a blob is used if it is good, and thrown away if it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_of_a_killed_pull() {
    let registry = Registry::start(None);
    let data = noise(6, 300_000);
    registry.push("one", &Layout::plain(&[tar_of(&[file("f", &data)])]), None);
    let blob = registry.blobs(200_000).pop().unwrap();
    let hex = blob.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let bytes = std::fs::read(&blob).unwrap();
    for left in [bytes[..100_000].to_vec(), vec![0; 100_000], bytes.clone(), vec![0; 500_000]] {
        let world = world();
        std::fs::write(world.images_dir().join(format!("blobs/sha256/{hex}.partial")), left).unwrap();
        let record = pull(&world, &registry.name("one"), None).await.0.unwrap();
        assert_eq!(std::fs::read(world.images.layer_dirs(&record)[0].join("f")).unwrap(), data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_made_by_others_load() {
    let registry = Registry::start(None);
    let layout = Layout::plain(&[tar_of(&[file("f", b"x")]), tar_of(&[file("g", b"y")])]);
    registry.push("one", &layout, None);
    let out = registry.dir.path().join("docker.tar");
    let status = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false"])
        .arg(format!("docker://{}", registry.name("one")))
        .arg(format!("docker-archive:{}:some/name:v1", out.display()))
        .status()
        .unwrap();
    assert!(status.success());
    let world = world();
    let bytes = std::fs::read(&out).unwrap();
    let record = world.load_bytes("some/name:v1", LoadFormat::DockerArchive, "", bytes.clone()).await.unwrap();
    assert_eq!(record.layers, layout.diff_ids);
    assert_eq!(record.reference, "docker.io/some/name:v1");
    world.load_bytes("again", LoadFormat::DockerArchive, "v1", gzip(&bytes)).await.unwrap();
    let error = world.load_bytes("no", LoadFormat::DockerArchive, "v2", bytes).await.unwrap_err();
    assert!(why(error).contains("some/name:v1"));
    let zstd = zstd::encode_all(&tar_of(&[file("z", b"z")])[..], 1).unwrap();
    let plain = tar_of(&[file("z", b"z")]);
    let layout = Layout { blobs: vec![zstd, gzip(&plain)], ..Layout::plain(&[plain.clone(), plain]) };
    let record = world.load("mixed", &layout).await.unwrap();
    assert_eq!(world.images.layer_dirs(&record).len(), 1, "a layer that occurs twice is one directory");
}
