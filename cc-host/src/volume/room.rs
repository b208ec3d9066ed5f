//! Creating and finding volumes. Refuses to promise more than the pool has.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, watch};

use super::backend::Backend;
use super::error::VolumeError;
use super::filesystem::{self, Uuid};
use super::mount::{Mounts, Usage};
use super::record::{VOLUMES, VolumeRecord, VolumeState, project_prefix};
use super::space::Space;
use crate::daemon::events::Events;
use crate::fault;
use crate::ids::{ContainerId, Name, Project, VolumeId, now_ms};
use crate::store::{Compare, Op, Store, Txn};

pub(super) const VOLUMES_PER_PROJECT_MAX: usize = 1024;
/// Three operations each, in one transaction of at most 1,024.
pub(super) const DELETE_MAX: usize = 256;
/// The smallest file system with a journal worth its name.
pub const SIZE_BYTES_MIN: u64 = 16 << 20;
/// What ext4 has with blocks of 4 KiB, without asking for more.
pub const SIZE_BYTES_MAX: u64 = 16 << 40;
/// Sizes are whole MiB, so that any device can have them.
pub(super) const SIZE_STEP: u64 = 1 << 20;
const HEAVY_MAX: usize = 2;
/// The one pool that there is.
pub const POOL: &str = "default";
/// What persistent volumes have instead.
pub const POOL_PERSISTENT: &str = "object-store";
/// How often a transaction that met another one is tried again before it is called busy.
pub(super) const CONFLICT_RETRIES_MAX: usize = 64;

/// A volume that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    pub name: String,
    pub size_bytes: u64,
    /// Empty: the one that there is.
    pub pool: String,
    pub persistent: bool,
}

pub struct VolumesParts {
    pub store: Arc<dyn Store>,
    pub backend: Arc<dyn Backend>,
    /// Where persistent volumes are, if the daemon was told of a place.
    pub persistent: Option<Arc<dyn Backend>>,
    pub events: Events,
    /// Below it, each that is in use is mounted.
    pub mounts_dir: PathBuf,
    /// Of all volumes and disks together; 0: as much as there is.
    pub pool_bytes: u64,
}

/// The volumes of all projects on this host.
pub struct Volumes {
    pub(super) store: Arc<dyn Store>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) persistent: Option<Arc<dyn Backend>>,
    pub(super) events: Events,
    pub(super) mounts: Arc<Mounts>,
    pub(super) space: Space,
    /// Of looks at whole volumes and copies of them, so many are under way at a time: each keeps a disk busy.
    pub(super) heavy: tokio::sync::Semaphore,
    locks: Mutex<HashMap<VolumeId, Arc<tokio::sync::Mutex<()>>>>,
    /// Which containers have which mounted.
    pub(super) holders: watch::Sender<HashMap<VolumeId, HashSet<ContainerId>>>,
}

impl Volumes {
    pub fn new(parts: VolumesParts) -> Arc<Self> {
        let VolumesParts { store, backend, persistent, events, mounts_dir, pool_bytes } = parts;
        Arc::new(Volumes {
            store,
            backend,
            persistent,
            events,
            mounts: Arc::new(Mounts::new(mounts_dir)),
            space: Space::new(pool_bytes),
            heavy: tokio::sync::Semaphore::new(HEAVY_MAX),
            locks: Mutex::default(),
            holders: watch::Sender::default(),
        })
    }

    /// Where its bytes are, while the daemon knows of the pool or of the object store that it is in.
    pub(super) fn backend_of(&self, record: &VolumeRecord) -> Result<Arc<dyn Backend>, VolumeError> {
        if !record.is_persistent() {
            return match &record.place {
                Some(place) if *place != self.backend.place() => {
                    Err(VolumeError::OtherPool { name: record.name.clone(), place: place.clone() })
                }
                _ => Ok(Arc::clone(&self.backend)),
            };
        }
        let nowhere = || VolumeError::NoObjectStore { operation: "use", name: record.name.to_string() };
        let backend = self.persistent.clone().ok_or_else(nowhere)?;
        match &record.store {
            Some(store) if backend.store() != Some(store) => {
                Err(VolumeError::OtherStore { name: record.name.clone(), store: store.clone() })
            }
            _ => Ok(backend),
        }
    }

    /// The name of that.
    pub fn backend(&self, record: &VolumeRecord) -> String {
        match self.backend_of(record) {
            Ok(backend) => backend.name().to_owned(),
            Err(_) => record.place.clone().unwrap_or_else(|| POOL_PERSISTENT.to_owned()),
        }
    }

    pub async fn create(&self, project: &Project, wanted: &NewVolume) -> Result<VolumeRecord, VolumeError> {
        let NewVolume { name, size_bytes, pool, persistent } = wanted;
        if !matches!(pool.as_str(), "" | POOL) {
            return Err(VolumeError::NoPool { name: name.clone(), pool: pool.clone() });
        }
        if *persistent && self.persistent.is_none() {
            return Err(VolumeError::NoObjectStore { operation: "create", name: name.clone() });
        }
        // Held before anybody can find it, so that nobody works on it before it is there.
        let id = VolumeId::random();
        let _lock = self.lock(&id).await;
        let pool = if *persistent { POOL_PERSISTENT } else { POOL };
        let record = self.promise(project, id, name, *size_bytes, pool).await?;
        fault::point("volume.create.recorded");
        let (backend, made) = (self.backend_of(&record)?, record.clone());
        let done = blocking(move || {
            make(&*backend, &made)?;
            let failed = |source| VolumeError::Backend { operation: "create", name: made.name.clone(), source };
            backend.let_go(&made.id).map_err(failed)
        });
        self.settle(record, done.await).await
    }

    /// The record of one that is to be, with its place in the pool. Nothing of it exists yet.
    pub(super) async fn promise(
        &self,
        project: &Project,
        id: VolumeId,
        name: &str,
        bytes: u64,
        pool: &str,
    ) -> Result<VolumeRecord, VolumeError> {
        let parsed = Name::parse(name).map_err(|source| VolumeError::BadName { name: name.to_owned(), source })?;
        if VolumeId::parse(name).is_some() {
            return Err(VolumeError::NameLikeId { name: parsed });
        }
        let size_bytes = round(bytes).ok_or_else(|| VolumeError::BadSize { name: name.to_owned(), bytes })?;
        let _quota = self.space.quota.lock().await;
        let all = self.all().await?;
        let own = all.iter().filter(|v| v.project == *project);
        if let Some(taken) = own.clone().find(|v| v.name == parsed && v.state != VolumeState::Deleting) {
            return Err(VolumeError::NameTaken { name: parsed, id: taken.id.clone() });
        }
        if own.count() >= VOLUMES_PER_PROJECT_MAX {
            return Err(VolumeError::TooMany { name: parsed, project: project.clone() });
        }
        if pool == POOL {
            self.has_room(&all, &parsed, size_bytes).await?;
        }
        let persistent = self.persistent.as_ref().filter(|_| pool == POOL_PERSISTENT);
        let record = VolumeRecord {
            id,
            name: parsed,
            project: project.clone(),
            pool: pool.to_owned(),
            size_bytes,
            uuid: Uuid::random(),
            created_ms: now_ms(),
            state: VolumeState::Creating,
            store: persistent.and_then(|backend| backend.store()).map(str::to_owned),
            place: (pool == POOL).then(|| self.backend.place()),
        };
        let keys = [record.key(), record.name_key()];
        let compares = keys.iter().cloned().map(Compare::Absent).collect();
        let [key, name_key] = keys;
        let ops = vec![
            Op::Put { key, value: record.encode(), lease: None },
            Op::Put { key: name_key, value: record.id.as_str().into(), lease: None },
        ];
        match self.txn(record.name.as_str(), compares, ops).await? {
            true => Ok(record),
            false => Err(VolumeError::Busy { name: record.name.to_string() }),
        }
    }

    /// Ready, or as if nobody had asked.
    pub(super) async fn settle(
        &self,
        record: VolumeRecord,
        done: Result<(), VolumeError>,
    ) -> Result<VolumeRecord, VolumeError> {
        match done {
            Ok(()) => {
                fault::point("volume.create.made");
                let ready = VolumeRecord { state: VolumeState::Ready, ..record };
                self.put(&ready).await?;
                Ok(ready)
            }
            Err(error) => {
                // Why it is not there says more than why something is left of it, which goes later.
                if let Err(left) = self.erase(&record).await {
                    tracing::error!(volume = %record.id, error = crate::error_chain(&left), "cannot remove it yet");
                }
                Err(error)
            }
        }
    }

    /// Those that can be found, the oldest first.
    pub async fn list(&self, project: &Project) -> Result<Vec<VolumeRecord>, VolumeError> {
        let mut records = self.read(&project_prefix(project)).await?;
        records.retain(|(record, _)| record.state != VolumeState::Deleting);
        records.sort_by_key(|(record, _)| record.created_ms);
        Ok(records.into_iter().map(|(record, _)| record).collect())
    }

    pub async fn all(&self) -> Result<Vec<VolumeRecord>, VolumeError> {
        Ok(self.read(VOLUMES).await?.into_iter().map(|(record, _)| record).collect())
    }

    async fn read(&self, prefix: &str) -> Result<Vec<(VolumeRecord, u64)>, VolumeError> {
        let failed = |source| VolumeError::Store { name: "*".to_owned(), source };
        let (kvs, _) = self.store.range(prefix).await.map_err(failed)?;
        let decode = |kv: crate::store::Kv| match serde_json::from_slice(&kv.value) {
            Ok(record) => Ok((record, kv.modified)),
            Err(source) => Err(VolumeError::Decode { key: kv.key, source }),
        };
        kvs.into_iter().map(decode).collect()
    }

    /// By id or name, with the revision at which it was last written.
    pub async fn find(&self, project: &Project, wanted: &str) -> Result<(VolumeRecord, u64), VolumeError> {
        let all = self.read(&project_prefix(project)).await?;
        // No name looks like an id.
        let is_it = |record: &VolumeRecord| record.id.as_str() == wanted || record.name.as_str() == wanted;
        let found = all.into_iter().find(|(record, _)| is_it(record) && record.state != VolumeState::Deleting);
        found.ok_or_else(|| VolumeError::NotFound { wanted: wanted.to_owned(), project: project.clone() })
    }

    /// Writes a record that exists.
    pub(super) async fn put(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let put = vec![Op::Put { key: record.key(), value: record.encode(), lease: None }];
        match self.txn(record.name.as_str(), vec![Compare::Present(record.key())], put).await? {
            true => Ok(()),
            false => Err(VolumeError::NotFound { wanted: record.name.to_string(), project: record.project.clone() }),
        }
    }

    pub(super) async fn txn(&self, name: &str, compares: Vec<Compare>, ops: Vec<Op>) -> Result<bool, VolumeError> {
        let failed = |source| VolumeError::Store { name: name.to_owned(), source };
        let done = self.store.txn(compares, ops).await.map_err(failed)?;
        Ok(matches!(done, Txn::Committed { .. }))
    }

    /// For what keeps a disk busy. Nobody waits for it who holds a lock that others wait for, but that of a copy that is not there yet.
    pub(super) async fn turn(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.heavy.acquire().await.expect("it is never closed")
    }

    /// One at a time does something to a volume.
    pub(super) async fn lock(&self, id: &VolumeId) -> OwnedMutexGuard<()> {
        self.lock_of(id).lock_owned().await
    }

    /// Unless somebody does something to it now.
    pub(super) fn try_lock(&self, id: &VolumeId) -> Option<OwnedMutexGuard<()>> {
        self.lock_of(id).try_lock_owned().ok()
    }

    fn lock_of(&self, id: &VolumeId) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for are of volumes that may be long gone.
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(all.entry(id.clone()).or_default())
    }

    /// Always in the same order, so that no two wait for each other.
    pub(super) async fn lock_all(&self, ids: impl Iterator<Item = &VolumeId>) -> Vec<OwnedMutexGuard<()>> {
        let mut ids: Vec<&VolumeId> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        let mut held = Vec::with_capacity(ids.len());
        for id in ids {
            held.push(self.lock(id).await);
        }
        held
    }

    /// Of one that is mounted.
    pub fn usage(&self, record: &VolumeRecord) -> Option<Usage> {
        self.mounts.usage(record.id.as_str()).ok().flatten()
    }
}

/// Space, a file system in it, and both on the disk.
fn make(backend: &dyn Backend, record: &VolumeRecord) -> Result<(), VolumeError> {
    let (id, name) = (&record.id, &record.name);
    let failed = |source| VolumeError::Backend { operation: "create", name: name.clone(), source };
    backend.create(id, record.size_bytes).map_err(failed)?;
    fault::point("volume.create.allocated");
    filesystem::make(&backend.image(id), record.uuid).map_err(|source| VolumeError::Tool {
        operation: "create",
        name: name.clone(),
        source,
    })?;
    fault::point("volume.create.formatted");
    backend.sync(id).map_err(failed)
}

/// What a volume or a disk of so many bytes has.
pub fn round(bytes: u64) -> Option<u64> {
    let whole = bytes.checked_next_multiple_of(SIZE_STEP)?;
    (bytes >= SIZE_BYTES_MIN && whole <= SIZE_BYTES_MAX).then_some(whole)
}

/// `work` does not panic.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("work on a volume does not panic")
}
