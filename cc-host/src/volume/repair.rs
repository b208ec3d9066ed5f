//! Boot: what a former daemon began is finished or undone, by what the store says. Refuses to remove what no record explains: it may be data.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::error::VolumeError;
use super::ioctl;
use super::record::{VolumeRecord, VolumeState};
use super::room::{Volumes, blocking};
use crate::error_chain;
use crate::ids::VolumeId;

/// For what can be finished soon.
const BOOT_WAITS: Duration = Duration::from_secs(5);

impl Volumes {
    /// Before anybody asks for a volume: what was never finished goes, and so does what was being deleted.
    pub async fn begin(&self) -> Result<(), VolumeError> {
        self.thaw_all().await;
        self.say_where_they_are().await?;
        for record in self.all().await? {
            // An object store may be away, and nobody else waits for that.
            if !record.is_persistent() {
                self.erase_unfinished(&record.id, self.lock(&record.id).await).await;
            }
        }
        Ok(())
    }

    /// In the records of former daemons, which did not say it.
    async fn say_where_they_are(&self) -> Result<(), VolumeError> {
        let mut silent = self.all().await?;
        silent.retain(|record| record.place.is_none() && !record.is_persistent());
        if silent.is_empty() {
            return Ok(());
        }
        let (backend, place) = (Arc::clone(&self.backend), self.backend.place());
        let there = blocking(move || backend.list()).await.map_err(|source| VolumeError::Pool { source })?;
        for record in silent.into_iter().filter(|record| there.contains(&record.id)) {
            self.put(&VolumeRecord { place: Some(place.clone()), ..record }).await?;
        }
        Ok(())
    }

    /// Under its lock.
    async fn erase_unfinished(&self, id: &VolumeId, _lock: OwnedMutexGuard<()>) {
        // As it is now: others may have waited for the lock, too.
        let found = self.all().await.unwrap_or_default().into_iter().find(|record| record.id == *id);
        let Some(record) = found else { return };
        if !record.is_unfinished() {
            return;
        }
        if let Err(error) = self.erase(&record).await {
            let (error, state) = (error_chain(&error), record.state.name());
            tracing::error!(volume = %record.id, state, error, "cannot remove what is left of it");
        }
    }

    /// When the containers that go on have what they had: what nobody has is unmounted, and what was growing grows.
    pub async fn finish(self: &Arc<Self>) -> Result<(), VolumeError> {
        let mounts = Arc::clone(&self.mounts);
        let mounted = blocking(move || mounts.all()).await.unwrap_or_default();
        for id in mounted.iter().filter_map(|name| VolumeId::parse(name)) {
            let _lock = self.lock(&id).await;
            if !self.is_held(&id) {
                self.unmount(&id).await;
            }
        }
        let records = self.all().await?;
        tokio::spawn(Arc::clone(self).finish_persistent());
        let volumes = Arc::clone(self);
        let growing = tokio::spawn(async move { volumes.grow_all(true).await });
        // A large one takes its time, and nobody else's.
        let _ = tokio::time::timeout(BOOT_WAITS, growing).await;
        for backend in std::iter::once(&self.backend).chain(&self.persistent) {
            let lists = Arc::clone(backend);
            let there = blocking(move || lists.list()).await.map_err(|source| VolumeError::Pool { source })?;
            for stray in there.iter().filter(|id| !records.iter().any(|record| record.id == **id)) {
                let image = backend.image(stray);
                let text = format!("{} is of no volume that is known here; it was left alone", image.display());
                self.events.add("volume.stray", stray.as_str(), &text).await;
            }
        }
        Ok(())
    }

    /// What is open of those that nobody has, and what was never finished.
    async fn finish_persistent(self: Arc<Self>) {
        let Some(backend) = self.persistent.clone() else { return };
        for id in blocking(move || backend.list()).await.unwrap_or_default() {
            let _lock = self.lock(&id).await;
            if !self.is_held(&id) {
                self.unmount(&id).await;
            }
        }
        self.erase_all_unfinished(VolumeRecord::is_persistent).await;
    }

    /// What could not go before. Whoever works on one now finishes it, too.
    pub(super) async fn erase_all_unfinished(&self, of: impl Fn(&VolumeRecord) -> bool) {
        match self.all().await {
            Ok(all) => {
                for record in all.iter().filter(|record| record.is_unfinished() && of(record)) {
                    if let Some(lock) = self.try_lock(&record.id) {
                        self.erase_unfinished(&record.id, lock).await;
                    }
                }
            }
            Err(error) => tracing::error!(error = error_chain(&error), "cannot read what was never finished"),
        }
    }

    /// Each when nobody works on it any more, or those on which nobody does now.
    pub(super) async fn grow_all(&self, waits: bool) {
        let is_growing = |record: &VolumeRecord| matches!(record.state, VolumeState::Resizing { .. });
        let ids: Vec<VolumeId> = match self.all().await {
            Ok(all) => all.into_iter().filter(is_growing).map(|record| record.id).collect(),
            Err(error) => return tracing::error!(error = error_chain(&error), "cannot read which are to grow"),
        };
        for id in ids {
            let lock = if waits { Some(self.lock(&id).await) } else { self.try_lock(&id) };
            let Some(_lock) = lock else { continue };
            let found = self.all().await.unwrap_or_default().into_iter().find(|record| record.id == id);
            let Some(record) = found else { continue };
            let VolumeState::Resizing { to_bytes } = record.state else { continue };
            match self.grow(&record, to_bytes, false).await {
                Ok(_) => {}
                // Said once: that they go on using it is nobody's fault.
                Err(error @ VolumeError::NotWhileUsed { .. }) if waits => {
                    tracing::info!(volume = %id, error = error_chain(&error), "it grows when nobody uses it");
                }
                Err(VolumeError::NotWhileUsed { .. }) => {}
                Err(error) => tracing::error!(volume = %id, error = error_chain(&error), "cannot make it larger yet"),
            }
        }
    }

    /// A copy that was being taken is undone, and with it what kept others from writing.
    async fn thaw_all(&self) {
        let mounts = Arc::clone(&self.mounts);
        blocking(move || {
            for name in mounts.all().unwrap_or_default() {
                if mounts.open(&name).is_ok_and(|root| ioctl::thaw(root.as_fd())) {
                    tracing::info!(volume = name, "it can be written again");
                }
            }
        })
        .await;
    }
}
