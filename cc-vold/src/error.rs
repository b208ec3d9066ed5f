//! What can go wrong: before a volume is served, and while it is. Refuses to hold an error that does not say what it was about.

use std::path::PathBuf;
use std::time::Duration;

/// Why a volume is not served. Nothing was promised to anybody yet.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0} is no address of an object store: write it as s3://BUCKET/PREFIX")]
    Url(String),
    #[error("{0} is no name of a volume: it takes 1 to 63 lower-case letters, digits and hyphens")]
    Name(String),
    #[error("{0} is no size: it takes a multiple of 4096 from 1 MiB to 16 TiB, as in 10GiB")]
    Size(String),
    #[error("{0} is no size of a block: it takes 4096, 16384 or 65536")]
    BlockSize(u32),
    #[error("{0} is not encrypted and not of this host: what is written would be readable on the way; use https")]
    PlainHttp(String),
    #[error("cannot open the object store {url}")]
    Store { url: String, source: object_store::Error },
    #[error("cannot {operation} {object} in the object store")]
    Object { operation: &'static str, object: String, source: object_store::Error },
    #[error("there is no volume {0} in this object store: give --size to make one")]
    Missing(String),
    #[error(
        "volume {name} has {has} bytes in blocks of {block_bytes}, and {wanted} in blocks of {wanted_block_bytes} were asked for"
    )]
    Shape { name: String, has: u64, block_bytes: u32, wanted: u64, wanted_block_bytes: u32 },
    #[error("what {object} says cannot be read: it was written by another version, or it is damaged")]
    Record { object: String, source: serde_json::Error },
    #[error(
        "the blocks of volume {0} are not those that were made for it: nothing is served in the place of what is missing"
    )]
    NotIts(String),
    #[error("cannot open the blocks of volume {name}")]
    Open { name: String, source: slatedb::Error },
    #[error("the object store did not answer within {0:?}")]
    Silent(Duration),
    #[error("cannot mount at {path}: {why}")]
    Mount { path: PathBuf, why: String },
}

/// Why a volume that was served no longer is. It stays so until the process ends: who went on after a lost write would build on sand.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    #[error(
        "another cc-vold has taken this volume over; what was flushed before is safe with it, and nothing that came after was promised"
    )]
    Fenced,
    #[error(
        "the object store did not take what was to be flushed within {0:?}; that flush was not promised, and it may or may not be there"
    )]
    Late(Duration),
    #[error("what was written could not be kept: {0}; that flush was not promised, and it may or may not be there")]
    Lost(String),
}

impl Failure {
    /// Of the process, for who supervises it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Fenced => 3,
            Failure::Late(_) | Failure::Lost(_) => 4,
        }
    }
}

/// Why one call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IoError {
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("{offset}+{bytes} is not within the volume")]
    Outside { offset: u64, bytes: u64 },
    #[error("cannot read: {0}")]
    Read(String),
}
