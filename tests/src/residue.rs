//! What a world may have left in the kernel and on disk, and the removal of what a failed test did leave. Refuses to look at what is not
//! that world's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::daemon::Daemon;
use crate::eventually::allowed;
use crate::world::World;

/// The shims' directory among those of the containers' cgroups.
const SHIMS: &str = "shims";

impl World {
    /// What of containers is left in the kernel and on disk; empty when nothing is. What a daemon that runs has parked or made ready is
    /// nobody's container; without one, it is left as anything else is.
    pub fn residue(&self) -> Vec<String> {
        let (mut parked, mut ready) = (Vec::new(), Vec::new());
        if self.daemon.is_some() {
            (parked, ready) = (self.parked(), self.ready_disks());
        }
        let mut left = self.residue_and_parked();
        // A link has 12 digits of the id.
        left.retain(|what| !parked.iter().any(|id| what.contains(&id[..12])));
        // The directory of their mounts is one as long as there are any.
        let mounts = format!(" {} ", self.path("run/disks").display());
        left.retain(|what| ready.is_empty() || !what.contains(&mounts));
        // Their files have that before their UUIDs, by which they are mounted.
        left.retain(|what| !ready.iter().any(|name| what.contains(name.trim_start_matches("ready-"))));
        left
    }

    /// The names of the disks that wait for containers to come, and of those that are being made for them.
    pub fn ready_disks(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("state/disks")).into_iter().flatten().filter_map(Result::ok);
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.filter_map(|name| name.strip_suffix(".img").map(str::to_owned));
        names.filter(|name| name.starts_with("ready-")).collect()
    }

    /// The ids of those that wait for containers to be: they have a place, and no specification.
    pub fn parked(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("run/containers")).into_iter().flatten().filter_map(Result::ok);
        let is_parked = |dir: &PathBuf| dir.join("place.json").exists() && !dir.join("spec.json").exists();
        let dirs = entries.map(|entry| entry.path()).filter(is_parked);
        dirs.filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned())).collect()
    }

    fn residue_and_parked(&self) -> Vec<String> {
        let mut left = Vec::new();
        let links = self.netns.links().expect("links can be listed");
        let known = self.resolver_links();
        // The host's own device stays with its namespace, as do the links on its uplinks.
        let is_hosts = |link: &str| link.starts_with("cch") || link.starts_with("ccp");
        let strays =
            links.into_iter().filter(|link| link.starts_with("cc") && !is_hosts(link) && !known.contains(link));
        left.extend(strays.map(|link| format!("link {link}")));
        let below = |dir: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(dir).into_iter().flatten();
            entries.filter_map(|e| e.ok().map(|e| e.path())).collect()
        };
        for dir in ["state/containers", "state/disks", "run/containers", "run/disks"]
            .map(|dir| self.path(dir))
            .into_iter()
            .chain([self.pins().join("links")])
        {
            let is_hosts = |name: &str| name.starts_with("uplink-") || name.starts_with("sockets-");
            let of_host = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(is_hosts);
            let found = below(&dir).into_iter().filter(|path| !of_host(path));
            left.extend(found.map(|p| format!("{}", p.display())));
        }
        for root in below(Path::new("/sys/fs/cgroup")).into_iter().chain(["/sys/fs/cgroup".into()]) {
            // The shims' own is there for the next one; a shim in it is told as a process.
            let ours = below(&root.join(&self.cgroup)).into_iter().filter(|p| p.is_dir() && !p.ends_with(SHIMS));
            left.extend(ours.map(|p| format!("cgroup {}", p.display())));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.path().display().to_string();
        let bpf = self.path("bpf").display().to_string();
        let of_ours = |line: &&str| line.contains(&dir) && !line.contains(&bpf);
        left.extend(mounts.lines().filter(of_ours).map(|line| format!("mount {line}")));
        left.extend(loops_of(&dir));
        left.extend(processes_of(&dir, self.daemon.as_ref().map(Daemon::pid)));
        left
    }

    /// Those of the VPCs that there are, which stay with them.
    fn resolver_links(&self) -> Vec<String> {
        if self.daemon.is_none() {
            return Vec::new();
        }
        let vpcs = self.cc(&["vpc", "list", "-q"]).ok().stdout;
        vpcs.lines().map(|id| id.replace("vpc-", "ccg")).collect()
    }

    /// Waits until nothing is left; panics with what is.
    pub fn assert_clean(&self) {
        let mut last = Vec::new();
        let bound = allowed(Duration::from_secs(15));
        let start = std::time::Instant::now();
        while start.elapsed() < bound {
            last = self.residue();
            if last.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!(
            "left behind: {last:#?}\ndaemon's log:\n{}",
            std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
        );
    }
}

/// Loop devices of files below this world's directory, those that were removed included.
fn loops_of(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().filter_map(Result::ok);
    let file = |entry: std::fs::DirEntry| {
        let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        file.contains(dir).then(|| format!("loop device {} of {}", entry.file_name().display(), file.trim()))
    };
    entries.filter_map(file).collect()
}

/// Processes of this world other than the daemon: they name its directory in their arguments.
fn processes_of(dir: &str, daemon: Option<i32>) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()));
    let ours = pids.filter(|&pid| Some(pid) != daemon && pid != std::process::id().cast_signed());
    ours.filter_map(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
        (line.contains(dir) && line.contains("cc-shim")).then(|| format!("process {pid} {line}"))
    })
    .collect()
}

pub(crate) fn cgroup_dirs(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().filter_map(Result::ok);
    let roots = entries.map(|e| e.path()).chain(["/sys/fs/cgroup".into()]);
    roots.map(|root| root.join(name)).filter(|dir| dir.is_dir()).collect()
}

/// Whatever is in a cgroup of this world's name was started by its daemon: shims, and what they run. The v2 tree has them all.
pub(crate) fn kill_cgroups(name: &str) {
    for kill in cgroup_dirs(name).into_iter().map(|dir| dir.join("cgroup.kill")).filter(|kill| kill.exists()) {
        std::fs::write(&kill, "1").unwrap_or_else(|error| eprintln!("{}: {error}", kill.display()));
    }
}

/// Only directories of this world's name, deepest first; one with a process in it stays, and the assertion tells.
pub(crate) fn remove_cgroups(name: &str) {
    for dir in cgroup_dirs(name) {
        remove_cgroup(&dir);
    }
}

fn remove_cgroup(dir: &Path) {
    let children = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).map(|e| e.path());
    for child in children.filter(|path| path.is_dir()) {
        remove_cgroup(&child);
    }
    let _ = std::fs::remove_dir(dir);
}
