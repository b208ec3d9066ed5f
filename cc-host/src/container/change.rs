//! Limits and a policy that change while a container is there. Refuses to change what a program has seen of itself: those need another
//! container.

use super::error::ContainerError;
use super::record::{ContainerRecord, RunSpec};
use super::restart::Restart;
use super::room::Containers;
use crate::kernel::cgroup::Limits;

/// What is `None` stays; an inner `None` is what a container is made with that names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    pub memory_bytes: Option<Option<u64>>,
    pub cpu_shares: Option<Option<u32>>,
    pub cpu_milli: Option<Option<u32>>,
    pub pids_max: Option<Option<u32>>,
    pub restart: Option<Restart>,
}

impl Change {
    fn of(&self, old: &RunSpec) -> RunSpec {
        RunSpec {
            memory_bytes: self.memory_bytes.unwrap_or(old.memory_bytes),
            cpu_shares: self.cpu_shares.unwrap_or(old.cpu_shares),
            cpu_milli: self.cpu_milli.unwrap_or(old.cpu_milli),
            pids_max: self.pids_max.unwrap_or(old.pids_max),
            restart: self.restart.unwrap_or(old.restart),
            ..old.clone()
        }
    }
}

impl Containers {
    pub(super) fn limits(&self, spec: &RunSpec) -> Limits {
        Limits {
            memory_bytes: spec.memory_bytes,
            cpu_shares: spec.cpu_shares,
            cpu_milli: spec.cpu_milli,
            cpuset: spec.cpuset.clone(),
            pids_max: Some(spec.pids_max.unwrap_or(self.rooms.config.pids_max)),
        }
    }

    /// In force when it returns. Where it cannot be kept, the limits are as they were.
    pub async fn change(&self, record: &ContainerRecord, change: &Change) -> Result<(), ContainerError> {
        let _allocation = self.allocation().await;
        let now = self.find(&record.project, record.id.as_str())?;
        let spec = change.of(&now.spec);
        if spec.restart != Restart::No && spec.auto_remove {
            let why = "it was run with --rm: there is nothing left to start again";
            return Err(ContainerError::BadField { field: "--restart", value: spec.restart.to_string(), why });
        }
        let (old, new) = (self.limits(&now.spec), self.limits(&spec));
        let cgroup = self.live(&now.id).map(|live| live.cgroup.clone());
        let name = now.name.to_string();
        let set = |from: &Limits, to: &Limits| {
            let (cgroup, from, to) = (cgroup.clone(), from.clone(), to.clone());
            async move {
                let Some(cgroup) = cgroup else { return Ok(()) };
                let set = tokio::task::spawn_blocking(move || cgroup.change_limits(&from, &to));
                set.await.expect("setting limits does not panic")
            }
        };
        let refused = |source| ContainerError::Cgroup { operation: "change the limits of", name: name.clone(), source };
        if let Err(source) = set(&old, &new).await {
            // Some may have been set before the one that failed.
            if let Err(error) = set(&new, &old).await {
                tracing::warn!(container = %now.id, %error, "cannot set the limits back");
            }
            return Err(refused(source));
        }
        let changed = self.update(&ContainerRecord { spec, ..now }).await;
        if changed.is_err()
            && let Err(error) = set(&new, &old).await
        {
            tracing::warn!(container = %record.id, %error, "cannot set the limits back");
        }
        changed
    }
}
