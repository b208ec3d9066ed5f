//! Disks of containers: the writable layer of one that was run with a limit is an ext4 file system of its own, in a file of its own, so that it
//! alone meets its end. Some are made ahead of being asked for, since to make one takes longer than a start may. Refuses to know of a container
//! more than its id, and to give anybody a disk that was another's.

mod ahead;
mod error;
mod place;
mod repair;
mod room;

use serde::{Deserialize, Serialize};

pub use error::DiskError;
pub use room::{Claimed, Disks, DisksParts, Holder, Layer};

use crate::volume::filesystem::Uuid;
use crate::volume::{SIZE_BYTES_MAX, SIZE_BYTES_MIN};

/// As its container's record keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Of its file system: what is not this container's is not mounted in its place.
    pub uuid: Uuid,
    pub bytes: u64,
}

/// Whole MiB, as volumes have them.
pub fn size(bytes: u64) -> Result<u64, String> {
    crate::volume::round(bytes).ok_or_else(|| {
        format!("a writable layer has from {SIZE_BYTES_MIN} (16 MiB) to {SIZE_BYTES_MAX} (16 TiB) bytes")
    })
}
