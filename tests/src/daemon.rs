//! A private `cc-host`: own directories, bpffs, cgroups, range of ids and network namespace. Refuses to touch the machine's.

use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually::{allowed, eventually};
use crate::netns::Netns;

const UMASK: libc::mode_t = 0o077;
/// From start to the first answer; a debug build on a busy machine takes a second.
const READY_BOUND: Duration = Duration::from_secs(20);

/// Where the built programs are.
pub fn bin_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    let dir = std::env::var_os("CC_BIN_DIR").map_or_else(default, PathBuf::from);
    std::fs::canonicalize(&dir).unwrap_or(dir)
}

/// Which daemon is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// This source's.
    Own,
    /// The same with its programs' log on, by which they are other programs.
    Logging,
    /// That of the next layout of pinned maps, which `cargo xtask test` builds from this source.
    Next,
    /// This source's with assertions, which dies at that place.
    Faults(&'static str),
}

/// Of this source's pins; the next build's are one more.
const VERSION: u32 = 3;

impl Build {
    fn program(self) -> &'static str {
        match self {
            Build::Own | Build::Logging => "cc-host",
            Build::Next => "cc-host-next",
            Build::Faults(_) => "cc-host-faults",
        }
    }

    fn log(self) -> &'static str {
        match self {
            Build::Own | Build::Next | Build::Faults(_) => "info",
            Build::Logging => "info,cc_ebpf=debug",
        }
    }

    /// The directory of its pins, below the one for all.
    pub fn pins(self) -> String {
        format!("v{}", VERSION + u32::from(self == Build::Next))
    }
}

/// How a daemon goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// By SIGKILL.
    Killed,
    /// By SIGTERM, in order.
    Stopped,
}

/// What a stop in order may take.
const STOP_BOUND: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn start(build: Build, config: &Path, netns: &Netns, socket: &Path, log: &Path) -> Result<Self> {
        let daemon = Daemon::spawn(build, config, netns, log)?;
        Ok(daemon.ready(socket))
    }

    /// Without waiting for it to answer.
    pub fn spawn(build: Build, config: &Path, netns: &Netns, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log).context("cannot open the daemon's log")?;
        let mut command = Command::new(bin_dir().join(build.program()));
        command.arg("serve").arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        if std::env::var_os("RUST_LOG").is_none() || build == Build::Logging {
            command.env("RUST_LOG", build.log());
        }
        if let Build::Faults(place) = build {
            command.env("CC_FAULT", place);
        }
        netns.enter(&mut command);
        // As the package's unit has it: nothing of a container's is to depend on it.
        // SAFETY: umask(2) is async-signal-safe and cannot fail.
        unsafe {
            command.pre_exec(|| {
                libc::umask(UMASK);
                Ok(())
            });
        }
        let child = command.spawn().context("cannot start cc-host; run `cargo xtask build`")?;
        Ok(Daemon { child, log: log.to_owned() })
    }

    fn ready(mut self, socket: &Path) -> Self {
        let what = format!("cc-host answers on {}", socket.display());
        eventually(&what, READY_BOUND, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("cc-host ended with {status}:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
            }
            // What a killed daemon was about to become may have its socket for a moment yet.
            let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
            let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
            (peer.pid() == self.pid()).then_some(())
        });
        self
    }

    /// Whether it has ended by itself, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be asked")
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits")
    }

    /// SIGKILL: what a crash leaves is left.
    pub fn kill(mut self) {
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let status = self.child.wait().expect("our own child can be waited for");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "the daemon had ended before: {status}\n{}", self.log());
    }

    /// SIGTERM, and how it ended and after how long.
    pub fn stop(mut self) -> (ExitStatus, Duration) {
        let start = std::time::Instant::now();
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let status = self.child.wait().expect("our own child can be waited for");
        (status, start.elapsed())
    }

    pub fn leave(self, how: Leave) {
        match how {
            Leave::Killed => self.kill(),
            Leave::Stopped => {
                let log = self.log.clone();
                let (status, took) = self.stop();
                let said = || std::fs::read_to_string(&log).unwrap_or_default();
                assert!(status.success() && took < allowed(STOP_BOUND), "{status} after {took:?}\n{}", said());
            }
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
