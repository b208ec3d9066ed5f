//! `cc-oci` with a state and bundles of its own, each with busybox for its root. Refuses to leave anything: `assert_clean` looks, and the guard removes
//! what a failed test left.

use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

use crate::daemon::bin_dir;
use crate::eventually::within;
use crate::world::{PREFIX, Ran};
use crate::{eventually, images};

/// Of one command; each takes a few milliseconds.
const WITHIN_SECONDS: &str = "60";
pub const BOUND: Duration = Duration::from_secs(20);
static NUMBER: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Oci {
    dir: tempfile::TempDir,
    tag: String,
}

impl Default for Oci {
    fn default() -> Oci {
        Oci::new()
    }
}

impl Oci {
    pub fn new() -> Oci {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("a temporary directory");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Oci { dir, tag: format!("{PREFIX}oci-{}-{number}", std::process::id()) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Below each hierarchy's root.
    pub fn cgroup(&self, id: &str) -> String {
        format!("/{}-{id}", self.tag)
    }

    /// What most tests start from: a shell script in namespaces of its own, with the file systems that every program expects.
    pub fn config(&self, id: &str, script: &str) -> Value {
        let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]);
        json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=64k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "linux": {
                "cgroupsPath": self.cgroup(id),
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            },
        })
    }

    /// Writes the bundle of that name.
    pub fn bundle(&self, id: &str, config: &Value) -> PathBuf {
        let bundle = self.path(id);
        if !bundle.exists() {
            std::fs::create_dir(&bundle).expect("the directory is new");
            unpack(&bundle.join("rootfs"));
        }
        std::fs::write(bundle.join("config.json"), config.to_string()).expect("the bundle is there");
        bundle
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", WITHIN_SECONDS]).arg(bin_dir().join("cc-oci")).arg("--root").arg(self.path("state"));
        command.args(args);
        command
    }

    /// With no standard input, and its output in files: what outlives the command keeps a pipe open.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Ran {
        self.finish(self.command(args))
    }

    #[track_caller]
    pub fn finish(&self, mut command: Command) -> Ran {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path(&format!("out-{number}")), self.path(&format!("err-{number}")));
        let file = |path: &Path| std::fs::File::create(path).expect("the directory is there");
        command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
        let status = command.status().expect("timeout is everywhere");
        let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).expect("it was made")).into_owned();
        Ran { code: status.code().unwrap_or(-1), stdout: text(&out), stderr: text(&err) }
    }

    /// In the foreground, from its bundle to its end.
    #[track_caller]
    pub fn once(&self, id: &str, config: &Value) -> Ran {
        let bundle = self.bundle(id, config);
        self.run(&["run", "--bundle", &bundle.display().to_string(), id])
    }

    /// Created, and not started. What it writes is in the files `out` and `err` of its bundle.
    #[track_caller]
    pub fn create(&self, id: &str, config: &Value, options: &[&str]) -> Ran {
        let bundle = self.bundle(id, config);
        let args = [&["create", "--bundle", bundle.to_str().expect("it is plain")], options, &[id]].concat();
        let mut command = self.command(&args);
        let file = |name: &str| std::fs::File::create(bundle.join(name)).expect("the bundle is there");
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        let code = command.status().expect("timeout is everywhere").code().unwrap_or(-1);
        Ran { code, stdout: String::new(), stderr: self.text(id, "err") }
    }

    /// In the background.
    #[track_caller]
    pub fn start(&self, id: &str, config: &Value) {
        self.create(id, config, &[]).ok();
        self.run(&["start", id]).ok();
    }

    /// A file of a bundle.
    pub fn text(&self, id: &str, name: &str) -> String {
        std::fs::read_to_string(self.path(id).join(name)).unwrap_or_default()
    }

    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.run(&["state", id]).ok().stdout).expect("a state is JSON")
    }

    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().expect("it is text").to_owned()
    }

    #[track_caller]
    pub fn pid(&self, id: &str) -> i32 {
        self.state(id)["pid"].as_i64().and_then(|pid| pid.try_into().ok()).expect("it is a number")
    }

    #[track_caller]
    pub fn ended(&self, id: &str) {
        eventually(&format!("{id} ends"), BOUND, || (self.status(id) == "stopped").then_some(()));
    }

    /// What is left of containers; empty when nothing is.
    fn residue(&self) -> Vec<String> {
        let states = std::fs::read_dir(self.path("state")).into_iter().flatten().flatten();
        let mut left: Vec<String> = states.map(|entry| format!("state {}", entry.path().display())).collect();
        let below = |dir: &Path| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        let is_ours = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{}-", self.tag)))
        };
        let top = Path::new("/sys/fs/cgroup");
        let all = below(top).into_iter().flat_map(|dir| below(&dir)).chain(below(top));
        left.extend(all.filter(is_ours).map(|path| format!("cgroup {}", path.display())));
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let here = self.dir.path().display().to_string();
        left.extend(table.lines().filter(|line| line.contains(&here)).map(|line| format!("mount {line}")));
        left
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        let left = within(BOUND, || self.residue().is_empty().then_some(()));
        assert!(left.is_some(), "left behind: {:?}", self.residue());
    }
}

impl Drop for Oci {
    fn drop(&mut self) {
        let states = std::fs::read_dir(self.path("state")).into_iter().flatten().flatten();
        for entry in states {
            let id = entry.file_name().to_string_lossy().into_owned();
            let _ = self.command(&["delete", "--force", &id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// The layers of the test image busybox.
fn unpack(root: &Path) {
    let layout = images::build("busybox").expect("the image can be made");
    let blob = |digest: &Value| {
        let digest = digest.as_str().and_then(|text| text.strip_prefix("sha256:")).expect("it is a digest");
        layout.join("blobs/sha256").join(digest)
    };
    let read = |path: PathBuf| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("the image is whole")).expect("it is JSON")
    };
    let index = read(layout.join("index.json"));
    let manifest = read(blob(&index["manifests"][0]["digest"]));
    std::fs::create_dir(root).expect("the directory is new");
    for layer in manifest["layers"].as_array().expect("an image has layers") {
        let done = Command::new("tar").arg("-xf").arg(blob(&layer["digest"])).arg("-C").arg(root).status();
        assert!(done.is_ok_and(|status| status.success()), "a layer of busybox is not unpacked");
    }
}

/// What waits for a terminal, as conmon does.
#[derive(Debug)]
pub struct Console {
    listener: UnixListener,
    pub path: PathBuf,
}

impl Console {
    pub fn listen(path: PathBuf) -> Console {
        Console { listener: UnixListener::bind(&path).expect("the path is free"), path }
    }

    /// The terminal, and the name that came with it.
    pub fn receive(&self) -> (std::fs::File, String) {
        let (stream, _) = self.listener.accept().expect("somebody connects");
        let mut name = [0; 256];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut pieces = [IoSliceMut::new(&mut name)];
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .expect("a message comes");
        let bytes = message.bytes;
        let rights = message.cmsgs().expect("it is whole").find_map(|one| match one {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        // SAFETY: the kernel has just made this descriptor for this process, and nobody else owns it.
        let terminal = unsafe { OwnedFd::from_raw_fd(rights.expect("a descriptor is with it")) };
        (terminal.into(), String::from_utf8_lossy(&name[..bytes]).into_owned())
    }
}

/// Until the text is shown.
#[track_caller]
pub fn sees(terminal: &mut std::fs::File, text: &str) -> String {
    let mut shown = String::new();
    let mut piece = [0; 1024];
    while !shown.contains(text) {
        match terminal.read(&mut piece) {
            Ok(count @ 1..) => shown.push_str(&String::from_utf8_lossy(&piece[..count])),
            other => panic!("{text:?} is not shown ({other:?}); what is: {shown:?}"),
        }
    }
    shown
}

pub fn types(terminal: &mut std::fs::File, text: &str) {
    terminal.write_all(text.as_bytes()).expect("somebody has the other end");
}
