//! Where things lie below the images' directory, and how they get there whole or not at all. Refuses names that are not
//! digests, so that no path can be made from what an image says.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::ImageError;

/// `blobs/sha256/<hex>`: manifests and configs; `<hex>.partial`: layers on their way; `layers/<hex of the diff id>/{fs,size}`:
/// unpacked layers; `tmp/`: what the next start removes.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

impl Layout {
    pub fn open(dir: PathBuf) -> Result<Self, ImageError> {
        let layout = Layout { dir };
        // 0700: layers hold setuid files and old libraries that no user of the host may run.
        for dir in [layout.blobs(), layout.layers()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(ImageError::disk("create", &dir))?;
        }
        let tmp = layout.tmp();
        match fs::remove_dir_all(&tmp) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(ImageError::disk("remove", &tmp)(e)),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&tmp).map_err(ImageError::disk("create", &tmp))?;
        Ok(layout)
    }

    pub fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    pub fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }

    pub fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub fn blob(&self, digest: &str) -> PathBuf {
        self.blobs().join(hex(digest))
    }

    pub fn partial(&self, digest: &str) -> PathBuf {
        self.blobs().join(format!("{}.partial", hex(digest)))
    }

    pub fn layer(&self, diff_id: &str) -> PathBuf {
        self.layers().join(hex(diff_id))
    }

    pub fn layer_fs(&self, diff_id: &str) -> PathBuf {
        self.layer(diff_id).join("fs")
    }

    /// Bytes of an unpacked layer; `None` if we do not have it.
    pub fn layer_size(&self, diff_id: &str) -> Option<u64> {
        fs::read_to_string(self.layer(diff_id).join("size")).ok()?.trim().parse().ok()
    }

    pub fn scratch(&self) -> Result<tempfile::TempDir, ImageError> {
        tempfile::Builder::new()
            .prefix("new-")
            .tempdir_in(self.tmp())
            .map_err(ImageError::disk("create a directory in", self.tmp()))
    }

    /// A small blob, in place under its digest when this returns.
    pub fn write_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let (path, scratch) = (self.blob(digest), self.scratch()?);
        let new = scratch.path().join("blob");
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync_dir(&self.blobs())
        };
        write().map_err(ImageError::disk("write", &path))
    }

    /// Puts an unpacked layer in place: everything it holds is on disk before its name is.
    pub fn commit_layer(&self, scratch: &Path, diff_id: &str, size: u64) -> Result<(), ImageError> {
        let path = self.layer(diff_id);
        let commit = || {
            fs::write(scratch.join("size"), size.to_string())?;
            rustix::fs::syncfs(fs::File::open(scratch)?)?;
            match fs::rename(scratch, &path) {
                // Someone else was first: the content is the same, for the name is its digest.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => Ok(()),
                other => other,
            }?;
            sync_dir(&self.layers())
        };
        commit().map_err(ImageError::disk("put in place", &path))
    }

    /// Takes a layer out of its place at once; its content goes with the guard.
    pub fn retire(&self, path: &Path) -> Result<tempfile::TempDir, ImageError> {
        let scratch = self.scratch()?;
        fs::rename(path, scratch.path().join("gone")).map_err(ImageError::disk("remove", path))?;
        Ok(scratch)
    }
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_removes_what_was_left_unfinished_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, id) = (Layout::open(dir.path().join("images")).unwrap(), format!("sha256:{}", "a".repeat(64)));
        fs::create_dir_all(layout.tmp().join("new-x/fs/usr")).unwrap();
        let scratch = layout.scratch().unwrap();
        layout.commit_layer(scratch.path(), &id, 7).unwrap();
        fs::write(layout.partial(&id), "half").unwrap();
        let again = Layout::open(dir.path().join("images")).unwrap();
        assert_eq!(fs::read_dir(again.tmp()).unwrap().count(), 0);
        assert_eq!((again.layer_size(&id), fs::read(again.partial(&id)).unwrap().len()), (Some(7), 4));
        // A second unpacking of the same layer is no error.
        let scratch = layout.scratch().unwrap();
        again.commit_layer(scratch.path(), &id, 7).unwrap();
    }
}
