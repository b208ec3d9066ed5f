//! Whose disk is which, and who has it mounted: the container while it runs, or a copy of its files. Refuses to unmount what anybody has.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::Disk;
use super::ahead::Ahead;
use super::error::DiskError;
use super::place::Place;
use crate::error_chain;
use crate::ids::ContainerId;
use crate::volume::backend::{BackendError, Room};
use crate::volume::filesystem::Uuid;
use crate::volume::{Measure, NoSpace, Volumes};

/// Who has a disk mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    Container,
    Copy,
}

/// Where a container's writable layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub upper: PathBuf,
    /// Overlayfs' own, on the same file system.
    pub work: PathBuf,
}

/// A disk that is to be a container's: it has its place in the pool.
#[derive(Debug)]
pub struct Claimed {
    pub disk: Disk,
    pub(super) is_ready: bool,
}

impl Claimed {
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }
}

pub struct DisksParts {
    pub volumes: Arc<Volumes>,
    /// A file for each.
    pub dir: PathBuf,
    /// Below it, each that is in use is mounted.
    pub mounts_dir: PathBuf,
    /// Made ahead, at most.
    pub ready_max: u32,
}

pub struct Disks {
    pub(super) volumes: Arc<Volumes>,
    pub(super) place: Arc<Place>,
    pub(super) ahead: Ahead,
    layers: Mutex<HashMap<ContainerId, Arc<tokio::sync::Mutex<BTreeSet<Holder>>>>>,
}

impl Disks {
    pub fn open(parts: DisksParts) -> Result<Arc<Self>, BackendError> {
        let DisksParts { volumes, dir, mounts_dir, ready_max } = parts;
        let disks = Arc::new(Disks {
            volumes: Arc::clone(&volumes),
            place: Arc::new(Place::open(dir, mounts_dir)?),
            ahead: Ahead::new(ready_max),
            layers: Mutex::default(),
        });
        let lender: std::sync::Weak<Disks> = Arc::downgrade(&disks);
        volumes.lend_to(lender);
        Ok(disks)
    }

    /// One of that size, which is nobody else's. One that is ready has been paid for.
    pub async fn claim(&self, bytes: u64) -> Result<Claimed, DiskError> {
        if let Some(disk) = self.ahead.take(bytes) {
            self.ahead.note(bytes);
            return Ok(Claimed { disk, is_ready: true });
        }
        let disk = Disk { uuid: Uuid::random(), bytes };
        let kept = self.volumes.keep_for_disk(disk.uuid, bytes, self.measure()).await;
        kept.map_err(|none| match none {
            NoSpace::Full { free_bytes } => DiskError::Full { bytes, free_bytes },
            source => DiskError::Pool { source },
        })?;
        self.ahead.note(bytes);
        Ok(Claimed { disk, is_ready: false })
    }

    /// Nothing has become of it.
    pub fn give_back(&self, claimed: Claimed) {
        match claimed.is_ready {
            true => self.ahead.put_back(claimed.disk),
            false => self.volumes.let_disk_go(claimed.disk.uuid),
        }
    }

    /// It is that container's from here on, and the container has it mounted. When it fails, `remove` is to follow; when the container runs,
    /// `name`.
    pub async fn settle(&self, id: &ContainerId, claimed: &Claimed) -> Result<(), DiskError> {
        let mut holders = self.lock(id).await;
        if !claimed.is_ready {
            let (disk, name, volumes) = (claimed.disk, id.to_string(), Arc::clone(&self.volumes));
            self.at(move |place| place.make(&name, &disk, || volumes.note_disk(disk.uuid, disk.bytes))).await?;
        }
        holders.insert(Holder::Container);
        Ok(())
    }

    /// The file of one that was ready gets its container's name, which no start has to wait for: until then it is known by its UUID.
    pub async fn name(&self, id: &ContainerId, disk: &Disk) {
        let _holders = self.lock(id).await;
        let (disk, name) = (*disk, id.to_string());
        if let Err(error) = self.at(move |place| place.name(&name, &disk)).await {
            tracing::warn!(container = %id, error = error_chain(&error), "its disk's file has no name of its own yet");
        }
    }

    /// Mounted, until it is let go. Again is no error. Whoever goes away meanwhile has it, too, and is to let it go: nobody mounts it beside what
    /// is under way.
    pub async fn hold(self: &Arc<Self>, id: &ContainerId, disk: &Disk, holder: Holder) -> Result<Layer, DiskError> {
        let (disks, id, disk) = (Arc::clone(self), id.clone(), *disk);
        let held = tokio::spawn(async move {
            let mut holders = disks.lock(&id).await;
            if holders.is_empty() {
                let name = id.to_string();
                disks.at(move |place| place.mount(&name, &disk)).await?;
            }
            holders.insert(holder);
            Ok(Layer { upper: disks.place.upper(&disk), work: disks.place.work(&disk) })
        });
        held.await.expect("holding a disk does not panic")
    }

    /// Unmounted, if nobody else has it; one that nobody has is no error. As far as it goes: whoever of the host's is there keeps it.
    pub async fn let_go(&self, id: &ContainerId, disk: &Disk, holder: Holder) {
        let mut holders = self.lock(id).await;
        holders.remove(&holder);
        if !holders.is_empty() {
            return;
        }
        let disk = *disk;
        if let Err(error) = self.at(move |place| place.unmount(&disk)).await {
            tracing::warn!(container = %id, error = error_chain(&error), "its disk stays mounted");
        }
    }

    /// Nothing of it is left when this returns, and its place in the pool is another's.
    pub async fn remove(&self, id: &ContainerId, disk: &Disk) -> Result<(), DiskError> {
        let mut holders = self.lock(id).await;
        let (gone, name) = (*disk, id.to_string());
        self.at(move |place| place.remove(&name, &gone)).await?;
        holders.clear();
        self.volumes.let_disk_go(disk.uuid);
        Ok(())
    }

    pub fn file_name(&self, id: &str) -> String {
        self.place.file_name(id)
    }

    pub(super) fn measure(&self) -> Measure {
        let place = Arc::clone(&self.place);
        Arc::new(move || -> Result<Room, BackendError> { place.room() })
    }

    /// `work` does not panic.
    pub(super) async fn at<T: Send + 'static>(&self, work: impl FnOnce(&Place) -> T + Send + 'static) -> T {
        let place = Arc::clone(&self.place);
        tokio::task::spawn_blocking(move || work(&place)).await.expect("work on a disk does not panic")
    }

    /// One at a time does something to a container's, and knows who has it.
    async fn lock(&self, id: &ContainerId) -> OwnedMutexGuard<BTreeSet<Holder>> {
        let lock = {
            let mut all = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody has, and nobody is about to.
            all.retain(|_, lock| {
                Arc::strong_count(lock) > 1 || lock.try_lock().is_ok_and(|holders| !holders.is_empty())
            });
            Arc::clone(all.entry(id.clone()).or_default())
        };
        lock.lock_owned().await
    }
}
