//! What the pool has promised, and to whom: volumes by their records, containers' disks by what is noted here. One lock is held from the look at
//! what is left to whatever takes it. Refuses to promise more than there is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use async_trait::async_trait;

use super::backend::{BackendError, Room};
use super::error::VolumeError;
use super::filesystem::Uuid;
use super::record::{VolumeRecord, VolumeState};
use super::room::{Volumes, blocking};
use crate::ids::{Name, VolumeId};

/// What is made ahead of being asked for takes no more than this part of what is left: a quarter.
const AHEAD_PARTS: u64 = 4;

/// Of the file system that something is to be on.
pub type Measure = Arc<dyn Fn() -> Result<Room, BackendError> + Send + Sync>;

/// Where something is to be: where volumes are not files, what one takes is not the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Volume,
    Disk,
}

#[derive(Debug, thiserror::Error)]
pub enum NoSpace {
    #[error("the pool has {free_bytes} bytes left")]
    Full { free_bytes: u64 },
    #[error("cannot measure the pool")]
    Measure(#[source] BackendError),
    #[error("cannot read which volumes there are")]
    Records(#[source] Box<VolumeError>),
}

/// Somebody who has what nobody asked for yet.
#[async_trait]
pub trait Lender: Send + Sync {
    /// Gives all of it back; whether there was any.
    async fn give_back(&self) -> bool;
}

pub(super) struct Space {
    /// Of everything together; 0: as much as there is.
    pool_bytes: u64,
    /// Held from the look at what is left to the record that takes it.
    pub(super) quota: tokio::sync::Mutex<()>,
    disks: Mutex<HashMap<Uuid, Noted>>,
    lender: OnceLock<Weak<dyn Lender>>,
}

#[derive(Debug, Clone, Copy)]
struct Noted {
    bytes: u64,
    /// The file system that holds the pool counts it as used.
    is_allocated: bool,
}

impl Space {
    pub(super) fn new(pool_bytes: u64) -> Self {
        Space { pool_bytes, quota: tokio::sync::Mutex::default(), disks: Mutex::default(), lender: OnceLock::new() }
    }

    fn disks(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Noted>> {
        // Every change is one step.
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volumes {
    /// Who is asked to give back before anybody is refused.
    pub fn lend_to(&self, lender: Weak<dyn Lender>) {
        // There is one, and it is there from the beginning.
        let _ = self.space.lender.set(lender);
    }

    /// Room for a disk, until it is let go.
    pub async fn keep_for_disk(&self, disk: Uuid, bytes: u64, measure: Measure) -> Result<(), NoSpace> {
        let _quota = self.space.quota.lock().await;
        let all = self.all().await.map_err(|error| NoSpace::Records(Box::new(error)))?;
        self.find_room(&all, bytes, &measure, For::Disk).await?;
        self.space.disks().insert(disk, Noted { bytes, is_allocated: false });
        Ok(())
    }

    /// The same for one that nobody has asked for: only where there is much more left than it takes.
    pub async fn keep_ahead(&self, disk: Uuid, bytes: u64, measure: Measure) -> Result<(), NoSpace> {
        let _quota = self.space.quota.lock().await;
        let all = self.all().await.map_err(|error| NoSpace::Records(Box::new(error)))?;
        let free_bytes = self.free_bytes(&all, &measure, For::Disk).await.map_err(NoSpace::Measure)?;
        if bytes > free_bytes / AHEAD_PARTS {
            return Err(NoSpace::Full { free_bytes });
        }
        self.space.disks().insert(disk, Noted { bytes, is_allocated: false });
        Ok(())
    }

    /// It is there, and what is left of the file system says so.
    pub fn note_disk(&self, disk: Uuid, bytes: u64) {
        self.space.disks().insert(disk, Noted { bytes, is_allocated: true });
    }

    pub fn let_disk_go(&self, disk: Uuid) {
        self.space.disks().remove(&disk);
    }

    /// Whether so much more can be promised to a volume.
    pub(super) async fn has_room(&self, all: &[VolumeRecord], name: &Name, bytes: u64) -> Result<(), VolumeError> {
        let backend = Arc::clone(&self.backend);
        let measure: Measure = Arc::new(move || backend.room());
        self.find_room(all, bytes, &measure, For::Volume).await.map_err(|none| match none {
            NoSpace::Full { free_bytes } => VolumeError::PoolFull { name: name.clone(), bytes, free_bytes },
            NoSpace::Measure(source) => VolumeError::Backend { operation: "make room for", name: name.clone(), source },
            NoSpace::Records(error) => *error,
        })
    }

    async fn find_room(&self, all: &[VolumeRecord], bytes: u64, measure: &Measure, what: For) -> Result<(), NoSpace> {
        let mut free_bytes = self.free_bytes(all, measure, what).await.map_err(NoSpace::Measure)?;
        if bytes > free_bytes
            && let Some(lender) = self.space.lender.get().and_then(Weak::upgrade)
            && lender.give_back().await
        {
            free_bytes = self.free_bytes(all, measure, what).await.map_err(NoSpace::Measure)?;
        }
        if bytes > free_bytes { Err(NoSpace::Full { free_bytes }) } else { Ok(()) }
    }

    /// By the limit and by what there is, but for what was promised and is not allocated yet.
    async fn free_bytes(&self, all: &[VolumeRecord], measure: &Measure, what: For) -> Result<u64, BackendError> {
        let (backend, measure) = (Arc::clone(&self.backend), Arc::clone(measure));
        let under_way = |v: &VolumeRecord| v.state == VolumeState::Creating || v.grows_to().is_some();
        // What is in another pool takes nothing of this one.
        let is_here = |v: &&VolumeRecord| !v.is_persistent() && self.backend_of(v).is_ok();
        let all: Vec<&VolumeRecord> = all.iter().filter(is_here).collect();
        let begun: Vec<_> = all.iter().filter(|v| under_way(v)).map(|v| (v.id.clone(), v.reserved_bytes())).collect();
        let disks: Vec<Noted> = self.space.disks().values().copied().collect();
        let of_disks: u64 = disks.iter().filter(|disk| !disk.is_allocated).map(|disk| disk.bytes).sum();
        let is_shared = backend.is_of_files();
        let there = blocking(move || {
            // One that cannot be measured has nothing yet.
            let missing = |(id, bytes): &(VolumeId, u64)| bytes.saturating_sub(backend.size(id).unwrap_or(0));
            let of_volumes = || begun.iter().map(missing).sum::<u64>();
            let missing = match what {
                _ if is_shared => of_volumes() + of_disks,
                For::Volume => of_volumes(),
                For::Disk => of_disks,
            };
            measure().map(|room| Room { free_bytes: room.free_bytes.saturating_sub(missing), ..room })
        });
        let there = there.await?;
        let promised: u64 = all.iter().map(|volume| volume.reserved_bytes()).chain(disks.iter().map(|d| d.bytes)).sum();
        Ok(match self.space.pool_bytes {
            0 => there.free_bytes.saturating_sub(there.reserve_bytes),
            limit => limit.saturating_sub(promised).min(there.free_bytes),
        })
    }
}
