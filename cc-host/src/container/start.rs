//! Bringing a container up: directories, cgroup, shim, interface, datapath, and only then its program. What fails on the way is
//! undone by the same code that ends a container. Refuses to decide names and addresses; the record has them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::error::ContainerError;
use super::launch::{OutputReceiver, Shim, StdinSender};
use super::options::bad_profile;
use super::pace::Pace;
use super::record::{Attachment, ContainerRecord, Exit, RunSpec, State};
use super::restart::Restart;
use super::room::{Containers, Live};
use crate::datapath::{Datapath, DatapathError};
use crate::ids::{Project, now_ms};
use crate::image::ImageRecord;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::link::{self, Veth};
use crate::kernel::{carrier, netns, uplink};
use crate::shim::spec::{RlimitKind, RlimitSpec, Rootfs, SPEC_VERSION, Spec};

/// Without an uplink to ask: Ethernet's MTU less the room of a VXLAN header.
const MTU_DEFAULT: u16 = 1450;
/// The room that an overlay's headers take on an IPv4 underlay.
const OVERLAY_HEADER_BYTES: u32 = 50;

/// A container's range of ids: all that 16 bits can name, as images use them.
pub(super) const ID_RANGE: u32 = 0x1_0000;
/// For a shim to hear that its container's first process has ended, and how often it is asked.
const GONE_WITHIN: Duration = Duration::from_secs(1);
const SHIM_HEARS: Duration = Duration::from_millis(5);
/// What Linux gives a login.
const NOFILE_SOFT: u64 = 1024;

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
        let mut pace = Pace::new("start");
        let record = self.create(project, name, spec, image).await?;
        pace.step("create");
        match self.bring_up(&record, image, command, attach, &mut pace).await {
            Ok(started) => Ok(started),
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
        attach: bool,
        pace: &mut Pace,
    ) -> Result<Started, ContainerError> {
        let cgroup = Arc::new(self.make_cgroup(record).await?);
        self.filter_devices(record, &cgroup).await?;
        pace.step("cgroup");
        let spec = self.shim_spec(record, image, command, &cgroup)?;
        pace.step("files");
        let launch = |source| ContainerError::Launch { name: record.name.to_string(), source };
        let (shim_binary, run_dir) = (self.shim_binary(), self.run_dir(record));
        // Also when the shim fails: from then on the VPC may be deleted, and nobody must be opening anything in it.
        let (spawned, ()) = tokio::join!(Shim::spawn(&shim_binary, &run_dir, &spec), self.ensure_resolver(record));
        let (shim, pid) = spawned.map_err(launch)?;
        pace.step("shim");
        let joined = match &record.vpc {
            Some(vpc) => Some(self.rooms.firewall.join(&vpc.membership.groups).await?),
            None => None,
        };
        let mut record = record.clone();
        if let (Some(vpc), Some(joined)) = (&mut record.vpc, &joined) {
            vpc.membership = joined.membership().clone();
        }
        let netns = match self.connect_network(&record, pid, &cgroup, pace).await {
            Err(error @ ContainerError::Netns { .. }) => return Err(why_it_is_gone(&record, &shim, error).await),
            connected => connected?,
        };
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
        record.state = State::Running { pid, since_ms: now_ms() };
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
        self.update(record).await
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
        if self.rooms.config.stop_containers { self.not_closing(name) } else { Ok(()) }
    }

    async fn make_cgroup(&self, record: &ContainerRecord) -> Result<Cgroup, ContainerError> {
        let limits = self.limits(&record.spec);
        let (root, id) = (Arc::clone(&self.rooms.cgroups), record.id.clone());
        tokio::task::spawn_blocking(move || root.create(id.as_str(), &limits))
            .await
            .expect("making a cgroup does not panic")
            .map_err(|source| ContainerError::Cgroup { operation: "create", name: record.name.to_string(), source })
    }

    fn shim_spec(
        &self,
        record: &ContainerRecord,
        image: &ImageRecord,
        command: Vec<String>,
        cgroup: &Cgroup,
    ) -> Result<Spec, ContainerError> {
        let file = |operation| {
            let name = record.name.to_string();
            move |source| ContainerError::File { operation, name, source }
        };
        let (state, run) = (self.state_dir(record), self.run_dir(record));
        let id_base = self.id_base(record);
        for dir in ["upper", "work", "log", "etc"] {
            private_dir(&state.join(dir)).map_err(file("make the writable layer"))?;
        }
        private_dir(&run).map_err(file("make the run-time directory"))?;
        let etc = state.join("etc");
        let binds = super::files::write_etc(&etc, id_base, record).map_err(file("write /etc/hosts and its like"))?;
        let own = &record.spec;
        Ok(Spec {
            version: SPEC_VERSION,
            id: record.id.to_string(),
            hostname: record.hostname().to_owned(),
            args: command,
            env: merge_env(&image.config.env, &own.env),
            cwd: own.dir.clone().unwrap_or_else(|| image.config.working_dir.clone()),
            user: own.user.clone().unwrap_or_else(|| image.config.user.clone()),
            id_base,
            id_count: ID_RANGE,
            rootfs: Rootfs {
                layers: self.rooms.images.layer_dirs(image),
                upper: state.join("upper"),
                work: state.join("work"),
                volatile: true,
            },
            binds,
            cgroup_v2: cgroup.v2_dir(),
            cgroup_shim: Some(self.rooms.cgroups.shims_dir()),
            cgroup_tasks: cgroup.tasks_files(),
            stdin: own.stdin,
            terminal: own.terminal,
            log: Some(own.log.unwrap_or_default().spec(self.log_path(record))),
            // The daemon's own is high; a program that loops over all its descriptors would suffer from it.
            rlimits: std::iter::once(RlimitSpec { resource: RlimitKind::Nofile, soft: NOFILE_SOFT, hard: u64::MAX })
                .chain(own.ulimits.iter().cloned())
                .collect(),
            read_only: own.read_only,
            tmpfs: own.tmpfs.clone(),
            capabilities: own.capabilities.bits(),
            seccomp: own.seccomp.filter(own.capabilities.set()).map_err(bad_profile)?,
            init: own.init,
            devices: own.devices.clone(),
        })
    }

    /// Gives the container's network namespace.
    async fn connect_network(
        &self,
        record: &ContainerRecord,
        pid: i32,
        cgroup: &Cgroup,
        pace: &mut Pace,
    ) -> Result<Arc<OwnedFd>, ContainerError> {
        let failed = |operation| {
            let name = record.name.to_string();
            move |source| ContainerError::Link { operation, name, source }
        };
        let netns = netns::of_pid(pid.cast_unsigned())
            .map_err(|source| ContainerError::Netns { name: record.name.to_string(), source })?;
        let file = |source| ContainerError::File {
            operation: "keep the network namespace",
            name: record.name.to_string(),
            source,
        };
        let kept = Arc::new(netns.try_clone().map_err(file)?);
        let Some(vpc) = &record.vpc else {
            link::loopback_up(netns).await.map_err(failed("bring up"))?;
            self.attach_sockets(record, cgroup.v2_dir()).await?;
            return Ok(kept);
        };
        let mtu = self.mtu(record);
        let (host_name, alias) = (record.interface(), self.alias(record));
        let veth = Veth { host_name: &host_name, netns: netns.as_fd(), mac: vpc.mac, mtu, alias: &alias };
        let ifindex = self.rooms.links.create_veth(&veth).await.map_err(failed("create"))?;
        pace.step("veth");
        // Before the container's end is up: no packet ever passes undecided, or beyond a limit.
        self.attach_datapath(record, vpc, ifindex, mtu, cgroup.v2_dir()).await?;
        pace.step("datapath");
        self.rooms.outside.publish(&record.owner(), &record.spec.publish).await?;
        self.limit_bandwidth(record, Arc::clone(&kept), ifindex, mtu).await?;
        link::configure_endpoint(netns, vpc.addresses()).await.map_err(failed("configure"))?;
        carrier::settle(&host_name).map_err(failed("configure"))?;
        pace.step("addresses");
        Ok(kept)
    }

    async fn attach_sockets(&self, record: &ContainerRecord, cgroup: PathBuf) -> Result<(), ContainerError> {
        let (slot, tag) = (record.slot, record.id.clone());
        self.with_datapath(record, move |datapath| datapath.attach_sockets(slot, tag.as_str(), &cgroup)).await
    }

    async fn attach_datapath(
        &self,
        record: &ContainerRecord,
        vpc: &Attachment,
        ifindex: u32,
        mtu: u16,
        cgroup: PathBuf,
    ) -> Result<(), ContainerError> {
        let endpoint = vpc.endpoint(record.slot, ifindex, &record.spec.bandwidth, mtu);
        let tag = record.id.clone();
        self.with_datapath(record, move |datapath| datapath.attach(&endpoint, tag.as_str(), &cgroup)).await
    }

    async fn with_datapath(
        &self,
        record: &ContainerRecord,
        attach: impl FnOnce(&Datapath) -> Result<(), DatapathError> + Send + 'static,
    ) -> Result<(), ContainerError> {
        let datapath = Arc::clone(&self.rooms.datapath);
        tokio::task::spawn_blocking(move || attach(&datapath))
            .await
            .expect("a datapath call does not panic")
            .map_err(|source| ContainerError::Datapath { operation: "attach", name: record.name.to_string(), source })
    }

    /// What the uplink leaves to an overlay's payload, unless it was said.
    pub(super) fn mtu(&self, record: &ContainerRecord) -> u16 {
        let config = &self.rooms.config;
        if let Some(mtu) = record.spec.mtu.or(config.mtu) {
            return mtu;
        }
        let uplink = uplink::mtu(config.uplink.as_deref()).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell the uplink's MTU");
            None
        });
        let below = |mtu: u32| u16::try_from(mtu.saturating_sub(OVERLAY_HEADER_BYTES)).ok();
        uplink.and_then(below).unwrap_or(MTU_DEFAULT)
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

    /// The first id of its range, on the host.
    pub(super) fn id_base(&self, record: &ContainerRecord) -> u32 {
        self.rooms.config.id_base + record.slot * ID_RANGE
    }

    fn shim_binary(&self) -> PathBuf {
        let beside =
            || std::env::current_exe().map(|exe| exe.with_file_name("cc-shim")).unwrap_or_else(|_| "cc-shim".into());
        self.rooms.config.shim.clone().unwrap_or_else(beside)
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

    pub(super) fn alias(&self, record: &ContainerRecord) -> String {
        format!("cc:{}:{}", self.rooms.host_id, record.id)
    }
}

/// Its first process may have failed before its namespace was opened, and has said better why.
async fn why_it_is_gone(record: &ContainerRecord, shim: &Shim, error: ContainerError) -> ContainerError {
    let is_gone = async {
        // No signal at all: it only asks. One that has ended is there until its shim has heard of it.
        while !matches!(shim.signal(0).await, Ok(false) | Err(_)) {
            tokio::time::sleep(SHIM_HEARS).await;
        }
    };
    if tokio::time::timeout(GONE_WITHIN, is_gone).await.is_err() {
        return error;
    }
    match shim.start().await {
        Err(source) => ContainerError::Start { name: record.name.to_string(), source },
        Ok(()) => error,
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

/// The user's variables replace the image's of the same name, in place.
fn merge_env(image: &[String], own: &[String]) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    for entry in image.iter().chain(own) {
        match merged.iter().position(|known| name(known) == name(entry)) {
            Some(at) => merged[at].clone_from(entry),
            None => merged.push(entry.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_variables_replace_the_images() {
        let image = ["PATH=/bin".to_owned(), "A=1".to_owned()];
        let own = ["A=2".to_owned(), "B=3".to_owned()];
        assert_eq!(merge_env(&image, &own), ["PATH=/bin", "A=2", "B=3"]);
    }
}
