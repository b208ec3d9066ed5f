//! A real registry for a test, and pulling from it. Refuses to go without: a pull that was never tried is not a pull that works.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cc_host::image::{Auth, ImageError, ImageRecord, LayerProgress};

use super::{Layout, World};

/// Fails rather than skips: a pull that was never tried is not a pull that works.
fn registry_binary() -> PathBuf {
    let found = std::env::var_os("CC_TEST_REGISTRY_BIN").map(PathBuf::from).into_iter();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images/registry.root/usr/bin/docker-registry");
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|p| std::env::split_paths(&p).map(|d| d.join("docker-registry")).collect::<Vec<_>>());
    found
        .chain([tools])
        .chain(on_path)
        .find(|p| p.is_file())
        .expect("docker-registry is missing: set CC_TEST_REGISTRY_BIN")
}

/// A real registry on a port of its own, gone with its guard.
pub struct Registry {
    child: Child,
    pub dir: tempfile::TempDir,
    pub port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    pub fn start(htpasswd: Option<&str>) -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let auth = htpasswd.map_or(String::new(), |line| {
            let file = dir.path().join("htpasswd");
            std::fs::write(&file, line).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
        });
        let config = dir.path().join("config.yml");
        let root = dir.path().join("data");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{auth}",
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(registry_binary())
            .arg("serve")
            .arg(&config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // It says which port it was given.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("listening on 127.0.0.1:")
                    .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
            })
            .expect("the registry did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Registry { child, dir, port }
    }

    pub fn name(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// Pushes with skopeo, which compresses what is not.
    pub fn push(&self, image: &str, layout: &Layout, creds: Option<&str>) {
        let archive = self.dir.path().join("push.tar");
        std::fs::write(&archive, layout.archive()).unwrap();
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]);
        skopeo.args(creds.map(|c| format!("--dest-creds={c}")));
        let status = skopeo
            .arg(format!("oci-archive:{}:latest", archive.display()))
            .arg(format!("docker://{}", self.name(image)))
            .status()
            .expect("skopeo is missing");
        assert!(status.success());
    }

    /// The files of all blobs larger than `bytes`.
    pub fn blobs(&self, bytes: u64) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.dir.path().join("data/docker/registry/v2/blobs")];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                } else if entry.metadata().unwrap().len() > bytes {
                    found.push(entry.path());
                }
            }
        }
        found
    }
}

pub async fn pull(
    world: &World,
    name: &str,
    auth: Option<Auth>,
) -> (Result<ImageRecord, ImageError>, Vec<LayerProgress>) {
    let (to, mut from) = tokio::sync::mpsc::channel(4096);
    let result = world.images.pull(&world.project, name, auth, false, to).await;
    let mut steps = Vec::new();
    while let Some(step) = from.recv().await {
        steps.push(step);
    }
    (result, steps)
}
