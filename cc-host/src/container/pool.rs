//! Inits that are parked: each with its id, its slot, its namespaces and its cgroup, made before anybody asks for a container, so that a
//! start needs only say what is to run. How many there are follows from how many were started lately. A parked one holds nothing of
//! any project, and is a container's once or never. Refuses to be on a start's way: what is not there is made as ever.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::launch::{LaunchError, Shim, kill_leftover};
use super::record::RunSpec;
use super::remove_tree::remove_tree;
use super::room::Containers;
use super::start::{ID_RANGE, private_dir};
use crate::error_chain;
use crate::ids::ContainerId;
use crate::kernel::cgroup::{Cgroup, CgroupError};
use crate::kernel::netns::{self, NetnsError};
use crate::shim::place::Place;

/// As many are kept as were started in this time.
const DEMAND_WITHIN: Duration = Duration::from_secs(10);
/// Nobody waits for a start that did not come for so long.
const QUIET_AFTER: Duration = Duration::from_secs(180);
/// What is started has the machine to itself, but for a stream of starts that does not end.
const WAIT_FOR_STARTS: Duration = Duration::from_millis(50);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What could not be parked will not be in the next moment either.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum ParkError {
    #[error("cannot make a cgroup")]
    Cgroup(#[source] CgroupError),
    #[error("cannot park a shim")]
    Shim(#[source] LaunchError),
    #[error("cannot keep its network namespace")]
    Netns(#[source] NetnsError),
}

/// One that waits.
pub(super) struct Parked {
    pub(super) id: ContainerId,
    pub(super) slot: u32,
    pub(super) shim: Shim,
    pub(super) cgroup: Cgroup,
    pub(super) netns: OwnedFd,
}

pub(super) struct Pool {
    max: usize,
    state: Mutex<PoolState>,
    /// Starts that are under way.
    starting: AtomicUsize,
    changed: Notify,
    /// While somebody keeps it.
    kept: watch::Sender<bool>,
}

#[derive(Default)]
struct PoolState {
    parked: VecDeque<Parked>,
    /// When containers were started.
    starts: VecDeque<Instant>,
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
    pub(super) fn note_start(&self) -> Starting<'_> {
        if self.max > 0 {
            let mut state = self.lock();
            state.starts.push_back(Instant::now());
            if state.starts.len() > self.max {
                state.starts.pop_front();
            }
        }
        self.starting.fetch_add(1, Ordering::Relaxed);
        Starting { pool: self }
    }

    /// One for a container of this kind, if there is any.
    pub(super) fn take(&self, spec: &RunSpec) -> Option<Parked> {
        if !fits(spec) {
            return None;
        }
        let mut state = self.lock();
        let index = state.parked.iter().position(|parked| !parked.shim.is_over())?;
        state.parked.remove(index)
    }

    /// Nothing has become of it.
    pub(super) fn put_back(&self, parked: Parked) {
        self.lock().parked.push_front(parked);
    }

    /// How many there should be by now.
    fn wanted(&self) -> usize {
        let state = self.lock();
        wanted(&state.starts, state.failed, Instant::now(), self.max)
    }

    /// Those that are more than wanted, and those that have ended.
    fn surplus(&self, wanted: usize) -> Vec<Parked> {
        let mut state = self.lock();
        let (mut kept, mut gone) = (VecDeque::new(), Vec::new());
        while let Some(parked) = state.parked.pop_front() {
            if parked.shim.is_over() || kept.len() >= wanted { gone.push(parked) } else { kept.push_back(parked) }
        }
        state.parked = kept;
        gone
    }

    async fn wait_for_starts(&self) {
        let began = Instant::now();
        while self.starting.load(Ordering::Relaxed) > 0 && began.elapsed() < WAIT_FOR_STARTS {
            // Whoever ends says so.
            let _ = tokio::time::timeout(WAIT_FOR_STARTS, self.changed.notified()).await;
        }
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

/// Whether a parked init can become it. One with CPUs of its own is born in a cgroup that only such containers have.
fn fits(spec: &RunSpec) -> bool {
    spec.cpuset.is_none()
}

fn wanted(starts: &VecDeque<Instant>, failed: Option<Instant>, now: Instant, max: usize) -> usize {
    let within = |since: &Instant, span| now.saturating_duration_since(*since) < span;
    if failed.is_some_and(|failed| within(&failed, REST_AFTER_FAILURE)) {
        return 0;
    }
    let recent = starts.iter().filter(|start| within(start, DEMAND_WITHIN)).count();
    let at_rest = starts.back().is_some_and(|last| within(last, QUIET_AFTER));
    recent.max(usize::from(at_rest)).min(max)
}

impl Containers {
    /// Keeps as many parked as are wanted, until the daemon stops; then none is left.
    pub async fn keep_pool(self: Arc<Self>) {
        if self.pool.max == 0 {
            return;
        }
        self.pool.kept.send_replace(true);
        // A daemon that has just begun is as one that was just asked for a container.
        drop(self.pool.note_start());
        let mut closing = self.closing.subscribe();
        while !*closing.borrow() {
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => break,
                () = self.pool.changed.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.unpark(self.pool.surplus(self.pool.wanted())).await;
            self.refill().await;
        }
        self.unpark(self.pool.surplus(0)).await;
        self.pool.kept.send_replace(false);
    }

    pub(super) async fn wait_for_pool(&self) {
        // The sender lives as long as this room.
        let _ = self.pool.kept.subscribe().wait_for(|kept| !kept).await;
    }

    /// When slots are scarce, containers have them.
    pub(super) async fn pool_yields(&self) {
        self.unpark(self.pool.surplus(0)).await;
    }

    async fn refill(&self) {
        loop {
            self.pool.wait_for_starts().await;
            let there = self.pool.lock().parked.len();
            if *self.closing.borrow() || there >= self.pool.wanted() {
                return;
            }
            let Some(slot) = self.slots.take_spare() else { return };
            let id = ContainerId::random();
            match self.park(&id, slot).await {
                Ok(parked) => self.pool.lock().parked.push_back(parked),
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "cannot park an init: starts go on without");
                    self.pool.lock().failed = Some(Instant::now());
                    self.remove_parked(&id, slot).await;
                }
            }
        }
    }

    async fn park(&self, id: &ContainerId, slot: u32) -> Result<Parked, ParkError> {
        let (root, name) = (Arc::clone(&self.rooms.cgroups), id.clone());
        let made = tokio::task::spawn_blocking(move || root.create_bare(name.as_str())).await;
        let cgroup = made.expect("making a cgroup does not panic").map_err(ParkError::Cgroup)?;
        let place = Place {
            id_base: self.id_base(slot),
            id_count: ID_RANGE,
            cgroup_v2: cgroup.v2_dir(),
            cgroup_shim: Some(self.rooms.cgroups.shims_dir()),
            cgroup_tasks: cgroup.tasks_files(),
        };
        let dir = self.rooms.config.containers_run_dir().join(id.as_str());
        // With what is above it, for root only.
        let made = private_dir(&dir);
        made.map_err(|source| LaunchError::Directory { operation: "create", path: dir.clone(), source })
            .map_err(ParkError::Shim)?;
        let shim = Shim::park(&self.shim_binary(), &dir, &place).await.map_err(ParkError::Shim)?;
        let netns = netns::of_pid(shim.pid().cast_unsigned()).map_err(ParkError::Netns)?;
        Ok(Parked { id: id.clone(), slot, shim, cgroup, netns })
    }

    /// A shim ends when nobody is connected any more; then what it was given goes.
    async fn unpark(&self, all: Vec<Parked>) {
        let removals = all.into_iter().map(|parked| {
            let Parked { id, slot, shim, netns, .. } = parked;
            drop((shim, netns));
            async move { self.remove_parked(&id, slot).await }
        });
        futures::future::join_all(removals).await;
    }

    async fn remove_parked(&self, id: &ContainerId, slot: u32) {
        let (cgroups, id) = (Arc::clone(&self.rooms.cgroups), id.clone());
        let dir = self.rooms.config.containers_run_dir().join(id.as_str());
        let removed = tokio::task::spawn_blocking(move || {
            if let Err(error) = kill_leftover(&dir) {
                tracing::error!(%id, error = error_chain(&error), "cannot end a parked shim");
            }
            if let Err(error) = cgroups.get(id.as_str()).and_then(|cgroup| cgroup.remove()) {
                tracing::error!(%id, error = error_chain(&error), "cannot remove a parked cgroup");
            }
            if let Err(error) = remove_tree(&dir) {
                tracing::error!(%id, %error, "cannot remove a parked shim's directory");
            }
        });
        if removed.await.is_err() {
            tracing::error!("removing a parked shim panicked");
        }
        self.slots.release(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_wanted_as_were_started_lately() {
        let now = Instant::now() + 2 * QUIET_AFTER;
        let ago = |seconds| now - Duration::from_secs(seconds);
        let wanted = |starts: &[u64], failed, max| {
            super::wanted(&starts.iter().map(|&seconds| ago(seconds)).collect(), failed, now, max)
        };
        assert_eq!(wanted(&[], None, 16), 0);
        assert_eq!(wanted(&[179], None, 16), 1, "one, for minutes");
        assert_eq!(wanted(&[181], None, 16), 0);
        assert_eq!(wanted(&[200, 30, 9, 2, 1], None, 16), 3);
        assert_eq!(wanted(&[1; 40], None, 16), 16);
        assert_eq!(wanted(&[1], Some(ago(59)), 16), 0, "what fails rests");
        assert_eq!((wanted(&[1], Some(ago(61)), 16), wanted(&[1], None, 0)), (1, 0));
    }
}
