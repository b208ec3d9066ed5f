//! Taking a container down: the same steps whether its program ended, its start failed, or a daemon died half way. Every step is
//! idempotent and none stops the others. An end is told as soon as it is written down and no packet passes any more; what the
//! kernel takes its time for, interfaces above all, follows. Refuses to give up silently: what could not be removed is logged,
//! and boot tries again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::ContainerError;
use super::launch;
use super::pace::Pace;
use super::record::{ContainerRecord, Exit, State};
use super::remove_tree::remove_tree;
use super::room::Containers;
use crate::error_chain;
use crate::ids::now_ms;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::link::LinkError;
use crate::shim::record::ExitRecord;

/// For the shim to hand its last output to slow readers; it drops by itself one that takes nothing any more.
const LAST_OUTPUT_WITHIN: Duration = Duration::from_secs(60);

/// A network namespace is gone a few tens of milliseconds after its last process, unless a tunnel holds it.
const INTERFACE_GOES_WITHIN: Duration = Duration::from_secs(1);
const INTERFACE_LOOK: Duration = Duration::from_millis(20);

impl Containers {
    /// Its program has ended: write how, tell it, take it down, and remove it if that was asked for.
    pub(super) async fn end(
        self: &Arc<Self>,
        record: &ContainerRecord,
        cgroup: &Arc<Cgroup>,
        ended: ExitRecord,
        tell: watch::Sender<Option<Exit>>,
    ) {
        let mut pace = Pace::new("end");
        let _leaving = Leaving::of(self, record.slot);
        let log_dropped = ended.log_dropped;
        // Its limits and its policy may be others than it began with.
        let spec = self.find(&record.project, record.id.as_str()).map_or_else(|_| record.spec.clone(), |now| now.spec);
        let record = &ContainerRecord { spec, ..record.clone() };
        let exit = exit_of(record, cgroup, ended).await;
        self.silence(record).await;
        pace.step("silence");
        // A daemon that dies before this still finds how it ended, written by the shim.
        if record.spec.auto_remove {
            if let Err(error) = self.forget_ended(record).await {
                tracing::error!(container = %record.id, error = error_chain(&error), "cannot remove its record");
            }
        } else {
            self.settle(record, exit.clone()).await;
        }
        pace.step("record");
        self.set_live(&record.id, None);
        // Nobody waiting is fine: a detached container has no client.
        let _ = tell.send(Some(exit.clone()));
        self.tell_of_end(record, &exit).await;
        if log_dropped > 0 {
            let text = format!("the log of {} lacks {log_dropped} records of its output", record.name);
            self.rooms.events.add_for(Some(&record.project), "container.log_dropped", record.id.as_str(), &text).await;
        }
        pace.step("event");
        self.interface_goes(record).await;
        pace.step("interface");
        let run_dir = self.run_dir(record);
        let left = tokio::task::spawn_blocking(move || launch::wait_for_shim_to_leave(&run_dir, LAST_OUTPUT_WITHIN));
        if !matches!(left.await, Ok(Ok(true))) {
            tracing::warn!(container = %record.id, "its shim did not end by itself");
        }
        pace.step("shim");
        self.wait_for_copies_of(&record.id).await;
        self.tear_down(record).await;
        if record.spec.auto_remove
            && let Err(error) = self.remove_state(record).await
        {
            tracing::error!(container = %record.id, error = error_chain(&error), "cannot remove it");
        }
        pace.step("remove");
        self.restart_by_policy(record, &exit);
    }

    /// The kernel removes the interface with its network namespace, those of many containers at once, without keeping anybody
    /// waiting. To remove it by hand is for what that does not reach.
    async fn interface_goes(&self, record: &ContainerRecord) {
        if record.vpc.is_some() {
            goes(&record.interface()).await;
        }
    }

    /// No packet from or to it passes after this, and no name leads to it.
    async fn silence(&self, record: &ContainerRecord) {
        self.withdraw(record);
        self.rooms.outside.withdraw(&record.id).await;
        let (datapath, slot) = (Arc::clone(&self.rooms.datapath), record.slot);
        match tokio::task::spawn_blocking(move || datapath.silence(slot)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(container = %record.id, error = error_chain(&error), "cannot end its traffic");
            }
            Err(_) => tracing::error!(container = %record.id, "ending its traffic panicked"),
        }
    }

    /// The record after the end.
    pub(super) async fn settle(&self, record: &ContainerRecord, exit: Exit) {
        let started_ms = match record.state {
            State::Running { since_ms, .. } => Some(since_ms),
            _ => None,
        };
        // As it is now: its groups and ports may have changed since it was started.
        let _allocation = self.allocation().await;
        let known = self.find(&record.project, record.id.as_str()).unwrap_or_else(|_| record.clone());
        let stopped = ContainerRecord { state: State::Stopped { started_ms, exit }, ..known };
        match self.update(&stopped).await {
            // Removed by force while it ended: there is no record to write to, and none is wanted.
            Ok(()) | Err(ContainerError::NotFound { .. }) => {}
            Err(error) => {
                tracing::error!(container = %record.id, error = error_chain(&error), "cannot write how it ended")
            }
        }
    }

    pub(super) async fn tell_of_end(&self, record: &ContainerRecord, exit: &Exit) {
        let text = match exit.reason.as_str() {
            "" => format!("{} ended with code {}", record.name, exit.code),
            reason => format!("{} ended with code {}: {reason}", record.name, exit.code),
        };
        self.rooms.events.add_for(Some(&record.project), "container.stopped", record.id.as_str(), &text).await;
    }

    /// Everything of it in the kernel, and its run-time directory. Its writable layer and logs stay.
    pub(super) async fn tear_down(&self, record: &ContainerRecord) {
        let (run_dir, id) = (self.run_dir(record), record.id.clone());
        let killed = tokio::task::spawn_blocking({
            let run_dir = run_dir.clone();
            move || launch::kill_leftover(&run_dir)
        });
        if let Ok(Err(error)) = killed.await {
            tracing::error!(container = %id, error = error_chain(&error), "cannot end the shim");
        }
        self.disconnect(record).await;
        let cgroups = Arc::clone(&self.rooms.cgroups);
        let blocking = tokio::task::spawn_blocking(move || {
            if let Err(error) = cgroups.get(id.as_str()).and_then(|cgroup| cgroup.remove()) {
                tracing::error!(container = %id, error = error_chain(&error), "cannot remove the cgroup");
            }
            if let Err(error) = remove_tree(&run_dir) {
                tracing::error!(container = %id, %error, "cannot remove the run-time directory");
            }
        });
        if blocking.await.is_err() {
            tracing::error!(container = %record.id, "taking down panicked");
        }
        self.rooms.volumes.let_go_of_all(&record.id).await;
        self.let_disk_go(record).await;
    }

    /// The interface before the programs on it: what is still on its way must not find an unguarded one.
    async fn disconnect(&self, record: &ContainerRecord) {
        self.withdraw(record);
        self.rooms.outside.withdraw(&record.id).await;
        if record.vpc.is_some()
            && let Err(error) = self.delete_interface(&record.interface()).await
        {
            tracing::error!(container = %record.id, error = error_chain(&error), "cannot delete the interface");
        }
        let (datapath, slot, tag) = (Arc::clone(&self.rooms.datapath), record.slot, record.id.to_string());
        // What was parked and never became an endpoint has links all the same.
        let detach = move || datapath.detach(slot).and_then(|()| datapath.unprepare(&tag));
        match tokio::task::spawn_blocking(detach).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(container = %record.id, error = error_chain(&error), "cannot detach from the datapath");
            }
            Err(_) => tracing::error!(container = %record.id, "detaching from the datapath panicked"),
        }
    }

    pub(super) async fn delete_interface(&self, name: &str) -> Result<(), LinkError> {
        match nix::net::if_::if_nametoindex(name) {
            Ok(ifindex) => self.rooms.links.delete(ifindex).await,
            Err(_) => Ok(()),
        }
    }

    /// Its writable layer, its logs and its record: nothing is left of it. The record stays while anything else does.
    pub(super) async fn erase(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        self.remove_state(record).await?;
        self.forget(record).await
    }

    async fn remove_state(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        self.remove_disk(record).await?;
        let dir = self.state_dir(record);
        tokio::task::spawn_blocking(move || remove_tree(&dir)).await.expect("removing files does not panic").map_err(
            |source| ContainerError::File {
                operation: "remove the writable layer",
                name: record.name.to_string(),
                source,
            },
        )
    }

    /// Until what has ended is gone.
    pub(super) async fn wait_for_leaving(&self) {
        // The sender lives as long as this room.
        let _ = self.leaving.subscribe().wait_for(|leaving| leaving.is_empty()).await;
    }

    /// Until nothing of the one that had this slot is left.
    pub(super) async fn wait_for_leaving_of(&self, slot: u32) {
        let _ = self.leaving.subscribe().wait_for(|leaving| !leaving.contains(&slot)).await;
    }
}

/// A container that has ended and is not gone: its slot is not given to another, and a daemon that stops waits for it.
struct Leaving {
    room: Arc<Containers>,
    slot: u32,
}

impl Leaving {
    fn of(room: &Arc<Containers>, slot: u32) -> Self {
        room.slots.share(slot);
        room.leaving.send_modify(|leaving| {
            leaving.insert(slot);
        });
        Leaving { room: Arc::clone(room), slot }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.room.slots.release(self.slot);
        self.room.leaving.send_modify(|leaving| {
            leaving.remove(&self.slot);
        });
    }
}

/// By itself, or after a while it has not.
pub(super) async fn goes(interface: &str) {
    let began = Instant::now();
    while nix::net::if_::if_nametoindex(interface).is_ok() && began.elapsed() < INTERFACE_GOES_WITHIN {
        tokio::time::sleep(INTERFACE_LOOK).await;
    }
}

async fn exit_of(record: &ContainerRecord, cgroup: &Arc<Cgroup>, ended: ExitRecord) -> Exit {
    // A first process of ours says it by its code.
    let killed = ended.signal == Some(libc::SIGKILL) || record.spec.init && ended.code == 128 + libc::SIGKILL;
    let oom_killed = killed && {
        let cgroup = Arc::clone(cgroup);
        tokio::task::spawn_blocking(move || cgroup.stats().oom_kills).await.unwrap_or(0) > 0
    };
    let reason = match (&record.spec.memory_bytes, oom_killed) {
        (Some(limit), true) => format!("killed: it needed more than its memory limit of {limit} bytes"),
        (None, true) => "killed: the host ran out of memory".to_owned(),
        _ => ended.note.unwrap_or_default(),
    };
    Exit { code: ended.code, signal: ended.signal, oom_killed, finished_ms: ended.finished_ms, reason }
}

/// How a container that nobody watched is said to have ended.
pub(super) fn lost(reason: &str) -> Exit {
    let code = 128 + libc::SIGKILL;
    Exit { code, signal: Some(libc::SIGKILL), oom_killed: false, finished_ms: now_ms(), reason: reason.to_owned() }
}

/// Of a stray: nothing but the log knows of it.
pub(super) fn remove_stray_dir(dir: &Path) {
    if let Err(error) = remove_tree(dir) {
        tracing::error!(path = %dir.display(), %error, "cannot remove a directory");
    }
}
