//! The pool of loop files is one, by the suite that every kind has to pass.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod volume_support;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

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
    let taken = || std::fs::metadata(backend.image(&id)).unwrap().blocks() * 512;
    assert!(taken() >= BYTES, "it is not sparse");
    let device = backend.attach(&id).unwrap();
    let about = Path::new("/sys/block").join(device.path().file_name().unwrap());
    let direct = std::fs::read_to_string(about.join("loop/dio")).unwrap();
    // Where the file system of the tests has none, that is told.
    assert_eq!(direct.trim() == "1", backend.advice().unwrap().is_empty(), "{:?}", backend.advice());
    // What a file system discards comes back to the pool, and what it is promised can be had again.
    assert!(Command::new("blkdiscard").arg(device.path()).status().unwrap().success());
    assert!(taken() < BYTES / 2, "{} bytes are still taken", taken());
    backend.keep(&id).unwrap();
    assert!(taken() >= BYTES);
    drop(device);
    backend.remove(&id).unwrap();
}
