//! Bringing a container up: directories, cgroup, shim, interface, datapath, and only then its program. What fails on the way is
//! undone by the same code that ends a container. Refuses to decide names and addresses; the record has them.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::error::ContainerError;
use super::furnish::Furnished;
use super::launch::{OutputReceiver, StdinSender};
use super::pace::Pace;
use super::pool::Parked;
use super::record::{ContainerRecord, Exit, RunSpec, State};
use super::restart::Restart;
use super::room::{Containers, Live};
use crate::fault;
use crate::ids::{ContainerId, Project, now_ms};
use crate::image::ImageRecord;

/// A container's range of ids: all that 16 bits can name, as images use them.
pub(super) const ID_RANGE: u32 = 0x1_0000;

/// A foreground client's ends of the container's streams.
pub struct Stdio {
    pub stdin: StdinSender,
    pub output: OutputReceiver,
}

/// A container whose program runs.
pub struct Started {
    pub record: ContainerRecord,
    pub stdio: Option<Stdio>,
    /// Becomes `Some` once it has ended, its record says so, and none of its packets passes.
    pub exit: watch::Receiver<Option<Exit>>,
}

impl Containers {
    /// Creates and starts. When it fails, nothing of the container is left.
    pub async fn run(
        self: &Arc<Self>,
        project: &Project,
        name: &str,
        spec: RunSpec,
        image: &ImageRecord,
        attach: bool,
    ) -> Result<Started, ContainerError> {
        let command = command(&spec, image)?;
        self.not_closing(name)?;
        let _starting = self.pool.note_start(&spec);
        let claimed = match spec.disk_bytes {
            Some(bytes) => Some(self.rooms.disks.claim(bytes).await?),
            None => None,
        };
        let parked = self.pool.take(&spec, || self.usual_mtu());
        let mut pace = Pace::new(if parked.is_some() { "start of a parked one" } else { "start" });
        let disk = claimed.as_ref().map(|claimed| claimed.disk);
        let record = match self.create(project, name, spec, image, parked.as_ref(), disk).await {
            Ok(record) => record,
            Err(error) => {
                if let Some(claimed) = claimed {
                    self.give_back_disk(claimed).await;
                }
                if let Some(parked) = parked {
                    self.give_back(parked).await;
                }
                return Err(error);
            }
        };
        pace.step("create");
        fault::point("container.run.recorded");
        let brought_up = async {
            self.settle_disk(&record, claimed.as_ref(), &mut pace).await?;
            self.bring_up(&record, image, command, parked, attach, &mut pace).await
        };
        match brought_up.await {
            Ok(started) => {
                self.name_disk(&started.record);
                Ok(started)
            }
            Err(error) => {
                self.tear_down(&record).await;
                self.erase(&record).await?;
                Err(error)
            }
        }
    }

    pub(super) async fn bring_up(
        self: &Arc<Self>,
        record: &ContainerRecord,
        image: &ImageRecord,
        command: Vec<String>,
        parked: Option<Parked>,
        attach: bool,
        pace: &mut Pace,
    ) -> Result<Started, ContainerError> {
        let Furnished { shim, cgroup, netns, link } = self.furnish(record, image, command, parked, pace).await?;
        let was_parked_at = link.map(|link| link.ifindex);
        let launch = |source| ContainerError::Launch { name: record.name.to_string(), source };
        let joined = match &record.vpc {
            Some(vpc) => Some(self.rooms.firewall.join(&vpc.membership.groups).await?),
            None => None,
        };
        let mut record = record.clone();
        if let (Some(vpc), Some(joined)) = (&mut record.vpc, &joined) {
            vpc.membership = joined.membership().clone();
        }
        self.connect_network(&record, &netns, &cgroup, link, pace).await?;
        // Before its program runs, which may ask for its own name.
        self.publish(&record);
        let stdio = if attach {
            let (stdin, output) = shim.attach(record.spec.stdin).await.map_err(launch)?;
            Some(Stdio { stdin, output })
        } else {
            None
        };
        pace.step("attach");
        shim.start().await.map_err(|source| ContainerError::Start { name: record.name.to_string(), source })?;
        pace.step("program");
        record.state = State::Running { pid: shim.pid(), since_ms: now_ms() };
        let (tell, exit) = watch::channel(None);
        let (joined, health) = (Mutex::new(joined), record.health.as_ref().map(|_| Mutex::default()));
        let live = Arc::new(Live { shim, cgroup, netns, joined, health, exit: exit.clone() });
        // Live before it is said to run, so that whoever reads that can stop it.
        self.set_live(&record.id, Some(Arc::clone(&live)));
        if let Err(error) = self.write_running(&mut record).await.and_then(|()| self.may_go_on(record.name.as_str())) {
            self.set_live(&record.id, None);
            return Err(error);
        }
        pace.step("record");
        if let Some(ifindex) = was_parked_at {
            // What was taken from it while it changed hands was told when it was nobody's.
            let room = Arc::clone(self);
            tokio::spawn(async move { room.look_at_interface(ifindex).await });
        }
        self.supervise(&record, live, tell);
        Ok(Started { record, stdio, exit })
    }

    /// What was changed of it while it was on its way stays: whether it was stopped by hand, above all.
    async fn write_running(&self, record: &mut ContainerRecord) -> Result<(), ContainerError> {
        let _allocation = match record.spec.restart != Restart::No {
            true => Some(self.allocation().await),
            false => None,
        };
        if let Ok(now) = self.find(&record.project, record.id.as_str()) {
            (record.stopped_by_hand, record.restarts) = (now.stopped_by_hand, now.restarts);
        }
        // Of one that goes with its end, the next boot makes nothing but an end, whether or not it is said to have run.
        if record.spec.auto_remove { self.update_unsynced(record).await } else { self.update(record).await }
    }

    pub(super) fn not_closing(&self, name: &str) -> Result<(), ContainerError> {
        match *self.closing.borrow() {
            true => Err(ContainerError::Closing { name: name.to_owned() }),
            false => Ok(()),
        }
    }

    /// One that was being started when the daemon began to stop goes on as the others do. Where it stops them, it has not heard of
    /// this one.
    fn may_go_on(&self, name: &str) -> Result<(), ContainerError> {
        if self.stops_containers.load(Ordering::Relaxed) { self.not_closing(name) } else { Ok(()) }
    }

    /// Watches the shim until its container has ended, then takes everything down. The task outlives the call.
    pub(super) fn supervise(
        self: &Arc<Self>,
        record: &ContainerRecord,
        live: Arc<Live>,
        tell: watch::Sender<Option<Exit>>,
    ) {
        let (room, record) = (Arc::clone(self), record.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = live.shim.wait() => ended,
                never = room.keep_probing(&record, &live) => match never {},
            };
            let cgroup = Arc::clone(&live.cgroup);
            // With it goes the last hold on the network namespace, but for tunnels that are still open.
            drop(live);
            room.end(&record, &cgroup, ended, tell).await;
        });
    }

    pub(super) fn run_dir(&self, record: &ContainerRecord) -> PathBuf {
        self.rooms.config.containers_run_dir().join(record.id.as_str())
    }

    pub(super) fn state_dir(&self, record: &ContainerRecord) -> PathBuf {
        self.rooms.config.containers_state_dir().join(record.id.as_str())
    }

    pub(super) fn log_path(&self, record: &ContainerRecord) -> PathBuf {
        self.state_dir(record).join("log").join("0.log")
    }

    pub(super) fn alias(&self, id: &ContainerId) -> String {
        format!("cc:{}:{id}", self.rooms.host_id)
    }
}

/// With everything above it that is missing, for root only.
pub(super) fn private_dir(dir: &std::path::Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The user's command replaces the image's cmd, and the user's entrypoint the image's; without either the image's entrypoint and cmd run.
pub(super) fn command(spec: &RunSpec, image: &ImageRecord) -> Result<Vec<String>, ContainerError> {
    let entrypoint = spec.entrypoint.as_ref().unwrap_or(&image.config.entrypoint);
    // As docker has it: an image's cmd are the arguments of its own entrypoint.
    let tail = match spec.command.is_empty() && spec.entrypoint.is_none() {
        true => &image.config.cmd,
        false => &spec.command,
    };
    let command: Vec<String> = entrypoint.iter().chain(tail).cloned().collect();
    if command.is_empty() {
        return Err(ContainerError::NoCommand { image: image.reference.clone() });
    }
    Ok(command)
}
