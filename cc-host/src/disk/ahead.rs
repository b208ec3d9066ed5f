//! Disks that are ready before anybody asks: blank, mounted, of the sizes that were asked for lately. How many there are follows from how often that
//! was. Each is a container's once or never. Refuses to take much of what is left of the pool.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use super::Disk;
use super::error::DiskError;
use super::place::ready_name;
use super::room::Disks;
use crate::demand::wanted;
use crate::error_chain;
use crate::volume::filesystem::Uuid;
use crate::volume::{Lender, NoSpace};

/// Whatever the configuration says: each is a loop device.
const READY_MAX: u32 = 64;
/// What could not be made will not be in the next moment either.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Where there was no room, some may come back.
const REST_WHEN_FULL: Duration = Duration::from_secs(5);

pub(super) struct Ahead {
    max: usize,
    state: Mutex<State>,
    /// Held while one is made.
    making: tokio::sync::Mutex<()>,
    changed: Notify,
    /// While somebody keeps them.
    kept: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Disk>,
    /// When disks were asked for, and of which size.
    asked: VecDeque<(Instant, u64)>,
    rests_until: Option<Instant>,
}

impl State {
    fn wanted(&self, bytes: u64, max: usize) -> usize {
        let asked = self.asked.iter().filter(|(_, of)| *of == bytes).map(|(at, _)| *at);
        wanted(asked, Instant::now(), max)
    }

    fn count(&self, bytes: u64) -> usize {
        self.ready.iter().filter(|disk| disk.bytes == bytes).count()
    }

    /// The size of which there should be one more: the one that was asked for last comes first.
    fn lacks(&self, max: usize) -> Option<u64> {
        if self.ready.len() >= max || self.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let sizes = self.asked.iter().rev().map(|(_, bytes)| *bytes);
        sizes.into_iter().find(|&bytes| self.count(bytes) < self.wanted(bytes, max))
    }

    /// Those that are more than are wanted.
    fn surplus(&mut self, max: usize) -> Vec<Disk> {
        let mut gone = Vec::new();
        while let Some(at) = self.ready.iter().position(|disk| self.count(disk.bytes) > self.wanted(disk.bytes, max)) {
            gone.extend(self.ready.remove(at));
        }
        gone
    }
}

impl Ahead {
    pub(super) fn new(max: u32) -> Self {
        Ahead {
            max: max.min(READY_MAX) as usize,
            state: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            kept: watch::Sender::new(false),
        }
    }

    /// One of exactly that size, if there is one.
    pub(super) fn take(&self, bytes: u64) -> Option<Disk> {
        let mut state = self.lock();
        let found = state.ready.iter().position(|disk| disk.bytes == bytes);
        found.and_then(|at| state.ready.remove(at))
    }

    /// Somebody has got one of that size, whether or not it was ready.
    pub(super) fn note(&self, bytes: u64) {
        if self.max > 0 {
            let mut state = self.lock();
            state.asked.push_back((Instant::now(), bytes));
            if state.asked.len() > self.max {
                state.asked.pop_front();
            }
            self.changed.notify_one();
        }
    }

    pub(super) fn put_back(&self, disk: Disk) {
        self.lock().ready.push_front(disk);
        self.changed.notify_one();
    }

    fn rest(&self, pause: Duration) {
        self.lock().rests_until = Some(Instant::now() + pause);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody keeps what is ready, and removes it when this is dropped.
pub struct Keeping<'a> {
    disks: &'a Disks,
}

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        self.disks.ahead.kept.send_replace(false);
    }
}

impl Disks {
    /// Whoever makes them ahead, and has them removed at the end.
    pub fn begin_to_keep(&self) -> Keeping<'_> {
        self.ahead.kept.send_replace(true);
        Keeping { disks: self }
    }

    pub async fn wait_for_keeper(&self) {
        // The sender lives as long as this room.
        let _ = self.ahead.kept.subscribe().wait_for(|kept| !kept).await;
    }

    pub fn makes_ahead(&self) -> bool {
        self.ahead.max > 0
    }

    /// Ready when one was asked for.
    pub async fn asked(&self) {
        self.ahead.changed.notified().await;
    }

    /// Whether one more is worth having.
    pub fn lacks_any(&self) -> bool {
        self.ahead.lock().lacks(self.ahead.max).is_some()
    }

    /// One of the size that is lacking, if any is.
    pub async fn make_ahead(&self) {
        let Some(bytes) = self.ahead.lock().lacks(self.ahead.max) else { return };
        let disk = Disk { uuid: Uuid::random(), bytes };
        match self.volumes.keep_ahead(disk.uuid, bytes, self.measure()).await {
            Ok(()) => {}
            Err(NoSpace::Full { .. }) => return self.ahead.rest(REST_WHEN_FULL),
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "cannot look for room for disks");
                return self.ahead.rest(REST_AFTER_FAILURE);
            }
        }
        let _making = self.ahead.making.lock().await;
        let (volumes, name) = (std::sync::Arc::clone(&self.volumes), ready_name(&disk));
        let made = self.at(move |place| place.make(&name, &disk, || volumes.note_disk(disk.uuid, disk.bytes)));
        match made.await {
            Ok(()) => self.ahead.lock().ready.push_back(disk),
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "cannot make a disk ahead: starts go on without");
                self.volumes.let_disk_go(disk.uuid);
                self.ahead.rest(REST_AFTER_FAILURE);
            }
        }
    }

    /// Those that nobody has asked for in a while.
    pub async fn drop_surplus(&self) {
        let gone = self.ahead.lock().surplus(self.ahead.max);
        self.drop_ready(gone).await;
    }

    pub async fn drop_all_ready(&self) -> bool {
        // One that is just being made is one of them.
        let _making = self.ahead.making.lock().await;
        let gone: Vec<Disk> = self.ahead.lock().ready.drain(..).collect();
        let any = !gone.is_empty();
        self.drop_ready(gone).await;
        any
    }

    async fn drop_ready(&self, gone: Vec<Disk>) {
        for disk in gone {
            let removed: Result<(), DiskError> = self.at(move |place| place.remove(&ready_name(&disk), &disk)).await;
            if let Err(error) = removed {
                tracing::error!(error = error_chain(&error), "cannot remove a disk that was made ahead");
            }
            self.volumes.let_disk_go(disk.uuid);
        }
    }
}

#[async_trait]
impl Lender for Disks {
    async fn give_back(&self) -> bool {
        let any = self.drop_all_ready().await;
        if any {
            self.ahead.rest(REST_WHEN_FULL);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(bytes: u64) -> Disk {
        Disk { uuid: Uuid::random(), bytes }
    }

    #[test]
    fn only_one_of_exactly_that_size_is_taken_and_what_was_asked_for_is_wanted() {
        let ahead = Ahead::new(4);
        assert!(ahead.take(64).is_none() && ahead.take(32).is_none());
        assert_eq!(ahead.lock().lacks(4), None, "nobody has got any");
        ahead.note(64);
        ahead.note(32);
        assert_eq!(ahead.lock().lacks(4), Some(32), "the last that was asked for");
        ahead.put_back(disk(32));
        assert_eq!(ahead.lock().lacks(4), Some(64));
        assert!(ahead.take(33).is_none());
        assert_eq!(ahead.take(32).map(|disk| disk.bytes), Some(32));
    }

    #[test]
    fn there_are_never_more_than_may_be_and_none_when_none_may() {
        let ahead = Ahead::new(2);
        for _ in 0..5 {
            ahead.note(64);
        }
        for _ in 0..2 {
            assert_eq!(ahead.lock().lacks(2), Some(64));
            ahead.put_back(disk(64));
        }
        assert_eq!(ahead.lock().lacks(2), None);
        ahead.put_back(disk(1));
        assert_eq!(ahead.lock().surplus(2).iter().map(|disk| disk.bytes).collect::<Vec<_>>(), [1]);
        let off = Ahead::new(0);
        off.note(64);
        assert!(off.take(64).is_none() && off.lock().lacks(0).is_none());
    }

    #[test]
    fn what_fails_rests() {
        let ahead = Ahead::new(4);
        ahead.note(64);
        ahead.rest(REST_AFTER_FAILURE);
        assert_eq!(ahead.lock().lacks(4), None);
    }
}
