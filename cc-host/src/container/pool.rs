//! Inits that are parked: each with its id, its slot, its namespaces and its cgroup, made before anybody asks for a container, so that a
//! start needs only say what is to run. How many there are follows from how many were started lately. A parked one holds nothing of
//! any project, and is a container's once or never. Refuses to be on a start's way: what is not there is made as ever.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::launch::Shim;
use super::record::RunSpec;
use crate::datapath::Prepared;
use crate::demand;
use crate::ids::ContainerId;
use crate::kernel::cgroup::Cgroup;

/// What is started has the machine to itself, but for a stream of starts that does not end.
pub(super) const WAIT_FOR_STARTS: Duration = Duration::from_millis(50);
/// What could not be parked will not be in the next moment either.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// What a container is going to need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A pair of interfaces with the programs of an endpoint, which drop everything as long as it is none's.
    InVpc,
    Alone,
}

impl Kind {
    pub(super) const ALL: [Kind; 2] = [Kind::InVpc, Kind::Alone];

    fn of(spec: &RunSpec) -> Kind {
        if spec.vpc.is_some() { Kind::InVpc } else { Kind::Alone }
    }
}

/// The host's end of what is `eth0` inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParkedLink {
    pub(super) ifindex: u32,
    pub(super) mtu: u16,
    pub(super) prepared: Prepared,
}

/// One that waits.
pub(super) struct Parked {
    pub(super) id: ContainerId,
    pub(super) slot: u32,
    pub(super) shim: Shim,
    pub(super) cgroup: Cgroup,
    pub(super) netns: OwnedFd,
    /// Of one for a VPC.
    pub(super) link: Option<ParkedLink>,
}

impl Parked {
    /// Whether that interface is its.
    pub(super) fn is_at(&self, ifindex: u32) -> bool {
        self.link.is_some_and(|link| link.ifindex == ifindex)
    }

    fn kind(&self) -> Kind {
        if self.link.is_some() { Kind::InVpc } else { Kind::Alone }
    }
}

pub(super) struct Pool {
    pub(super) max: usize,
    state: Mutex<PoolState>,
    /// Starts that are under way.
    starting: AtomicUsize,
    pub(super) changed: Notify,
    /// While somebody keeps it.
    pub(super) kept: watch::Sender<bool>,
}

#[derive(Default)]
struct PoolState {
    parked: VecDeque<Parked>,
    /// When containers were started, and which.
    starts: VecDeque<(Instant, Kind)>,
    failed: Option<Instant>,
}

impl Pool {
    pub(super) fn new(max: u32) -> Self {
        Pool {
            max: max as usize,
            state: Mutex::default(),
            starting: AtomicUsize::new(0),
            changed: Notify::new(),
            kept: watch::Sender::new(false),
        }
    }

    /// A start begins. Until what it gives is dropped, nothing is parked.
    pub(super) fn note_start(&self, spec: &RunSpec) -> Starting<'_> {
        self.note(Kind::of(spec));
        self.starting.fetch_add(1, Ordering::Relaxed);
        Starting { pool: self }
    }

    pub(super) fn note(&self, kind: Kind) {
        if self.max > 0 {
            let mut state = self.lock();
            state.starts.push_back((Instant::now(), kind));
            if state.starts.len() > self.max {
                state.starts.pop_front();
            }
        }
    }

    /// One for such a container, if there is any. One in a VPC can do with one that has no interface yet, but nobody else must have one.
    pub(super) fn take(&self, spec: &RunSpec, usual_mtu: impl FnOnce() -> u16) -> Option<Parked> {
        if self.lock().parked.is_empty() || !fits(spec) {
            return None;
        }
        let mtu = spec.mtu.unwrap_or_else(usual_mtu);
        let mut state = self.lock();
        let mut find = |suits: &dyn Fn(&Parked) -> bool| {
            let index = state.parked.iter().position(|parked| !parked.shim.is_over() && suits(parked))?;
            state.parked.remove(index)
        };
        let linked = match Kind::of(spec) {
            Kind::InVpc => find(&|parked| parked.link.is_some_and(|link| link.mtu == mtu)),
            Kind::Alone => None,
        };
        linked.or_else(|| find(&|parked| parked.link.is_none()))
    }

    /// Nothing has become of it.
    pub(super) fn put_back(&self, parked: Parked) {
        self.lock().parked.push_front(parked);
    }

    /// How many of a kind there should be by now.
    fn wanted(&self, kind: Kind) -> usize {
        let state = self.lock();
        let starts = state.starts.iter().filter(|(_, of)| *of == kind).map(|(at, _)| *at);
        demand::wanted(starts, Instant::now(), self.max)
    }

    pub(super) fn lacks(&self, kind: Kind) -> bool {
        if self.lock().failed.is_some_and(|failed| failed.elapsed() < REST_AFTER_FAILURE) {
            return false;
        }
        let wanted = self.wanted(kind);
        let parked = &self.lock().parked;
        parked.len() < self.max && parked.iter().filter(|parked| parked.kind() == kind).count() < wanted
    }

    /// Those of each kind that are more than are wanted, and those that have ended.
    pub(super) fn surplus(&self) -> Vec<Parked> {
        let mut left = Kind::ALL.map(|kind| self.wanted(kind));
        self.drop_but(|parked| {
            let left = &mut left[parked.kind() as usize];
            let stays = *left > 0 && !parked.shim.is_over();
            *left -= usize::from(stays);
            stays
        })
    }

    pub(super) fn drop_but(&self, mut stays: impl FnMut(&Parked) -> bool) -> Vec<Parked> {
        let mut state = self.lock();
        let (kept, gone): (Vec<_>, Vec<_>) = state.parked.drain(..).partition(|parked| stays(parked));
        state.parked = kept.into();
        gone
    }

    pub(super) fn is_starting(&self) -> bool {
        self.starting.load(Ordering::Relaxed) > 0
    }

    pub(super) async fn wait_for_starts(&self) {
        let began = Instant::now();
        while self.is_starting() && began.elapsed() < WAIT_FOR_STARTS {
            // Whoever ends says so.
            let _ = tokio::time::timeout(WAIT_FOR_STARTS, self.changed.notified()).await;
        }
    }

    pub(super) fn add(&self, parked: Parked) {
        self.lock().parked.push_back(parked);
    }

    /// What was to be parked could not be.
    pub(super) fn note_failure(&self) {
        self.lock().failed = Some(Instant::now());
    }

    pub(super) fn has_interface(&self, ifindex: u32) -> bool {
        self.lock().parked.iter().any(|parked| parked.is_at(ifindex))
    }

    pub(super) fn interfaces(&self) -> Vec<u32> {
        self.lock().parked.iter().filter_map(|parked| parked.link.map(|link| link.ifindex)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // Every change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has the machine to itself.
pub(super) struct Starting<'a> {
    pool: &'a Pool,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.pool.starting.fetch_sub(1, Ordering::Relaxed);
        self.pool.changed.notify_one();
    }
}

/// Whether a parked init can become it. One with CPUs of its own is born in a cgroup that only such containers have, one with the host's users
/// in no user namespace.
fn fits(spec: &RunSpec) -> bool {
    spec.cpuset.is_none() && !spec.host_users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_rests_and_nothing_else_goes_for_it() {
        let pool = Pool::new(16);
        pool.note(Kind::Alone);
        assert!(pool.lacks(Kind::Alone));
        pool.note_failure();
        assert!(!pool.lacks(Kind::Alone));
        assert_eq!(pool.wanted(Kind::Alone), 1);
    }
}
