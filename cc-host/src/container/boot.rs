//! Boot: whatever an earlier daemon left is brought back in line with the store. Containers that run go on, adopted; everything
//! without a record goes. It is idempotent, and it removes only what carries our mark.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;

use super::error::ContainerError;
use super::launch;
use super::record::{ContainerRecord, State};
use super::room::Containers;
use super::teardown::{goes, remove_stray_dir};
use crate::disk::Disk;
use crate::error_chain;
use crate::ids::ContainerId;
use crate::mutation::{self, Control};

/// Containers that are looked at at a time: most of it is waiting, for shims, netlink and the disk.
const AT_ONCE: usize = 16;

impl Containers {
    pub async fn reconcile(self: &Arc<Self>) -> Result<(), ContainerError> {
        let records = self.load().await?;
        let disks: Vec<_> = records.iter().filter_map(|record| Some((record.id.clone(), record.disk?))).collect();
        self.rooms.disks.take_up(disks.clone()).await;
        // As they are now: a container that has ended may be without a record before it is gone, and is no stray.
        let known: HashSet<ContainerId> = records.iter().map(|r| r.id.clone()).collect();
        let strays = self.remove_strays(&known, &disks);
        let own = futures::stream::iter(&records).for_each_concurrent(AT_ONCE, |record| self.bring_in_line(record));
        let ((), ()) = tokio::join!(strays, own);
        self.sweep_datapath(self.live_slots()).await;
        Ok(())
    }

    async fn bring_in_line(self: &Arc<Self>, record: &ContainerRecord) {
        if let State::Running { pid, .. } = record.state {
            return self.resume(record, pid).await;
        }
        self.tear_down(record).await;
        // A container of which nobody was told, or that was to go at its end.
        self.drop_leaving_claims(record).await;
        let unwanted = matches!(record.state, State::Created) || record.spec.auto_remove;
        if unwanted && let Err(error) = self.erase(record).await {
            tracing::error!(container = %record.id, error = error_chain(&error), "cannot remove it");
        }
    }

    /// Objects with our mark that no record explains: the daemon died between making one and writing of it, or between the
    /// record's removal and theirs.
    async fn remove_strays(&self, known: &HashSet<ContainerId>, disks: &[(ContainerId, Disk)]) {
        if mutation::off(Control::BootSweep) {
            return;
        }
        let stray = |name: &str| ContainerId::parse(name).is_some_and(|id| !known.contains(&id));
        for dir in [self.rooms.config.containers_run_dir(), self.rooms.config.containers_state_dir()] {
            for path in children(&dir).into_iter().filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(stray))
            {
                let removed = tokio::task::spawn_blocking(move || {
                    if let Err(error) = launch::kill_leftover(&path) {
                        tracing::error!(path = %path.display(), error = error_chain(&error), "cannot end a stray shim");
                    }
                    remove_stray_dir(&path);
                });
                if removed.await.is_err() {
                    tracing::error!("removing a stray directory panicked");
                }
            }
        }
        // When nobody has them mounted any more.
        self.rooms.disks.remove_strays(disks).await;
        self.remove_stray_cgroups(&stray).await;
        self.remove_stray_links(&stray).await;
    }

    async fn sweep_datapath(&self, live: HashSet<u32>) {
        let datapath = Arc::clone(&self.rooms.datapath);
        match tokio::task::spawn_blocking(move || datapath.reconcile(&live)).await {
            Ok(Ok(removed)) if removed.is_empty() => {}
            Ok(Ok(removed)) => tracing::info!(?removed, "removed what a former daemon left in the datapath"),
            Ok(Err(error)) => tracing::error!(error = error_chain(&error), "cannot reconcile the datapath"),
            Err(_) => tracing::error!("reconciling the datapath panicked"),
        }
    }

    async fn remove_stray_cgroups(&self, stray: &impl Fn(&str) -> bool) {
        let root = Arc::clone(&self.rooms.cgroups);
        let listed = tokio::task::spawn_blocking(move || root.list()).await;
        let ids = match listed {
            Ok(Ok(ids)) => ids,
            Ok(Err(error)) => return tracing::error!(error = error_chain(&error), "cannot list cgroups"),
            Err(_) => return tracing::error!("listing cgroups panicked"),
        };
        for id in ids.into_iter().filter(|id| stray(id)) {
            let root = Arc::clone(&self.rooms.cgroups);
            let removed = tokio::task::spawn_blocking(move || root.get(&id).and_then(|cgroup| cgroup.remove())).await;
            if let Ok(Err(error)) = removed {
                tracing::error!(error = error_chain(&error), "cannot remove a stray cgroup");
            }
        }
    }

    async fn remove_stray_links(&self, stray: &impl Fn(&str) -> bool) {
        let ours = format!("cc:{}:", self.rooms.host_id);
        let links = match self.rooms.links.with_alias_prefix(&ours).await {
            Ok(links) => links,
            Err(error) => return tracing::error!(error = error_chain(&error), "cannot list links"),
        };
        let strays: Vec<_> =
            links.into_iter().filter(|link| link.alias.strip_prefix(&ours).is_some_and(stray)).collect();
        // Of what was parked they go with its processes, all at once: each that is deleted keeps everybody waiting.
        futures::future::join_all(strays.iter().map(|found| goes(&found.name))).await;
        for found in strays {
            if let Err(error) = self.rooms.links.delete(found.ifindex).await {
                tracing::error!(link = found.name, error = error_chain(&error), "cannot delete a stray link");
            }
        }
    }
}

fn children(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect()
}
