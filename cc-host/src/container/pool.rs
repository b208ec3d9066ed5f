//! Inits that are parked: each with its id, its slot, its namespaces and its cgroup, made before anybody asks for a container, so that a
//! start needs only say what is to run. How many there are follows from how many were started lately. A parked one holds nothing of
//! any project, and is a container's once or never. Refuses to be on a start's way: what is not there is made as ever.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::launch::{LaunchError, Shim, kill_leftover};
use super::record::{RunSpec, interface_of};
use super::remove_tree::remove_tree;
use super::room::Containers;
use super::start::{ID_RANGE, private_dir};
use super::teardown::goes;
use crate::datapath::DatapathError;
use crate::error_chain;
use crate::ids::ContainerId;
use crate::kernel::cgroup::{Cgroup, CgroupError};
use crate::kernel::link::{LinkError, Veth};
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

/// Until it is somebody's.
const PARKED_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 0];

#[derive(Debug, thiserror::Error)]
enum ParkError {
    #[error("cannot make a cgroup")]
    Cgroup(#[source] CgroupError),
    #[error("cannot park a shim")]
    Shim(#[source] LaunchError),
    #[error("cannot keep its network namespace")]
    Netns(#[source] NetnsError),
    #[error("cannot make its interface")]
    Link(#[source] LinkError),
    #[error("cannot attach programs to its interface and cgroup")]
    Datapath(#[source] DatapathError),
}

/// What a container is going to need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A pair of interfaces with the programs of an endpoint, which drop everything as long as it is none's.
    InVpc,
    Alone,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::InVpc, Kind::Alone];

    fn of(spec: &RunSpec) -> Kind {
        if spec.vpc.is_some() { Kind::InVpc } else { Kind::Alone }
    }
}

/// The host's end of what is `eth0` inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParkedLink {
    pub(super) ifindex: u32,
    mtu: u16,
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
    fn kind(&self) -> Kind {
        if self.link.is_some() { Kind::InVpc } else { Kind::Alone }
    }
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

    fn note(&self, kind: Kind) {
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
        wanted(starts, state.failed, Instant::now(), self.max)
    }

    fn lacks(&self, kind: Kind) -> bool {
        let wanted = self.wanted(kind);
        let parked = &self.lock().parked;
        parked.len() < self.max && parked.iter().filter(|parked| parked.kind() == kind).count() < wanted
    }

    /// Those of each kind that are more than are wanted, and those that have ended.
    fn surplus(&self) -> Vec<Parked> {
        let mut left = Kind::ALL.map(|kind| self.wanted(kind));
        self.drop_but(|parked| {
            let left = &mut left[parked.kind() as usize];
            let stays = *left > 0 && !parked.shim.is_over();
            *left -= usize::from(stays);
            stays
        })
    }

    fn drop_but(&self, mut stays: impl FnMut(&Parked) -> bool) -> Vec<Parked> {
        let mut state = self.lock();
        let (kept, gone): (Vec<_>, Vec<_>) = state.parked.drain(..).partition(|parked| stays(parked));
        state.parked = kept.into();
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

/// Of one kind.
fn wanted(starts: impl Iterator<Item = Instant> + Clone, failed: Option<Instant>, now: Instant, max: usize) -> usize {
    let within = |since: &Instant, span| now.saturating_duration_since(*since) < span;
    if failed.is_some_and(|failed| within(&failed, REST_AFTER_FAILURE)) {
        return 0;
    }
    let recent = starts.clone().filter(|start| within(start, DEMAND_WITHIN)).count();
    let at_rest = starts.last().is_some_and(|last| within(&last, QUIET_AFTER));
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
        self.pool.note(Kind::InVpc);
        let mut closing = self.closing.subscribe();
        while !*closing.borrow() {
            self.unpark(self.pool.surplus()).await;
            for kind in Kind::ALL {
                self.refill(kind).await;
            }
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => break,
                () = self.pool.changed.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        self.unpark(self.pool.drop_but(|_| false)).await;
        self.pool.kept.send_replace(false);
    }

    pub(super) async fn wait_for_pool(&self) {
        // The sender lives as long as this room.
        let _ = self.pool.kept.subscribe().wait_for(|kept| !kept).await;
    }

    /// When slots are scarce, containers have them.
    pub(super) async fn pool_yields(&self) {
        self.unpark(self.pool.drop_but(|_| false)).await;
    }

    /// Something has happened to an interface: if it is parked it is put right, or nobody gets it.
    pub(super) async fn look_at_parked(&self, ifindex: u32) {
        let is_it = |parked: &Parked| parked.link.is_some_and(|link| link.ifindex == ifindex);
        if !self.pool.lock().parked.iter().any(is_it) {
            return;
        }
        let datapath = Arc::clone(&self.rooms.datapath);
        let prepared = tokio::task::spawn_blocking(move || datapath.prepare_again(ifindex)).await;
        let is_guarded = prepared.expect("a datapath call does not panic").is_ok();
        if !is_guarded || self.rooms.links.bring_up(ifindex).await.is_err() {
            self.unpark(self.pool.drop_but(|parked| !is_it(parked))).await;
        }
    }

    async fn refill(&self, kind: Kind) {
        loop {
            self.pool.wait_for_starts().await;
            if *self.closing.borrow() || !self.pool.lacks(kind) {
                return;
            }
            let Some(slot) = self.slots.take_spare() else { return };
            let id = ContainerId::random();
            match self.park(&id, slot, kind).await {
                Ok(parked) => self.pool.lock().parked.push_back(parked),
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "cannot park an init: starts go on without");
                    self.pool.lock().failed = Some(Instant::now());
                    self.remove_parked(&id, slot).await;
                }
            }
        }
    }

    async fn park(&self, id: &ContainerId, slot: u32, kind: Kind) -> Result<Parked, ParkError> {
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
        let link = match kind {
            Kind::InVpc => Some(self.park_link(id, &netns, cgroup.v2_dir()).await?),
            Kind::Alone => None,
        };
        Ok(Parked { id: id.clone(), slot, shim, cgroup, netns, link })
    }

    /// It stays down inside until it has addresses, and a MAC of its own.
    async fn park_link(&self, id: &ContainerId, netns: &OwnedFd, cgroup_dir: PathBuf) -> Result<ParkedLink, ParkError> {
        let (host_name, alias, mtu) = (interface_of(id), self.alias(id), self.usual_mtu());
        let veth = Veth { host_name: &host_name, netns: netns.as_fd(), mac: PARKED_MAC, mtu, alias: &alias };
        let ifindex = self.rooms.links.create_veth(&veth).await.map_err(ParkError::Link)?;
        let (datapath, tag) = (Arc::clone(&self.rooms.datapath), id.clone());
        let prepare = move || datapath.prepare(ifindex, tag.as_str(), &cgroup_dir);
        let prepared = tokio::task::spawn_blocking(prepare).await.expect("a datapath call does not panic");
        prepared.map_err(ParkError::Datapath)?;
        Ok(ParkedLink { ifindex, mtu })
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

    /// The interface goes with its namespace, which its processes hold, and before the programs on it.
    async fn remove_parked(&self, id: &ContainerId, slot: u32) {
        let dir = self.rooms.config.containers_run_dir().join(id.as_str());
        let ended = tokio::task::spawn_blocking({
            let dir = dir.clone();
            move || kill_leftover(&dir)
        });
        if let Ok(Err(error)) = ended.await {
            tracing::error!(%id, error = error_chain(&error), "cannot end a parked shim");
        }
        let interface = interface_of(id);
        goes(&interface).await;
        if let Err(error) = self.delete_interface(&interface).await {
            tracing::error!(%id, error = error_chain(&error), "cannot delete a parked interface");
        }
        let (cgroups, datapath) = (Arc::clone(&self.rooms.cgroups), Arc::clone(&self.rooms.datapath));
        let id = id.clone();
        let removed = tokio::task::spawn_blocking(move || {
            if let Err(error) = datapath.unprepare(id.as_str()) {
                tracing::error!(%id, error = error_chain(&error), "cannot detach from a parked cgroup");
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
        let wanted =
            |starts: &[u64], failed, max| super::wanted(starts.iter().map(|&seconds| ago(seconds)), failed, now, max);
        assert_eq!(wanted(&[], None, 16), 0);
        assert_eq!(wanted(&[179], None, 16), 1, "one, for minutes");
        assert_eq!(wanted(&[181], None, 16), 0);
        assert_eq!(wanted(&[200, 30, 9, 2, 1], None, 16), 3);
        assert_eq!(wanted(&[1; 40], None, 16), 16);
        assert_eq!(wanted(&[1], Some(ago(59)), 16), 0, "what fails rests");
        assert_eq!((wanted(&[1], Some(ago(61)), 16), wanted(&[1], None, 0)), (1, 0));
    }
}
