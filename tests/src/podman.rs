//! podman with `cc-oci` below it, in namespaces, with a storage and with cgroups of its own. Refuses to leave anything: `assert_clean` looks, and the
//! guard removes what a failed test left.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::apart::Apart;
use crate::daemon::bin_dir;
use crate::eventually::within;
use crate::world::{PREFIX, Ran};
use crate::{eventually, images};

/// Of one command; most take less than one.
const WITHIN_SECONDS: &str = "60";
pub const IMAGE: &str = "localhost/busybox:latest";
static NUMBER: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Podman {
    pub apart: Apart,
    /// Of the containers' cgroups, below each hierarchy's root.
    pub parent: String,
    dir: tempfile::TempDir,
}

impl Podman {
    pub fn new() -> Podman {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("a temporary directory");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let parent = format!("{PREFIX}podman-{}-{number}", std::process::id());
        let apart = Apart::new(&dir.path().join("var")).expect("root can make namespaces");
        let podman = Podman { apart, parent, dir };
        std::fs::create_dir(podman.path("cni")).expect("the directory is new");
        // No more than who runs the tests may have himself.
        let conf = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n[engine]\nevents_logger = \"file\"\n";
        std::fs::write(podman.path("containers.conf"), conf).expect("the directory is there");
        let source = images::reference("busybox").expect("the image can be made");
        let id = podman.run(&["pull", "-q", &source]).line();
        podman.run(&["tag", &id, IMAGE]).ok();
        podman
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Below any command of podman's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.apart.command("timeout");
        command.args(["-k", "5", WITHIN_SECONDS, "podman"]);
        let path = |name: &str| self.path(name).display().to_string();
        command.arg("--runtime").arg(bin_dir().join("cc-oci")).args([
            "--cgroup-manager",
            "cgroupfs",
            "--storage-driver",
            "vfs",
        ]);
        command.args(["--root", &path("root"), "--runroot", &path("runroot"), "--tmpdir", &path("tmp")]);
        command.args(["--network-config-dir", &path("cni")]);
        command.env("CONTAINERS_CONF", path("containers.conf")).env("XDG_CONFIG_HOME", path("home")).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"")
    }

    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        use std::io::Write as _;
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("podman can be run; `cargo xtask setup --tests` installs it");
        let mut stdin = child.stdin.take().expect("it is piped");
        // It may end without reading.
        let _ = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output().expect("its output can be read");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// A container in the foreground, gone at its end. Without a network, unless the options say another.
    pub fn once(&self, options: &[&str], command: &[&str]) -> Ran {
        self.run(&[&self.start("--rm", options)[..], &[IMAGE], command].concat())
    }

    /// A container in the background; its id.
    pub fn detached(&self, options: &[&str], command: &[&str]) -> String {
        self.run(&[&self.start("-d", options)[..], &[IMAGE], command].concat()).line()
    }

    fn start<'a>(&'a self, how: &'a str, options: &[&'a str]) -> Vec<&'a str> {
        let network: &[&str] = if options.contains(&"--network") { &[] } else { &["--network", "none"] };
        [&["run", how, "--cgroup-parent", &self.parent], network, options].concat()
    }

    /// One that runs. What podman does at its end and `rm -f` can be in each other's way, so it has ended before.
    #[track_caller]
    pub fn remove(&self, id: &str) {
        self.run(&["kill", id]).ok();
        self.run(&["wait", id]).ok();
        let mut last = String::new();
        let gone = within(Duration::from_secs(20), || {
            let removed = self.run(&["rm", "-f", id]);
            last = removed.stderr;
            (removed.code == 0).then_some(())
        });
        assert!(gone.is_some(), "it is not removed: {last}");
    }

    pub fn inspect(&self, id: &str, format: &str) -> String {
        self.run(&["inspect", "--format", format, id]).line()
    }

    pub fn pid(&self, id: &str) -> i32 {
        self.inspect(id, "{{.State.Pid}}").parse().expect("it is a number")
    }

    /// The file of that name in the first of its container's cgroups that has one.
    pub fn cgroup_file(&self, pid: i32, name: &str) -> Option<String> {
        let places = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let paths: Vec<&str> = places.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
        let roots = cgroup_roots();
        let files = paths
            .iter()
            .flat_map(|path| roots.iter().map(move |root| root.join(path.trim_start_matches('/')).join(name)));
        files.into_iter().find_map(|file| std::fs::read_to_string(file).ok()).map(|text| text.trim().to_owned())
    }

    /// What is left of containers; empty when nothing is.
    fn residue(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        left.extend(self.run(&["ps", "-a", "-q"]).ok().stdout.lines().map(|id| format!("container {id}")));
        let states = self.apart.prints("sh", &["-c", "ls /run/cc-oci 2>/dev/null"]);
        left.extend(states.lines().map(|id| format!("state {id}")));
        // conmon's own is podman's to keep.
        let cgroups = cgroup_roots().into_iter().map(|root| root.join(&self.parent)).flat_map(|dir| children(&dir));
        left.extend(cgroups.filter(|dir| !dir.ends_with("conmon")).map(|dir| format!("cgroup {}", dir.display())));
        let table = self.apart.prints("cat", &["/proc/self/mountinfo"]);
        let is_containers =
            |line: &&str| ["/merged", "/shm ", "/rootfs", "/run/netns/"].iter().any(|word| line.contains(word));
        let of_ours = |line: &&str| line.contains(&self.dir.path().display().to_string()) && is_containers(line);
        left.extend(table.lines().filter(of_ours).map(|line| format!("mount {line}")));
        left.extend(self.processes().into_iter().map(|(pid, line)| format!("process {pid} {line}")));
        left
    }

    /// Those that name its directory, which conmon and podman do.
    fn processes(&self) -> Vec<(i32, String)> {
        let dir = self.dir.path().display().to_string();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let line =
            |pid: i32| Some((pid, std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ")));
        pids.filter_map(line).filter(|(_, line)| line.contains(&dir)).collect()
    }

    /// Waits until nothing is left; panics with what is.
    #[track_caller]
    pub fn assert_clean(&self) {
        let mut last = Vec::new();
        let clean = within(Duration::from_secs(20), || {
            last = self.residue();
            last.is_empty().then_some(())
        });
        assert!(clean.is_some(), "left behind: {last:#?}");
    }

    pub fn eventually(&self, what: &str, condition: impl FnMut() -> Option<()>) {
        eventually(what, Duration::from_secs(20), condition);
    }
}

impl Default for Podman {
    fn default() -> Self {
        Podman::new()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // The first is for tests that failed; of one that did not, there is nothing.
        self.run(&["rm", "-fa", "-t", "0"]);
        for (pid, _) in self.processes() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        for root in cgroup_roots() {
            let _ = within(Duration::from_secs(5), || remove_cgroup(&root.join(&self.parent)).then_some(()));
        }
    }
}

fn remove_cgroup(dir: &Path) -> bool {
    let _ = std::fs::write(dir.join("cgroup.kill"), "1");
    children(dir).iter().for_each(|child| {
        remove_cgroup(child);
    });
    let _ = std::fs::remove_dir(dir);
    !dir.exists()
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn cgroup_roots() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    mounts.filter(|of| of[2].starts_with("cgroup")).map(|of| PathBuf::from(of[1])).collect()
}
