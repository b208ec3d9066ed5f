//! Limits and a policy that change while a container is there. Refuses to change what a program has seen of itself: those need another
//! container.

use super::error::ContainerError;
use super::record::{ContainerRecord, RunSpec, State};
use super::restart::Restart;
use super::room::Containers;
use crate::kernel::cgroup::Limits;
use crate::mutation::{self, Control};

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
            pids_max: spec.pids_max.or((!mutation::off(Control::PidsDefault)).then_some(self.rooms.config.pids_max)),
        }
    }

    /// In force when it returns. Where it cannot be kept, the limits are as they were, but for what the kernel did to keep them.
    pub async fn change(&self, record: &ContainerRecord, change: &Change) -> Result<(), ContainerError> {
        // Nobody starts or removes it meanwhile. Others are not kept waiting: to take memory back may take the kernel seconds.
        let _claim = self.claims.of(&record.id).await;
        let now = self.find(&record.project, record.id.as_str())?;
        let name = now.name.to_string();
        if matches!(now.state, State::Created) {
            return Err(ContainerError::Busy { name });
        }
        let spec = change.of(&now.spec);
        if spec.restart != Restart::No && spec.auto_remove {
            let why = "it was run with --rm: there is nothing left to start again";
            return Err(ContainerError::BadField { field: "--restart", value: spec.restart.to_string(), why });
        }
        let (old, new) = (self.limits(&now.spec), self.limits(&spec));
        let cgroup = self.live(&now.id).map(|live| live.cgroup.clone());
        let set = |from: &Limits, to: &Limits| {
            let (cgroup, from, to) = (cgroup.clone(), from.clone(), to.clone());
            async move {
                let Some(cgroup) = cgroup else { return Ok(()) };
                let set = tokio::task::spawn_blocking(move || cgroup.change_limits(&from, &to));
                set.await.expect("setting limits does not panic")
            }
        };
        let done = match set(&old, &new).await {
            Ok(()) => self.keep(&now, change).await,
            Err(source) => Err(ContainerError::Cgroup { operation: "change the limits of", name, source }),
        };
        // Some may have been set before the one that failed.
        if done.is_err()
            && let Err(error) = set(&new, &old).await
        {
            tracing::warn!(container = %now.id, %error, "cannot set the limits back");
        }
        done
    }

    async fn keep(&self, record: &ContainerRecord, change: &Change) -> Result<(), ContainerError> {
        let _allocation = self.allocation().await;
        // It may have ended meanwhile.
        let now = self.find(&record.project, record.id.as_str())?;
        let spec = change.of(&now.spec);
        // A policy is for ends that come: whatever ended before there was one was not ended by that.
        let is_over = now.spec.restart == Restart::No && matches!(now.state, State::Stopped { .. });
        let stopped_by_hand = now.stopped_by_hand || (is_over && spec.restart != Restart::No);
        self.update(&ContainerRecord { spec, stopped_by_hand, ..now }).await
    }
}
