//! A look at a volume's file system, and its repair where a person has asked for it. Refuses one that is in use.

use super::backend::Backend;
use super::error::VolumeError;
use super::filesystem::{self, Effort, Superblock, Verdict};
use super::hold::exclusive;
use super::record::{VolumeRecord, VolumeState};
use super::room::{Volumes, blocking};
use crate::ids::Project;

/// What there was to see, and the volume after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub record: VolumeRecord,
    pub clean: bool,
    pub repaired: bool,
    pub report: String,
}

impl Volumes {
    /// `users` are the containers that have it: one that runs keeps it from being looked at.
    pub async fn check(
        &self,
        project: &Project,
        wanted: &str,
        repair: bool,
        users: impl Fn(&VolumeRecord) -> Vec<String>,
    ) -> Result<Checked, VolumeError> {
        let operation = if repair { "repair" } else { "check" };
        let (found, _) = self.find(project, wanted).await?;
        let running = users(&found);
        if let Some(example) = running.first() {
            let (name, example) = (found.name.clone(), example.clone());
            return Err(VolumeError::InUse { operation, name, users: running.len(), example });
        }
        self.becomes_free(operation, &found).await?;
        let _turn = self.turn().await;
        let _lock = self.lock(&found.id).await;
        let (record, _) = self.find(project, found.id.as_str()).await?;
        let name = record.name.clone();
        if self.is_held(&record.id) {
            return Err(VolumeError::StillHeld { operation, name });
        }
        if !matches!(record.state, VolumeState::Ready | VolumeState::NeedsRepair { .. }) {
            return Err(VolumeError::WrongState { operation, name, state: record.state.name() });
        }
        let (backend, looked_at) = (self.backend_of(&record)?, record.clone());
        let verdict = blocking(move || look(&*backend, &looked_at, repair)).await;
        self.unmount(&record.id).await;
        let verdict = verdict?;
        let record = self.note(record, &verdict).await?;
        let Verdict { clean, repaired, report } = verdict;
        Ok(Checked { record, clean, repaired, report })
    }

    async fn note(&self, record: VolumeRecord, verdict: &Verdict) -> Result<VolumeRecord, VolumeError> {
        let state = match (&record.state, verdict.clean) {
            (VolumeState::Ready, false) => {
                VolumeState::NeedsRepair { why: "e2fsck has found errors".to_owned(), to_bytes: None }
            }
            // It grows as soon as anybody looks after those that are to.
            (VolumeState::NeedsRepair { to_bytes: Some(to_bytes), .. }, true) => {
                VolumeState::Resizing { to_bytes: *to_bytes }
            }
            (VolumeState::NeedsRepair { to_bytes: None, .. }, true) => VolumeState::Ready,
            _ => return Ok(record),
        };
        let record = VolumeRecord { state, ..record };
        self.put(&record).await?;
        Ok(record)
    }
}

fn look(backend: &dyn Backend, record: &VolumeRecord, repair: bool) -> Result<Verdict, VolumeError> {
    let (operation, name) = (if repair { "repair" } else { "check" }, &record.name);
    let attach = |source| VolumeError::Backend { operation, name: name.clone(), source };
    let tool = |source| VolumeError::Tool { operation, name: name.clone(), source };
    let device = backend.attach(&record.id).map_err(attach)?;
    let open = |source| VolumeError::Mount { operation, name: name.clone(), source };
    if !exclusive(device.path()).map_err(open)? {
        return Err(VolumeError::StillHeld { operation, name: name.clone() });
    }
    let read = || std::fs::File::open(device.path()).and_then(|file| Superblock::read(&file));
    // Another's is not made this one's by being consistent, and is not ours to repair.
    let is_its = |found: &Superblock| match found.uuid == record.uuid {
        true => Ok(()),
        false => {
            let why = format!("its UUID is {} instead of {}", found.uuid, record.uuid);
            Err(VolumeError::NotIts { name: name.clone(), why })
        }
    };
    if let Ok(Some(found)) = read() {
        is_its(&found)?;
        // As the next mount would do it. A look at the rest without that finds fault with what is only not done yet.
        if found.has_journal_left && !repair {
            let replayed = filesystem::check(device.path(), Effort::Preen).map_err(tool)?;
            if !replayed.clean {
                return Ok(replayed);
            }
        }
    }
    let verdict = filesystem::check(device.path(), if repair { Effort::Force } else { Effort::Look }).map_err(tool)?;
    match read() {
        Ok(Some(found)) if found.uuid != record.uuid => is_its(&found).map(|()| verdict),
        // Clean is what can be mounted without a repair.
        Ok(Some(found)) => Ok(Verdict { clean: verdict.clean && !found.has_errors, ..verdict }),
        _ => Ok(Verdict { clean: false, ..verdict }),
    }
}
