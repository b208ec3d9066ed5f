//! Writes an OCI image layout, the same bytes for the same files. Refuses to read one.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Links in the lowest layer of every image; upper layers put their files behind them.
pub const MERGED: &[&str] = &["bin", "lib", "lib64", "sbin"];

#[derive(Debug, Clone, Default)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub ports: Vec<String>,
}

struct Blob {
    digest: String,
    size: u64,
    /// Of the uncompressed layer.
    diff_id: String,
}

/// One layer of each root, the lowest first.
pub fn write(layout: &Path, roots: &[&Path], config: &Config, tag: &str) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let mut layers = Vec::new();
    for (index, root) in roots.iter().enumerate() {
        layers.push(layer(&blobs, root, index > 0)?);
    }
    let image = text_blob(&blobs, &image_config(config, &layers))?;
    let manifest = text_blob(
        &blobs,
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &image),
            "layers": layers
                .iter()
                .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer))
                .collect::<Vec<_>>(),
        }),
    )?;
    let mut top = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    top["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    let index = json!({ "schemaVersion": 2, "manifests": [top] });
    std::fs::write(layout.join("index.json"), index.to_string()).context("cannot write index.json")?;
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    std::fs::write(layout.join("oci-layout"), version.to_string()).context("cannot write oci-layout")
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", blob.digest), "size": blob.size })
}

fn image_config(config: &Config, layers: &[Blob]) -> Value {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let ports: serde_json::Map<String, Value> = config.ports.iter().map(|port| (port.clone(), json!({}))).collect();
    json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Env": config.env,
            "User": config.user,
            "WorkingDir": config.working_dir,
            "ExposedPorts": ports,
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect::<Vec<_>>(),
        },
        "history": layers
            .iter()
            .map(|_| json!({ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask" }))
            .collect::<Vec<_>>(),
    })
}

fn text_blob(blobs: &Path, value: &Value) -> Result<Blob> {
    let text = value.to_string();
    let digest = hex(Sha256::digest(text.as_bytes()).as_slice());
    std::fs::write(blobs.join(&digest), &text).context("cannot write a blob")?;
    Ok(Blob { digest, size: text.len() as u64, diff_id: String::new() })
}

fn layer(blobs: &Path, root: &Path, is_upper: bool) -> Result<Blob> {
    let partial = blobs.join("partial");
    let file = File::create(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let packed = Hashing::new(BufWriter::new(file));
    let mut tar = tar::Builder::new(Hashing::new(GzEncoder::new(packed, Compression::new(6))));
    for path in walk(root)? {
        if !(is_upper && MERGED.iter().any(|merged| path == Path::new(merged))) {
            append(&mut tar, root, &path).with_context(|| format!("cannot add {} to a layer", path.display()))?;
        }
    }
    let plain = tar.into_inner().context("cannot end a layer")?;
    let (gzip, diff_id, _) = plain.finish();
    let (mut file, digest, size) = gzip.finish().context("cannot compress a layer")?.finish();
    file.flush().context("cannot write a layer")?;
    std::fs::rename(&partial, blobs.join(&digest)).context("cannot name a layer")?;
    Ok(Blob { digest, size, diff_id })
}

/// Every path below `root`, relative and sorted, so that a directory comes before what is in it.
fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut ahead = vec![PathBuf::new()];
    while let Some(dir) = ahead.pop() {
        let place = root.join(&dir);
        for entry in std::fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))? {
            let entry = entry.with_context(|| format!("cannot list {}", place.display()))?;
            let path = dir.join(entry.file_name());
            if entry.file_type().with_context(|| format!("cannot read the type of {}", path.display()))?.is_dir() {
                ahead.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Times are left out, and names of owners: the same packages must give the same digest on every machine.
fn append(tar: &mut tar::Builder<impl Write>, root: &Path, path: &Path) -> Result<()> {
    let place = root.join(path);
    let meta = place.symlink_metadata()?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(meta.permissions().mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    header.set_mtime(0);
    header.set_size(0);
    if meta.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, path, io::empty())?;
    } else if meta.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, path, std::fs::read_link(&place)?)?;
    } else {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(meta.len());
        tar.append_data(&mut header, path, File::open(&place)?.take(meta.len()))?;
    }
    Ok(())
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Hashing { inner, hash: Sha256::new(), bytes: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, hex(self.hash.finalize().as_slice()), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
