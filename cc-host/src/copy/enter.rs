//! Into the container's view of its files: its mounts if it runs, else the same overlay, put together for us alone. Refuses to keep a right
//! that copying does not need.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::CapabilitySet;

use super::{HOLD_SUBCOMMAND, Stopped};
use crate::shim::{launch, mounts, privileges, rootfs};

/// A copy reads a file in pieces.
const MEMORY_BYTES: u64 = 512 << 20;

/// As those of the unpacker of layers; DAC_READ_SEARCH is part of DAC_OVERRIDE.
fn kept() -> CapabilitySet {
    CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER | CapabilitySet::FSETID
}

fn step<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

/// The root of the container's files.
pub fn enter(stopped: Option<&Stopped>, host_users: bool) -> Result<OwnedFd, String> {
    // First of all: nobody in the container may look into a process that has seen the host.
    step("hide", set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    step("tie to the daemon", set_parent_process_death_signal(Some(Signal::KILL)))?;
    match stopped {
        None => {
            let process = step("the container's process", std::io::stdin().as_fd().try_clone_to_owned())?;
            step("its namespaces", setns(process, users(host_users) | CloneFlags::CLONE_NEWNS))?;
        }
        Some(stopped) => {
            let userns = if host_users { None } else { Some(Holder::spawn(stopped)?.namespace()?) };
            step("new mounts", unshare(CloneFlags::CLONE_NEWNS))?;
            let overlay = mounts::overlay(&stopped.rootfs, stopped.id_base, userns.as_ref().map(AsFd::as_fd));
            rootfs::enter(&overlay.map_err(|e| e.message)?).map_err(|e| e.message)?;
            if let Some(userns) = userns {
                step("its user namespace", setns(userns, CloneFlags::CLONE_NEWUSER))?;
            }
        }
    }
    let rest = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    step("new namespaces", unshare(rest))?;
    privileges::become_root().map_err(|e| e.message)?;
    step("limits", limits())?;
    step("privileges", privileges::confine_to(kept()))?;
    // The change of ids cleared both.
    step("hide", set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    step("tie to the daemon", set_parent_process_death_signal(Some(Signal::KILL)))?;
    rustix::process::umask(Mode::empty());
    step("the root", rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))
}

/// Nobody can enter the user namespace that he is in.
fn users(host_users: bool) -> CloneFlags {
    if host_users { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER }
}

fn limits() -> std::io::Result<()> {
    for (resource, limit) in [(Resource::Nofile, 1024), (Resource::Core, 0), (Resource::As, MEMORY_BYTES)] {
        let old = rustix::process::getrlimit(resource);
        let new = old.maximum.map_or(limit, |max| max.min(limit));
        rustix::process::setrlimit(resource, Rlimit { current: Some(new), maximum: Some(new) })?;
    }
    Ok(())
}

/// A process that does nothing but have a user namespace: layers can be shown under its ids only while there is one.
struct Holder {
    process: Child,
    ids: (u32, u32),
    // Closed, it ends.
    _held: ChildStdin,
}

impl Holder {
    fn spawn(stopped: &Stopped) -> Result<Holder, String> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(HOLD_SUBCOMMAND).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = step("a process for the user namespace", command.spawn())?;
        let held = process.stdin.take().expect("stdin was piped at spawn");
        Ok(Holder { process, ids: (stopped.id_base, stopped.id_count), _held: held })
    }

    fn namespace(mut self) -> Result<OwnedFd, String> {
        let mut made = [0];
        let mut stdout = self.process.stdout.take().expect("stdout was piped at spawn");
        step("a user namespace", stdout.read_exact(&mut made))?;
        let pid = self.process.id();
        launch::map_range(self.ids.0, self.ids.1, pid.cast_signed()).map_err(|e| e.message)?;
        let path = format!("/proc/{pid}/ns/user");
        step("the user namespace", rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only if it was reaped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `main` of the holder: until its input ends.
pub fn hold() -> ExitCode {
    let tied = set_parent_process_death_signal(Some(Signal::KILL));
    if tied.is_err() || unshare(CloneFlags::CLONE_NEWUSER).is_err() || std::io::stdout().lock().write_all(&[1]).is_err()
    {
        return ExitCode::FAILURE;
    }
    let _ = std::io::stdout().lock().flush();
    let _ = std::io::stdin().lock().read(&mut [0]);
    ExitCode::SUCCESS
}
