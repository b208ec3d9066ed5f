//! Reads an OCI image layout and writes the part of it that one image needs as a tar. Refuses to follow a path or a link
//! out of the layout, and to send a blob that is not what its descriptor says.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Far above any real index or manifest, which are kilobytes.
const JSON_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// At opening one file: each fails only when a rename falls into the same microseconds.
const OPEN_ATTEMPTS: usize = 10_000;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path} is larger than {JSON_BYTES_MAX} bytes")]
    TooLarge { path: PathBuf },
    #[error("{path} is not the JSON it should be")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("it is of layout version {0:?}, not 1.0.0")]
    Version(String),
    #[error("{0:?} is not a sha256 digest")]
    Digest(String),
    #[error("blob {digest} has {found} bytes, not the {expected} of its descriptor")]
    Size { digest: String, expected: u64, found: u64 },
    #[error("blob {0} does not have the contents its digest says")]
    Contents(String),
    #[error("it has no image tagged {tag:?}; it has: {known}")]
    NoSuchTag { tag: String, known: String },
    #[error("it holds several images; name one of: {0}")]
    Ambiguous(String),
    #[error("it holds no image")]
    Empty,
    #[error("{0} has no image for linux on {1}")]
    NoPlatform(String, &'static str),
    #[error("cannot pass it on")]
    Write(#[source] io::Error),
}

#[derive(Debug, Deserialize, Clone)]
struct Descriptor {
    digest: String,
    size: u64,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// One image of a layout, chosen and ready to be sent.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    root: OwnedFd,
    /// The chosen manifest's descriptor as the index has it.
    entry: Value,
    manifest: Descriptor,
    blobs: Vec<Descriptor>,
}

impl Layout {
    pub fn open(path: &Path, tag: Option<&str>) -> Result<Self, LayoutError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let root = open(path, flags, Mode::empty())
            .map_err(|errno| LayoutError::Open { path: path.to_owned(), source: errno.into() })?;
        let mut layout = Layout {
            path: path.to_owned(),
            root,
            entry: Value::Null,
            manifest: Descriptor { digest: String::new(), size: 0 },
            blobs: Vec::new(),
        };
        let version: Value = layout.json(Path::new("oci-layout"), None)?;
        match version["imageLayoutVersion"].as_str() {
            Some("1.0.0") => {}
            other => return Err(LayoutError::Version(other.unwrap_or_default().to_owned())),
        }
        let index: Value = layout.json(Path::new("index.json"), None)?;
        let mut entry = choose(entries(&index), tag)?;
        // An index of platforms may stand between; nothing real nests deeper than one level.
        for _ in 0..2 {
            if !is_index(&entry) {
                break;
            }
            let descriptor = layout.descriptor(&entry)?;
            let inner: Value = layout.blob_json(&descriptor)?;
            entry = for_platform(entries(&inner)).ok_or(LayoutError::NoPlatform(descriptor.digest, architecture()))?;
        }
        layout.manifest = layout.descriptor(&entry)?;
        let manifest: Manifest = layout.blob_json(&layout.manifest)?;
        let mut seen = BTreeSet::from([layout.manifest.digest.clone()]);
        layout.blobs.push(layout.manifest.clone());
        for blob in std::iter::once(manifest.config).chain(manifest.layers) {
            if seen.insert(blob.digest.clone()) {
                layout.blobs.push(blob);
            }
        }
        layout.entry = entry;
        Ok(layout)
    }

    /// Of the manifest.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// The layout as a tar, with an index of this one image.
    pub fn write_tar(&self, out: impl Write) -> Result<(), LayoutError> {
        let mut tar = tar::Builder::new(out);
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [self.entry]}).to_string();
        for (name, text) in [("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json", index.as_str())] {
            let mut header = header(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes()).map_err(LayoutError::Write)?;
        }
        for blob in &self.blobs {
            let path = blob_path(&blob.digest)?;
            let file = self.file(&path)?;
            let found = file.metadata().map_err(|source| LayoutError::Read { path: path.clone(), source })?.len();
            if found != blob.size {
                return Err(LayoutError::Size { digest: blob.digest.clone(), expected: blob.size, found });
            }
            // Exactly the promised bytes, even if the file grows; if it shrinks, tar would send a short entry.
            let mut reader = Counted { inner: file.take(blob.size), read: 0 };
            tar.append_data(&mut header(blob.size), &path, &mut reader).map_err(LayoutError::Write)?;
            if reader.read != blob.size {
                let (digest, expected) = (blob.digest.clone(), blob.size);
                return Err(LayoutError::Size { digest, expected, found: reader.read });
            }
        }
        tar.into_inner().and_then(|mut out| out.flush()).map_err(LayoutError::Write)
    }

    fn descriptor(&self, entry: &Value) -> Result<Descriptor, LayoutError> {
        let path = self.path.join("index.json");
        serde_json::from_value(entry.clone()).map_err(|source| LayoutError::Parse { path, source })
    }

    fn blob_json<T: for<'a> Deserialize<'a>>(&self, blob: &Descriptor) -> Result<T, LayoutError> {
        self.json(&blob_path(&blob.digest)?, Some(&blob.digest))
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, path: &Path, digest: Option<&str>) -> Result<T, LayoutError> {
        let full = || self.path.join(path);
        let mut bytes = Vec::new();
        let read = self.file(path)?.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes);
        let read = read.map_err(|source| LayoutError::Read { path: full(), source })?;
        if read as u64 > JSON_BYTES_MAX {
            return Err(LayoutError::TooLarge { path: full() });
        }
        if let Some(digest) = digest
            && digest != format!("sha256:{}", hex(&Sha256::digest(&bytes)))
        {
            return Err(LayoutError::Contents(digest.to_owned()));
        }
        serde_json::from_slice(&bytes).map_err(|source| LayoutError::Parse { path: full(), source })
    }

    /// O_NONBLOCK: a FIFO must not hang us before we see that it is one.
    fn file(&self, path: &Path) -> Result<File, LayoutError> {
        let full = self.path.join(path);
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // EAGAIN: something was renamed somewhere on the host while a link's `..` was followed, so that the kernel is not sure where it led.
        let again = |tried: &nix::Result<OwnedFd>| matches!(tried, Err(nix::Error::EAGAIN));
        let mut tries = std::iter::repeat_with(|| openat2(&self.root, path, how)).take(OPEN_ATTEMPTS).skip_while(again);
        let file = tries
            .next()
            .unwrap_or(Err(nix::Error::EAGAIN))
            .map(File::from)
            .map_err(|errno| LayoutError::Open { path: full.clone(), source: errno.into() })?;
        match file.metadata() {
            Ok(meta) if meta.is_file() => Ok(file),
            Ok(_) => Err(LayoutError::NotAFile { path: full }),
            Err(source) => Err(LayoutError::Read { path: full, source }),
        }
    }
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.read += read as u64;
        Ok(read)
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

fn blob_path(digest: &str) -> Result<PathBuf, LayoutError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
            Ok(Path::new("blobs/sha256").join(hex))
        }
        _ => Err(LayoutError::Digest(digest.to_owned())),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entries(index: &Value) -> Vec<Value> {
    index["manifests"].as_array().cloned().unwrap_or_default()
}

fn ref_name(entry: &Value) -> Option<&str> {
    entry["annotations"][REF_NAME].as_str()
}

/// The tag alone, or the tag at the end of a full reference: tools write both.
fn choose(mut entries: Vec<Value>, tag: Option<&str>) -> Result<Value, LayoutError> {
    let known = entries.iter().filter_map(ref_name).collect::<Vec<_>>().join(", ");
    let Some(tag) = tag else {
        return match entries.len() {
            0 => Err(LayoutError::Empty),
            1 => Ok(entries.remove(0)),
            _ => {
                entries.into_iter().find(|entry| ref_name(entry) == Some("latest")).ok_or(LayoutError::Ambiguous(known))
            }
        };
    };
    let exact = entries.iter().position(|entry| ref_name(entry) == Some(tag));
    let ending = || {
        let is_ending = |name: &str| name.rsplit_once(':').is_some_and(|(_, end)| end == tag);
        entries.iter().position(|entry| ref_name(entry).is_some_and(is_ending))
    };
    match exact.or_else(ending) {
        Some(at) => Ok(entries.swap_remove(at)),
        None => Err(LayoutError::NoSuchTag { tag: tag.to_owned(), known }),
    }
}

fn is_index(entry: &Value) -> bool {
    matches!(
        entry["mediaType"].as_str(),
        Some("application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json")
    )
}

fn for_platform(entries: Vec<Value>) -> Option<Value> {
    entries.into_iter().find(|entry| {
        entry["platform"]["os"].as_str() == Some("linux")
            && entry["platform"]["architecture"].as_str() == Some(architecture())
    })
}

/// In the words of OCI. The client's own: a layout is loaded where it was made.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
