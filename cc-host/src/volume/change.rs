//! What becomes of a volume that is there: it grows, and copies of it are taken. Refuses to make one smaller, and to keep its containers from
//! writing for long.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{Backend, BackendError};
use super::error::VolumeError;
use super::filesystem::{self, BLOCK_BYTES, Effort, Superblock};
use super::hold::{exclusive, is_its_own};
use super::ioctl::{self, Frozen};
use super::mount::Mounts;
use super::record::{VolumeRecord, VolumeState};
use super::room::{POOL, Volumes, blocking, round};
use crate::error_chain;
use crate::fault;
use crate::ids::{Project, VolumeId};

/// What its containers may be kept from writing for.
const FROZEN_WITHIN: Duration = Duration::from_secs(30);

impl Volumes {
    /// With its file system, whether it is in use or not. The size that it has is no error, nor one that it was about to get. `users` are the
    /// containers that run with it: of those that have ended, nobody has to know that they take a moment to be gone.
    pub async fn resize(
        &self,
        project: &Project,
        wanted: &str,
        bytes: u64,
        users: impl Fn(&VolumeRecord) -> Vec<String>,
    ) -> Result<VolumeRecord, VolumeError> {
        let (found, _) = self.find(project, wanted).await?;
        match self.resize_now(project, &found.id, bytes).await {
            Err(VolumeError::NotWhileUsed { .. } | VolumeError::StillHeld { .. }) if users(&found).is_empty() => {
                self.becomes_free("resize", &found).await?;
                self.resize_now(project, &found.id, bytes).await
            }
            done => done,
        }
    }

    async fn resize_now(&self, project: &Project, id: &VolumeId, bytes: u64) -> Result<VolumeRecord, VolumeError> {
        let _lock = self.lock(id).await;
        let (record, _) = self.find(project, id.as_str()).await?;
        let name = record.name.clone();
        let to_bytes = round(bytes).ok_or_else(|| VolumeError::BadSize { name: name.to_string(), bytes })?;
        match &record.state {
            VolumeState::Ready | VolumeState::Resizing { .. } => {}
            VolumeState::NeedsRepair { why, .. } => return Err(VolumeError::NeedsRepair { name, why: why.clone() }),
            state => return Err(VolumeError::WrongState { operation: "resize", name, state: state.name() }),
        }
        let reserved = record.reserved_bytes();
        if to_bytes < reserved {
            return Err(VolumeError::Smaller { name, size_bytes: reserved });
        }
        if record.state == VolumeState::Ready && to_bytes == record.size_bytes {
            return Ok(record);
        }
        not_yet("resize", &record)?;
        // Before it is written down that it grows.
        let (backend, looked_at) = (self.backend_of(&record)?, record.clone());
        let is_its = blocking(move || there_and_its_own(&*backend, &looked_at)).await;
        self.noted(&record, is_its).await?;
        let growing = VolumeRecord { state: VolumeState::Resizing { to_bytes }, ..record };
        {
            let _quota = self.space.quota.lock().await;
            self.has_room(&self.all().await?, &name, to_bytes - reserved).await?;
            self.put(&growing).await?;
        }
        fault::point("volume.resize.recorded");
        self.grow(&growing, to_bytes, true).await
    }

    /// What is written down already. Under its lock. Where it cannot be done, it stays to be done, unless somebody waits for the answer.
    pub(super) async fn grow(
        &self,
        record: &VolumeRecord,
        to_bytes: u64,
        is_awaited: bool,
    ) -> Result<VolumeRecord, VolumeError> {
        let backend = self.backend_of(record)?;
        let (grows, growing) = (Arc::clone(&backend), record.clone());
        let allocated = blocking(move || allocate(&*grows, &growing, to_bytes)).await;
        let allocated = self.noted(record, allocated).await;
        if let Err(VolumeError::Backend { source: BackendError::Full { .. } | BackendError::Filling { .. }, .. }) =
            &allocated
            && is_awaited
        {
            self.stay_as_it_was(record).await?;
        }
        allocated?;
        fault::point("volume.resize.allocated");
        self.mount(record).await?;
        let (has, mounts, growing) = (Arc::clone(&backend), Arc::clone(&self.mounts), record.clone());
        let grown = blocking(move || grow_file_system(&*has, &mounts, &growing, to_bytes)).await;
        let is_held = self.is_held(&record.id);
        if !is_held {
            self.unmount(&record.id).await;
        }
        match grown {
            Err(VolumeError::NotWhileUsed { name }) if is_held => {
                if is_awaited {
                    self.stay_as_it_was(record).await?;
                }
                return Err(VolumeError::NotWhileUsed { name });
            }
            Err(VolumeError::NotWhileUsed { .. }) => {
                let (has, growing) = (Arc::clone(&backend), record.clone());
                let grown = blocking(move || grow_unmounted(&*has, &growing)).await;
                self.noted(record, grown).await?;
            }
            grown => grown?,
        }
        let kept = record.id.clone();
        if let Err(error) = blocking(move || backend.keep(&kept)).await {
            let error = error_chain(&error);
            tracing::error!(volume = %record.id, error, "some of what it has grown by is not kept for it");
        }
        fault::point("volume.resize.grown");
        let ready = VolumeRecord { size_bytes: to_bytes, state: VolumeState::Ready, ..record.clone() };
        self.put(&ready).await?;
        Ok(ready)
    }

    /// It could not be done after all. What an earlier try has grown it by stays.
    async fn stay_as_it_was(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let (backend, mounts, kept) = (self.backend_of(record)?, Arc::clone(&self.mounts), record.clone());
        match blocking(move || shrink_back(&*backend, &mounts, &kept)).await? {
            Some(size_bytes) => {
                self.put(&VolumeRecord { size_bytes, state: VolumeState::Ready, ..record.clone() }).await
            }
            None => Ok(()),
        }
    }

    /// A volume of its own, with what is in this one now. Where it is in use, nobody writes to it meanwhile. It has a UUID of its own, so that
    /// neither can be taken for the other.
    pub async fn snapshot(&self, project: &Project, wanted: &str, name: &str) -> Result<VolumeRecord, VolumeError> {
        let (found, _) = self.find(project, wanted).await?;
        // As in `create`. Whoever deletes both, and has the other, does not wait for this one for ever.
        let id = VolumeId::random();
        let _own = self.lock(&id).await;
        not_yet("copy", &found)?;
        let copy = self.promise(project, id, name, found.size_bytes, POOL).await?;
        fault::point("volume.snapshot.recorded");
        let done = match self.copy_into(project, &found.id, &copy).await {
            // Of a container that has ended, something may be there for a moment longer.
            Err(VolumeError::StillHeld { .. }) => match self.becomes_free("copy", &found).await {
                Ok(()) => self.copy_into(project, &found.id, &copy).await,
                not_yet => not_yet,
            },
            done => done,
        };
        self.settle(copy, done).await
    }

    async fn copy_into(&self, project: &Project, from: &VolumeId, copy: &VolumeRecord) -> Result<(), VolumeError> {
        let _turn = self.turn().await;
        let _lock = self.lock(from).await;
        let (source, _) = self.find(project, from.as_str()).await?;
        let name = source.name.clone();
        match &source.state {
            VolumeState::Ready if source.size_bytes == copy.size_bytes => {}
            VolumeState::NeedsRepair { why, .. } => return Err(VolumeError::NeedsRepair { name, why: why.clone() }),
            // It has grown since its size was looked at, too.
            _ => return Err(VolumeError::Busy { name: name.to_string() }),
        }
        let (backend, mounts, copy) = (self.backend_of(&source)?, Arc::clone(&self.mounts), copy.clone());
        blocking(move || copy_volume(&*backend, &mounts, &source, &copy)).await
    }
}

/// What is in an object store stays as it is.
fn not_yet(operation: &'static str, record: &VolumeRecord) -> Result<(), VolumeError> {
    match record.is_persistent() {
        true => Err(VolumeError::NotYet { operation, name: record.name.clone() }),
        false => Ok(()),
    }
}

/// Nothing else is made larger.
fn there_and_its_own(backend: &dyn Backend, record: &VolumeRecord) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Backend { operation: "resize", name: record.name.clone(), source };
    backend.prepare(&record.id).map_err(failed)?;
    is_its_own(backend, record)
}

/// Its space.
fn allocate(backend: &dyn Backend, record: &VolumeRecord, to_bytes: u64) -> Result<(), VolumeError> {
    there_and_its_own(backend, record)?;
    let failed = |source| VolumeError::Backend { operation: "resize", name: record.name.clone(), source };
    backend.grow(&record.id, to_bytes).map_err(failed)
}

fn grow_file_system(
    backend: &dyn Backend,
    mounts: &Mounts,
    record: &VolumeRecord,
    to_bytes: u64,
) -> Result<(), VolumeError> {
    let name = &record.name;
    let attach = |source| VolumeError::Backend { operation: "resize", name: name.clone(), source };
    let failed = |source| VolumeError::Mount { operation: "resize", name: name.clone(), source };
    let device = backend.attach(&record.id).map_err(attach)?;
    device.refresh().map_err(failed)?;
    let found = superblock(device.path()).map_err(failed)?;
    // A backend rounds up, and the file system has all that it was given.
    if found.is_some_and(|found| found.bytes >= to_bytes) {
        return Ok(());
    }
    let root = mounts.open(record.id.as_str()).map_err(failed)?;
    match ioctl::grow_ext4(root.as_fd(), to_bytes / u64::from(BLOCK_BYTES)) {
        // One that has met errors is refused by the same code, whoever asks.
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied && !found.is_some_and(|found| found.has_errors) =>
        {
            return Err(VolumeError::NotWhileUsed { name: name.clone() });
        }
        grown => grown.map_err(failed)?,
    }
    rustix::fs::syncfs(&root).map_err(|error| failed(error.into()))
}

fn superblock(device: &Path) -> io::Result<Option<Superblock>> {
    Superblock::read(&File::open(device)?)
}

/// The size that it has then: what its file system has grown by is its own. None while only its journal knows what that is.
fn shrink_back(backend: &dyn Backend, mounts: &Mounts, record: &VolumeRecord) -> Result<Option<u64>, VolumeError> {
    let (id, name) = (&record.id, &record.name);
    let disk = |source| VolumeError::Backend { operation: "resize", name: name.clone(), source };
    let failed = |source| VolumeError::Mount { operation: "resize", name: name.clone(), source };
    is_its_own(backend, record)?;
    let device = backend.attach(id).map_err(disk)?;
    let is_mounted = mounts.mounted(id.as_str()).map_err(failed)?.is_some();
    let Some(found) = superblock(device.path()).map_err(failed)? else { return Ok(None) };
    if found.has_journal_left && !is_mounted {
        return Ok(None);
    }
    let keeps = found.bytes.max(record.size_bytes);
    backend.shrink_back(id, keeps).map_err(disk)?;
    device.refresh().map_err(failed)?;
    Ok(Some(keeps))
}

/// Nobody has it.
fn grow_unmounted(backend: &dyn Backend, record: &VolumeRecord) -> Result<(), VolumeError> {
    let name = &record.name;
    let tool = |source| VolumeError::Tool { operation: "resize", name: name.clone(), source };
    let attach = |source| VolumeError::Backend { operation: "resize", name: name.clone(), source };
    let device = backend.attach(&record.id).map_err(attach)?;
    let open = |source| VolumeError::Mount { operation: "resize", name: name.clone(), source };
    if !exclusive(device.path()).map_err(open)? {
        return Err(VolumeError::StillHeld { operation: "resize", name: name.clone() });
    }
    let verdict = filesystem::check(device.path(), Effort::PreenAll).map_err(tool)?;
    if !verdict.clean {
        return Err(VolumeError::NeedsRepair { name: name.clone(), why: verdict.report });
    }
    filesystem::grow(device.path()).map_err(tool)
}

fn copy_volume(
    backend: &dyn Backend,
    mounts: &Mounts,
    source: &VolumeRecord,
    copy: &VolumeRecord,
) -> Result<(), VolumeError> {
    let name = &source.name;
    let disk = |error| VolumeError::Backend { operation: "copy", name: name.clone(), source: error };
    let failed = |error| VolumeError::Mount { operation: "copy", name: name.clone(), source: error };
    let tool = |error| VolumeError::Tool { operation: "copy", name: name.clone(), source: error };
    is_its_own(backend, source)?;
    let is_mounted = mounts.mounted(source.id.as_str()).map_err(failed)?.is_some();
    if !is_mounted && backend.is_attached(&source.id).map_err(disk)? {
        return Err(VolumeError::StillHeld { operation: "copy", name: name.clone() });
    }
    backend.create(&copy.id, copy.size_bytes).map_err(disk)?;
    let root = is_mounted.then(|| mounts.open(source.id.as_str()).map_err(failed)).transpose()?;
    if let Some(root) = &root {
        // Before anybody waits for it.
        rustix::fs::syncfs(root).map_err(|error| failed(error.into()))?;
    }
    let began = Instant::now();
    let to_freeze = root.filter(|_| backend.copies_what_is_still());
    let frozen = to_freeze.map(Frozen::freeze).transpose().map_err(failed)?;
    fault::point("volume.snapshot.frozen");
    let is_frozen = frozen.is_some();
    let go_on = || !is_frozen || began.elapsed() < FROZEN_WITHIN;
    let is_whole = backend.copy(&source.id, &copy.id, &go_on).map_err(disk)?;
    drop(frozen);
    if !is_whole {
        return Err(VolumeError::TooSlow { name: name.clone(), within_s: FROZEN_WITHIN.as_secs() });
    }
    let image = backend.image(&copy.id);
    let verdict = filesystem::check(&image, Effort::Preen).map_err(tool)?;
    if !verdict.clean {
        return Err(VolumeError::NeedsRepair { name: name.clone(), why: verdict.report });
    }
    filesystem::rename(&image, copy.uuid).map_err(tool)?;
    backend.sync(&copy.id).map_err(disk)
}
