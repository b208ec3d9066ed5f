//! What became of a container while no daemon looked: one that goes on is taken over as it is, one that ended is ended in order.
//! Refuses to leave one without a supervisor: what cannot be taken over is taken down, and its record says why.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use tokio::sync::watch;

use super::launch::{LaunchError, Shim};
use super::leftover::{self, open_process};
use super::record::ContainerRecord;
use super::room::{Containers, Live};
use super::teardown::lost;
use crate::datapath::DatapathError;
use crate::error_chain;
use crate::kernel::cgroup::{Cgroup, CgroupError};
use crate::kernel::netns::{self, NetnsError};
use crate::shim::record::{self, EXIT_FILE, ExitRecord, Process};

/// A shim answers at once; one that is about to end has its last words still to say.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Why a container that ran cannot be taken over.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the host was restarted, or the container's run-time directory was removed")]
    Forgotten,
    #[error("its shim was killed while no daemon ran")]
    ShimKilled,
    #[error("its first process is not the one that its record names")]
    OtherProcess,
    #[error("its shim does not answer")]
    Silent,
    #[error("its shim cannot be taken over")]
    Shim(#[source] LaunchError),
    #[error("its network namespace cannot be opened")]
    Netns(#[source] NetnsError),
    #[error("its cgroup cannot be named")]
    Cgroup(#[source] CgroupError),
    #[error("its network interface is gone")]
    NoInterface,
    #[error("the datapath cannot take it over")]
    Datapath(#[source] DatapathError),
}

enum Seen {
    Running { shim: Shim, netns: OwnedFd },
    Ended(ExitRecord),
}

impl Containers {
    /// For a record that says "running". When this returns, it is live, or its record says how it ended.
    pub(super) async fn resume(self: &Arc<Self>, record: &ContainerRecord, pid: i32) {
        let seen = match look(&self.run_dir(record), pid).await {
            Ok(Seen::Running { shim, netns }) => self.take_over(record, shim, netns).await.map(|()| None),
            Ok(Seen::Ended(ended)) => Ok(Some(ended)),
            Err(lost) => Err(lost),
        };
        match seen {
            Ok(None) => {
                let text = format!("{} goes on: the restarted daemon has adopted it", record.name);
                self.rooms.events.add_for(Some(&record.project), "container.adopted", record.id.as_str(), &text).await;
            }
            Ok(Some(ended)) => self.end_unseen(record, ended).await,
            Err(error) => self.give_up(record, &error).await,
        }
    }

    async fn take_over(self: &Arc<Self>, record: &ContainerRecord, shim: Shim, netns: OwnedFd) -> Result<(), Lost> {
        let cgroup = self.rooms.cgroups.get(record.id.as_str()).map_err(Lost::Cgroup)?;
        self.adopt_endpoint(record, &cgroup).await?;
        if self.keep_devices_filtered(record, &cgroup).await.map_err(Lost::Datapath)? {
            tracing::warn!(container = %record.id, "its devices were not filtered, and are now");
        }
        self.rooms.outside.adopt(&record.owner(), &record.spec.publish).await;
        let joined = record.vpc.as_ref().map(|vpc| self.rooms.firewall.adopted(vpc.membership.clone()));
        let (tell, exit) = watch::channel(None);
        let (cgroup, netns, joined) = (Arc::new(cgroup), Arc::new(netns), Mutex::new(joined));
        let health = self.health_so_far(record);
        let live = Arc::new(Live { shim, cgroup, netns, joined, health, exit });
        self.set_live(&record.id, Some(Arc::clone(&live)));
        self.publish(record);
        self.adopt_disk(record).await;
        self.settle_volumes(record, &live).await;
        self.supervise(record, live, tell);
        Ok(())
    }

    /// Nothing of it was ever away: its rows, filters and links are checked, and this daemon's programs put into force.
    async fn adopt_endpoint(&self, record: &ContainerRecord, cgroup: &Cgroup) -> Result<(), Lost> {
        let (datapath, slot, tag) = (Arc::clone(&self.rooms.datapath), record.slot, record.id.clone());
        let dir = cgroup.v2_dir();
        let endpoint = match &record.vpc {
            Some(vpc) => {
                let ifindex = if_nametoindex(record.interface().as_str()).map_err(|_| Lost::NoInterface)?;
                Some(vpc.endpoint(slot, ifindex, &record.spec.bandwidth, self.mtu(record)))
            }
            None => None,
        };
        let adopt = move || match endpoint {
            Some(endpoint) => datapath.adopt(&endpoint, tag.as_str(), &dir),
            None => datapath.adopt_sockets(slot, tag.as_str(), &dir),
        };
        tokio::task::spawn_blocking(adopt).await.expect("a datapath call does not panic").map_err(Lost::Datapath)
    }

    /// It ended by itself, and its shim has written how. What is left of it goes meanwhile.
    async fn end_unseen(self: &Arc<Self>, record: &ContainerRecord, ended: ExitRecord) {
        let cgroup = match self.rooms.cgroups.get(record.id.as_str()) {
            Ok(cgroup) => Arc::new(cgroup),
            Err(error) => return self.give_up(record, &Lost::Cgroup(error)).await,
        };
        let (tell, mut told) = watch::channel(None);
        let (room, record) = (Arc::clone(self), record.clone());
        tokio::spawn(async move { room.end(&record, &cgroup, ended, tell).await });
        // The sender goes only when it has told.
        let _ = told.wait_for(Option::is_some).await;
    }

    async fn give_up(&self, record: &ContainerRecord, why: &Lost) {
        let exit = lost(&error_chain(why));
        self.settle(record, exit.clone()).await;
        self.tear_down(record).await;
        self.tell_of_end(record, &exit).await;
        if record.spec.auto_remove
            && let Err(error) = self.erase(record).await
        {
            tracing::error!(container = %record.id, error = error_chain(&error), "cannot remove it");
        }
    }
}

/// Whether it runs, by the kernel and by its shim, or how it ended.
async fn look(run_dir: &Path, pid: i32) -> Result<Seen, Lost> {
    let state = leftover::state_of_this_boot(run_dir).map_err(Lost::Shim)?;
    // Before its last words are looked for: it says them, and then it ends.
    let shim = state.as_ref().map(|state| open_process(state.shim)).transpose().map_err(Lost::Shim)?.flatten();
    if let Some(ended) = last_words(run_dir)? {
        return Ok(Seen::Ended(ended));
    }
    let state = state.ok_or(Lost::Forgotten)?;
    if shim.is_none() {
        return Err(Lost::ShimKilled);
    }
    let init = state.init.filter(|init| init.pid == pid).ok_or(Lost::OtherProcess)?;
    let shim = match tokio::time::timeout(ANSWERS_WITHIN, Shim::connect(run_dir)).await {
        Ok(Ok(shim)) if shim.pid() == pid => shim,
        Ok(Ok(_)) => return Err(Lost::OtherProcess),
        // It may have ended since it was looked at, container and all.
        Ok(Err(error)) => return last_words(run_dir)?.map(Seen::Ended).ok_or(Lost::Shim(error)),
        Err(_) => return Err(Lost::Silent),
    };
    match open_netns(init).transpose() {
        Some(netns) => Ok(Seen::Running { shim, netns: netns.map_err(Lost::Netns)? }),
        // Its shim is about to say how it ended.
        None => match tokio::time::timeout(ANSWERS_WITHIN, shim.wait()).await {
            Ok(ended) => Ok(Seen::Ended(ended)),
            Err(_) => Err(Lost::Silent),
        },
    }
}

fn last_words(run_dir: &Path) -> Result<Option<ExitRecord>, Lost> {
    record::read(run_dir, EXIT_FILE).map_err(|source| {
        Lost::Shim(LaunchError::Directory { operation: "read how it ended in", path: run_dir.to_owned(), source })
    })
}

/// `None` if that very process has ended: looked at after the namespace was opened, so that it is not a later one's.
fn open_netns(init: Process) -> Result<Option<OwnedFd>, NetnsError> {
    let opened = netns::of_pid(init.pid.cast_unsigned());
    if init.is_alive() { opened.map(Some) } else { Ok(None) }
}
