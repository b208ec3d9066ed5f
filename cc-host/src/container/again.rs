//! Containers that have ended, started once more: by hand, or by their restart policy after a pause that grows. They keep their name,
//! address, writable layer and log. Refuses to start what somebody stopped by hand, until somebody starts it by hand.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::error::ContainerError;
use super::pace::Pace;
use super::record::{ContainerRecord, Exit, State};
use super::remove_tree::remove_tree;
use super::restart::Restart;
use super::room::Containers;
use super::start::{Started, command};
use crate::error_chain;
use crate::ids::{ContainerId, now_ms};

/// The first pause before a restart; each next one is twice as long, as docker's are.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Whoever ran for so long did not fail at its start: pauses begin anew.
const RAN_WELL: Duration = Duration::from_secs(10);

/// One start at a time.
struct Starting {
    room: Arc<Containers>,
    id: ContainerId,
}

impl Starting {
    fn of(room: &Arc<Containers>, record: &ContainerRecord) -> Result<Starting, ContainerError> {
        let mut starting = room.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if !starting.insert(record.id.clone()) {
            return Err(ContainerError::Busy { name: record.name.to_string() });
        }
        Ok(Starting { room: Arc::clone(room), id: record.id.clone() })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.room.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Containers {
    /// One that runs is no error.
    pub async fn start(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), ContainerError> {
        self.set_by_hand(record, false).await?;
        self.start_now(record).await
    }

    /// Stopped first if it runs.
    pub async fn restart(
        self: &Arc<Self>,
        record: &ContainerRecord,
        grace: Option<Duration>,
    ) -> Result<(), ContainerError> {
        self.stop(record, grace).await?;
        self.start(record).await
    }

    pub(super) fn is_starting(&self, id: &ContainerId) -> bool {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    async fn start_now(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), ContainerError> {
        let _starting = Starting::of(self, record)?;
        if self.live(&record.id).is_some() {
            return Ok(());
        }
        // Of what it was, everything goes first.
        self.wait_for_leaving_of(record.slot).await;
        let record = self.find(&record.project, record.id.as_str())?;
        if !matches!(record.state, State::Stopped { .. }) {
            return Err(ContainerError::Busy { name: record.name.to_string() });
        }
        let image = self.rooms.images.get(&record.project, &record.image_digest).await?;
        let _hold = self.rooms.images.hold(&record.project, &image).await?;
        let command = command(&record.spec, &image)?;
        // A volatile overlay is marked as not to be mounted again, since a power loss may have torn it. The mark is in the directory that is
        // overlayfs' own, and says nothing about an end in order: what was written is in the page cache.
        let work = self.state_dir(&record).join("work");
        tokio::task::spawn_blocking(move || remove_tree(&work)).await.expect("removing files does not panic").map_err(
            |source| ContainerError::File {
                operation: "prepare the writable layer",
                name: record.name.to_string(),
                source,
            },
        )?;
        match self.bring_up(&record, &image, command, false, &mut Pace::new("start again")).await {
            Ok(Started { .. }) => Ok(()),
            Err(error) => {
                self.tear_down(&record).await;
                Err(error)
            }
        }
    }

    /// Whether its end was somebody's wish, which a restart policy respects.
    pub(super) async fn set_by_hand(&self, record: &ContainerRecord, by_hand: bool) -> Result<(), ContainerError> {
        let _allocation = self.allocation().await;
        let mut record = self.find(&record.project, record.id.as_str())?;
        if record.stopped_by_hand == by_hand {
            return Ok(());
        }
        record.stopped_by_hand = by_hand;
        self.update(&record).await
    }

    /// After its end, as its policy says.
    pub(super) fn restart_by_policy(self: &Arc<Self>, record: &ContainerRecord, exit: &Exit) {
        if record.spec.restart == Restart::No {
            return;
        }
        let ran = match record.state {
            State::Running { since_ms, .. } => Duration::from_millis(exit.finished_ms.saturating_sub(since_ms)),
            _ => Duration::ZERO,
        };
        self.restart_later(record, exit.clone(), ran);
    }

    /// At boot, those that were not restarted because no daemon was there to do it.
    pub(super) fn restart_at_boot(self: &Arc<Self>, record: &ContainerRecord) {
        if let State::Stopped { exit, .. } = &record.state
            && record.spec.restart != Restart::No
        {
            self.restart_later(record, exit.clone(), RAN_WELL);
        }
    }

    fn restart_later(self: &Arc<Self>, record: &ContainerRecord, mut exit: Exit, mut ran: Duration) {
        let (room, record) = (Arc::clone(self), record.clone());
        tokio::spawn(async move {
            let mut closing = room.closing.subscribe();
            loop {
                let Ok(now) = room.find(&record.project, record.id.as_str()) else { return };
                let restarts = if ran >= RAN_WELL { 0 } else { now.restarts };
                if now.stopped_by_hand || !now.spec.restart.applies(exit.code, restarts) {
                    return;
                }
                let pause = PAUSE_FIRST.saturating_mul(1 << restarts.min(16)).min(PAUSE_MAX);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // The next daemon goes on from here.
                    _ = closing.wait_for(|closing| *closing) => return,
                }
                let Some(why) = room.restart_once(&record, restarts + 1).await else { return };
                tracing::warn!(container = %record.id, error = error_chain(&why), "cannot restart it");
                let text = format!("{} could not be restarted: {}", record.name, error_chain(&why));
                room.rooms.events.add_for(Some(&record.project), "container.restart", record.id.as_str(), &text).await;
                exit = Exit { code: 125, finished_ms: now_ms(), ..exit };
                ran = Duration::ZERO;
            }
        });
    }

    /// Why it was not, where another try may help.
    async fn restart_once(self: &Arc<Self>, record: &ContainerRecord, restarts: u32) -> Option<ContainerError> {
        let now = {
            let _allocation = self.allocation().await;
            let mut now = self.find(&record.project, record.id.as_str()).ok()?;
            if now.stopped_by_hand || !matches!(now.state, State::Stopped { .. }) {
                return None;
            }
            now.restarts = restarts;
            self.update(&now).await.ok()?;
            now
        };
        match self.start_now(&now).await {
            Ok(()) => {
                let text = format!("{} was restarted, for the {restarts}. time", now.name);
                self.rooms.events.add_for(Some(&now.project), "container.restarted", now.id.as_str(), &text).await;
                None
            }
            // Somebody else starts or removes it.
            Err(ContainerError::Busy { .. } | ContainerError::NotFound { .. } | ContainerError::Closing { .. }) => None,
            Err(error) => Some(error),
        }
    }
}
