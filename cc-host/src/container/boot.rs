//! Boot: whatever a killed daemon left is brought back in line with the store. Running containers are stopped, and an event says
//! so; everything else without a record goes. It is idempotent, and it removes only what carries our mark.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::ContainerError;
use super::launch;
use super::record::{ContainerRecord, Exit, State};
use super::room::Containers;
use super::teardown::{lost, remove_stray_dir};
use crate::error_chain;
use crate::ids::ContainerId;
use crate::shim::record::{self, EXIT_FILE, ExitRecord};

impl Containers {
    pub async fn reconcile(&self) -> Result<(), ContainerError> {
        for record in self.load().await? {
            match record.state {
                State::Stopped { .. } | State::Created => self.tear_down(&record).await,
                State::Running { .. } => self.stop_left_over(&record).await,
            }
            // A container of which nobody was told, or that was to go at its end.
            let unwanted = matches!(record.state, State::Created) || record.spec.auto_remove;
            if unwanted && let Err(error) = self.erase(&record).await {
                tracing::error!(container = %record.id, error = error_chain(&error), "cannot remove it");
            }
        }
        self.remove_strays().await;
        Ok(())
    }

    /// It may have ended by itself meanwhile: then its shim has written how.
    async fn stop_left_over(&self, record: &ContainerRecord) {
        let ended = record::read::<ExitRecord>(&self.run_dir(record), EXIT_FILE);
        let exit = match ended.ok().flatten() {
            Some(ended) => Exit {
                code: ended.code,
                signal: ended.signal,
                oom_killed: false,
                finished_ms: ended.finished_ms,
                reason: ended.note.unwrap_or_default(),
            },
            None => lost("stopped because the daemon was restarted"),
        };
        self.settle(record, exit.clone()).await;
        self.tear_down(record).await;
        self.tell_of_end(record, &exit).await;
    }

    /// Objects with our mark that no record explains: the daemon died between making one and writing of it, or between the
    /// record's removal and theirs.
    async fn remove_strays(&self) {
        let known: HashSet<ContainerId> = self.all().into_iter().map(|r| r.id).collect();
        let stray = |name: &str| ContainerId::parse(name).is_some_and(|id| !known.contains(&id));
        for dir in [self.rooms.config.containers_run_dir(), self.rooms.config.containers_state_dir()] {
            for path in children(&dir).into_iter().filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(stray))
            {
                if let Err(error) = launch::kill_leftover(&path) {
                    tracing::error!(path = %path.display(), error = error_chain(&error), "cannot end a stray shim");
                }
                remove_stray_dir(&path);
            }
        }
        self.remove_stray_cgroups(&stray).await;
        self.remove_links().await;
        let datapath = Arc::clone(&self.rooms.datapath);
        match tokio::task::spawn_blocking(move || datapath.reconcile(&HashSet::new())).await {
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

    /// No container runs at this point, so every link of ours is stray.
    async fn remove_links(&self) {
        let ours = format!("cc:{}:", self.rooms.host_id);
        match self.rooms.links.with_alias_prefix(&ours).await {
            Ok(links) => {
                for found in links {
                    if let Err(error) = self.rooms.links.delete(found.ifindex).await {
                        tracing::error!(link = found.name, error = error_chain(&error), "cannot delete a stray link");
                    }
                }
            }
            Err(error) => tracing::error!(error = error_chain(&error), "cannot list links"),
        }
    }

    /// For shutdown: containers end with the daemon in this version; each is stopped in order.
    pub async fn stop_all(self: &Arc<Self>, grace: std::time::Duration) {
        self.closing.store(true, Ordering::SeqCst);
        let running: Vec<ContainerRecord> =
            self.all().into_iter().filter(|r| matches!(r.state, State::Running { .. })).collect();
        let mut stops = tokio::task::JoinSet::new();
        for record in running {
            let room = Arc::clone(self);
            stops.spawn(async move {
                if let Err(error) = room.stop(&record, Some(grace)).await {
                    tracing::warn!(container = %record.id, error = error_chain(&error), "cannot stop it");
                }
            });
        }
        while stops.join_next().await.is_some() {}
        self.wait_for_leaving().await;
    }
}

fn children(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect()
}
