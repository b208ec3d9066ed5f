//! Taking a container down: the same steps whether its program ended, its start failed, or a daemon died half way. Every step is
//! idempotent and none stops the others. Refuses to give up silently: what could not be removed is logged, and boot tries again.

use std::path::Path;
use std::sync::Arc;

use super::error::ContainerError;
use super::launch;
use super::record::{ContainerRecord, Exit, State};
use super::room::Containers;
use crate::error_chain;
use crate::ids::now_ms;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::link::LinkError;
use crate::shim::record::ExitRecord;

impl Containers {
    /// Its program has ended: take it down, write how it ended, and remove it if that was asked for.
    pub(super) async fn end(&self, record: &ContainerRecord, cgroup: &Arc<Cgroup>, ended: ExitRecord) -> Exit {
        let stats = Arc::clone(cgroup);
        let oom_killed = tokio::task::spawn_blocking(move || stats.stats().oom_kills > 0).await.unwrap_or(false);
        let oom_killed = oom_killed && ended.signal == Some(libc::SIGKILL);
        let reason = match (&record.spec.memory_bytes, oom_killed) {
            (Some(limit), true) => format!("killed: it needed more than its memory limit of {limit} bytes"),
            (None, true) => "killed: the host ran out of memory".to_owned(),
            _ => ended.note.unwrap_or_default(),
        };
        let exit = Exit { code: ended.code, signal: ended.signal, oom_killed, finished_ms: ended.finished_ms, reason };
        self.tear_down(record).await;
        self.settle(record, exit.clone()).await;
        self.set_live(&record.id, None);
        exit
    }

    /// The record after the end: stopped, or gone.
    pub(super) async fn settle(&self, record: &ContainerRecord, exit: Exit) {
        let text = match exit.reason.as_str() {
            "" => format!("{} ended with code {}", record.name, exit.code),
            reason => format!("{} ended with code {}: {reason}", record.name, exit.code),
        };
        self.rooms.events.add_for(Some(&record.project), "container.stopped", record.id.as_str(), &text).await;
        let written = if record.spec.auto_remove {
            self.erase(record).await
        } else {
            let started_ms = match record.state {
                State::Running { since_ms, .. } => Some(since_ms),
                _ => None,
            };
            self.update(&ContainerRecord { state: State::Stopped { started_ms, exit }, ..record.clone() }).await
        };
        match written {
            // Removed by force while it ended: there is no record to write to, and none is wanted.
            Ok(()) | Err(ContainerError::NotFound { .. }) => {}
            Err(error) => {
                tracing::error!(container = %record.id, error = error_chain(&error), "cannot write how it ended")
            }
        }
    }

    /// Everything of it in the kernel, and its run-time directory. Its writable layer and logs stay.
    pub(super) async fn tear_down(&self, record: &ContainerRecord) {
        let run_dir = self.run_dir(record);
        let (datapath, cgroups) = (Arc::clone(&self.rooms.datapath), Arc::clone(&self.rooms.cgroups));
        let (slot, id, attached) = (record.slot, record.id.clone(), record.vpc.is_some());
        let interface = record.interface();
        let blocking = tokio::task::spawn_blocking(move || {
            if let Err(error) = launch::kill_leftover(&run_dir) {
                tracing::error!(container = %id, error = error_chain(&error), "cannot end the shim");
            }
            if attached && let Err(error) = datapath.detach(slot) {
                tracing::error!(container = %id, error = error_chain(&error), "cannot detach from the datapath");
            }
            if let Err(error) = cgroups.get(id.as_str()).and_then(|cgroup| cgroup.remove()) {
                tracing::error!(container = %id, error = error_chain(&error), "cannot remove the cgroup");
            }
            remove_dir(&run_dir);
        });
        if blocking.await.is_err() {
            tracing::error!(container = %record.id, "taking down panicked");
        }
        // The kernel deletes it with the namespace, in its own time; ours is sooner.
        if attached && let Err(error) = self.delete_interface(&interface).await {
            tracing::error!(container = %record.id, error = error_chain(&error), "cannot delete the interface");
        }
    }

    async fn delete_interface(&self, name: &str) -> Result<(), LinkError> {
        match nix::net::if_::if_nametoindex(name) {
            Ok(ifindex) => self.rooms.links.delete(ifindex).await,
            Err(_) => Ok(()),
        }
    }

    /// Its writable layer, its logs and its record: nothing is left of it.
    pub(super) async fn erase(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        let dir = self.state_dir(record);
        if tokio::task::spawn_blocking(move || remove_dir(&dir)).await.is_err() {
            tracing::error!(container = %record.id, "removing the writable layer panicked");
        }
        self.forget(record).await
    }
}

/// How a container that nobody watched is said to have ended.
pub(super) fn lost(reason: &str) -> Exit {
    let code = 128 + libc::SIGKILL;
    Exit { code, signal: Some(libc::SIGKILL), oom_killed: false, finished_ms: now_ms(), reason: reason.to_owned() }
}

/// `remove_dir_all` never follows a symbolic link out, so a hostile writable layer cannot lead it astray.
pub(super) fn remove_dir(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(path = %dir.display(), %error, "cannot remove a directory"),
    }
}
