//! A network namespace that lives as long as its guard, and code that runs inside one. Nothing of it is visible in the file
//! system, so nothing can be left there. Refuses to move the calling thread.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns, unshare};

#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

impl Netns {
    /// A new one, with loopback up.
    pub fn new() -> Result<Self> {
        let made = std::thread::spawn(|| -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net").context("cannot open the new namespace")?.into())
        });
        let fd = made.join().expect("the thread does not panic")?;
        let netns = Netns { fd };
        let up = netns.command("ip").args(["link", "set", "lo", "up"]).status().context("cannot run ip")?;
        anyhow::ensure!(up.success(), "cannot bring loopback up");
        Ok(netns)
    }

    /// A second guard of the same namespace.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Netns { fd: self.fd.try_clone().context("cannot copy a descriptor")? })
    }

    /// That of a process, such as a container's init.
    pub fn of_pid(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        Ok(Netns { fd: File::open(&path).with_context(|| format!("cannot open {path}"))?.into() })
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.enter(&mut command);
        command
    }

    /// Makes `command` run inside, for as long as this guard lives at its spawn.
    pub fn enter(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt as _;
        let raw = self.fd.as_raw_fd();
        // SAFETY: the closure runs between fork and exec and makes one system call, setns, which is async-signal-safe; the
        // descriptor is this guard's, which the caller keeps until the spawn.
        unsafe {
            command.pre_exec(move || {
                setns(BorrowedFd::borrow_raw(raw), CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
            });
        }
    }

    /// Runs `f` on a thread of its own inside.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let fd = self.fd.try_clone().context("cannot copy a descriptor")?;
        let thread = std::thread::spawn(move || -> Result<T> {
            setns(fd.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            Ok(f())
        });
        thread.join().map_err(|_| anyhow::anyhow!("the code inside the namespace panicked"))?
    }

    /// Names of the links inside.
    pub fn links(&self) -> Result<Vec<String>> {
        let output = self.command("ip").args(["-json", "link", "show"]).output().context("cannot run ip")?;
        let links: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).context("ip printed no JSON")?;
        Ok(links.iter().filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect())
    }
}
