//! The pool of loop files is one, by the suite that every kind has to pass.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod volume_support;

use std::os::unix::fs::MetadataExt as _;

use cc_host::ids::VolumeId;
use cc_host::volume::{Backend as _, LoopFiles};
use volume_support::{BYTES, conforms};

#[test]
fn loop_files() {
    let dir = tempfile::tempdir().unwrap();
    let backend = LoopFiles::open(dir.path().join("volumes")).unwrap();
    conforms(&backend);
    let id = VolumeId::random();
    backend.create(&id, BYTES).unwrap();
    assert!(std::fs::metadata(backend.image(&id)).unwrap().blocks() * 512 >= BYTES, "it is not sparse");
    backend.remove(&id).unwrap();
}
