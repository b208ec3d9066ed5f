//! The child that mounts a volume in a container that runs, or unmounts it there: it enters the container's namespaces before it looks at any
//! path, so that whatever a path leads to is among the container's files. Refuses to unmount what is not that volume.
//!
//! Its descriptors: 0 is a process of the container's, 2 the pipe of its report.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sched::{CloneFlags, setns};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{DumpableBehavior, Signal, fchdir, set_dumpable_behavior, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::ioctl::user_namespace;
use crate::inside;
use crate::shim::{mounts, privileges, rootfs, sys};

/// The hidden subcommand's name.
pub const SUBCOMMAND: &str = "mount-volume";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The container's users are the host's.
    pub host_users: bool,
    pub wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// What is at `source` on the host. Where it is at the target already, nothing is done.
    Mount { source: PathBuf, target: String, read_only: bool },
    /// Wherever it is.
    Unmount { device: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    Done,
    /// Programs of the container's have files open in it.
    Busy,
    Failed(String),
}

/// `main` of the subcommand: call it before any thread is started.
pub fn child_main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let request = args.next().and_then(|text| serde_json::from_str::<Request>(text.to_str()?).ok());
    let report = match request {
        Some(request) => act(&request).unwrap_or_else(Report::Failed),
        None => Report::Failed("it was not told what to do".to_owned()),
    };
    let written = serde_json::to_vec(&report).is_ok_and(|bytes| std::io::stderr().lock().write_all(&bytes).is_ok());
    if report == Report::Done && written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn step<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

fn act(request: &Request) -> Result<Report, String> {
    // First of all: nobody in the container may look into a process that has seen the host.
    step("hide", set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    step("tie to the daemon", set_parent_process_death_signal(Some(Signal::KILL)))?;
    let process = step("the container's process", std::io::stdin().as_fd().try_clone_to_owned())?;
    match &request.wanted {
        Wanted::Mount { source, target, read_only } => {
            let userns = match request.host_users {
                true => None,
                false => Some(step("the container's user namespace", user_namespace(&process))?),
            };
            let mount = mounts::clone_tree(source).map_err(|e| e.message)?;
            let read_only = if *read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
            let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only;
            let userns = userns.as_ref().map(|userns| userns.as_fd());
            step("map its owners", sys::mount_setattr(mount.as_fd(), attributes, userns, false))?;
            enter(process, request.host_users)?;
            mount_at(&mount, target)
        }
        Wanted::Unmount { device } => {
            // Opened here: the container's own could be anything by now.
            let own = step(
                "the list of mounts",
                rustix::fs::open("/proc/self", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
            )?;
            enter(process, request.host_users)?;
            unmount_all(&own, *device)
        }
    }
}

/// With the rights of the container's root, and no other of the host.
fn enter(process: OwnedFd, host_users: bool) -> Result<(), String> {
    let users = if host_users { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    step("its namespaces", setns(process, users | CloneFlags::CLONE_NEWNS))?;
    privileges::become_root().map_err(|e| e.message)?;
    // The change of ids cleared both.
    step("hide", set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    step("tie to the daemon", set_parent_process_death_signal(Some(Signal::KILL)))?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

fn mount_at(mount: &OwnedFd, target: &str) -> Result<Report, String> {
    let root =
        step("the root", rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))?;
    let at = rootfs::directory(&root, target).map_err(|e| e.message)?;
    let stat = |file: &OwnedFd| step("look at it", rustix::fs::fstat(file)).map(|stat| (stat.st_dev, stat.st_ino));
    if stat(&at)? == stat(mount)? {
        return Ok(Report::Done);
    }
    rootfs::refuse_kernels(&at, target).map_err(|e| e.message)?;
    rootfs::attach_at(mount, &at, target).map_err(|e| e.message)?;
    Ok(Report::Done)
}

/// The last one first, in case one lies on another.
fn unmount_all(own: &OwnedFd, device: u64) -> Result<Report, String> {
    let file = inside::open(own, "mountinfo", OFlags::RDONLY, Mode::empty(), ResolveFlags::BENEATH);
    let text =
        step("the list of mounts", std::io::read_to_string(std::fs::File::from(step("the list of mounts", file)?)))?;
    for target in targets_of(&text, device).iter().rev() {
        let (above, name) = rootfs::split(target);
        // No link on the way: the kernel's list has none. And from there on by name alone, which nothing can be put in the place of as long
        // as something is mounted on it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = step("the root", rustix::fs::open("/", flags, Mode::empty()))?;
        let strict = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let parent = step("the directory above it", inside::open(&root, above, flags, Mode::empty(), strict))?;
        let stat = step("look at it", rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW))?;
        if stat.st_dev != device {
            return Err(format!("something else is mounted on {target}"));
        }
        step("the directory above it", fchdir(&parent))?;
        match unmount(name, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::BUSY) => return Ok(Report::Busy),
            Err(source) => return Err(format!("unmount {target}: {source}")),
        }
    }
    Ok(Report::Done)
}

/// Where that device is mounted, in the order of mounting.
pub fn targets_of(mountinfo: &str, device: u64) -> Vec<String> {
    let wanted = format!("{}:{}", super::mount::major(device), super::mount::minor(device));
    let target = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let (number, _root, target) = (fields.next()?, fields.next()?, fields.next()?);
        (number == wanted).then(|| unescape(target))
    };
    mountinfo.lines().filter_map(target).collect()
}

/// As the kernel writes blanks and backslashes.
fn unescape(text: &str) -> String {
    let [space, tab, line, slash] = ["\\040", "\\011", "\\012", "\\134"];
    text.replace(space, " ").replace(tab, "\t").replace(line, "\n").replace(slash, "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_device_are_found_in_their_order() {
        let text = "1 0 0:20 / / rw - overlay overlay rw\n\
            2 1 7:3 /data /a rw,nosuid - ext4 /dev/loop3 rw\n\
            3 1 7:4 /data /b rw - ext4 /dev/loop4 rw\n\
            4 1 7:3 /data /with\\040blank ro - ext4 /dev/loop3 rw\n";
        assert_eq!(targets_of(text, rustix::fs::makedev(7, 3)), ["/a", "/with blank"]);
        assert!(targets_of(text, rustix::fs::makedev(7, 5)).is_empty());
    }
}
