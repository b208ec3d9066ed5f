//! Ending containers: signals, stop with a grace, removal, and waiting. Refuses to touch what a container held: the supervisor
//! does that when its program has ended.

use std::sync::Arc;
use std::time::Duration;

use super::error::ContainerError;
use super::record::{ContainerRecord, Exit, State};
use super::room::Containers;

/// As docker's: time between the stop signal and SIGKILL.
pub const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);

impl Containers {
    pub async fn signal(&self, record: &ContainerRecord, signal: i32) -> Result<(), ContainerError> {
        let name = record.name.to_string();
        let live = self.live(&record.id).ok_or_else(|| ContainerError::NotRunning { name: name.clone() })?;
        match live.shim.signal(signal).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ContainerError::NotRunning { name }),
            Err(source) => Err(ContainerError::Launch { name, source }),
        }
    }

    /// The stop signal, then SIGKILL after the grace; returns when it has ended. A stopped one is no error.
    pub async fn stop(&self, record: &ContainerRecord, grace: Option<Duration>) -> Result<(), ContainerError> {
        let Some(live) = self.live(&record.id) else { return Ok(()) };
        let launch = |source| ContainerError::Launch { name: record.name.to_string(), source };
        live.shim.signal(record.stop_signal).await.map_err(launch)?;
        let mut exit = live.exit.clone();
        let grace = grace.unwrap_or(STOP_GRACE_DEFAULT);
        let ended = tokio::time::timeout(grace, exit.wait_for(Option::is_some)).await.is_ok();
        if !ended {
            live.shim.signal(libc::SIGKILL).await.map_err(launch)?;
            // The supervisor holds the sender until it has told; an error means it told and ended.
            let _ = exit.wait_for(Option::is_some).await;
        }
        Ok(())
    }

    /// A running one only by force.
    pub async fn remove(self: &Arc<Self>, record: &ContainerRecord, force: bool) -> Result<(), ContainerError> {
        if let Some(live) = self.live(&record.id) {
            if !force {
                return Err(ContainerError::Running { name: record.name.to_string() });
            }
            live.shim
                .signal(libc::SIGKILL)
                .await
                .map_err(|source| ContainerError::Launch { name: record.name.to_string(), source })?;
            let mut exit = live.exit.clone();
            let _ = exit.wait_for(Option::is_some).await;
        } else if matches!(record.state, State::Created) {
            return Err(ContainerError::Running { name: record.name.to_string() });
        }
        self.erase(record).await
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
