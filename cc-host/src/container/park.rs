//! Parking inits, and what becomes of those that nobody needs: the task that keeps the pool. Refuses to be on a start's way.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::launch::{LaunchError, Shim, kill_leftover};
use super::pool::{Kind, Parked, ParkedLink};
use super::record::interface_of;
use super::remove_tree::remove_tree;
use super::room::Containers;
use super::start::{ID_RANGE, private_dir};
use super::teardown::goes;
use crate::datapath::DatapathError;
use crate::error_chain;
use crate::ids::ContainerId;
use crate::kernel::cgroup::CgroupError;
use crate::kernel::link::{LinkError, Pair};
use crate::kernel::netns::{self, NetnsError};
use crate::shim::place::Place;

/// Should nobody start anything.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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

/// Says that nobody keeps the pool any more, however that came.
struct Kept<'a> {
    room: &'a Containers,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.room.pool.kept.send_replace(false);
    }
}

impl Containers {
    /// Keeps as many parked as are wanted, until the daemon stops; then none is left.
    pub async fn keep_pool(self: Arc<Self>) {
        if self.pool.max == 0 {
            return;
        }
        self.pool.kept.send_replace(true);
        let _kept = Kept { room: &self };
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
    }

    /// Nothing has become of it. Where nobody keeps the pool any more, it goes.
    pub(super) async fn give_back(&self, parked: Parked) {
        if !*self.closing.borrow() {
            return self.pool.put_back(parked);
        }
        self.unpark(vec![parked]).await;
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
        if !self.pool.has_interface(ifindex) {
            return;
        }
        let datapath = Arc::clone(&self.rooms.datapath);
        let prepared = tokio::task::spawn_blocking(move || datapath.prepare_again(ifindex)).await;
        let is_guarded = prepared.expect("a datapath call does not panic").is_ok();
        if !is_guarded || self.rooms.links.bring_up(ifindex).await.is_err() {
            self.unpark(self.pool.drop_but(|parked| !parked.is_at(ifindex))).await;
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
                Ok(parked) => self.pool.add(parked),
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "cannot park an init: starts go on without");
                    self.pool.note_failure();
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
            id_base: self.range(slot),
            id_count: ID_RANGE,
            host_users: false,
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
            Kind::InVpc => Some(self.park_link(id, slot, &netns, cgroup.v2_dir()).await?),
            Kind::Alone => None,
        };
        Ok(Parked { id: id.clone(), slot, shim, cgroup, netns, link })
    }

    /// It stays down inside until it has addresses, and a MAC of its own.
    async fn park_link(
        &self,
        id: &ContainerId,
        slot: u32,
        netns: &OwnedFd,
        cgroup_dir: PathBuf,
    ) -> Result<ParkedLink, ParkError> {
        let (host_name, alias, mtu) = (interface_of(id), self.alias(id), self.usual_mtu());
        let (kind, netns, mac) = (self.rooms.config.interfaces, netns.as_fd(), PARKED_MAC);
        let pair = Pair { kind, host_name: &host_name, netns, mac, mtu, alias: &alias };
        let ifindex = self.rooms.links.create_pair(&pair).await.map_err(ParkError::Link)?;
        let (datapath, tag) = (Arc::clone(&self.rooms.datapath), id.clone());
        let prepare = move || datapath.prepare(slot, ifindex, tag.as_str(), &cgroup_dir);
        let prepared = tokio::task::spawn_blocking(prepare).await.expect("a datapath call does not panic");
        Ok(ParkedLink { ifindex, mtu, prepared: prepared.map_err(ParkError::Datapath)? })
    }

    /// A shim ends when nobody is connected any more; then what it was given goes.
    pub(super) async fn unpark(&self, all: Vec<Parked>) {
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
