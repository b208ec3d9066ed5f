//! What the image tests share: a store in memory, tars written by hand, images in an archive. Refuses to touch the network.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod registry;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cc_host::ids::{Project, default_project};
use cc_host::image::{ImageError, ImageRecord, Images, LoadFormat};
use cc_host::store::{Compare, Event, Kv, LeaseId, Op, Store, StoreError, Txn};
use futures::stream::BoxStream;
use sha2::{Digest, Sha256};

/// Keys and values, and nothing of what makes a store last.
#[derive(Default)]
pub struct Memory(Mutex<(BTreeMap<String, Kv>, u64)>);

#[async_trait]
impl Store for Memory {
    async fn get(&self, key: &str) -> Result<Option<Kv>, StoreError> {
        Ok(self.0.lock().unwrap().0.get(key).cloned())
    }
    async fn range(&self, prefix: &str) -> Result<(Vec<Kv>, u64), StoreError> {
        let state = self.0.lock().unwrap();
        Ok((state.0.values().filter(|kv| kv.key.starts_with(prefix)).cloned().collect(), state.1))
    }
    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError> {
        let mut state = self.0.lock().unwrap();
        let holds = compares.iter().all(|compare| match compare {
            Compare::Absent(key) => !state.0.contains_key(key),
            Compare::Present(key) => state.0.contains_key(key),
            Compare::Modified(key, revision) => state.0.get(key).is_some_and(|kv| kv.modified == *revision),
        });
        if !holds {
            return Ok(Txn::Conflict);
        }
        state.1 += 1;
        let revision = state.1;
        for op in ops {
            match op {
                Op::Put { key, value, .. } => {
                    let created = state.0.get(&key).map_or(revision, |kv| kv.created);
                    state.0.insert(key.clone(), Kv { key, value, created, modified: revision });
                }
                Op::Delete { key } => {
                    state.0.remove(&key);
                }
            }
        }
        Ok(Txn::Committed { revision })
    }
    async fn txn_unsynced(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError> {
        self.txn(compares, ops).await
    }

    async fn watch(&self, _: &str, _: u64) -> Result<BoxStream<'static, Event>, StoreError> {
        Err(StoreError::Closed)
    }
    async fn lease_grant(&self, _: u64) -> Result<LeaseId, StoreError> {
        Err(StoreError::Closed)
    }
    async fn lease_keep_alive(&self, _: LeaseId) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }
    async fn lease_revoke(&self, _: LeaseId) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub images: Images,
    pub project: Project,
}

pub fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(
        dir.path().join("images"),
        Arc::new(Memory::default()),
        PathBuf::from(env!("CARGO_BIN_EXE_cc-host")),
    )
    .unwrap();
    World { dir, images, project: default_project() }
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>())
}

/// One header and its data, names taken as they are: the `tar` crate would refuse to write half of these.
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub data: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    /// What the header says of the size, where it lies.
    pub size: Option<u64>,
}

pub fn entry(name: &str, kind: u8) -> Entry {
    let (name, mode) = (name.as_bytes().to_vec(), if kind == b'5' { 0o755 } else { 0o644 });
    Entry { name, kind, link: Vec::new(), data: Vec::new(), mode, uid: 0, size: None }
}

pub fn file(name: &str, data: &[u8]) -> Entry {
    Entry { data: data.to_vec(), ..entry(name, b'0') }
}

pub fn dir(name: &str) -> Entry {
    entry(name, b'5')
}

pub fn symlink(name: &str, to: &str) -> Entry {
    Entry { link: to.as_bytes().to_vec(), ..entry(name, b'2') }
}

pub fn hard_link(name: &str, to: &str) -> Entry {
    Entry { link: to.as_bytes().to_vec(), ..entry(name, b'1') }
}

/// Extensions of the entry after it.
pub fn pax(records: &[(&str, &[u8])]) -> Entry {
    let mut data = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        let mut len = body + 1;
        while len != body + len.to_string().len() {
            len = body + len.to_string().len();
        }
        data.extend_from_slice(format!("{len} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    Entry { data, ..entry("pax", b'x') }
}

impl Entry {
    fn write(&self, to: &mut Vec<u8>) {
        let mut header = tar::Header::new_ustar();
        let size = self.size.unwrap_or(self.data.len() as u64);
        {
            let bytes = header.as_mut_bytes();
            bytes[..self.name.len()].copy_from_slice(&self.name);
            bytes[157..157 + self.link.len()].copy_from_slice(&self.link);
            bytes[156] = self.kind;
        }
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.uid);
        header.set_mtime(1_600_000_000);
        header.set_size(size);
        header.set_cksum();
        to.extend_from_slice(header.as_bytes());
        to.extend_from_slice(&self.data);
        to.resize(to.len().next_multiple_of(512), 0);
    }
}

pub fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    entries.iter().for_each(|entry| entry.write(&mut bytes));
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn config_json(diff_ids: &[String], run: serde_json::Value) -> Vec<u8> {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    serde_json::json!({
        "os": "linux", "architecture": architecture, "config": run,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes()
}

/// Compressed blobs, and the diff ids that the config claims for them.
pub struct Layout {
    pub blobs: Vec<Vec<u8>>,
    pub diff_ids: Vec<String>,
    pub run: serde_json::Value,
    /// Instead of the blobs' own digests.
    pub layer_digests: Option<Vec<String>>,
}

impl Layout {
    pub fn plain(layers: &[Vec<u8>]) -> Self {
        let diff_ids = layers.iter().map(|layer| sha256(layer)).collect();
        Layout { blobs: layers.to_vec(), diff_ids, run: serde_json::json!({}), layer_digests: None }
    }

    /// A tar of an OCI layout, its one image tagged `latest`.
    pub fn archive(&self) -> Vec<u8> {
        let config = config_json(&self.diff_ids, self.run.clone());
        let digests: Vec<String> =
            self.layer_digests.clone().unwrap_or_else(|| self.blobs.iter().map(|b| sha256(b)).collect());
        let layers: Vec<serde_json::Value> = digests
            .iter()
            .zip(&self.blobs)
            .map(|(digest, blob)| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": blob.len()}))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(&config), "size": config.len()},
        })
        .to_string()
        .into_bytes();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(&manifest), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "latest"},
        }]});
        let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, data).unwrap();
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        add("index.json", index.to_string().as_bytes());
        add(&path(&sha256(&manifest)), &manifest);
        add(&path(&sha256(&config)), &config);
        digests.iter().zip(&self.blobs).for_each(|(digest, blob)| add(&path(digest), blob));
        builder.into_inner().unwrap()
    }
}

impl World {
    pub async fn load_bytes(
        &self,
        name: &str,
        format: LoadFormat,
        tag: &str,
        bytes: Vec<u8>,
    ) -> Result<ImageRecord, ImageError> {
        let chunks: Vec<std::io::Result<Bytes>> = bytes.chunks(60_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        self.images.load(&self.project, name, format, tag, futures::stream::iter(chunks)).await
    }

    pub async fn load(&self, name: &str, layout: &Layout) -> Result<ImageRecord, ImageError> {
        self.load_bytes(name, LoadFormat::Oci, "latest", layout.archive()).await
    }

    /// Unpacks one plain layer; gives its directory.
    pub async fn layer(&self, entries: &[Entry]) -> Result<PathBuf, ImageError> {
        let record = self.load("test", &Layout::plain(&[tar_of(entries)])).await?;
        Ok(self.images.layer_dirs(&record)[0].clone())
    }

    pub fn images_dir(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub fn names(&self, below: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.images_dir().join(below))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub fn why(error: ImageError) -> String {
    let fault = cc_common::api::fault::Fault::from(error);
    format!("{} {fault}", fault.code)
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
