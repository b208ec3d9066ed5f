//! A network and a mount namespace of a test's own, for other people's container engines: their state below /run, /dev/shm and /var/lib, their bridges
//! and rules and the settings of the kernel that they change are nobody else's, and gone with the guard. Refuses to move the calling thread.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::netns::Netns;

#[derive(Debug)]
pub struct Apart {
    netns: Netns,
    mounts: OwnedFd,
}

impl Apart {
    /// What is written to /var/lib goes into `scratch`, which is on no overlay itself.
    pub fn new(scratch: &Path) -> Result<Apart> {
        let scratch = scratch.to_owned();
        let made = std::thread::spawn(move || -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
                .context("cannot make mounts private")?;
            for target in ["/run", "/dev/shm"] {
                mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
                    .with_context(|| format!("cannot hide {target}"))?;
            }
            let (upper, work) = (scratch.join("upper"), scratch.join("work"));
            for dir in [&upper, &work] {
                std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            }
            let data = format!("lowerdir=/var/lib,upperdir={},workdir={}", upper.display(), work.display());
            mount(Some("overlay"), "/var/lib", Some("overlay"), MsFlags::empty(), Some(data.as_str()))
                .context("cannot hide /var/lib")?;
            Ok(File::open("/proc/thread-self/ns/mnt").context("cannot open the new namespace")?.into())
        });
        let mounts = made.join().expect("the thread does not panic")?;
        Ok(Apart { netns: Netns::new()?, mounts })
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = self.netns.command(program);
        let raw = self.mounts.as_raw_fd();
        // SAFETY: the closure runs between fork and exec, in a process of one thread, and makes one system call, setns, which is
        // async-signal-safe; the descriptor is this guard's, which the caller keeps until the spawn.
        unsafe {
            command.pre_exec(move || {
                setns(BorrowedFd::borrow_raw(raw), CloneFlags::CLONE_NEWNS).map_err(std::io::Error::from)
            });
        }
        command
    }

    /// What a program in here prints.
    pub fn prints(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().expect("it can be run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
