//! Containers that have ended, started once more: by hand, or by their restart policy after a pause that grows. They keep their name,
//! address, writable layer and log. Refuses to start what somebody stopped by hand, until somebody starts it by hand.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::claims::Claim;
use super::error::ContainerError;
use super::pace::Pace;
use super::record::{ContainerRecord, Exit, State};
use super::restart::Restart;
use super::room::Containers;
use super::start::{Started, command};
use crate::disk::Holder;
use crate::error_chain;
use crate::ids::now_ms;

/// The first pause before a restart; each next one is twice as long, as docker's are.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Whoever ran for so long did not fail at its start: pauses begin anew.
const RAN_WELL: Duration = Duration::from_secs(10);

impl Containers {
    /// One that runs is no error.
    pub async fn start(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), ContainerError> {
        let claim = self.claims.of(&record.id).await;
        self.begin_anew(record).await?;
        self.start_claimed(record, &claim).await
    }

    /// Stopped first if it runs. A daemon that dies in between leaves it to its policy.
    pub async fn restart(
        self: &Arc<Self>,
        record: &ContainerRecord,
        grace: Option<Duration>,
    ) -> Result<(), ContainerError> {
        let claim = self.claims.of(&record.id).await;
        self.end_within(record, grace).await?;
        self.begin_anew(record).await?;
        self.start_claimed(record, &claim).await
    }

    async fn start_claimed(self: &Arc<Self>, record: &ContainerRecord, _claim: &Claim) -> Result<(), ContainerError> {
        if self.live(&record.id).is_some() {
            return Ok(());
        }
        self.not_closing(record.name.as_str())?;
        // Of what it was, everything goes first.
        self.wait_for_leaving_of(record.slot).await;
        let record = self.find(&record.project, record.id.as_str())?;
        if !matches!(record.state, State::Stopped { .. }) {
            return Err(ContainerError::Busy { name: record.name.to_string() });
        }
        let image = self.rooms.images.get(&record.project, &record.image_digest).await?;
        let _hold = self.rooms.images.hold(&record.project, &image).await?;
        let command = command(&record.spec, &image)?;
        self.layer_anew(&record, Holder::Container).await?;
        match self.bring_up(&record, &image, command, None, false, &mut Pace::new("start again")).await {
            Ok(Started { .. }) => Ok(()),
            Err(error) => {
                self.tear_down(&record).await;
                self.put_back(&record).await;
                Err(error)
            }
        }
    }

    /// It was said to run, and does not go on.
    async fn put_back(&self, before: &ContainerRecord) {
        let _allocation = self.allocation().await;
        let Ok(now) = self.find(&before.project, before.id.as_str()) else { return };
        if matches!(now.state, State::Running { .. })
            && let Err(error) = self.update(&ContainerRecord { state: before.state.clone(), ..now }).await
        {
            tracing::error!(container = %before.id, error = error_chain(&error), "cannot write that it did not start");
        }
    }

    /// Somebody wants it to run.
    async fn begin_anew(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        if record.spec.restart == Restart::No {
            return Ok(());
        }
        let _allocation = self.allocation().await;
        let now = self.find(&record.project, record.id.as_str())?;
        self.update(&ContainerRecord { restarts: 0, stopped_by_hand: false, ..now }).await
    }

    /// Somebody wants it to end, which its policy respects. Where that cannot be written it is known as long as this daemon runs: what
    /// fills a disk must be stoppable.
    pub(super) async fn stopped_by_hand(&self, record: &ContainerRecord) {
        if record.spec.restart == Restart::No {
            return;
        }
        let _allocation = self.allocation().await;
        let Ok(mut now) = self.find(&record.project, record.id.as_str()) else { return };
        if std::mem::replace(&mut now.stopped_by_hand, true) {
            return;
        }
        if let Err(error) = self.update(&now).await {
            tracing::error!(container = %record.id, error = error_chain(&error), "cannot write that it was stopped by hand");
            self.with_records(|records| {
                if let Some(known) = records.get_mut(&record.id) {
                    known.stopped_by_hand = true;
                }
            });
        }
    }

    /// After its end, as its policy says.
    pub(super) fn restart_by_policy(self: &Arc<Self>, record: &ContainerRecord, exit: &Exit) {
        let since_ms = match record.state {
            State::Running { since_ms, .. } => Some(since_ms),
            _ => None,
        };
        self.restart_later(record, exit.clone(), ran(since_ms, exit));
    }

    /// From here on policies start containers: everything that they need is in its place. Also those that ended while no daemon was there.
    pub fn has_booted(self: &Arc<Self>) {
        self.booted.send_replace(true);
        for record in self.all() {
            if let State::Stopped { started_ms, exit } = &record.state
                && !self.restarting().contains_key(&record.id)
            {
                self.restart_later(&record, exit.clone(), ran(*started_ms, exit));
            }
        }
    }

    /// Whether its policy is about to start it again.
    pub(super) fn pauses(&self, id: &crate::ids::ContainerId) -> bool {
        self.restarting().contains_key(id)
    }

    fn restarting(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<crate::ids::ContainerId, u64>> {
        self.restarting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One at a time for each container: the last that was asked for.
    fn restart_later(self: &Arc<Self>, record: &ContainerRecord, exit: Exit, ran: Duration) {
        if record.spec.restart == Restart::No {
            return;
        }
        let number = rand::random();
        self.restarting().insert(record.id.clone(), number);
        let (room, record) = (Arc::clone(self), record.clone());
        tokio::spawn(async move {
            room.restart_until_it_runs(&record, number, exit, ran).await;
            let mut restarting = room.restarting();
            if restarting.get(&record.id) == Some(&number) {
                restarting.remove(&record.id);
            }
        });
    }

    async fn restart_until_it_runs(
        self: &Arc<Self>,
        record: &ContainerRecord,
        number: u64,
        mut exit: Exit,
        mut ran: Duration,
    ) {
        let (mut booted, mut closing) = (self.booted.subscribe(), self.closing.subscribe());
        // The sender lives as long as this room.
        let _ = booted.wait_for(|booted| *booted).await;
        loop {
            let Ok(now) = self.find(&record.project, record.id.as_str()) else { return };
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
            if self.restarting().get(&record.id) != Some(&number) {
                return;
            }
            let Some(why) = self.restart_once(record, restarts + 1).await else { return };
            tracing::warn!(container = %record.id, error = error_chain(&why), "cannot restart it");
            let text = format!("{} could not be restarted: {}", record.name, error_chain(&why));
            self.rooms.events.add_for(Some(&record.project), "container.restart", record.id.as_str(), &text).await;
            exit = Exit { code: 125, finished_ms: now_ms(), ..exit };
            ran = Duration::ZERO;
        }
    }

    /// Why it was not, where another try may help.
    async fn restart_once(self: &Arc<Self>, record: &ContainerRecord, restarts: u32) -> Option<ContainerError> {
        let claim = self.claims.of(&record.id).await;
        // Before the last look at whether somebody has stopped it meanwhile.
        self.wait_for_leaving_of(record.slot).await;
        let now = {
            let _allocation = self.allocation().await;
            let mut now = self.find(&record.project, record.id.as_str()).ok()?;
            if now.stopped_by_hand || !matches!(now.state, State::Stopped { .. }) {
                return None;
            }
            now.restarts = restarts;
            if let Err(error) = self.update(&now).await {
                return Some(error);
            }
            now
        };
        match self.start_claimed(&now, &claim).await {
            Ok(()) => {
                let text = format!("{} was restarted, for the {restarts}. time", now.name);
                self.rooms.events.add_for(Some(&now.project), "container.restarted", now.id.as_str(), &text).await;
                None
            }
            // It was removed, or nothing is started any more.
            Err(ContainerError::NotFound { .. } | ContainerError::Closing { .. }) => None,
            Err(error) => Some(error),
        }
    }
}

fn ran(since_ms: Option<u64>, exit: &Exit) -> Duration {
    since_ms.map_or(Duration::ZERO, |since_ms| Duration::from_millis(exit.finished_ms.saturating_sub(since_ms)))
}
