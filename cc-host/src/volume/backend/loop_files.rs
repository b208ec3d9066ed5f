//! A pool of files in one directory, each of which is a volume's disk: for hosts without a device mapper. Refuses to be sparse: what a volume
//! is promised it has from the beginning.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::super::loop_device::LoopDevice;
use super::{Attached, Backend, BackendError, Room};
use crate::ids::VolumeId;

const SUFFIX: &str = ".img";
/// Of what is copied between two questions whether to go on.
const CHUNK_BYTES: usize = 4 << 20;
/// The file system that holds the pool keeps so much for everything else: a twentieth.
const RESERVE_PARTS: u64 = 20;

#[derive(Debug)]
pub struct LoopFiles {
    dir: PathBuf,
}

impl LoopFiles {
    /// The directory is made if it is missing, for root only.
    pub fn open(dir: PathBuf) -> Result<Self, BackendError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| BackendError::Disk { operation: "make", path: dir.clone(), source })?;
        Ok(LoopFiles { dir })
    }

    fn file(&self, id: &VolumeId) -> Result<File, BackendError> {
        let path = self.image(id);
        let opened = File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        opened.map_err(failed("open", path))
    }

    fn sync_dir(&self) -> Result<(), BackendError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", self.dir.clone()))
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
        let stat = rustix::fs::statvfs(&self.dir).map_err(|e| failed("measure", self.dir.clone())(e.into()))?;
        let (available, all) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
        Ok(Room { free_bytes: available, reserve_bytes: all / RESERVE_PARTS })
    }

    fn create(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        let path = self.image(id);
        let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = made.map_err(failed("make", path.clone()))?;
        let done = allocate(&file, &path, bytes).and_then(|()| self.sync_dir());
        if done.is_err() {
            // The first failure is the one to tell of.
            let _ = std::fs::remove_file(&path);
        }
        done
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

    fn shrink_back(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        let path = self.image(id);
        let file = self.file(id)?;
        file.set_len(bytes).and_then(|()| file.sync_all()).map_err(failed("shorten", path))
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
        let path = self.image(id);
        if self.is_attached(id)? {
            return Err(BackendError::Busy { path });
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
            _ => self.sync_dir(),
        }
    }

    fn sync(&self, id: &VolumeId) -> Result<(), BackendError> {
        self.file(id)?.sync_all().map_err(failed("sync", self.image(id)))
    }

    fn image(&self, id: &VolumeId) -> PathBuf {
        self.dir.join(format!("{id}{SUFFIX}"))
    }

    fn size(&self, id: &VolumeId) -> Result<u64, BackendError> {
        Ok(self.file(id)?.metadata().map_err(failed("look at", self.image(id)))?.len())
    }

    fn attach(&self, id: &VolumeId) -> Result<Box<dyn Attached>, BackendError> {
        let path = self.image(id);
        let device = LoopDevice::of(&path).map_err(failed("make a loop device of", path))?;
        Ok(Box::new(device))
    }

    fn is_attached(&self, id: &VolumeId) -> Result<bool, BackendError> {
        let path = self.image(id);
        let Some(device) = LoopDevice::find(&path).map_err(failed("look for the loop device of", path.clone()))? else {
            return Ok(false);
        };
        // One that nobody has goes when this is closed; one that somebody has stays.
        device.clear().map_err(failed("clear the loop device of", path.clone()))?;
        drop(device);
        Ok(LoopDevice::find(&path).map_err(failed("look for the loop device of", path))?.is_some())
    }

    fn list(&self) -> Result<Vec<VolumeId>, BackendError> {
        let entries = std::fs::read_dir(&self.dir).map_err(failed("list", self.dir.clone()))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| VolumeId::parse(name.strip_suffix(SUFFIX)?)).collect())
    }
}

fn failed(operation: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> BackendError {
    move |source| BackendError::Disk { operation, path, source }
}

/// Every block of it, and its length with them.
fn allocate(file: &File, path: &Path, bytes: u64) -> Result<(), BackendError> {
    loop {
        match rustix::fs::fallocate(file.as_fd(), FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return file.sync_all().map_err(failed("sync", path.to_owned())),
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
                return Err(BackendError::Full { path: path.to_owned(), bytes });
            }
            Err(source) => return Err(failed("allocate", path.to_owned())(source.into())),
        }
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
