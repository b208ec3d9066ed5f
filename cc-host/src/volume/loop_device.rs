//! Loop devices: a file as a block device. A file has one device at most, so that its file system is mounted by one kernel structure however
//! often it is mounted. Refuses to take a device that is another file's, and to leave one behind: the kernel clears it when nobody has it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::filesystem::BLOCK_BYTES;
use super::ioctl;

/// Somebody may always have taken the free one first.
const TRIES_MAX: usize = 64;
const SYSFS: &str = "/sys/block";

/// Held open, so that it stays what it is.
#[derive(Debug)]
pub struct LoopDevice {
    file: File,
    path: PathBuf,
}

impl LoopDevice {
    /// The file's, made if it has none. Callers take turns for one file.
    pub fn of(path: &Path) -> io::Result<LoopDevice> {
        let backing = File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        if let Some(device) = LoopDevice::find_of(&backing)? {
            return Ok(device);
        }
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        for _ in 0..TRIES_MAX {
            let number = ioctl::free_loop(control.as_fd())?;
            let (file, path) = open(number, true)?;
            match ioctl::configure_loop(file.as_fd(), backing.as_fd(), BLOCK_BYTES, name) {
                Ok(()) => return Ok(LoopDevice { file, path }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// The one that it has, if it has one.
    pub fn find(path: &Path) -> io::Result<Option<LoopDevice>> {
        match File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
            Ok(backing) => LoopDevice::find_of(&backing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn find_of(backing: &File) -> io::Result<Option<LoopDevice>> {
        let wanted = backing.metadata()?;
        let wanted = (wanted.dev(), wanted.ino());
        for number in in_use()? {
            // Not for writing: closing that makes others look at whose it is.
            let Ok((file, path)) = open(number, false) else { continue };
            // Asked of what is open: until it is closed, it is no other file's.
            if ioctl::backing_of_loop(file.as_fd()).is_ok_and(|found| found == wanted) {
                return Ok(Some(LoopDevice { file, path }));
            }
        }
        Ok(None)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As the file system on it shows in `stat`.
    pub fn number(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.rdev())
    }

    /// Its file has become larger.
    pub fn refresh(&self) -> io::Result<()> {
        ioctl::refresh_loop(self.file.as_fd())
    }

    /// When nobody has it any more, whatever it was made with.
    pub fn clear(&self) -> io::Result<()> {
        ioctl::clear_loop(self.file.as_fd())
    }
}

/// Those that show a file now.
fn in_use() -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(SYSFS)?.filter_map(Result::ok) {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
        // The directory is there while it shows one.
        if let Some(number) = number.filter(|_| entry.path().join("loop").exists()) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn open(number: u32, write: bool) -> io::Result<(File, PathBuf)> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    Ok((File::options().read(true).write(write).open(&path)?, path))
}
