//! A container's shim: its cgroup, its files, its specification, and the process itself, spawned for it or parked before. Refuses to start
//! the program.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::ContainerError;
use super::launch::Shim;
use super::options::bad_profile;
use super::pace::Pace;
use super::pool::{Parked, ParkedLink};
use super::record::ContainerRecord;
use super::room::Containers;
use super::start::{ID_RANGE, private_dir};
use crate::disk::{Holder, Layer};
use crate::error_chain;
use crate::image::ImageRecord;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::netns;
use crate::shim::spec::{RlimitKind, RlimitSpec, Rootfs, SPEC_VERSION, Spec};

/// What Linux gives a login.
const NOFILE_SOFT: u64 = 1024;
/// For a shim to hear that its container's first process has ended, and how often it is asked.
const GONE_WITHIN: Duration = Duration::from_secs(1);
const SHIM_HEARS: Duration = Duration::from_millis(5);

/// A first process that waits to be started, in its limits and namespaces.
pub(super) struct Furnished {
    pub(super) shim: Shim,
    pub(super) cgroup: Arc<Cgroup>,
    pub(super) netns: Arc<OwnedFd>,
    /// Its interface, where it has one already.
    pub(super) link: Option<ParkedLink>,
}

impl Containers {
    /// Its shim, and its VPC's resolver meanwhile. Where what was parked cannot be used, nothing is left of that, and all of it is made.
    pub(super) async fn furnish(
        &self,
        record: &ContainerRecord,
        image: &ImageRecord,
        command: Vec<String>,
        parked: Option<Parked>,
        pace: &mut Pace,
    ) -> Result<Furnished, ContainerError> {
        if let Some(parked) = parked {
            match self.furnish_parked(record, image, command.clone(), parked, pace).await {
                Ok(furnished) => return Ok(furnished),
                // Another init has the same volumes and disk.
                Err(error @ (ContainerError::Volume(_) | ContainerError::Disk(_))) => return Err(error),
                Err(error) => {
                    tracing::warn!(container = %record.id, error = error_chain(&error), "what was parked is of no use");
                    self.tear_down(record).await;
                }
            }
        }
        let cgroup = Arc::new(self.make_cgroup(record).await?);
        self.filter_devices(record, &cgroup).await?;
        pace.step("cgroup");
        let spec = self.shim_spec(record, image, command, &cgroup).await?;
        pace.step("files");
        let (shim_binary, run_dir) = (self.shim_binary(), self.run_dir(record));
        // Also when the shim fails: from then on the VPC may be deleted, and nobody must be opening anything in it.
        let (spawned, ()) = tokio::join!(Shim::spawn(&shim_binary, &run_dir, &spec), self.ensure_resolver(record));
        let (shim, pid) = spawned.map_err(|source| ContainerError::Launch { name: record.name.to_string(), source })?;
        let netns = match netns::of_pid(pid.cast_unsigned()) {
            Ok(netns) => Arc::new(netns),
            Err(source) => {
                let error = ContainerError::Netns { name: record.name.to_string(), source };
                return Err(why_it_is_gone(record, &shim, error).await);
            }
        };
        pace.step("shim");
        Ok(Furnished { shim, cgroup, netns, link: None })
    }

    async fn furnish_parked(
        &self,
        record: &ContainerRecord,
        image: &ImageRecord,
        command: Vec<String>,
        parked: Parked,
        pace: &mut Pace,
    ) -> Result<Furnished, ContainerError> {
        let Parked { shim, cgroup, netns, link, .. } = parked;
        let (spec, cgroup) = (self.shim_spec(record, image, command, &cgroup).await?, Arc::new(cgroup));
        pace.step("files");
        let take = async {
            let taken = shim.take(&spec).await;
            taken.map_err(|source| ContainerError::Launch { name: record.name.to_string(), source })
        };
        // Nothing of the image runs before all of these are done.
        let (taken, limited, filtered, ()) = tokio::join!(
            take,
            self.limit(record, Arc::clone(&cgroup)),
            self.filter_devices(record, &cgroup),
            self.ensure_resolver(record),
        );
        taken.and(limited).and(filtered)?;
        pace.step("parked");
        Ok(Furnished { shim, cgroup, netns: Arc::new(netns), link })
    }

    /// It has its limits before anything of the image runs.
    async fn limit(&self, record: &ContainerRecord, cgroup: Arc<Cgroup>) -> Result<(), ContainerError> {
        let limits = self.limits(&record.spec);
        tokio::task::spawn_blocking(move || cgroup.limit(&limits))
            .await
            .expect("limiting a cgroup does not panic")
            .map_err(|source| ContainerError::Cgroup { operation: "limit", name: record.name.to_string(), source })
    }

    async fn make_cgroup(&self, record: &ContainerRecord) -> Result<Cgroup, ContainerError> {
        let limits = self.limits(&record.spec);
        let (root, id) = (Arc::clone(&self.rooms.cgroups), record.id.clone());
        tokio::task::spawn_blocking(move || root.create(id.as_str(), &limits))
            .await
            .expect("making a cgroup does not panic")
            .map_err(|source| ContainerError::Cgroup { operation: "create", name: record.name.to_string(), source })
    }

    async fn shim_spec(
        &self,
        record: &ContainerRecord,
        image: &ImageRecord,
        command: Vec<String>,
        cgroup: &Cgroup,
    ) -> Result<Spec, ContainerError> {
        let file = |operation| {
            let name = record.name.to_string();
            move |source| ContainerError::File { operation, name, source }
        };
        let (state, run) = (self.state_dir(record), self.run_dir(record));
        let id_base = self.id_base(record);
        for dir in ["log", "etc"] {
            private_dir(&state.join(dir)).map_err(file("make the directory of its state"))?;
        }
        let Layer { upper, work } = self.layer(record, Holder::Container).await?;
        private_dir(&run).map_err(file("make the run-time directory"))?;
        let etc = state.join("etc");
        let mut binds = self.hold_volumes(record).await?;
        binds.extend(super::files::write_etc(&etc, id_base, record).map_err(file("write /etc/hosts and its like"))?);
        // What is mounted on something that is mounted comes later.
        binds.sort_by_key(|bind| bind.target.matches('/').count());
        let own = &record.spec;
        Ok(Spec {
            version: SPEC_VERSION,
            id: record.id.to_string(),
            hostname: record.hostname().to_owned(),
            args: command,
            env: merge_env(&image.config.env, &own.env),
            cwd: own.dir.clone().unwrap_or_else(|| image.config.working_dir.clone()),
            user: own.user.clone().unwrap_or_else(|| image.config.user.clone()),
            id_base,
            id_count: ID_RANGE,
            host_users: own.host_users,
            rootfs: Rootfs { layers: self.rooms.images.layer_dirs(image), upper, work, volatile: true },
            binds,
            cgroup_v2: cgroup.v2_dir(),
            cgroup_shim: Some(self.rooms.cgroups.shims_dir()),
            cgroup_tasks: cgroup.tasks_files(),
            stdin: own.stdin,
            terminal: own.terminal,
            log: Some(own.log.unwrap_or_default().spec(self.log_path(record))),
            // The daemon's own is high; a program that loops over all its descriptors would suffer from it.
            rlimits: std::iter::once(RlimitSpec { resource: RlimitKind::Nofile, soft: NOFILE_SOFT, hard: u64::MAX })
                .chain(own.ulimits.iter().cloned())
                .collect(),
            read_only: own.read_only,
            tmpfs: own.tmpfs.clone(),
            capabilities: own.capabilities.bits(),
            seccomp: own.seccomp.filter(own.capabilities.set()).map_err(bad_profile)?,
            init: own.init,
            devices: own.devices.clone(),
        })
    }

    /// What its root is on the host.
    pub(super) fn id_base(&self, record: &ContainerRecord) -> u32 {
        if record.spec.host_users { 0 } else { self.range(record.slot) }
    }

    /// The first id of a slot's range, on the host.
    pub(super) fn range(&self, slot: u32) -> u32 {
        self.rooms.config.id_base + slot * ID_RANGE
    }

    pub(super) fn shim_binary(&self) -> PathBuf {
        let beside =
            || std::env::current_exe().map(|exe| exe.with_file_name("cc-shim")).unwrap_or_else(|_| "cc-shim".into());
        self.rooms.config.shim.clone().unwrap_or_else(beside)
    }
}

/// Its first process may have failed before its namespace was opened, and has said better why.
async fn why_it_is_gone(record: &ContainerRecord, shim: &Shim, error: ContainerError) -> ContainerError {
    let is_gone = async {
        // No signal at all: it only asks. One that has ended is there until its shim has heard of it.
        while !matches!(shim.signal(0).await, Ok(false) | Err(_)) {
            tokio::time::sleep(SHIM_HEARS).await;
        }
    };
    if tokio::time::timeout(GONE_WITHIN, is_gone).await.is_err() {
        return error;
    }
    match shim.start().await {
        Err(source) => ContainerError::Start { name: record.name.to_string(), source },
        Ok(()) => error,
    }
}

/// The user's variables replace the image's of the same name, in place.
fn merge_env(image: &[String], own: &[String]) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    for entry in image.iter().chain(own) {
        match merged.iter().position(|known| name(known) == name(entry)) {
            Some(at) => merged[at].clone_from(entry),
            None => merged.push(entry.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_variables_replace_the_images() {
        let image = ["PATH=/bin".to_owned(), "A=1".to_owned()];
        let own = ["A=2".to_owned(), "B=3".to_owned()];
        assert_eq!(merge_env(&image, &own), ["PATH=/bin", "A=2", "B=3"]);
    }
}
