//! Deleting volumes: free first, then unknown to everybody, then gone. Refuses one that anybody has, and with it all that were named beside it.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::error::VolumeError;
use super::hold::FREE_WITHIN;
use super::record::{VolumeRecord, VolumeState};
use super::room::{CONFLICT_RETRIES_MAX, DELETE_MAX, Volumes, blocking};
use crate::fault;
use crate::ids::{Project, VolumeId};
use crate::store::{Compare, Op};

/// Volumes that nobody has, and on which nobody works as long as this is kept.
#[derive(Default)]
pub struct Freed {
    ids: Vec<VolumeId>,
    _locks: Vec<OwnedMutexGuard<()>>,
}

impl Volumes {
    /// Those that no container has any more, as far as they become free in a while, and from then on nobody works on them: for who is about to
    /// delete them, and must not wait while it keeps everybody from getting one.
    pub async fn become_free(
        &self,
        project: &Project,
        wanted: &[String],
        users: impl Fn(&VolumeId) -> Vec<String>,
    ) -> Result<Freed, VolumeError> {
        const OPERATION: &str = "delete";
        let mut free: Vec<VolumeRecord> = Vec::new();
        for name in wanted {
            // What is used is told by the deletion itself.
            if let Ok((record, _)) = self.find(project, name).await
                && users(&record.id).is_empty()
            {
                self.becomes_free(OPERATION, &record).await?;
                free.push(record);
            }
        }
        let Some(first) = free.first() else { return Ok(Freed::default()) };
        let locked = tokio::time::timeout(FREE_WITHIN, self.lock_all(free.iter().map(|record| &record.id))).await;
        let locks = locked.map_err(|_| VolumeError::StillHeld { operation: OPERATION, name: first.name.clone() })?;
        // Somebody may have had one for a moment since.
        for record in &free {
            if self.is_held(&record.id) || self.is_attached(OPERATION, record).await? {
                return Err(VolumeError::StillHeld { operation: OPERATION, name: record.name.clone() });
            }
        }
        Ok(Freed { ids: free.into_iter().map(|record| record.id).collect(), _locks: locks })
    }

    /// All or nothing, of those that became free. `users` tells which containers have a volume, and nobody gets one meanwhile: the caller sees
    /// to it. Unknown ids are no error. Nobody finds them when this returns; `erase_all` is to follow.
    pub async fn delete(
        &self,
        project: &Project,
        wanted: &[String],
        users: impl Fn(&VolumeId) -> Vec<String>,
        freed: &Freed,
    ) -> Result<Vec<VolumeRecord>, VolumeError> {
        if wanted.len() > DELETE_MAX {
            return Err(VolumeError::TooManyAtOnce { count: wanted.len() });
        }
        for _ in 0..CONFLICT_RETRIES_MAX {
            let mut doomed: Vec<(VolumeRecord, u64)> = Vec::new();
            for name in wanted {
                match self.find(project, name).await {
                    Ok(found) if doomed.iter().any(|(v, _)| v.id == found.0.id) => {}
                    Ok(found) => doomed.push(found),
                    Err(VolumeError::NotFound { .. }) => {}
                    Err(other) => return Err(other),
                }
            }
            for (volume, _) in &doomed {
                let users = users(&volume.id);
                if let Some(example) = users.first() {
                    let (name, example) = (volume.name.clone(), example.clone());
                    return Err(VolumeError::InUse { operation: "delete", name, users: users.len(), example });
                }
            }
            // One that has come since, or that somebody used a moment ago, is not.
            let is_kept = |volume: &VolumeRecord| self.is_held(&volume.id) || !freed.ids.contains(&volume.id);
            if let Some((held, _)) = doomed.iter().find(|(volume, _)| is_kept(volume)) {
                return Err(VolumeError::StillHeld { operation: "delete", name: held.name.clone() });
            }
            let compares = doomed.iter().map(|(v, revision)| Compare::Modified(v.key(), *revision)).collect();
            let gone = |(v, _): &(VolumeRecord, u64)| {
                let doomed = VolumeRecord { state: VolumeState::Deleting, ..v.clone() };
                [Op::Put { key: v.key(), value: doomed.encode(), lease: None }, Op::Delete { key: v.name_key() }]
            };
            if self.txn(&wanted.join(" "), compares, doomed.iter().flat_map(gone).collect()).await? {
                fault::point("volume.delete.recorded");
                return Ok(doomed.into_iter().map(|(volume, _)| volume).collect());
            }
        }
        Err(VolumeError::Busy { name: wanted.join(" ") })
    }

    /// What is left of those that were deleted; what cannot be removed now goes when it can be.
    pub async fn erase_all(&self, doomed: &[VolumeRecord], _freed: Freed) {
        for volume in doomed {
            if let Err(error) = self.erase(volume).await {
                tracing::error!(volume = %volume.id, error = crate::error_chain(&error), "cannot remove it yet");
            }
        }
    }

    /// What there is of it, and then its record.
    pub(super) async fn erase(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let (backend, mounts, id) = (self.backend_of(record)?, Arc::clone(&self.mounts), record.id.clone());
        let name = record.name.clone();
        let removed = blocking(move || {
            let failed = |source| VolumeError::Mount { operation: "unmount", name: name.clone(), source };
            mounts.unmount(id.as_str()).map_err(failed)?;
            let failed = |source| VolumeError::Backend { operation: "remove", name: name.clone(), source };
            backend.remove(&id).map_err(failed)
        });
        removed.await?;
        fault::point("volume.delete.removed");
        let mut ops = vec![Op::Delete { key: record.key() }];
        // Of one that is being deleted, the name may be another's already.
        if record.state == VolumeState::Creating {
            ops.push(Op::Delete { key: record.name_key() });
        }
        self.txn(record.name.as_str(), vec![Compare::Present(record.key())], ops).await.map(drop)
    }
}
