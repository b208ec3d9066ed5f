//! A root file system of busybox, a cgroup directory of its own, and containers in both: what the runtime's tests run in.
//! Refuses to leave anything behind: `end` asserts that nothing is.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(dead_code, reason = "every test file compiles this and uses a part of it")]

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cc_host::container::launch::{OutputReceiver, Shim, Stream, kill_leftover};
use cc_host::kernel::cgroup::{Cgroup, CgroupRoot, Limits};
use cc_host::seccomp::Seccomp;
use cc_host::shim::privileges::DEFAULT_CAPABILITIES;
use cc_host::shim::protocol::StartFailure;
use cc_host::shim::record::{ExitRecord, STATE_FILE, StateRecord, read};
use cc_host::shim::spec::{LogSpec, Rootfs, SPEC_VERSION, Spec};

pub const SHIM: &str = env!("CARGO_BIN_EXE_cc-shim");
pub const ID_BASE: u32 = 0x2000_0000;
pub const ID_COUNT: u32 = 65_536;

/// Whether what `spawn` gives was parked before anybody knew what it would be: in the tests of `runtime_parked`.
const PARKED: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"runtime_parked");

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct World {
    pub dir: tempfile::TempDir,
    pub cgroups: CgroupRoot,
    pub limits: Limits,
}

/// What a finished container left to look at.
#[derive(Debug)]
pub struct Outcome {
    pub record: ExitRecord,
    pub stdout: String,
    pub stderr: String,
    pub oom_kills: u64,
}

pub struct Made {
    pub dir: PathBuf,
    pub spec: Spec,
    pub cgroup: Cgroup,
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        // Nobody else has a directory of that name, whichever copy of this file made it.
        let name = dir.path().file_name().unwrap().to_string_lossy().replace('.', "-");
        let cgroups = CgroupRoot::open(Path::new(&format!("cc-test-{}{name}", std::process::id()))).unwrap();
        let world = World { dir, cgroups, limits: Limits { pids_max: Some(64), ..Limits::default() } };
        let layer = world.layer();
        for name in ["bin", "etc", "tmp", "root"] {
            std::fs::create_dir_all(layer.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
        for name in [
            "sh", "true", "id", "cat", "ls", "mount", "hostname", "sleep", "kill", "dd", "wc", "head", "yes", "stat",
            "touch", "readlink", "cmp", "grep", "tty", "stty", "test",
        ] {
            symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
        std::fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n")
            .unwrap();
        std::fs::write(layer.join("etc/group"), "root:x:0:\nwww:x:102:\nlog:x:4:web\n").unwrap();
        world
    }

    pub fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    /// A container that was not spawned yet.
    pub fn make(&self, args: &[&str], tweak: impl FnOnce(&mut Spec)) -> Made {
        let id = format!("c{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let home = self.dir.path().join(&id);
        for name in ["upper", "work", "run"] {
            std::fs::create_dir_all(home.join(name)).unwrap();
        }
        let cgroup = self.cgroups.create(&id, &self.limits).unwrap();
        let mut spec = Spec {
            version: SPEC_VERSION,
            id,
            hostname: "box".into(),
            args: args.iter().map(|arg| arg.to_string()).collect(),
            env: vec![],
            cwd: String::new(),
            user: String::new(),
            id_base: ID_BASE,
            host_users: false,
            id_count: ID_COUNT,
            rootfs: Rootfs {
                layers: vec![self.layer()],
                upper: home.join("upper"),
                work: home.join("work"),
                volatile: true,
            },
            binds: vec![],
            cgroup_v2: cgroup.v2_dir(),
            cgroup_shim: Some(self.cgroups.shims_dir()),
            cgroup_tasks: cgroup.tasks_files(),
            stdin: false,
            terminal: None,
            log: Some(LogSpec::new(home.join("0.log"))),
            rlimits: vec![],
            read_only: false,
            tmpfs: vec![],
            capabilities: None,
            seccomp: Seccomp::Default.filter(DEFAULT_CAPABILITIES).unwrap(),
            init: false,
            devices: vec![],
        };
        tweak(&mut spec);
        Made { dir: home.join("run"), spec, cgroup }
    }

    pub async fn spawn(&self, args: &[&str], tweak: impl FnOnce(&mut Spec)) -> (Shim, Made) {
        let made = self.make(args, tweak);
        if PARKED {
            let shim = Shim::park(Path::new(SHIM), &made.dir, &made.spec.place()).await.unwrap();
            shim.take(&made.spec).await.unwrap();
            return (shim, made);
        }
        let (shim, pid) = Shim::spawn(Path::new(SHIM), &made.dir, &made.spec).await.unwrap();
        assert!(pid > 1);
        (shim, made)
    }

    pub async fn run(&self, args: &[&str], tweak: impl FnOnce(&mut Spec)) -> Outcome {
        self.try_run(args, tweak).await.unwrap()
    }

    pub async fn sh(&self, script: &str) -> Outcome {
        self.run(&["sh", "-c", script], |_| ()).await
    }

    pub async fn try_run(&self, args: &[&str], tweak: impl FnOnce(&mut Spec)) -> Result<Outcome, StartFailure> {
        let (shim, made) = self.spawn(args, tweak).await;
        let (stdin, output) = shim.attach(false).await.unwrap();
        let started = shim.start().await;
        let (stdout, stderr) = collect(output).await;
        drop(stdin);
        let record = shim.wait().await;
        let oom_kills = made.cgroup.stats().oom_kills;
        made.cgroup.remove().unwrap();
        started.map(|()| Outcome { record, stdout, stderr, oom_kills })
    }

    /// Nothing is left of any container: process, mount, cgroup.
    pub fn end(self) {
        for entry in std::fs::read_dir(self.dir.path()).unwrap().flatten() {
            let run = entry.path().join("run");
            let Some(state) = read::<StateRecord>(&run, STATE_FILE).unwrap_or(None) else { continue };
            assert!(state.init.is_none_or(|init| !init.is_alive()), "init is left: {state:?}");
            // The shim ends after its last word; nothing but that may still be going on.
            assert!(ends(state.shim.pid), "the shim is left: {state:?}");
            assert!(!kill_leftover(&run).unwrap(), "something was left to kill");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "a mount is left");
        assert_eq!(self.cgroups.list().unwrap(), Vec::<String>::new(), "a cgroup is left");
        // A process is in its cgroup until it has left its CPU for good, which is after everybody was told of its end.
        assert!(empties(&self.cgroups.shims_dir()), "a shim's cgroup is not empty");
        self.cgroups.remove_root().unwrap();
    }
}

/// Also where a test fails half-way.
impl Drop for World {
    fn drop(&mut self) {
        // A shim that does not reap keeps its container from ending.
        for entry in std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let _ = kill_leftover(&entry.path().join("run"));
        }
        for id in self.cgroups.list().unwrap_or_default() {
            let _ = self.cgroups.get(&id).map(|cgroup| cgroup.remove());
        }
        let _ = self.cgroups.remove_root();
    }
}

/// Waits for a process to be gone, with a limit.
fn ends(pid: i32) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return true };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap() == 1
}

fn empties(cgroup: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    // One that was never made is empty.
    while std::fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1")) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

pub async fn collect(mut output: OutputReceiver) -> (String, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(piece) = output.recv().await {
        match piece.stream {
            Stream::Stdout => stdout.extend_from_slice(&piece.bytes),
            Stream::Stderr => stderr.extend_from_slice(&piece.bytes),
        }
    }
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

pub fn owner(path: &Path) -> (u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}
