//! Files of one directory, each of which is a disk, by the names that their owners give them. Refuses to be sparse: what a disk is promised it
//! has from the beginning.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::super::loop_device::LoopDevice;
use super::{BackendError, Room};

const SUFFIX: &str = ".img";
/// The file system that holds the pool keeps so much for everything else: a twentieth.
const RESERVE_PARTS: u64 = 20;

#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// The directory is made if it is missing, for root only.
    pub fn open(dir: PathBuf) -> Result<Self, BackendError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| BackendError::Disk { operation: "make", path: dir.clone(), source })?;
        Ok(Files { dir })
    }

    pub fn room(&self) -> Result<Room, BackendError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|e| failed("measure", self.dir.clone())(e.into()))?;
        let (available, all) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
        Ok(Room { free_bytes: available, reserve_bytes: all / RESERVE_PARTS })
    }

    /// Whether loop devices of its files can go past the page cache; where they cannot, what they hold is in memory twice.
    pub fn is_direct(&self) -> bool {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::DIRECT | OFlags::CLOEXEC;
        // Another error says nothing of that.
        !matches!(rustix::fs::open(&self.dir, flags, Mode::RUSR | Mode::WUSR), Err(Errno::INVAL))
    }

    pub fn image(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }

    pub fn open_image(&self, name: &str) -> Result<File, BackendError> {
        let path = self.image(name);
        let opened = File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        opened.map_err(failed("open", path))
    }

    pub fn create(&self, name: &str, bytes: u64) -> Result<(), BackendError> {
        let path = self.image(name);
        let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = made.map_err(failed("make", path.clone()))?;
        let done = allocate(&file, &path, bytes).and_then(|()| self.sync_dir());
        if done.is_err() {
            // The first failure is the one to tell of.
            let _ = std::fs::remove_file(&path);
        }
        done
    }

    /// Whatever is attached of it stays so.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), BackendError> {
        let from = self.image(from);
        std::fs::rename(&from, self.image(to)).map_err(failed("rename", from))
    }

    /// What is not there is no error.
    pub fn remove(&self, name: &str) -> Result<(), BackendError> {
        let path = self.image(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
            _ => self.sync_dir(),
        }
    }

    pub fn sync(&self, name: &str) -> Result<(), BackendError> {
        self.open_image(name)?.sync_all().map_err(failed("sync", self.image(name)))
    }

    pub fn attach(&self, name: &str) -> Result<LoopDevice, BackendError> {
        let path = self.image(name);
        LoopDevice::of(&path).map_err(failed("make a loop device of", path))
    }

    /// One that nobody has is none any more when this returns.
    pub fn is_attached(&self, name: &str) -> Result<bool, BackendError> {
        is_attached(self.image(name))
    }

    pub fn names(&self) -> Result<Vec<String>, BackendError> {
        let entries = std::fs::read_dir(&self.dir).map_err(failed("list", self.dir.clone()))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(SUFFIX).map(str::to_owned)).collect())
    }

    fn sync_dir(&self) -> Result<(), BackendError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", self.dir.clone()))
    }
}

/// One that nobody has is none any more when this returns.
pub(super) fn is_attached(path: PathBuf) -> Result<bool, BackendError> {
    let Some(device) = LoopDevice::find(&path).map_err(failed("look for the loop device of", path.clone()))? else {
        return Ok(false);
    };
    // One that nobody has goes when this is closed; one that somebody has stays.
    device.clear().map_err(failed("clear the loop device of", path.clone()))?;
    drop(device);
    Ok(LoopDevice::find(&path).map_err(failed("look for the loop device of", path))?.is_some())
}

pub(super) fn failed(operation: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> BackendError {
    move |source| BackendError::Disk { operation, path, source }
}

/// Every block of it, and its length with them.
pub(super) fn allocate(file: &File, path: &Path, bytes: u64) -> Result<(), BackendError> {
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
