//! A private cc-host for the demo and the benchmarks: its own network namespace, bpffs, cgroups, directories and ids, all
//! gone with its guard. Refuses to touch what it did not make.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::build::Profile;
use crate::netns::Netns;
use crate::process::{ask, output};
use crate::residue::PREFIX;

const START_TIMEOUT: Duration = Duration::from_secs(10);
/// More than the five seconds in which the daemon promises to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// For what was killed to be gone.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(2);
const IDS_PER_RANGE: u32 = 65_536;
const RANGES: u32 = 64;
/// Hosts of a machine whose ranges of ids differ, by their processes' numbers.
const SPANS: u32 = 256;

/// In what one differs from the others.
#[derive(Debug, Clone, Copy)]
pub struct Variety<'a> {
    /// Containers that it can have.
    pub ranges: u32,
    /// Lines of its configuration.
    pub config: &'a str,
    /// As `RUST_LOG`.
    pub log: Option<&'a str>,
    /// Where its programs are, if not where they are built.
    pub bin: Option<&'a Path>,
}

impl Default for Variety<'_> {
    fn default() -> Self {
        Variety { ranges: RANGES, config: "", log: None, bin: None }
    }
}

pub struct Host {
    daemon: Option<Child>,
    bin: PathBuf,
    dir: PathBuf,
    name: String,
    // Last: the daemon's links are in it.
    netns: Netns,
}

impl Host {
    pub fn start(root: &Path, built: Profile, what: &str) -> Result<Host> {
        Host::start_as(root, built, what, Variety::default())
    }

    pub fn start_as(root: &Path, built: Profile, what: &str, variety: Variety<'_>) -> Result<Host> {
        let netns = Netns::make(what)?;
        let name = netns.name().to_owned();
        let dir = std::env::temp_dir().join(&name);
        let mut host = Host {
            daemon: None,
            bin: variety.bin.map_or_else(|| built.bin_dir(root), Path::to_owned),
            dir,
            name,
            netns,
        };
        for part in ["state", "run", "bpf"] {
            let place = host.dir.join(part);
            std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        }
        output(Command::new("mount").args(["-t", "bpf", &host.name]).arg(host.bpffs()))?;
        let file = host.dir.join("config.toml");
        std::fs::write(&file, host.config(variety)).with_context(|| format!("cannot write {}", file.display()))?;
        let log = std::fs::File::create(host.log_path()).context("cannot make the daemon's log")?;
        let mut command = host.netns.command(host.bin.join("cc-host"));
        command.arg("serve").arg("--config").arg(&file);
        command.envs(variety.log.map(|log| ("RUST_LOG", log)));
        command.stdin(Stdio::null()).stdout(log.try_clone().context("cannot share the daemon's log")?).stderr(log);
        // Its own process group: a Ctrl-C is ours, and then the daemon is stopped in order.
        host.daemon = Some(command.process_group(0).spawn().context("cannot start cc-host")?);
        host.wait_until_it_answers()?;
        Ok(host)
    }

    /// As long as this machine may take: an emulated one says that it is slower, as it does to tests.
    fn allowed(bound: Duration) -> Duration {
        bound * std::env::var("CC_TEST_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
    }

    /// `cc`, speaking to this daemon.
    pub fn cc(&self) -> Command {
        let mut command = Command::new(self.bin.join("cc"));
        command.env("CC_ENDPOINT_URL", self.endpoint());
        for other in ["CC_ACCESS_TOKEN", "CC_SECRET_KEY"] {
            command.env_remove(other);
        }
        command
    }

    /// Loads a layout under its directory's name and gives back the reference to run it by.
    pub fn load(&self, layout: &Path) -> Result<String> {
        let name = layout.file_name().context("a layout has no name")?.to_string_lossy();
        let reference = format!("localhost/{name}:latest");
        output(self.cc().args(["image", "load", &format!("oci:{}:latest", layout.display()), "--name", &reference]))?;
        Ok(reference)
    }

    /// Its process, for looking at.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("no daemon was started")?.id())
    }

    /// Where the daemon runs.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.dir.join("run/cc.sock").display())
    }

    /// A file of its own, which goes with it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the daemon has pinned its maps and programs.
    pub fn pins(&self) -> Result<PathBuf> {
        let bpffs = self.bpffs();
        let found = std::fs::read_dir(&bpffs).with_context(|| format!("cannot read {}", bpffs.display()))?;
        let dirs: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        match &dirs[..] {
            [one] => Ok(one.clone()),
            other => bail!("not one directory of pins, but {other:?}"),
        }
    }

    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Ranges of ids of its own, so that another run's containers are other users.
    fn config(&self, Variety { ranges, config, .. }: Variety<'_>) -> String {
        let id_base = 0x2000_0000 + (std::process::id() % SPANS.min(SPANS * RANGES / ranges)) * ranges * IDS_PER_RANGE;
        format!(
            "state_dir = '{dir}/state'\nrun_dir = '{dir}/run'\nbpffs_dir = '{dir}/bpf'\ncgroup_dir = '{name}'\n\
             mtu = {mtu}\nid_base = {id_base}\nid_ranges = {ranges}\n{config}\n",
            dir = self.dir.display(),
            name = self.name,
            mtu = 1450,
        )
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < Host::allowed(START_TIMEOUT) {
            if output(self.cc().args(["ps", "-q"])).is_ok() {
                return Ok(());
            }
            let daemon = self.daemon.as_mut().context("no daemon was started")?;
            if let Some(status) = daemon.try_wait().context("cannot look at the daemon")? {
                bail!("cc-host ended: {status}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("cc-host did not answer within {START_TIMEOUT:?}:\n{}", self.log())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn stop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        if !matches!(daemon.try_wait(), Ok(None)) {
            return;
        }
        if let Ok(all) = output(self.cc().args(["ps", "-a", "-q"])) {
            let ids: Vec<&str> = all.split_whitespace().collect();
            if !ids.is_empty() {
                complain(output(self.cc().args(["rm", "-f"]).args(ids)).map(drop));
            }
        }
        let pid = Pid::from_raw(daemon.id().cast_signed());
        complain(kill(pid, Signal::SIGTERM).context("cannot stop cc-host"));
        let began = Instant::now();
        while began.elapsed() < Host::allowed(STOP_TIMEOUT) {
            if !matches!(daemon.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        complain(Err(anyhow::anyhow!("cc-host did not stop within {STOP_TIMEOUT:?}; killed")));
        complain(daemon.kill().context("cannot kill cc-host"));
        complain(daemon.wait().map(drop).context("cannot wait for cc-host"));
    }

    /// Only what a daemon that failed would leave, running containers among it; after one that was told to remove them and stopped
    /// in order there is nothing of it.
    fn sweep(&self) {
        for pid in self.processes() {
            complain(kill(Pid::from_raw(pid), Signal::SIGKILL).context("cannot end a process that was left"));
        }
        for mount in self.mounts() {
            complain(
                umount2(&mount, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", mount.display())),
            );
        }
        let began = Instant::now();
        while !self.remove_cgroups() && began.elapsed() < Host::allowed(SWEEP_TIMEOUT) {
            std::thread::sleep(Duration::from_millis(10));
        }
        complain(std::fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display())));
    }

    /// In every hierarchy; false while one is still there, as a process takes a moment to be gone.
    fn remove_cgroups(&self) -> bool {
        let root = Path::new("/sys/fs/cgroup");
        let below = std::fs::read_dir(root).into_iter().flatten().flatten().map(|hierarchy| hierarchy.path());
        let ours = below.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(&self.name));
        ours.filter(|dir| dir.is_dir()).fold(true, |gone, dir| {
            remove_cgroup(&dir);
            gone && !dir.exists()
        })
    }

    /// Shims and daemons of ours: those whose command line names our directory.
    fn processes(&self) -> Vec<i32> {
        let all = ask("ps", &["-eo", "pid=,args="]).unwrap_or_default();
        let ours = format!("{}/", self.dir.display());
        let named = |line: &&str| line.contains(&ours) && (line.contains("cc-shim") || line.contains("cc-host"));
        let pids = all.lines().filter(named).filter_map(|line| line.split_whitespace().next());
        pids.filter_map(|pid| pid.parse().ok()).filter(|&pid| pid != std::process::id().cast_signed()).collect()
    }

    /// Innermost first.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut ours: Vec<PathBuf> = targets.filter(|target| target.starts_with(&self.dir)).collect();
        ours.reverse();
        ours
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        debug_assert!(self.name.starts_with(PREFIX));
        self.stop();
        self.sweep();
    }
}

/// Whatever still runs in a cgroup of ours was started by our daemon.
fn remove_cgroup(dir: &Path) {
    let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 1) {
        complain(kill(Pid::from_raw(pid), Signal::SIGKILL).context("cannot end a process that was left"));
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    // It exists in the hierarchies that the daemon used only, and one that is still busy is told by the residue check.
    let _ = std::fs::remove_dir(dir);
}

/// While cleaning up, a failure is said and the rest goes on.
fn complain(done: Result<()>) {
    if let Err(error) = done {
        eprintln!("xtask: {error:#}");
    }
}
