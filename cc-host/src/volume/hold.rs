//! Who has a volume: it is mounted for the first container, and unmounted after the last. Refuses to mount what is not its own file system,
//! or what a look at it could not put right.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, BackendError};
use super::error::VolumeError;
use super::filesystem::{self, Effort, Superblock};
use super::mount::Mounts;
use super::record::{VolumeRecord, VolumeState};
use super::room::{Volumes, blocking};
use crate::error_chain;
use crate::fault;
use crate::ids::{ContainerId, Project, VolumeId};

/// For a container that has ended to be gone.
pub(super) const FREE_WITHIN: Duration = Duration::from_secs(10);
const FREE_LOOK: Duration = Duration::from_millis(20);

/// A volume that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What a container is shown of it.
    pub source: PathBuf,
    /// As its files show in `stat`.
    pub device: u64,
}

impl Volumes {
    /// For that container, until it lets go. Again is no error.
    pub async fn hold(&self, project: &Project, id: &VolumeId, by: &ContainerId) -> Result<Held, VolumeError> {
        let _lock = self.lock(id).await;
        let (record, _) = self.find(project, id.as_str()).await?;
        let mounted = self.mount(&record).await;
        if mounted.is_err() && !self.is_held(id) {
            // What was opened for it.
            self.unmount(id).await;
        }
        let device = mounted?;
        self.holders.send_modify(|holders| {
            holders.entry(id.clone()).or_default().insert(by.clone());
        });
        Ok(Held { source: self.mounts.data(id.as_str()), device })
    }

    /// Of all that this container has.
    pub async fn let_go_of_all(&self, by: &ContainerId) {
        let held: Vec<VolumeId> = {
            let holders = self.holders.borrow();
            holders.iter().filter(|(_, all)| all.contains(by)).map(|(id, _)| id.clone()).collect()
        };
        for id in held {
            self.let_go(&id, by).await;
        }
    }

    pub async fn let_go(&self, id: &VolumeId, by: &ContainerId) {
        let _lock = self.lock(id).await;
        // Said only when it is unmounted: whoever waits for it finds it free.
        let is_last = self.holders.borrow().get(id).is_some_and(|all| all.len() == 1 && all.contains(by));
        if is_last {
            self.unmount(id).await;
        }
        self.holders.send_modify(|holders| {
            if let Some(all) = holders.get_mut(id) {
                all.remove(by);
            }
            holders.retain(|_, all| !all.is_empty());
        });
    }

    /// As far as it goes: a program of the host's that is there keeps it, and the next who comes or goes tries again.
    pub(super) async fn unmount(&self, id: &VolumeId) {
        let (mounts, unmounted) = (Arc::clone(&self.mounts), id.clone());
        if let Err(error) = blocking(move || mounts.unmount(unmounted.as_str())).await {
            tracing::warn!(volume = %id, %error, "it stays mounted");
        }
        let Some(backend) = self.persistent.clone() else { return };
        let began = std::time::Instant::now();
        loop {
            let (backend, mounts, freed) = (Arc::clone(&backend), Arc::clone(&self.mounts), id.clone());
            let let_go = blocking(move || {
                // A namespace that goes keeps what was mounted in it for a moment longer.
                let _ = mounts.unmount(freed.as_str());
                backend.let_go(&freed)
            });
            match let_go.await {
                Ok(()) => return,
                Err(BackendError::Busy { .. }) if began.elapsed() < FREE_WITHIN => tokio::time::sleep(FREE_LOOK).await,
                Err(error) => return tracing::warn!(volume = %id, error = error_chain(&error), "it stays open"),
            }
        }
    }

    pub(super) fn is_held(&self, id: &VolumeId) -> bool {
        self.holders.borrow().contains_key(id)
    }

    /// Until nobody has it, for a while: a container that has ended takes a moment to be gone.
    pub(super) async fn becomes_free(&self, operation: &'static str, record: &VolumeRecord) -> Result<(), VolumeError> {
        let mut holders = self.holders.subscribe();
        let is_free = holders.wait_for(|holders| !holders.contains_key(&record.id));
        // The sender lives as long as this room.
        if tokio::time::timeout(FREE_WITHIN, is_free).await.is_err() {
            return Err(VolumeError::StillHeld { operation, name: record.name.clone() });
        }
        self.is_free(operation, record, FREE_WITHIN).await
    }

    /// A namespace that goes keeps what was mounted in it for a moment longer.
    pub(super) async fn is_free(
        &self,
        operation: &'static str,
        record: &VolumeRecord,
        within: Duration,
    ) -> Result<(), VolumeError> {
        let began = std::time::Instant::now();
        loop {
            let attached = {
                // Not under who is about to have it.
                let _lock = self.lock(&record.id).await;
                if self.is_held(&record.id) {
                    return Err(VolumeError::StillHeld { operation, name: record.name.clone() });
                }
                self.is_attached(operation, record).await
            };
            match attached? {
                false => return Ok(()),
                true if began.elapsed() > within => {
                    return Err(VolumeError::StillHeld { operation, name: record.name.clone() });
                }
                true => tokio::time::sleep(FREE_LOOK).await,
            }
        }
    }

    /// One that stayed mounted, with nobody who has it, is unmounted. Under its lock.
    pub(super) async fn is_attached(
        &self,
        operation: &'static str,
        record: &VolumeRecord,
    ) -> Result<bool, VolumeError> {
        let (backend, mounts) = (self.backend_of(record)?, Arc::clone(&self.mounts));
        let (id, name) = (record.id.clone(), record.name.clone());
        blocking(move || {
            // What keeps it keeps its device, too.
            let _ = mounts.unmount(id.as_str());
            backend.is_attached(&id).map_err(|source| VolumeError::Backend { operation, name, source })
        })
        .await
    }

    /// The device that it is mounted from, mounted now if it was not. Under its lock.
    pub(super) async fn mount(&self, record: &VolumeRecord) -> Result<u64, VolumeError> {
        match &record.state {
            VolumeState::Ready | VolumeState::Resizing { .. } => {}
            VolumeState::NeedsRepair { why, .. } => {
                return Err(VolumeError::NeedsRepair { name: record.name.clone(), why: why.clone() });
            }
            state @ (VolumeState::Creating | VolumeState::Deleting) => {
                let name = record.name.clone();
                return Err(VolumeError::WrongState { operation: "use", name, state: state.name() });
            }
        }
        let (backend, mounts, wanted) = (self.backend_of(record), Arc::clone(&self.mounts), record.clone());
        let mounted = blocking(move || {
            let name = || wanted.name.clone();
            let failed = |source| VolumeError::Mount { operation: "mount", name: name(), source };
            match mounts.mounted(wanted.id.as_str()).map_err(failed)? {
                // Wherever its bytes are: whoever has it goes on, also when the daemon does not know that place any more.
                Some(device) => Ok(device),
                None => mount(&*backend?, &mounts, &wanted),
            }
        });
        let mounted = mounted.await;
        self.noted(record, mounted).await
    }

    /// With what has shown that it needs repair written down.
    pub(super) async fn noted<T>(&self, record: &VolumeRecord, done: Result<T, VolumeError>) -> Result<T, VolumeError> {
        if let Err(VolumeError::NeedsRepair { why, .. }) = &done {
            self.needs_repair(record, why).await;
        }
        done
    }

    /// Nobody mounts it before somebody has looked at it.
    async fn needs_repair(&self, record: &VolumeRecord, why: &str) {
        let state = VolumeState::NeedsRepair { why: why.to_owned(), to_bytes: record.grows_to() };
        if let Err(error) = self.put(&VolumeRecord { state, ..record.clone() }).await {
            tracing::error!(volume = %record.id, error = error_chain(&error), "cannot write that it needs repair");
        }
        let text = format!("volume {} needs repair: {why}", record.name);
        self.events.add_for(Some(&record.project), "volume.needs_repair", record.id.as_str(), &text).await;
    }
}

fn mount(backend: &dyn Backend, mounts: &Mounts, record: &VolumeRecord) -> Result<u64, VolumeError> {
    let (id, name) = (record.id.as_str(), &record.name);
    let failed = |source| VolumeError::Mount { operation: "mount", name: name.clone(), source };
    let attach = |source| VolumeError::Backend { operation: "attach", name: name.clone(), source };
    backend.prepare(&record.id).map_err(attach)?;
    is_its_own(backend, record)?;
    if let Err(error) = backend.keep(&record.id) {
        // It is as it was, and may yet get all of it.
        tracing::error!(volume = id, error = error_chain(&error), "some of what it was promised is not its own");
    }
    let device = backend.attach(&record.id).map_err(attach)?;
    fault::point("volume.attach.device");
    // One that is mounted already, by whoever has kept it, is not looked at: that is for what nobody writes to.
    if exclusive(device.path()).map_err(failed)? {
        let look = |source| VolumeError::Tool { operation: "check", name: name.clone(), source };
        let verdict = filesystem::check(device.path(), Effort::Preen).map_err(look)?;
        if !verdict.clean {
            let why = format!("e2fsck -p could not put it right: {}", verdict.report);
            return Err(VolumeError::NeedsRepair { name: name.clone(), why });
        }
        fault::point("volume.attach.checked");
    }
    mounts.mount(device.path(), id).map_err(failed)?;
    fault::point("volume.attach.mounted");
    device.number().map_err(failed)
}

/// What was made for this record, of the size that it is to have.
pub(super) fn is_its_own(backend: &dyn Backend, record: &VolumeRecord) -> Result<(), VolumeError> {
    let not_its = |why| VolumeError::NotIts { name: record.name.clone(), why };
    let path = backend.image(&record.id);
    let size = backend.size(&record.id).map_err(|error| not_its(error_chain(&error)))?;
    if size < record.size_bytes {
        return Err(not_its(format!("{} has {size} bytes instead of {}", path.display(), record.size_bytes)));
    }
    let read = File::open(&path).and_then(|file| Superblock::read(&file));
    match read.map_err(|error| not_its(format!("{}: {error}", path.display())))? {
        Some(found) if found.uuid == record.uuid => Ok(()),
        Some(found) => {
            Err(not_its(format!("{} has the UUID {} instead of {}", path.display(), found.uuid, record.uuid)))
        }
        None => {
            let why = format!("the superblock of {} cannot be read", path.display());
            Err(VolumeError::NeedsRepair { name: record.name.clone(), why })
        }
    }
}

/// Whether nobody else has the device, a mount included.
pub fn exclusive(device: &std::path::Path) -> io::Result<bool> {
    match File::options().read(true).custom_flags(libc::O_EXCL).open(device) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
        Err(error) => Err(error),
    }
}
