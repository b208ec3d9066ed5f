//! One layer from its compressed bytes to its directory: decompressed and hashed here, unpacked by the confined child, put in
//! place only when blob digest, diff id and report agree. Refuses bombs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pathrs::error::ErrorKind;
use pathrs::flags::OpenFlags;
use rustix::fs::XattrFlags;
use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::layout::Layout;
use super::limits::{LAYER_BYTES_MAX, RATIO_FREE_BYTES, RATIO_MAX, REPORT_BYTES_MAX};
use super::unpack::{Report, SUBCOMMAND};
use crate::mutation::{self, Control};

/// Compressed bytes: a file, or a stretch of an archive.
#[derive(Debug, Clone)]
pub struct Source {
    pub file: Arc<File>,
    pub offset: u64,
    pub bytes: u64,
    /// What these bytes must hash to, if anyone said.
    pub digest: Option<String>,
}

pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", encode(&Sha256::digest(bytes)))
}

pub fn encode(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads a source and hashes what it reads.
struct Hashing {
    source: Source,
    at: u64,
    hash: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.source.bytes - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let n = self.source.file.read_at(&mut buffer[..wanted], self.source.offset + self.at)?;
        self.hash.update(&buffer[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

type Reader<'a> = Box<dyn Read + 'a>;

/// The form is told by the first bytes, not by what a manifest says.
pub fn decoder<'a>(source: &Source, from: impl Read + 'a) -> std::io::Result<Reader<'a>> {
    let mut magic = [0u8; 4];
    let n = source.file.read_at(&mut magic[..source.bytes.min(4) as usize], source.offset)?;
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => {
            Box::new(flate2::read::MultiGzDecoder::new(std::io::BufReader::with_capacity(64 << 10, from)))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(from)?),
        _ => Box::new(from),
    })
}

/// A child that is killed and reaped on every way out.
struct Unpacker(Child);

impl Drop for Unpacker {
    fn drop(&mut self) {
        // Both fail only if it was reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(program: &Path, fs: &Path, layer: &str) -> Result<Unpacker, ImageError> {
    let mut command = Command::new(program);
    mutation::pass_on(command.arg(SUBCOMMAND).env_clear())
        .current_dir(fs)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map(Unpacker)
        .map_err(|e| ImageError::Unpack { layer: layer.to_owned(), reason: format!("{}: {e}", program.display()) })
}

/// Checks that `source` is the layer `diff_id`, without keeping it.
pub fn verify(source: &Source, diff_id: &str) -> Result<(), ImageError> {
    pump(source, diff_id, &mut std::io::sink()).map(|_| ())
}

/// Unpacks `source` and puts it in place as `diff_id`; gives its unpacked size. Blocks.
pub fn unpack(layout: &Layout, program: &Path, source: &Source, diff_id: &str) -> Result<u64, ImageError> {
    let scratch = layout.scratch()?;
    let fs = scratch.path().join("fs");
    std::fs::create_dir(&fs).map_err(ImageError::disk("create", &fs))?;
    std::fs::set_permissions(&fs, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(ImageError::disk("chmod", &fs))?;
    let mut child = spawn(program, &fs, diff_id)?;
    let mut stdin = child.0.stdin.take().expect("stdin was piped at spawn");
    let pumped = pump(source, diff_id, &mut stdin);
    drop(stdin);
    // What we found in the bytes weighs more than what the child made of them.
    if pumped? {
        return Err(refusal(&mut child, diff_id));
    }
    let Report::Done { bytes, opaque, devices_skipped, .. } = report(&mut child, diff_id)? else {
        return Err(refusal_of(report_was_not_done(), diff_id));
    };
    if devices_skipped > 0 {
        tracing::warn!(layer = diff_id, devices_skipped, "device nodes of the layer were left out");
    }
    mark_opaque(&fs, &opaque)?;
    layout.commit_layer(scratch.path(), diff_id, bytes)?;
    Ok(bytes)
}

fn report_was_not_done() -> Report {
    Report::Failed("the unpacker gave no result".to_owned())
}

fn report(child: &mut Unpacker, diff_id: &str) -> Result<Report, ImageError> {
    let mut bytes = Vec::new();
    let stdout = child.0.stdout.take().expect("stdout was piped at spawn");
    let failed = |reason: String| ImageError::Unpack { layer: diff_id.to_owned(), reason };
    stdout.take(REPORT_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| failed(format!("its report: {e}")))?;
    let status = child.0.wait().map_err(|e| failed(format!("waiting for the unpacker: {e}")))?;
    match serde_json::from_slice(&bytes) {
        Ok(done @ Report::Done { .. }) if status.success() => Ok(done),
        Ok(Report::Done { .. }) | Err(_) => Err(failed(format!("the unpacker ended with {status}"))),
        Ok(other) => Err(refusal_of(other, diff_id)),
    }
}

fn refusal(child: &mut Unpacker, diff_id: &str) -> ImageError {
    match report(child, diff_id) {
        Err(error) => error,
        Ok(_) => refusal_of(report_was_not_done(), diff_id),
    }
}

fn refusal_of(report: Report, diff_id: &str) -> ImageError {
    let layer = diff_id.to_owned();
    match report {
        Report::Refused(reason) => ImageError::LayerRefused { layer, reason },
        Report::Failed(reason) => ImageError::Unpack { layer, reason },
        Report::Done { .. } => ImageError::Unpack { layer, reason: "the unpacker stopped reading".to_owned() },
    }
}

/// Sends the uncompressed layer to `to` and checks both digests. True: `to` stopped listening, nothing was checked.
fn pump(source: &Source, diff_id: &str, to: &mut dyn Write) -> Result<bool, ImageError> {
    let broken = |e: std::io::Error| ImageError::LayerRefused {
        layer: diff_id.to_owned(),
        reason: format!("it cannot be decompressed: {e}"),
    };
    let limit = |limit, unit| ImageError::Limit { object: format!("layer {diff_id}"), limit, unit };
    let mut raw = Hashing { source: source.clone(), at: 0, hash: Sha256::new() };
    let (mut hash, mut total) = (Sha256::new(), 0u64);
    let mut decoded = decoder(source, &mut raw).map_err(broken)?;
    let mut buffer = vec![0u8; 128 << 10];
    loop {
        let n = match decoded.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(broken(e)),
        };
        total += n as u64;
        if total > LAYER_BYTES_MAX {
            return Err(limit(LAYER_BYTES_MAX, "bytes"));
        }
        if total > RATIO_FREE_BYTES && total / RATIO_MAX > source.bytes && !mutation::off(Control::LayerLimits) {
            return Err(limit(RATIO_MAX, "bytes per compressed byte"));
        }
        hash.update(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            return Ok(true);
        }
    }
    drop(decoded);
    // What follows the compressed stream belongs to the blob, and to its digest.
    std::io::copy(&mut raw, &mut std::io::sink()).map_err(broken)?;
    let mismatch = |object: String, expected: &str, actual: String| {
        Err(ImageError::Digest { object, expected: expected.to_owned(), actual })
    };
    let blob = format!("sha256:{}", encode(&raw.hash.finalize()));
    if let Some(expected) =
        source.digest.as_deref().filter(|expected| *expected != blob && !mutation::off(Control::BlobDigest))
    {
        return mismatch(format!("the blob of layer {diff_id}"), expected, blob);
    }
    let found = format!("sha256:{}", encode(&hash.finalize()));
    if found != diff_id && !mutation::off(Control::LayerDiffId) {
        return mismatch("an uncompressed layer".to_owned(), diff_id, found);
    }
    Ok(false)
}

/// The one attribute that the child may not set. Its paths are resolved inside the layer, whatever they say.
fn mark_opaque(fs: &Path, dirs: &[Vec<u8>]) -> Result<(), ImageError> {
    if dirs.is_empty() {
        return Ok(());
    }
    let at = |e: std::io::Error| ImageError::disk("mark opaque a directory of", fs)(e);
    let root = pathrs::Root::open(fs).map_err(|e| at(std::io::Error::other(e.to_string())))?;
    for dir in dirs {
        let path = Path::new(std::ffi::OsStr::from_bytes(dir));
        match root.open_subpath(path, OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY) {
            Ok(fd) => rustix::fs::fsetxattr(&fd, "trusted.overlay.opaque", b"y", XattrFlags::empty())
                .map_err(|e| at(e.into()))?,
            // A later entry put something else in its place.
            Err(e) if matches!(e.kind(), ErrorKind::OsError(Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))) => {}
            Err(e) => return Err(at(std::io::Error::other(e.to_string()))),
        }
    }
    Ok(())
}
