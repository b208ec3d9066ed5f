//! What every kind of pool promises, asked of each. Refuses to look behind the trait.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use cc_host::ids::VolumeId;
use cc_host::volume::{Attached, Backend, BackendError};

pub const BYTES: u64 = 8 << 20;

/// All of it, on an empty pool with room for some volumes of `BYTES`.
pub fn conforms(backend: &dyn Backend) {
    what_is_made_is_there_and_goes(backend);
    growing_keeps_what_is_there(backend);
    too_much_leaves_nothing(backend);
    a_volume_has_one_device(backend);
    a_copy_is_one(backend);
    assert_eq!(backend.list().unwrap(), [], "nothing is left of any of it");
}

fn write_at(backend: &dyn Backend, id: &VolumeId, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(backend.image(id)).unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.sync_all().unwrap();
}

fn read_at(backend: &dyn Backend, id: &VolumeId, at: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0xFF; count];
    File::open(backend.image(id)).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn what_is_made_is_there_and_goes(backend: &dyn Backend) {
    let id = VolumeId::random();
    let before = backend.room().unwrap().free_bytes;
    backend.create(&id, BYTES).unwrap();
    assert_eq!((backend.size(&id).unwrap(), backend.list().unwrap()), (BYTES, vec![id.clone()]));
    assert!(before - backend.room().unwrap().free_bytes >= BYTES / 2, "its space is taken at once");
    assert_eq!(read_at(backend, &id, BYTES - 512, 512), [0; 512]);
    assert!(backend.create(&id, BYTES).is_err(), "what is there is not made over");
    assert_eq!(backend.size(&id).unwrap(), BYTES);
    backend.remove(&id).unwrap();
    backend.remove(&id).unwrap();
    assert!(backend.size(&id).is_err() && !backend.is_attached(&id).unwrap());
}

fn growing_keeps_what_is_there(backend: &dyn Backend) {
    let id = VolumeId::random();
    backend.create(&id, BYTES).unwrap();
    write_at(backend, &id, BYTES - 4, b"last");
    backend.grow(&id, 2 * BYTES).unwrap();
    backend.grow(&id, 2 * BYTES).unwrap();
    assert_eq!(
        (backend.size(&id).unwrap(), read_at(backend, &id, BYTES - 4, 8)),
        (2 * BYTES, b"last\0\0\0\0".to_vec())
    );
    backend.grow(&id, BYTES).unwrap();
    assert_eq!(backend.size(&id).unwrap(), 2 * BYTES, "it never becomes smaller by growing");
    backend.shrink_back(&id, BYTES).unwrap();
    assert_eq!((backend.size(&id).unwrap(), read_at(backend, &id, BYTES - 4, 4)), (BYTES, b"last".to_vec()));
    backend.remove(&id).unwrap();
}

fn too_much_leaves_nothing(backend: &dyn Backend) {
    let id = VolumeId::random();
    assert!(matches!(backend.create(&id, 1 << 50), Err(BackendError::Full { .. } | BackendError::Disk { .. })));
    assert_eq!(backend.list().unwrap(), []);
    backend.create(&id, BYTES).unwrap();
    assert!(backend.grow(&id, 1 << 50).is_err());
    assert_eq!(backend.size(&id).unwrap(), BYTES);
    backend.remove(&id).unwrap();
}

fn a_volume_has_one_device(backend: &dyn Backend) {
    let (id, other) = (VolumeId::random(), VolumeId::random());
    backend.create(&id, BYTES).unwrap();
    backend.create(&other, BYTES).unwrap();
    let [first, second, of_other] = [&id, &id, &other].map(|id| backend.attach(id).unwrap());
    let number = |device: &dyn Attached| device.number().unwrap();
    assert_eq!(number(&*first), number(&*second));
    assert_ne!(number(&*first), number(&*of_other));
    assert_eq!(device_bytes(first.path()), BYTES);
    backend.grow(&id, 2 * BYTES).unwrap();
    first.refresh().unwrap();
    assert_eq!(device_bytes(second.path()), 2 * BYTES);
    drop(second);
    assert!(backend.is_attached(&id).unwrap());
    assert!(matches!(backend.remove(&id), Err(BackendError::Busy { .. })));
    drop(first);
    assert!(!backend.is_attached(&id).unwrap());
    backend.remove(&id).unwrap();
    assert!(backend.is_attached(&other).unwrap(), "another's stays");
    drop(of_other);
    backend.remove(&other).unwrap();
}

fn device_bytes(path: &std::path::Path) -> u64 {
    use std::io::{Seek as _, SeekFrom};
    File::open(path).unwrap().seek(SeekFrom::End(0)).unwrap()
}

fn a_copy_is_one(backend: &dyn Backend) {
    let (id, copy) = (VolumeId::random(), VolumeId::random());
    backend.create(&id, BYTES).unwrap();
    backend.create(&copy, BYTES).unwrap();
    write_at(backend, &id, 0, b"first");
    write_at(backend, &id, BYTES - 4, b"last");
    assert!(!backend.copy(&id, &copy, &|| false).unwrap(), "it was told to stop");
    assert!(backend.copy(&id, &copy, &|| true).unwrap());
    write_at(backend, &id, 0, b"later");
    assert_eq!(
        (read_at(backend, &copy, 0, 5), read_at(backend, &copy, BYTES - 4, 4)),
        (b"first".into(), b"last".into())
    );
    backend.remove(&id).unwrap();
    assert_eq!(read_at(backend, &copy, 0, 5), b"first");
    backend.remove(&copy).unwrap();
}
