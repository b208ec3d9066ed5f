//! A pool of files in one directory, each of which is a volume's disk: for hosts without a device mapper. Refuses to be sparse, as its files
//! do.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::super::loop_device::LoopDevice;
use super::files::{Files, allocate, failed};
use super::{Advice, Attached, Backend, BackendError, Room};
use crate::ids::VolumeId;

/// Of what is copied between two questions whether to go on.
const CHUNK_BYTES: usize = 4 << 20;
/// In which `stat` counts what a file has of the disk.
const SECTOR_BYTES: u64 = 512;

#[derive(Debug)]
pub struct LoopFiles {
    files: Files,
}

impl LoopFiles {
    /// The directory is made if it is missing, for root only.
    pub fn open(dir: PathBuf) -> Result<Self, BackendError> {
        Ok(LoopFiles { files: Files::open(dir)? })
    }

    fn file(&self, id: &VolumeId) -> Result<File, BackendError> {
        self.files.open_image(id.as_str())
    }
}

impl Attached for LoopDevice {
    fn path(&self) -> &Path {
        LoopDevice::path(self)
    }

    fn number(&self) -> io::Result<u64> {
        LoopDevice::number(self)
    }

    fn refresh(&self) -> io::Result<()> {
        LoopDevice::refresh(self)
    }
}

impl Backend for LoopFiles {
    fn name(&self) -> &'static str {
        "loop-files"
    }

    fn room(&self) -> Result<Room, BackendError> {
        self.files.room()
    }

    fn create(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        self.files.create(id.as_str(), bytes)
    }

    fn grow(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        let (path, file) = (self.image(id), self.file(id)?);
        let before = file.metadata().map_err(failed("look at", path.clone()))?.len();
        if before >= bytes {
            return Ok(());
        }
        let done = allocate(&file, &path, bytes);
        if done.is_err() {
            // As it was: what was allocated beyond it is given back.
            let _ = file.set_len(before);
        }
        done
    }

    fn keep(&self, id: &VolumeId) -> Result<(), BackendError> {
        let (path, file) = (self.image(id), self.file(id)?);
        let about = file.metadata().map_err(failed("look at", path.clone()))?;
        let missing = about.len().saturating_sub(about.blocks() * SECTOR_BYTES);
        if missing == 0 {
            return Ok(());
        }
        // Asked before: what there is of it would be taken, to the last block.
        let room = self.room()?;
        match room.free_bytes.saturating_sub(room.reserve_bytes) < missing {
            true => Err(BackendError::Full { path, bytes: missing }),
            false => allocate(&file, &path, about.len()),
        }
    }

    fn shrink_back(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        let path = self.image(id);
        let file = self.file(id)?;
        let shorten = || match file.metadata()?.len() > bytes {
            true => file.set_len(bytes).and_then(|()| file.sync_all()),
            false => Ok(()),
        };
        shorten().map_err(failed("shorten", path))
    }

    /// Block after block.
    fn copies_what_is_still(&self) -> bool {
        true
    }

    fn copy(&self, from: &VolumeId, to: &VolumeId, go_on: &dyn Fn() -> bool) -> Result<bool, BackendError> {
        let (source, target, path) = (self.file(from)?, self.file(to)?, self.image(to));
        // What the device has written past the page cache must not be hidden by what is in it.
        source.sync_all().map_err(failed("sync", self.image(from)))?;
        let end = source.metadata().map_err(failed("look at", self.image(from)))?.len();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = 0;
        while let Some((first, last)) = data_from(&source, at, end).map_err(failed("read", self.image(from)))? {
            at = first;
            while at < last {
                if !go_on() {
                    return Ok(false);
                }
                let want = chunk.len().min(usize::try_from(last - at).unwrap_or(usize::MAX));
                let piece = &mut chunk[..want];
                source.read_exact_at(piece, at).map_err(failed("read", self.image(from)))?;
                target.write_all_at(piece, at).map_err(failed("write", path.clone()))?;
                at += want as u64;
            }
        }
        Ok(true)
    }

    fn remove(&self, id: &VolumeId) -> Result<(), BackendError> {
        if self.is_attached(id)? {
            return Err(BackendError::Busy { path: self.image(id) });
        }
        self.files.remove(id.as_str())
    }

    fn sync(&self, id: &VolumeId) -> Result<(), BackendError> {
        self.files.sync(id.as_str())
    }

    fn image(&self, id: &VolumeId) -> PathBuf {
        self.files.image(id.as_str())
    }

    fn size(&self, id: &VolumeId) -> Result<u64, BackendError> {
        Ok(self.file(id)?.metadata().map_err(failed("look at", self.image(id)))?.len())
    }

    fn attach(&self, id: &VolumeId) -> Result<Box<dyn Attached>, BackendError> {
        Ok(Box::new(self.files.attach(id.as_str())?))
    }

    fn is_attached(&self, id: &VolumeId) -> Result<bool, BackendError> {
        self.files.is_attached(id.as_str())
    }

    fn list(&self) -> Result<Vec<VolumeId>, BackendError> {
        Ok(self.files.names()?.iter().filter_map(|name| VolumeId::parse(name)).collect())
    }

    fn advice(&self) -> Result<Vec<Advice>, BackendError> {
        let indirect = Advice {
            problem: "the file system of volumes.dir has no direct I/O: what volumes hold is in memory twice"
                .to_owned(),
            next: "have volumes.dir on ext4 or XFS",
            grave: false,
        };
        Ok(if self.files.is_direct() { Vec::new() } else { vec![indirect] })
    }
}

/// The next piece from there on that was ever written.
fn data_from(file: &File, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    let first = match rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
        Ok(first) => first,
        Err(Errno::NXIO) => return Ok(None),
        Err(source) => return Err(source.into()),
    };
    let last = rustix::fs::seek(file.as_fd(), SeekFrom::Hole(first))?;
    Ok((first < end).then_some((first, last.min(end))))
}
