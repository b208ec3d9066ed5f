//! Who watches drops: one reader of the ring hands each record to those who may see it. A watcher that is slow loses records, and is
//! told how many; the others notice nothing. While nobody watches, nothing is recorded. Refuses to wait for anybody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cc_common::event::DropRecord;
use tokio::sync::mpsc;

use super::error::ExplainError;
use crate::container::Containers;
use crate::datapath::{Datapath, DropRing};
use crate::error_chain;
use crate::ids::{ContainerId, Name, Project};

/// Watchers of one host.
pub(super) const WATCHERS_MAX: usize = 64;
/// Records on their way to one of them: 1,024 × 250 bytes.
const QUEUE_MAX: usize = 1_024;

/// A drop, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropSeen {
    pub record: DropRecord,
    /// `None`: on an interface that is nobody's.
    pub container: Option<(ContainerId, Name)>,
    /// Whether what sent it is the project's to know of, or nobody's.
    pub is_sender_known: bool,
}

/// What one of them may see.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub project: Project,
    pub only: Option<ContainerId>,
    /// Also what is nobody's.
    pub host: bool,
}

struct Watcher {
    wanted: Wanted,
    queue: mpsc::Sender<DropSeen>,
    missed: Arc<AtomicU64>,
}

pub(super) struct Watchers {
    datapath: Arc<Datapath>,
    containers: Arc<Containers>,
    all: Mutex<(u64, HashMap<u64, Watcher>)>,
}

/// A watcher's place; dropping it leaves.
pub(super) struct Watching {
    watchers: Arc<Watchers>,
    number: u64,
    pub(super) queue: mpsc::Receiver<DropSeen>,
    missed: Arc<AtomicU64>,
}

impl Watching {
    /// Records that were dropped here because they were not taken in time, since this was asked last.
    pub(super) fn take_missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut all = self.watchers.lock();
        all.1.remove(&self.number);
        if all.1.is_empty()
            && let Err(error) = self.watchers.datapath.watch_drops(false)
        {
            tracing::warn!(error = error_chain(&error), "drops are still recorded, for nobody");
        }
    }
}

impl Watchers {
    pub(super) fn new(datapath: Arc<Datapath>, containers: Arc<Containers>) -> Arc<Self> {
        Arc::new(Watchers { datapath, containers, all: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Watcher>)> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(self: &Arc<Self>, wanted: Wanted) -> Result<Watching, ExplainError> {
        let mut all = self.lock();
        if all.1.len() >= WATCHERS_MAX {
            return Err(ExplainError::TooManyWatchers { max: WATCHERS_MAX });
        }
        // Within the lock, so that whoever leaves does not switch it off again.
        self.datapath.watch_drops(true)?;
        all.0 += 1;
        let number = all.0;
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        all.1.insert(number, Watcher { wanted, queue: sender, missed: Arc::clone(&missed) });
        Ok(Watching { watchers: Arc::clone(self), number, queue, missed })
    }

    /// Reads the ring until the daemon ends.
    pub(super) async fn serve(self: Arc<Self>, ring: DropRing) {
        let read = ring.read(|batch| self.hand_out(batch)).await;
        if let Err(error) = read {
            tracing::error!(%error, "records of drops are not read any more");
        }
    }

    fn hand_out(&self, batch: &[DropRecord]) {
        let all = self.lock();
        if all.1.is_empty() || batch.is_empty() {
            return;
        }
        // Names change only with their containers: one look-up per batch and container does.
        let mut known: HashMap<u64, Option<(ContainerId, Name, Project)>> = HashMap::new();
        let mut whose = |number: u64| -> Option<(ContainerId, Name, Project)> {
            known.entry(number).or_insert_with(|| self.containers.of_number(number)).clone()
        };
        for record in batch {
            let (owner, sender) = (whose(record.container), whose(record.sender));
            for watcher in all.1.values() {
                let Some(seen) = show(&watcher.wanted, record, owner.as_ref(), sender.as_ref()) else { continue };
                if watcher.queue.try_send(seen).is_err() {
                    watcher.missed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The record as a watcher may see it, if it may.
fn show(
    wanted: &Wanted,
    record: &DropRecord,
    owner: Option<&(ContainerId, Name, Project)>,
    sender: Option<&(ContainerId, Name, Project)>,
) -> Option<DropSeen> {
    let container = match owner {
        Some((id, name, project)) if *project == wanted.project => Some((id.clone(), name.clone())),
        None if wanted.host && record.container == 0 => None,
        _ => return None,
    };
    if wanted.only.is_some() && wanted.only.as_ref() != container.as_ref().map(|(id, _)| id) {
        return None;
    }
    let is_sender_known = record.sender == 0 || sender.is_some_and(|(_, _, project)| *project == wanted.project);
    Some(DropSeen { record: *record, container, is_sender_known })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: u64, project: &str) -> (ContainerId, Name, Project) {
        let id = ContainerId::parse(&format!("{number:016x}")).unwrap();
        (id, Name::parse("web").unwrap(), Name::parse(project).unwrap())
    }

    #[test]
    fn a_project_sees_its_own_drops_and_no_strangers_addresses() {
        let wanted = Wanted { project: Name::parse("red").unwrap(), only: None, host: false };
        let record = DropRecord { container: 1, sender: 2, ..DropRecord::default() };
        let (red, blue) = (of(1, "red"), of(2, "blue"));
        assert!(show(&wanted, &record, Some(&red), Some(&of(2, "red"))).unwrap().is_sender_known);
        assert!(!show(&wanted, &record, Some(&red), Some(&blue)).unwrap().is_sender_known);
        assert!(
            !show(&wanted, &record, Some(&red), None).unwrap().is_sender_known,
            "gone, and nobody knows whose it was"
        );
        assert_eq!(show(&wanted, &record, Some(&blue), Some(&red)), None);
        assert_eq!(show(&wanted, &record, None, None), None, "a container that is gone");
        let only = Wanted { only: Some(of(7, "red").0), ..wanted.clone() };
        assert_eq!(show(&only, &record, Some(&red), None), None);
        let unknown = DropRecord::default();
        assert_eq!(show(&wanted, &unknown, None, None), None);
        let host = Wanted { host: true, ..wanted };
        assert_eq!(show(&host, &unknown, None, None).unwrap().container, None);
    }
}
