//! What crun, runc and podman need to do their best on this machine. Refuses to change the machine for them: their state,
//! configuration and mount namespace are private, and gone afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::netns::Netns;
use crate::process::output;
use crate::residue::PREFIX;

pub const PODMAN_IMAGE: &str = "localhost/busybox:latest";

/// podman cannot raise limits here, so it is told to ask for little.
const CONTAINERS_CONF: &str = "[containers]\n\
    default_ulimits = [\"nofile=1024:4096\", \"nproc=1024:2048\", \"memlock=8192:8192\"]\n\
    [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";

/// A directory that goes with its guard, and what is still mounted in it before that.
pub struct Dir(PathBuf);

impl Dir {
    pub fn make() -> Result<Dir> {
        let dir = std::env::temp_dir().join(format!("{PREFIX}-peers-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Dir(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut ours: Vec<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        ours.retain(|target| Path::new(target).starts_with(&self.0));
        for target in ours.into_iter().rev() {
            // What cannot be unmounted is told by the removal below.
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("xtask: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// An OCI bundle of the image that runs `true`, without what this machine refuses: rlimits and device rules.
pub fn bundle(dir: &Dir, layout: &Path) -> Result<PathBuf> {
    bundle_of(dir, layout, "bundle", &["true"])
}

/// The same with a command of its own, in a directory of that name.
pub fn bundle_of(dir: &Dir, layout: &Path, name: &str, command: &[&str]) -> Result<PathBuf> {
    let bundle = dir.path().join(name);
    output(Command::new("umoci").args(["unpack", "--image"]).arg(format!("{}:latest", layout.display())).arg(&bundle))?;
    let file = bundle.join("config.json");
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut config: Value = serde_json::from_slice(&text).context("umoci wrote a config.json that is no JSON")?;
    config["process"]["args"] = json!(command);
    config["process"]["terminal"] = json!(false);
    config["process"]["rlimits"] = json!([]);
    config["linux"]["resources"] = json!({});
    std::fs::write(&file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(bundle)
}

/// podman with a storage and a configuration of its own, in a network namespace of its own: its bridge, its rules and the settings that it
/// changes are nobody else's.
pub struct Podman {
    dir: PathBuf,
    netns: Netns,
}

impl Podman {
    pub fn prepare(dir: &Dir, layout: &Path) -> Result<Podman> {
        let podman = Podman { dir: dir.path().to_owned(), netns: Netns::make("podman")? };
        std::fs::write(podman.dir.join("containers.conf"), CONTAINERS_CONF).context("cannot write containers.conf")?;
        let id = output(podman.command().args(["pull", "-q"]).arg(format!("oci:{}:latest", layout.display())))?;
        output(podman.command().args(["tag", id.trim(), PODMAN_IMAGE]))?;
        Ok(podman)
    }

    /// Its own, if this machine lets it have one.
    pub fn network(&self) -> &'static str {
        const BRIDGE: &str = "--net=bridge";
        match output(self.command().args(["run", "--rm", BRIDGE, PODMAN_IMAGE, "true"])) {
            Ok(_) => BRIDGE,
            Err(error) => {
                eprintln!("xtask: podman has no network here, and is measured without: {error:#}");
                "--net=none"
            }
        }
    }

    pub fn command(&self) -> Command {
        let mut command = self.netns.command("podman");
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        command.arg("--root").arg(self.dir.join("podman")).arg("--runroot").arg(self.dir.join("podman-run"));
        command.args(["--runtime", "runc"]);
        command
    }
}

/// A thread in a mount namespace where only cgroup2 is mounted: what it starts is there too, with no program between.
pub struct CgroupV2Thread {
    work: Sender<Command>,
    done: Receiver<Result<f64>>,
}

impl CgroupV2Thread {
    pub fn spawn() -> Result<CgroupV2Thread> {
        let (work, todo) = channel::<Command>();
        let (report, done) = channel();
        std::thread::spawn(move || {
            let ready = cgroup_v2_only();
            for command in todo {
                let result = match &ready {
                    Ok(()) => super::start::time(command),
                    Err(error) => Err(anyhow!("cannot prepare crun's mount namespace: {error:#}")),
                };
                if report.send(result).is_err() {
                    return;
                }
            }
        });
        Ok(CgroupV2Thread { work, done })
    }

    pub fn time(&self, command: Command) -> Result<f64> {
        self.work.send(command).map_err(|_| anyhow!("the thread that starts crun has ended"))?;
        self.done.recv().context("the thread that starts crun has ended")?
    }
}

/// Of the calling thread alone: it stops sharing its mounts with the rest of the process first.
fn cgroup_v2_only() -> Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("cannot unshare the mounts")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make mounts private")?;
    umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).context("cannot unmount /sys/fs/cgroup")?;
    mount(Some("none"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none).context("cannot mount cgroup2")
}
