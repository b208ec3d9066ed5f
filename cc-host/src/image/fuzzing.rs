//! What is read of an image before anything of it is on disk, and the unpacking of a layer without the child around it, for the fuzz
//! targets. Refuses to be in the daemon.

use std::io::Read;
use std::os::fd::OwnedFd;

pub use super::limits::{INDEX_ENTRIES_MAX, LAYERS_MAX};
pub use super::manifest::{Config, Descriptor, Document, choose, parse_config, parse_document};
pub use super::reference::{check_reach, is_digest, key, normal};
pub use super::unpack::Report;

/// As the confined child does it, whose root `root` would be.
pub fn unpack_layer(tar: impl Read, root: OwnedFd) -> Report {
    super::unpack::unpack(tar, root)
}
