//! Ending containers: signals, stop with a grace, removal, and waiting. Refuses to touch what a container held: the supervisor
//! does that when its program has ended.

use std::sync::Arc;
use std::time::Duration;

use super::error::ContainerError;
use super::record::{ContainerRecord, Exit, State};
use super::room::{Containers, Live};

/// As docker's: time between the stop signal and SIGKILL.
pub const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);

impl Containers {
    pub async fn signal(&self, record: &ContainerRecord, signal: i32) -> Result<(), ContainerError> {
        let name = record.name.to_string();
        let live = self.live(&record.id).ok_or_else(|| ContainerError::NotRunning { name: name.clone() })?;
        // As docker has it: whoever sends one of these wants it to end.
        if signal == libc::SIGKILL || signal == record.stop_signal {
            self.stopped_by_hand(record).await;
        }
        match live.shim.signal(signal).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ContainerError::NotRunning { name }),
            Err(source) => Err(ContainerError::Launch { name, source }),
        }
    }

    /// The stop signal, then SIGKILL after the grace; returns when it has ended. A stopped one is no error.
    pub async fn stop(&self, record: &ContainerRecord, grace: Option<Duration>) -> Result<(), ContainerError> {
        self.stopped_by_hand(record).await;
        if self.live(&record.id).is_some() {
            return self.end_within(record, grace).await;
        }
        // One that its policy starts just now is stopped when it runs.
        let _claim = self.claims.of(&record.id).await;
        self.end_within(record, grace).await
    }

    /// As `stop`, by nobody's wish: its policy is asked.
    pub(super) async fn end_within(
        &self,
        record: &ContainerRecord,
        grace: Option<Duration>,
    ) -> Result<(), ContainerError> {
        let Some(live) = self.live(&record.id) else { return self.not_new(record) };
        let mut exit = live.exit.clone();
        let own = record.spec.stop_timeout_s.map(|seconds| Duration::from_secs(seconds.into()));
        let grace = grace.or(own).unwrap_or(STOP_GRACE_DEFAULT);
        // A shim that does not answer is as good as a program that does not listen.
        let asked = live.shim.signal(record.stop_signal).await;
        let ended = asked.is_ok() && tokio::time::timeout(grace, exit.wait_for(Option::is_some)).await.is_ok();
        if !ended {
            self.kill_and_wait(record, &live).await?;
        }
        Ok(())
    }

    /// A running one only by force.
    pub async fn remove(self: &Arc<Self>, record: &ContainerRecord, force: bool) -> Result<(), ContainerError> {
        // Nobody starts it meanwhile, its policy neither.
        let _claim = self.claims.of(&record.id).await;
        match self.live(&record.id) {
            Some(_) if !force => return Err(ContainerError::Running { name: record.name.to_string() }),
            Some(live) => self.kill_and_wait(record, &live).await?,
            None => self.not_new(record)?,
        }
        self.wait_for_copies_of(&record.id).await;
        self.erase(record).await
    }

    /// As `remove` without force, but for one that only pauses before its policy starts it again.
    pub async fn remove_unless_it_pauses(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), ContainerError> {
        // What its policy will have of it is known when it has ended as a whole.
        self.wait_for_leaving_of(record.slot).await;
        if self.pauses(&record.id) {
            return Err(ContainerError::Busy { name: record.name.to_string() });
        }
        self.remove(record, false).await
    }

    /// By its cgroup: neither the program nor the shim has a say in it.
    async fn kill_and_wait(&self, record: &ContainerRecord, live: &Arc<Live>) -> Result<(), ContainerError> {
        let cgroup = Arc::clone(&live.cgroup);
        let name = record.name.to_string();
        tokio::task::spawn_blocking(move || cgroup.kill())
            .await
            .expect("killing does not panic")
            .map_err(|source| ContainerError::Cgroup { operation: "kill", name, source })?;
        // The supervisor holds the sender until it has told; an error means that it told and ended.
        let _ = live.exit.clone().wait_for(Option::is_some).await;
        Ok(())
    }

    /// One that is being started belongs to whoever starts it.
    fn not_new(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        match self.find(&record.project, record.id.as_str()) {
            Ok(ContainerRecord { state: State::Created, .. }) => {
                Err(ContainerError::Busy { name: record.name.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// How it ended; waits while it runs. `None` when it was removed meanwhile and nobody saw how it ended.
    pub async fn wait(&self, record: &ContainerRecord) -> Option<Exit> {
        if let Some(live) = self.live(&record.id) {
            let mut exit = live.exit.clone();
            return exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        }
        match self.find(&record.project, record.id.as_str()).ok()?.state {
            State::Stopped { exit, .. } => Some(exit),
            _ => None,
        }
    }
}
