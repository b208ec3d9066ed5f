//! One blob from a registry to a file, resumed where an earlier try broke off. Refuses bytes that do not hash to its name.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use oci_client::client::BlobResponse;
use oci_client::errors::OciDistributionError;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::Sender;

use super::error::ImageError;
use super::layer::{Source, encode};
use super::layout::Layout;
use super::limits::{BLOB_BYTES_MAX, DOWNLOAD_TRIES};
use super::manifest::Descriptor;
use super::{LayerProgress, LayerState, blocking};

/// Where a pull's bars are drawn from. A slow reader loses steps, never states.
#[derive(Clone)]
pub struct Meter {
    pub to: Sender<LayerProgress>,
    pub digest: String,
    pub total_bytes: u64,
}

impl Meter {
    fn at(&self, done_bytes: u64, state: LayerState) -> LayerProgress {
        LayerProgress { digest: self.digest.clone(), done_bytes, total_bytes: self.total_bytes, state }
    }

    pub async fn state(&self, done_bytes: u64, state: LayerState) {
        // Nobody may be looking: the pull goes on.
        let _ = self.to.send(self.at(done_bytes, state)).await;
    }

    fn step(&self, done_bytes: u64) {
        let _ = self.to.try_send(self.at(done_bytes, LayerState::Downloading));
    }
}

/// A small blob, whole in memory.
pub async fn small(client: &Client, from: &Reference, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, ImageError> {
    if blob.size > limit {
        return Err(ImageError::Limit { object: format!("blob {}", blob.digest), limit, unit: "bytes" });
    }
    let mut stream = client.pull_blob_stream(from, blob.digest.as_str()).await.map_err(|e| registry(from, e))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|source| ImageError::Download { digest: blob.digest.clone(), tries: 1, source })?;
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(ImageError::Limit { object: format!("blob {}", blob.digest), limit, unit: "bytes" });
        }
        bytes.extend_from_slice(&chunk);
    }
    let actual = super::layer::digest_of(&bytes);
    if actual != blob.digest {
        return Err(ImageError::Digest {
            object: "the image's config".to_owned(),
            expected: blob.digest.clone(),
            actual,
        });
    }
    Ok(bytes)
}

pub fn registry(from: &Reference, source: OciDistributionError) -> ImageError {
    ImageError::Registry { operation: "pull", reference: from.whole(), source: Box::new(source) }
}

/// A partial file, and the hash of what it holds.
struct Partial {
    file: tokio::fs::File,
    bytes: u64,
    hash: Sha256,
}

/// Why a try ended early.
enum Break {
    /// Worth another try.
    Transient(std::io::Error),
    Fatal(ImageError),
}

/// Fetches `blob` into its partial file and gives it as a source; the file goes when its layer is done.
pub async fn fetch(
    client: &Client,
    from: &Reference,
    blob: &Descriptor,
    layout: &Layout,
    meter: &Meter,
) -> Result<Source, ImageError> {
    if blob.size > BLOB_BYTES_MAX {
        return Err(ImageError::Limit {
            object: format!("blob {}", blob.digest),
            limit: BLOB_BYTES_MAX,
            unit: "bytes",
        });
    }
    let path = layout.partial(&blob.digest);
    let mut partial = reopen(&path, blob.size).await?;
    let mut tries = 0;
    loop {
        let resumed = partial.bytes > 0;
        let result = one_try(client, from, blob, &mut partial, meter).await;
        let error = match result {
            Ok(()) => {
                let actual = format!("sha256:{}", encode(&partial.hash.clone().finalize()));
                if actual == blob.digest {
                    break;
                }
                reset(&mut partial).await.map_err(ImageError::disk("truncate", &path))?;
                if !resumed {
                    let _ = tokio::fs::remove_file(&path).await;
                    let object = "a blob".to_owned();
                    return Err(ImageError::Digest { object, expected: blob.digest.clone(), actual });
                }
                // What an earlier try left may have been the bad part: start clean, once.
                std::io::Error::other("the resumed download did not match its digest")
            }
            Err(Break::Fatal(error)) => return Err(error),
            Err(Break::Transient(error)) => error,
        };
        tries += 1;
        if tries >= DOWNLOAD_TRIES {
            return Err(ImageError::Download { digest: blob.digest.clone(), tries, source: error });
        }
        tracing::debug!(digest = blob.digest, tries, %error, "download broke off, trying again");
        tokio::time::sleep(Duration::from_millis(100 << tries)).await;
    }
    let file = partial.file.into_std().await;
    Ok(Source { file: Arc::new(file), offset: 0, bytes: partial.bytes, digest: Some(blob.digest.clone()) })
}

async fn reopen(path: &std::path::Path, size: u64) -> Result<Partial, ImageError> {
    let name = path.to_owned();
    let opened = blocking(move || {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&name)?;
        let mut hash = Sha256::new();
        let mut bytes = std::io::copy(&mut file, &mut hash)?;
        if bytes > size {
            std::io::Seek::rewind(&mut file)?;
            file.set_len(0)?;
            (hash, bytes) = (Sha256::new(), 0);
        }
        Ok((file, bytes, hash))
    });
    let (file, bytes, hash) = opened.await.map_err(ImageError::disk("open", path))?;
    Ok(Partial { file: tokio::fs::File::from_std(file), bytes, hash })
}

async fn reset(partial: &mut Partial) -> std::io::Result<()> {
    use tokio::io::AsyncSeekExt;
    partial.file.set_len(0).await?;
    partial.file.rewind().await?;
    (partial.bytes, partial.hash) = (0, Sha256::new());
    Ok(())
}

async fn one_try(
    client: &Client,
    from: &Reference,
    blob: &Descriptor,
    partial: &mut Partial,
    meter: &Meter,
) -> Result<(), Break> {
    if partial.bytes == blob.size && blob.size > 0 {
        return Ok(());
    }
    // By its digest only: a manifest's own URLs would let an image choose whom this host talks to.
    let digest = blob.digest.as_str();
    let response = match partial.bytes {
        0 => client.pull_blob_stream(from, digest).await.map(BlobResponse::Full),
        offset => client.pull_blob_stream_partial(from, digest, offset, None).await,
    };
    let mut stream = match response.map_err(|e| classify(from, e))? {
        BlobResponse::Partial(stream) => stream,
        BlobResponse::Full(stream) => {
            reset(partial).await.map_err(Break::Transient)?;
            stream
        }
    };
    meter.state(partial.bytes, LayerState::Downloading).await;
    while let Some(chunk) = stream.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            // The library checks the digest as well: ours below names what differs.
            Err(e) if is_digest_error(&e) => break,
            Err(e) => {
                let _ = partial.file.flush().await;
                return Err(Break::Transient(e));
            }
        };
        if partial.bytes + chunk.len() as u64 > blob.size {
            let object = format!("blob {digest}");
            let _ = reset(partial).await;
            return Err(Break::Fatal(ImageError::Limit {
                object,
                limit: blob.size,
                unit: "bytes, as its manifest says",
            }));
        }
        let disk = |e| Break::Fatal(ImageError::disk("write blob", digest)(e));
        partial.file.write_all(&chunk).await.map_err(disk)?;
        partial.hash.update(&chunk);
        partial.bytes += chunk.len() as u64;
        meter.step(partial.bytes);
    }
    partial.file.flush().await.map_err(|e| Break::Fatal(ImageError::disk("write blob", digest)(e)))?;
    if partial.bytes < blob.size {
        return Err(Break::Transient(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

fn is_digest_error(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<oci_client::errors::DigestError>())
}

fn classify(from: &Reference, error: OciDistributionError) -> Break {
    match error {
        OciDistributionError::RequestError(e) => Break::Transient(std::io::Error::other(e)),
        OciDistributionError::ServerError { code, .. } if code >= 500 || code == 429 => {
            Break::Transient(std::io::Error::other(error))
        }
        other => Break::Fatal(registry(from, other)),
    }
}
