//! Where a container's writable layer is: a directory, or, of one that was run with a limit, a disk of its own. Refuses to look at what is in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claims::Claim;
use super::error::ContainerError;
use super::pace::Pace;
use super::pool::WAIT_FOR_STARTS;
use super::record::ContainerRecord;
use super::remove_tree::remove_tree;
use super::room::Containers;
use super::start::private_dir;
use crate::disk::{Claimed, Disk, Disks, Holder, Layer};
use crate::error_chain;
use crate::ids::ContainerId;

/// Should nobody ask for any.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whether a start is under way.
const START_LOOK: Duration = Duration::from_millis(2);

/// For a copy of the files of one that has ended, which nobody starts or removes meanwhile. Dropped, its disk is let go, and then its claim.
pub(super) struct HeldLayer {
    disk: Option<(Arc<Disks>, ContainerId, Disk)>,
    claim: Option<Claim>,
}

impl std::fmt::Debug for HeldLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HeldLayer").field(&self.disk.as_ref().map(|(_, id, _)| id)).finish()
    }
}

impl Drop for HeldLayer {
    fn drop(&mut self) {
        if let Some((disks, id, disk)) = self.disk.take() {
            let claim = self.claim.take();
            tokio::spawn(async move {
                disks.let_go(&id, &disk, Holder::Copy).await;
                drop(claim);
            });
        }
    }
}

impl Containers {
    /// What it claimed becomes its own: one that is ready, or one that is made now.
    pub(super) async fn settle_disk(
        &self,
        record: &ContainerRecord,
        claimed: Option<&Claimed>,
        pace: &mut Pace,
    ) -> Result<(), ContainerError> {
        let Some(claimed) = claimed else { return Ok(()) };
        self.rooms.disks.settle(&record.id, claimed).await?;
        pace.step(if claimed.is_ready() { "ready-disk" } else { "new-disk" });
        Ok(())
    }

    /// Of one that runs; nobody waits for it.
    pub(super) fn name_disk(&self, record: &ContainerRecord) {
        if let Some(disk) = record.disk {
            let (disks, id) = (Arc::clone(&self.rooms.disks), record.id.clone());
            tokio::spawn(async move { disks.name(&id, &disk).await });
        }
    }

    /// Nothing has become of it. Where nobody keeps those that are ready any more, it goes.
    pub(super) async fn give_back_disk(&self, claimed: Claimed) {
        self.rooms.disks.give_back(claimed);
        if *self.closing.borrow() {
            self.rooms.disks.drop_all_ready().await;
        }
    }

    pub(super) async fn layer(&self, record: &ContainerRecord, holder: Holder) -> Result<Layer, ContainerError> {
        if let Some(disk) = &record.disk {
            return Ok(self.rooms.disks.hold(&record.id, disk, holder).await?);
        }
        let state = self.state_dir(record);
        let layer = Layer { upper: state.join("upper"), work: state.join("work") };
        let made = private_dir(&layer.upper).and_then(|()| private_dir(&layer.work));
        made.map_err(|source| failed(record, "make the writable layer", source))?;
        Ok(layer)
    }

    /// Of one that has run before. A volatile overlay is marked as not to be mounted again, since a power loss may have torn it. The mark is in
    /// the directory that is overlayfs' own, and says nothing about an end in order: what was written is in the page cache.
    pub(super) async fn layer_anew(&self, record: &ContainerRecord, holder: Holder) -> Result<Layer, ContainerError> {
        let layer = self.layer(record, holder).await?;
        let work = layer.work.clone();
        let emptied = tokio::task::spawn_blocking(move || remove_tree(&work).and_then(|()| private_dir(&work))).await;
        if let Err(source) = emptied.expect("removing files does not panic") {
            if let Some(disk) = &record.disk {
                self.rooms.disks.let_go(&record.id, disk, holder).await;
            }
            return Err(failed(record, "prepare the writable layer", source));
        }
        Ok(layer)
    }

    /// Before it is mounted for that: whoever goes away meanwhile lets it go.
    pub(super) fn hold_for_copy(&self, record: &ContainerRecord, claim: Claim) -> HeldLayer {
        let disk = record.disk.map(|disk| (Arc::clone(&self.rooms.disks), record.id.clone(), disk));
        HeldLayer { disk, claim: Some(claim) }
    }

    /// Of one that goes on. Its overlay has what it needs, whatever becomes of the mount on the host.
    pub(super) async fn adopt_disk(&self, record: &ContainerRecord) {
        if let Some(disk) = &record.disk
            && let Err(error) = self.rooms.disks.hold(&record.id, disk, Holder::Container).await
        {
            tracing::warn!(container = %record.id, error = error_chain(&error), "its disk is not mounted on the host");
        }
    }

    /// When nothing of it runs any more; what is in it stays.
    pub(super) async fn let_disk_go(&self, record: &ContainerRecord) {
        if let Some(disk) = &record.disk {
            self.rooms.disks.let_go(&record.id, disk, Holder::Container).await;
        }
    }

    pub(super) async fn remove_disk(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        match &record.disk {
            Some(disk) => Ok(self.rooms.disks.remove(&record.id, disk).await?),
            None => Ok(()),
        }
    }

    /// Has as many ready as are wanted, until the daemon stops; then none is left.
    pub async fn keep_disks(self: Arc<Self>) {
        let disks = &self.rooms.disks;
        if !disks.makes_ahead() {
            return;
        }
        let _keeping = disks.begin_to_keep();
        let mut closing = self.closing.subscribe();
        while !*closing.borrow() {
            disks.drop_surplus().await;
            while disks.lacks_any() && !*closing.borrow() {
                self.wait_while_starting().await;
                disks.make_ahead().await;
            }
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => break,
                () = disks.asked() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        disks.drop_all_ready().await;
    }

    /// What is started has the machine to itself, but for a stream of starts that does not end. It is looked at, since a start that has ended
    /// tells the one who parks.
    async fn wait_while_starting(&self) {
        let began = Instant::now();
        while self.pool.is_starting() && began.elapsed() < WAIT_FOR_STARTS {
            tokio::time::sleep(START_LOOK).await;
        }
    }
}

fn failed(record: &ContainerRecord, operation: &'static str, source: std::io::Error) -> ContainerError {
    ContainerError::File { operation, name: record.name.to_string(), source }
}
