//! The volumes of a container: those that it claims, those that are mounted for it, and how one comes to or leaves a container that runs. What
//! its record says is what it has; boot makes the rest agree. Refuses to know file systems.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::ContainerError;
use super::record::{ContainerRecord, State};
use super::room::{Containers, Live};
use crate::error_chain;
use crate::fault;
use crate::ids::{Name, Project, VolumeId};
use crate::shim::spec::Bind;
use crate::store::Compare;
use crate::volume::VolumeState;

mod enter;

pub use enter::MoveFailure;

/// Of one container, beside the files that are mounted for it.
pub const VOLUMES_MAX: usize = 64;
/// As long as the kernel takes.
const PATH_BYTES_MAX: usize = 4095;
/// Below these is nothing of the container's own.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What somebody asks for, parsed at the door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// A name or an id.
    pub volume: String,
    pub target: String,
    pub read_only: bool,
}

/// A volume that nobody deletes as long as this is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeClaim {
    pub volume: VolumeId,
    pub name: Name,
    pub target: String,
    pub read_only: bool,
    /// It is being taken away.
    #[serde(default)]
    pub leaving: bool,
}

impl fmt::Display for VolumeMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read_only = if self.read_only { ":ro" } else { "" };
        write!(f, "{}:{}{read_only}", self.volume, self.target)
    }
}

impl VolumeMount {
    pub fn new(volume: &str, path: &str, read_only: bool) -> Result<Self, String> {
        if volume.is_empty() {
            return Err("a volume has a name or an id, as in data:/var/lib/data".to_owned());
        }
        Ok(VolumeMount { volume: volume.to_owned(), target: target(path)?, read_only })
    }
}

/// Without what says nothing.
fn target(path: &str) -> Result<String, String> {
    let bad = |why: &str| Err(format!("{path:?} {why}"));
    if !path.starts_with('/') || path.contains('\0') || path.len() > PATH_BYTES_MAX {
        return bad("is not an absolute path in the container");
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return bad("leads upwards: name the directory itself");
    }
    if parts.is_empty() {
        return bad("is the container's root, which is its image's");
    }
    let target = format!("/{}", parts.join("/"));
    match KERNELS.iter().find(|own| target == **own || target.starts_with(&format!("{own}/"))) {
        Some(own) => bad(&format!("is in {own}, which is the kernel's")),
        None => Ok(target),
    }
}

/// Each is somewhere else, and nothing hides it.
pub fn fit(all: &[VolumeMount], tmpfs: impl Iterator<Item = String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = all.iter().find(|one| !seen.insert(one.target.as_str())) {
        return Err(format!("{:?} is given twice", twice.target));
    }
    for over in tmpfs {
        let over = over.trim_end_matches('/').to_owned();
        let is_hidden = |one: &&VolumeMount| one.target == over || one.target.starts_with(&format!("{over}/"));
        if let Some(hidden) = all.iter().find(is_hidden) {
            return Err(format!("{:?} would be hidden by --tmpfs {over}", hidden.target));
        }
    }
    Ok(())
}

impl Containers {
    /// What is asked for, as it is known now, and what must not have changed when it is written down. Under the lock of allocations.
    pub(super) async fn claim_volumes(
        &self,
        project: &Project,
        wanted: &[VolumeMount],
    ) -> Result<(Vec<VolumeClaim>, Vec<Compare>), ContainerError> {
        let (mut claims, mut known) = (Vec::<VolumeClaim>::new(), Vec::new());
        for VolumeMount { volume, target, read_only } in wanted {
            let (record, revision) = self.rooms.volumes.find(project, volume).await?;
            if record.state == VolumeState::Creating {
                let (operation, name) = ("use", record.name.clone());
                return Err(
                    crate::volume::VolumeError::WrongState { operation, name, state: record.state.name() }.into()
                );
            }
            if claims.iter().any(|claim| claim.volume == record.id) {
                return Err(ContainerError::BadOption {
                    field: "--volume",
                    why: format!("volume {} is given twice: a container has it at one path", record.name),
                });
            }
            known.push(Compare::Modified(record.key(), revision));
            let (target, read_only) = (target.clone(), *read_only);
            claims.push(VolumeClaim { volume: record.id, name: record.name, target, read_only, leaving: false });
        }
        Ok((claims, known))
    }

    /// Mounted on the host, for its shim to show it to the container.
    pub(super) async fn hold_volumes(&self, record: &ContainerRecord) -> Result<Vec<Bind>, ContainerError> {
        let mut binds = Vec::with_capacity(record.volumes.len());
        for claim in &record.volumes {
            let held = self.rooms.volumes.hold(&record.project, &claim.volume, &record.id).await?;
            binds.push(Bind {
                source: held.source,
                target: claim.target.clone(),
                readonly: claim.read_only,
                idmap: true,
            });
        }
        Ok(binds)
    }

    /// Names of the containers that claim a volume, stopped ones too.
    pub fn users_of_volume(&self, volume: &VolumeId) -> Vec<String> {
        self.users_of_volume_that(volume, |_| true)
    }

    pub fn runs_with_volume(&self, volume: &VolumeId) -> Vec<String> {
        self.users_of_volume_that(volume, |record| !matches!(record.state, State::Stopped { .. }))
    }

    fn users_of_volume_that(&self, volume: &VolumeId, which: impl Fn(&ContainerRecord) -> bool) -> Vec<String> {
        let uses = |r: &&ContainerRecord| r.volumes.iter().any(|claim| claim.volume == *volume) && which(r);
        self.with_records(|records| records.values().filter(uses).map(|r| r.name.to_string()).collect())
    }

    /// In force when it returns; of one that has ended, when it is started again.
    pub async fn attach_volume(
        &self,
        record: &ContainerRecord,
        wanted: &VolumeMount,
    ) -> Result<ContainerRecord, ContainerError> {
        // Nobody starts, removes or changes it meanwhile.
        let _claim = self.claims.of(&record.id).await;
        let (record, claim, is_new) = {
            let _allocation = self.allocation().await;
            let mut record = self.find(&record.project, record.id.as_str())?;
            if matches!(record.state, State::Created) {
                return Err(ContainerError::Busy { name: record.name.to_string() });
            }
            let (claims, _) = self.claim_volumes(&record.project, std::slice::from_ref(wanted)).await?;
            let claim = claims.into_iter().next().expect("one was asked for");
            let is_new = !record.volumes.contains(&claim);
            let taken = |other: &&VolumeClaim| other.volume == claim.volume || other.target == claim.target;
            if let Some(other) = record.volumes.iter().find(taken).filter(|_| is_new) {
                let why = format!("the container has volume {} at {}", other.name, other.target);
                return Err(ContainerError::BadOption { field: "--volume", why });
            }
            let given = |one: &VolumeClaim| VolumeMount {
                volume: one.name.to_string(),
                target: one.target.clone(),
                read_only: one.read_only,
            };
            let tmpfs = record.spec.tmpfs.iter().map(|tmpfs| tmpfs.target.clone());
            fit(&[given(&claim)], tmpfs).map_err(|why| ContainerError::BadOption { field: "--volume", why })?;
            if is_new && record.volumes.len() >= VOLUMES_MAX {
                let why = format!("a container has at most {VOLUMES_MAX}");
                return Err(ContainerError::BadOption { field: "--volume", why });
            }
            if is_new {
                record.volumes.push(claim.clone());
                self.update(&record).await?;
            }
            (record, claim, is_new)
        };
        fault::point("volume.attach.recorded");
        let Some(live) = self.live(&record.id) else { return Ok(record) };
        // What its record says may not be so: an earlier daemon could not show it.
        if !is_new && self.sees_volume(&record, &claim).await {
            return Ok(record);
        }
        if let Err(error) = self.show_volume(&record, &live, &claim).await {
            self.rooms.volumes.let_go(&claim.volume, &record.id).await;
            if is_new {
                self.forget_claim(&record, &claim).await?;
            }
            return Err(error);
        }
        fault::point("volume.attach.shown");
        if self.live(&record.id).is_none() {
            // It has ended meanwhile: what it had was let go before this came.
            self.rooms.volumes.let_go(&claim.volume, &record.id).await;
        }
        Ok(record)
    }

    /// Gone from the container when it returns; one that it has not is no error. One in which its programs have files open stays.
    pub async fn detach_volume(
        &self,
        record: &ContainerRecord,
        wanted: &str,
    ) -> Result<ContainerRecord, ContainerError> {
        let _claim = self.claims.of(&record.id).await;
        let (volume, _) = self.rooms.volumes.find(&record.project, wanted).await?;
        let (record, claim) = {
            let _allocation = self.allocation().await;
            let mut record = self.find(&record.project, record.id.as_str())?;
            if matches!(record.state, State::Created) {
                return Err(ContainerError::Busy { name: record.name.to_string() });
            }
            let Some(claim) = record.volumes.iter_mut().find(|claim| claim.volume == volume.id) else {
                return Ok(record);
            };
            claim.leaving = true;
            let claim = claim.clone();
            self.update(&record).await?;
            (record, claim)
        };
        fault::point("volume.detach.recorded");
        if let Some(live) = self.live(&record.id)
            && let Err(error) = self.hide_volume(&record, &live, &claim).await
        {
            self.keep_claim(&record, &claim).await?;
            return Err(error);
        }
        fault::point("volume.detach.hidden");
        self.rooms.volumes.let_go(&claim.volume, &record.id).await;
        self.forget_claim(&record, &claim).await?;
        self.find(&record.project, record.id.as_str())
    }

    async fn forget_claim(&self, record: &ContainerRecord, claim: &VolumeClaim) -> Result<(), ContainerError> {
        let _allocation = self.allocation().await;
        let mut now = self.find(&record.project, record.id.as_str())?;
        now.volumes.retain(|other| other.volume != claim.volume);
        self.update(&now).await
    }

    async fn keep_claim(&self, record: &ContainerRecord, claim: &VolumeClaim) -> Result<(), ContainerError> {
        let _allocation = self.allocation().await;
        let mut now = self.find(&record.project, record.id.as_str())?;
        now.volumes.iter_mut().filter(|other| other.volume == claim.volume).for_each(|other| other.leaving = false);
        self.update(&now).await
    }

    /// Of one that has ended: what was being taken away is.
    pub(super) async fn drop_leaving_claims(&self, record: &ContainerRecord) {
        for claim in record.volumes.iter().filter(|claim| claim.leaving) {
            if let Err(error) = self.forget_claim(record, claim).await {
                tracing::error!(container = %record.id, error = error_chain(&error), "it keeps a volume");
            }
        }
    }

    /// Of one that goes on: it has what its record says, whatever a former daemon was about to do.
    pub(super) async fn settle_volumes(&self, record: &ContainerRecord, live: &Live) {
        for claim in &record.volumes {
            let done = match claim.leaving {
                false if self.sees_volume(record, claim).await => Ok(()),
                false => self.show_volume(record, live, claim).await,
                true => match self.hide_volume(record, live, claim).await {
                    Ok(()) => {
                        self.rooms.volumes.let_go(&claim.volume, &record.id).await;
                        self.forget_claim(record, claim).await
                    }
                    // Its programs have it: then it has it.
                    Err(_) => self.keep_claim(record, claim).await,
                },
            };
            if let Err(error) = done {
                let (volume, error) = (claim.name.as_str(), error_chain(&error));
                tracing::error!(container = %record.id, volume, error, "a volume is not as its record says");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_containers_own() {
        let of = |path: &str| VolumeMount::new("data", path, false).map(|mount| mount.target);
        assert_eq!(of("/data").as_deref(), Ok("/data"));
        assert_eq!(of("//var/./lib//data/").as_deref(), Ok("/var/lib/data"));
        assert_eq!(of("/device").as_deref(), Ok("/device"));
        for bad in ["", "data", "/", "//", "/.", "/..", "/a/../b", "/proc", "/proc/", "/./sys/fs", "/dev/x", "/a\0b"] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        assert!(VolumeMount::new("", "/data", false).is_err());
    }

    #[test]
    fn no_two_are_at_one_path_and_none_is_hidden() {
        let at = |path: &str| VolumeMount::new("data", path, true).unwrap();
        let tmpfs = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<Vec<_>>().into_iter();
        assert!(fit(&[at("/a"), at("/a/b")], tmpfs(&["/tmp", "/a/b/c"])).is_ok());
        assert!(fit(&[at("/a"), at("//a/")], tmpfs(&[])).is_err());
        assert!(fit(&[at("/tmp/a")], tmpfs(&["/tmp/"])).is_err());
        assert!(fit(&[at("/tmp")], tmpfs(&["/tmp"])).is_err());
    }
}
