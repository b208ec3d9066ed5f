//! A thin pool of LVM's is one, by the suite that every kind of pool has to pass. For machines with a device mapper: `cargo xtask test --vm`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../volume_support/mod.rs"]
mod volume_support;

use std::path::{Path, PathBuf};
use std::process::Command;

use cc_host::ids::VolumeId;
use cc_host::volume::{Backend as _, BackendError, LvmThin};
use volume_support::{BYTES, conforms};

const MIB: u64 = 1 << 20;

/// Gone with the guard.
struct Pool {
    dir: PathBuf,
    group: String,
}

impl Pool {
    fn new() -> Pool {
        let group = format!("cct{:08x}", rand::random::<u32>());
        let pool = Pool { dir: std::env::temp_dir().join(&group), group };
        pool.script("make");
        pool
    }

    fn script(&self, what: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vm/thin-pool");
        assert!(Command::new(script).arg(what).arg(&self.dir).arg(&self.group).status().unwrap().success());
    }

    fn lvm(&self, args: &[&str]) {
        let config = "activation { udev_sync=0 udev_rules=0 } devices { obtain_device_list_from_udev=0 }";
        assert!(Command::new("lvm").args(args).args(["--config", config]).status().unwrap().success());
    }

    fn open(&self, promised_percent: u32) -> LvmThin {
        LvmThin::open(&format!("{}/pool", self.group), promised_percent).unwrap()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.script("remove");
    }
}

#[test]
fn it_conforms_promises_what_it_has_and_touches_nobody_elses() {
    let pool = Pool::new();
    let backend = pool.open(100);
    conforms(&backend);
    // Another's, in the same pool and with a name like ours: it is not ours, and what it was promised is not ours to give.
    let stranger = VolumeId::random();
    pool.lvm(&[
        "lvcreate",
        "--yes",
        "--virtualsize",
        "128M",
        "--thinpool",
        "pool",
        "--name",
        stranger.as_str(),
        &pool.group,
    ]);
    assert_eq!((backend.room().unwrap().free_bytes, backend.list().unwrap()), (128 * MIB, vec![]));
    backend.remove(&stranger).unwrap();
    assert!(backend.size(&stranger).is_err() && backend.image(&stranger).exists());
    assert!(backend.attach(&stranger).is_err(), "without our tag it is not ours to use");
    let id = VolumeId::random();
    assert!(matches!(backend.create(&id, 132 * MIB), Err(BackendError::Full { .. })));
    pool.open(200).create(&id, 132 * MIB).unwrap();
    // Nothing is added to a pool that fills; what is there can be used.
    assert!(backend.advice().unwrap().iter().all(|advice| !advice.grave));
    let file = std::fs::File::options().write(true).open(backend.image(&stranger)).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(1), 128 * MIB), &mut &file).unwrap();
    let ours = std::fs::File::options().write(true).open(backend.image(&id)).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(1), 90 * MIB), &mut &ours).unwrap();
    file.sync_all().and_then(|()| ours.sync_all()).unwrap();
    drop((file, ours));
    let refused = pool.open(1000).create(&VolumeId::random(), BYTES);
    assert!(matches!(refused, Err(BackendError::Filling { part: "data", percent: 80..=100, .. })), "{refused:?}");
    assert!(backend.advice().unwrap().iter().any(|advice| advice.grave));
    backend.remove(&id).unwrap();
    assert!(matches!(LvmThin::open(&format!("{}/none", pool.group), 100), Err(BackendError::NoPool { .. })));
    // As a host that has started leaves them.
    backend.create(&id, BYTES).unwrap();
    pool.lvm(&["lvchange", "--activate", "n", &format!("{}/{id}", pool.group)]);
    assert!(!backend.image(&id).exists());
    assert!(pool.open(100).image(&id).exists());
    // The pool with it.
    pool.lvm(&["lvchange", "--yes", "--activate", "n", &pool.group]);
    let opened = pool.open(100);
    assert!(opened.image(&id).exists());
    // It says how full it is, too.
    let more = VolumeId::random();
    opened.create(&more, BYTES).unwrap();
    opened.remove(&more).unwrap();
    // As a command leaves one that was ended: whoever reads it waits, until the next daemon opens the pool.
    let mapped = format!("{}-{}", pool.group, id.as_str().replace('-', "--"));
    assert!(Command::new("dmsetup").args(["suspend", &mapped]).status().unwrap().success());
    assert_eq!(suspended(&mapped), "Suspended");
    let opened = pool.open(100);
    assert_eq!(suspended(&mapped), "Active");
    assert_eq!(opened.size(&id).unwrap(), BYTES);
    backend.remove(&id).unwrap();
}

#[test]
fn a_copy_is_a_thin_snapshot() {
    let pool = Pool::new();
    let backend = pool.open(100);
    let (id, copy) = (VolumeId::random(), VolumeId::random());
    backend.create(&id, BYTES).unwrap();
    backend.create(&copy, BYTES).unwrap();
    assert!(backend.copy(&id, &copy, &|| true).unwrap());
    let columns = ["lvs", "--noheadings", "--options", "origin,segtype", "--separator", ","];
    let said = Command::new("lvm").args(columns).arg(format!("{}/{copy}", pool.group)).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), format!("{id},thin"));
    backend.remove(&id).unwrap();
    backend.remove(&copy).unwrap();
}

fn suspended(mapped: &str) -> String {
    let columns = ["info", "--noheadings", "--columns", "--options", "suspended"];
    let said = Command::new("dmsetup").args(columns).arg(mapped).output().unwrap();
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}
