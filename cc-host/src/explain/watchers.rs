//! Who watches drops and decisions: one reader of the ring hands each record to those who may see it. A watcher that is slow loses records,
//! and is told how many; the others notice nothing. While nobody watches drops, none is recorded; decisions are kept. Refuses to wait for
//! anybody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cc_common::event::{DropRecord, RuleRecord};
use tokio::sync::mpsc;

use super::error::ExplainError;
use super::journal::Journal;
use crate::container::Containers;
use crate::datapath::{Datapath, EventRing, Record};
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

/// A decision, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSeen {
    pub record: RuleRecord,
    pub container: (ContainerId, Name),
}

/// What a watcher gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Dropped(DropSeen),
    Decided(RuleSeen),
}

/// Whose a record is.
pub(super) type Owner = (ContainerId, Name, Project);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Drops,
    Decisions,
}

/// What one of them may see.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub what: What,
    pub project: Project,
    pub only: Option<ContainerId>,
    /// Also drops that are nobody's.
    pub host: bool,
}

struct Watcher {
    wanted: Wanted,
    queue: mpsc::Sender<Seen>,
    missed: Arc<AtomicU64>,
}

pub(super) struct Watchers {
    datapath: Arc<Datapath>,
    containers: Arc<Containers>,
    all: Mutex<(u64, HashMap<u64, Watcher>)>,
    journal: Mutex<Journal>,
}

/// A watcher's place; dropping it leaves.
pub(super) struct Watching {
    watchers: Arc<Watchers>,
    number: u64,
    pub(super) queue: mpsc::Receiver<Seen>,
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
        if !wants_drops(&all.1)
            && let Err(error) = self.watchers.datapath.watch_drops(false)
        {
            tracing::warn!(error = error_chain(&error), "drops are still recorded, for nobody");
        }
    }
}

impl Watchers {
    pub(super) fn new(datapath: Arc<Datapath>, containers: Arc<Containers>) -> Arc<Self> {
        Arc::new(Watchers { datapath, containers, all: Mutex::default(), journal: Mutex::default() })
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
        if wanted.what == What::Drops {
            self.datapath.watch_drops(true)?;
        }
        all.0 += 1;
        let number = all.0;
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        all.1.insert(number, Watcher { wanted, queue: sender, missed: Arc::clone(&missed) });
        Ok(Watching { watchers: Arc::clone(self), number, queue, missed })
    }

    /// Reads the ring until the daemon ends.
    pub(super) async fn serve(self: Arc<Self>, ring: EventRing) {
        let read = ring.read(|batch| self.hand_out(batch)).await;
        if let Err(error) = read {
            tracing::error!(%error, "records of drops and decisions are not read any more");
        }
    }

    fn hand_out(&self, batch: &[Record]) {
        let all = self.lock();
        // Names change only with their containers: one look-up per batch and container does.
        let mut known: HashMap<u64, Option<Owner>> = HashMap::new();
        let mut whose = |number: u64| -> Option<Owner> {
            known.entry(number).or_insert_with(|| self.containers.of_number(number)).clone()
        };
        for record in batch {
            match record {
                Record::Dropped(record) if wants_drops(&all.1) => {
                    let (owner, sender) = (whose(record.container), whose(record.sender));
                    hand_to(&all.1, |wanted| show(wanted, record, owner.as_ref(), sender.as_ref()).map(Seen::Dropped));
                }
                Record::Dropped(_) => {}
                Record::Decided(record) => {
                    let Some(owner) = whose(record.container) else { continue };
                    self.journal().add(&owner, *record);
                    hand_to(&all.1, |wanted| show_decision(wanted, record, &owner).map(Seen::Decided));
                }
            }
        }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decisions that came before.
    pub(super) fn kept(&self, wanted: &Wanted) -> Vec<RuleSeen> {
        self.journal().list(&wanted.project, wanted.only.as_ref())
    }
}

fn wants_drops(watchers: &HashMap<u64, Watcher>) -> bool {
    watchers.values().any(|watcher| watcher.wanted.what == What::Drops)
}

/// To each that may see it; one whose queue is full misses it.
fn hand_to(watchers: &HashMap<u64, Watcher>, show: impl Fn(&Wanted) -> Option<Seen>) {
    for watcher in watchers.values() {
        let Some(seen) = show(&watcher.wanted) else { continue };
        if watcher.queue.try_send(seen).is_err() {
            watcher.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A decision as a watcher may see it, if it may: its container is the project's own, and what is told is what the container sees.
fn show_decision(wanted: &Wanted, record: &RuleRecord, owner: &Owner) -> Option<RuleSeen> {
    let (id, name, project) = owner;
    let is_wanted = wanted.what == What::Decisions
        && *project == wanted.project
        && wanted.only.as_ref().is_none_or(|only| only == id);
    is_wanted.then(|| RuleSeen { record: *record, container: (id.clone(), name.clone()) })
}

/// The record as a watcher may see it, if it may.
fn show(wanted: &Wanted, record: &DropRecord, owner: Option<&Owner>, sender: Option<&Owner>) -> Option<DropSeen> {
    if wanted.what != What::Drops {
        return None;
    }
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
        let wanted = Wanted { what: What::Drops, project: Name::parse("red").unwrap(), only: None, host: false };
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
        let decisions = Wanted { what: What::Decisions, ..wanted.clone() };
        assert_eq!(show(&decisions, &record, Some(&red), None), None, "who watches something else");
        let host = Wanted { host: true, ..wanted };
        assert_eq!(show(&host, &unknown, None, None).unwrap().container, None);
    }

    #[test]
    fn a_project_sees_what_its_own_rules_decide() {
        let record = RuleRecord::default();
        let wanted = |what, only| Wanted { what, project: Name::parse("red").unwrap(), only, host: true };
        let (red, blue) = (of(1, "red"), of(2, "blue"));
        let shown = show_decision(&wanted(What::Decisions, None), &record, &red).unwrap();
        assert_eq!(shown.container, (red.0.clone(), red.1.clone()));
        assert_eq!(show_decision(&wanted(What::Decisions, None), &record, &blue), None);
        assert_eq!(show_decision(&wanted(What::Decisions, Some(of(7, "red").0)), &record, &red), None);
        assert_eq!(show_decision(&wanted(What::Drops, None), &record, &red), None);
    }
}
