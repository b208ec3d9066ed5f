//! Where the bytes of volumes are: the trait that every kind of pool implements, with one suite that each has to pass. Refuses to know file
//! systems, and whose a volume is.

mod files;
mod loop_files;
mod lvm;
mod lvm_thin;
mod vold;

use std::path::{Path, PathBuf};

pub use files::Files;
pub use loop_files::LoopFiles;
pub use lvm_thin::LvmThin;
pub use vold::Vold;

use super::tool::ToolError;
use crate::ids::VolumeId;

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("cannot {operation} {path}")]
    Disk { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("there is no room for {bytes} bytes in {path}")]
    Full { path: PathBuf, bytes: u64 },
    #[error("{path} is {bytes} bytes, and {wanted} were kept for it")]
    Size { path: PathBuf, bytes: u64, wanted: u64 },
    #[error("the device of {path} is still in use on this host")]
    Busy { path: PathBuf },
    #[error("there is no thin pool {pool}, named as GROUP/POOL")]
    NoPool { pool: String },
    #[error("{percent} % of the {part} of thin pool {pool} are in use, and from {limit} % on nothing is added")]
    Filling { pool: String, part: &'static str, percent: u8, limit: u8 },
    #[error("cannot {operation} {volume} of the object store {store}: {why}")]
    ObjectStore { operation: &'static str, volume: String, store: String, why: String },
    #[error("nothing can {operation} what is in an object store yet")]
    NotYet { operation: &'static str },
    #[error("cannot {operation} {path}")]
    Tool { operation: &'static str, path: PathBuf, source: ToolError },
}

/// What a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What could be given to new volumes now, beside those that there are.
    pub free_bytes: u64,
    /// What of it is everything else's, where nobody says how much volumes may have.
    pub reserve_bytes: u64,
}

/// What will go wrong, or may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    pub problem: String,
    /// What a person can do.
    pub next: &'static str,
    /// It has begun to.
    pub grave: bool,
}

/// A volume as a block device, for as long as this is kept.
pub trait Attached: Send + std::fmt::Debug {
    fn path(&self) -> &Path;
    /// As the file system on it shows in `stat`.
    fn number(&self) -> std::io::Result<u64>;
    /// Its volume has become larger.
    fn refresh(&self) -> std::io::Result<()>;
}

/// Every call blocks, and may be made again: what it was to do may be half done, by one that did not come back.
pub trait Backend: Send + Sync + std::fmt::Debug {
    fn name(&self) -> &'static str;

    /// What a record says of where its volume is: what is elsewhere is none of this one's.
    fn place(&self) -> String {
        self.name().to_owned()
    }

    /// Whether what it has is a file system's, as containers' disks are.
    fn is_of_files(&self) -> bool {
        true
    }

    /// The address of the object store that they are in.
    fn store(&self) -> Option<&str> {
        None
    }

    fn room(&self) -> Result<Room, BackendError>;

    /// Before `image` of one that was created is looked at.
    fn prepare(&self, id: &VolumeId) -> Result<(), BackendError> {
        let _ = id;
        Ok(())
    }

    /// Space that nobody else gets, which reads as zeros. When it fails, nothing is left.
    fn create(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError>;

    /// What it has stays; when it fails, its size does, too.
    fn grow(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError>;

    /// What it was promised is its again: a file system that grows gives back what it wants to read as zeros, and a copy of the host's may have
    /// left that out.
    fn keep(&self, id: &VolumeId) -> Result<(), BackendError> {
        let _ = id;
        Ok(())
    }

    /// Back to a size that it had, after a growth of which nothing was used.
    fn shrink_back(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError>;

    /// Whether a copy is of one moment only while nothing is written to its source.
    fn copies_what_is_still(&self) -> bool;

    /// What is in `from` now, into `to`, which was created with its size. `go_on` is asked now and then.
    fn copy(&self, from: &VolumeId, to: &VolumeId, go_on: &dyn Fn() -> bool) -> Result<bool, BackendError>;

    /// What is not there is no error. One whose device is in use is left alone.
    fn remove(&self, id: &VolumeId) -> Result<(), BackendError>;

    /// What is on the disk is on the disk.
    fn sync(&self, id: &VolumeId) -> Result<(), BackendError>;

    /// What tools work on while it is not attached.
    fn image(&self, id: &VolumeId) -> PathBuf;

    fn size(&self, id: &VolumeId) -> Result<u64, BackendError>;

    /// As a device: always the same one, as long as anybody has it.
    fn attach(&self, id: &VolumeId) -> Result<Box<dyn Attached>, BackendError>;

    /// Whether anybody has its device.
    fn is_attached(&self, id: &VolumeId) -> Result<bool, BackendError>;

    fn list(&self) -> Result<Vec<VolumeId>, BackendError>;

    /// Nobody has it for now. `Busy` while somebody still has its device.
    fn let_go(&self, id: &VolumeId) -> Result<(), BackendError> {
        let _ = id;
        Ok(())
    }

    /// What a person should look after.
    fn advice(&self) -> Result<Vec<Advice>, BackendError> {
        Ok(Vec::new())
    }
}
