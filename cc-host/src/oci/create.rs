//! `create`: from a bundle to a container whose first process waits for `start`. Everything is checked before anything is made. Refuses to leave
//! anything behind when it fails.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, waitpid};

use super::cgroup::Cgroup;
use super::config::Config;
use super::describe::Description;
use super::error::OciError;
use super::init::{self, Launch};
use super::namespaces::{self, Namespaces};
use super::state::{CONFIG_FILE, Entry, Executable, Init, Record, START_SOCKET, Store};
use super::talk::{self, FromInside};
use super::{devices, hooks, limits, mounts, relay, report, userns};
use crate::shim::channel::Channel;
use crate::shim::protocol::{FailureKind, StartFailure};
use crate::shim::sys;

#[derive(Debug)]
pub struct Wanted {
    pub id: String,
    pub bundle: PathBuf,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub preserved: u32,
    pub pivot: bool,
    pub new_keyring: bool,
    /// Whoever asked stays, and has the terminal if no socket was named.
    pub foreground: bool,
}

#[derive(Debug)]
pub struct Created {
    pub entry: Entry,
    pub process: Process,
}

/// One that was cloned.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The other end of its terminal, if nobody else has it.
    pub terminal: Option<OwnedFd>,
}

pub fn create(store: &Store, wanted: &Wanted) -> Result<Created, OciError> {
    super::state::check_id(&wanted.id)?;
    let mut config = Config::load(&wanted.bundle)?;
    let has_terminal = config.process.as_ref().is_some_and(|plan| plan.terminal);
    check_console(has_terminal, wanted.console_socket.is_some(), wanted.foreground)?;
    if wanted.foreground
        && let Some(plan) = &mut config.process
    {
        plan.size = plan.size.or_else(relay::size_here);
    }
    let record = Record {
        id: wanted.id.clone(),
        bundle: config.bundle.clone(),
        rootfs: config.rootfs.clone(),
        annotations: config.annotations.clone(),
        created: report::now(),
        cgroup: Cgroup { unified: None, legacy: Vec::new(), made: Vec::new() },
        init: None,
        started: false,
        waits_as: None,
        own_keyring: wanted.new_keyring,
    };
    let mut entry = store.create(record)?;
    let mut cloned = None;
    match caught(|| launch(&mut entry, &config, wanted, &mut cloned)) {
        Ok(terminal) => {
            let Some((pid, pidfd)) = cloned else { return Err(talk::silence("the container's first process")) };
            Ok(Created { entry, process: Process { pid, pidfd, terminal } })
        }
        Err(error) => {
            undo(&entry, &config, cloned);
            Err(error)
        }
    }
}

/// A fault of this program's own leaves no more behind than any other.
fn caught<T>(step: impl FnOnce() -> Result<T, OciError>) -> Result<T, OciError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)).unwrap_or_else(|_| {
        Err(StartFailure::new(FailureKind::Other, "cc-oci panicked while it created the container").into())
    })
}

/// As the specification has it of a container that could not be created: destroyed, and then the hooks of that.
fn undo(entry: &Entry, config: &Config, cloned: Option<(i32, OwnedFd)>) {
    if let Some((pid, pidfd)) = &cloned {
        let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        let _ = waitpid(Pid::from_raw(*pid), WaitOptions::empty());
    }
    for removed in [entry.record.cgroup.remove(), entry.remove()] {
        if let Err(error) = removed {
            report::warn(&error.chain());
        }
    }
    if cloned.is_some() {
        hooks::run_all(&config.hooks.poststop, &Description::of(&entry.record).state("stopped", 0));
    }
}

type Cloned = Option<(i32, OwnedFd)>;

fn launch(
    entry: &mut Entry,
    config: &Config,
    wanted: &Wanted,
    cloned: &mut Cloned,
) -> Result<Option<OwnedFd>, OciError> {
    keep_config(&entry.dir, &config.text)?;
    entry.record.cgroup = Cgroup::create(config.cgroups_path.as_deref(), &wanted.id, config.resources.as_ref())?;
    entry.save()?;
    let (channel, own) = Channel::pair().map_err(|e| OciError::step("make the channel to the first process", e))?;
    let description = Description::new(&wanted.id, config);
    let mut launch = Launch {
        config,
        description: &description,
        prepared: mounts::prepare(config, &entry.record.cgroup)?,
        nodes: nodes(config)?,
        tasks: open_tasks(&entry.record.cgroup)?,
        channel: own,
        listener: talk::listen_at(&entry.dir.join(START_SOCKET))?,
        proc: super::lsm::proc()?,
        console: wanted.console_socket.as_deref().map(talk::console).transpose()?,
        keyring: keyring(&entry.record),
        preserved: wanted.preserved,
        pivot: wanted.pivot,
    };
    let cgroup = open_unified(&entry.record.cgroup)?;
    let namespaces = if config.namespaces.needs_two_steps() { 0 } else { config.namespaces.new.bits() as u32 };
    hide()?;
    // SAFETY: cc-oci starts no thread, ever.
    let side = unsafe { sys::clone3(namespaces.into(), cgroup.as_ref().map(AsFd::as_fd)) };
    match side.map_err(|e| OciError::step("clone the container's first process", e))? {
        sys::Side::Child => {
            // Nothing of it comes back to what the creator does then.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                drop(channel);
                init::run(&mut launch);
            }));
            sys::exit_now(125)
        }
        sys::Side::Parent(one) => *cloned = Some((one.pid, one.pidfd)),
    }
    drop(launch);
    let terminal = accompany(&channel, config, &description, cloned)?;
    let pid = cloned.as_ref().map_or(0, |(pid, _)| *pid);
    entry.record.init = Some(Init::of(pid).ok_or_else(|| talk::silence("the container's first process"))?);
    entry.record.waits_as = Executable::of(pid);
    entry.save()?;
    if let Some(path) = &wanted.pid_file {
        write_pid(path, pid)?;
    }
    Ok(terminal)
}

/// Does what the first process asks for, until it waits for `start`.
fn accompany(
    channel: &Channel,
    config: &Config,
    description: &Description,
    cloned: &mut Cloned,
) -> Result<Option<OwnedFd>, OciError> {
    let mut terminal = None;
    loop {
        let pid = cloned.as_ref().map_or(0, |(pid, _)| *pid);
        let received = channel.receive().map_err(|e| OciError::step("hear of the first process", e))?;
        let Some((message, mut descriptors)) = received else {
            return Err(talk::silence("the container's first process"));
        };
        match message {
            FromInside::Ids => set_ids(&config.namespaces, pid)?,
            FromInside::Clocks => set_clocks(&config.namespaces, pid)?,
            FromInside::Cloned { pid: next } => {
                let Some(pidfd) = descriptors.pop() else { return Err(talk::silence("a process in between")) };
                // It ends by itself now, and is a child of this one.
                let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
                *cloned = Some((next, pidfd));
            }
            FromInside::Mounted => {
                if let Some(adj) = config.process.as_ref().and_then(|plan| plan.oom_score_adj) {
                    limits::set_oom_score(pid, adj)?;
                }
                let state = description.state("creating", pid);
                hooks::run(&config.hooks.prestart, &state)?;
                hooks::run(&config.hooks.create_runtime, &state)?;
            }
            FromInside::Limits => config.process.as_ref().map_or(Ok(()), |plan| limits::apply(plan, pid))?,
            FromInside::Terminal => {
                terminal = descriptors.pop();
                continue;
            }
            FromInside::Ready => return Ok(terminal),
            FromInside::Failed(failure) | FromInside::Refused(failure) => return Err(failure.into()),
            FromInside::Executing => continue,
        }
        talk::go(channel)?;
    }
}

fn set_ids(namespaces: &Namespaces, pid: i32) -> Result<(), OciError> {
    namespaces.mappings.as_ref().map_or(Ok(()), |mappings| namespaces::write_maps(mappings, pid))
}

fn set_clocks(namespaces: &Namespaces, pid: i32) -> Result<(), OciError> {
    std::fs::write(format!("/proc/{pid}/timens_offsets"), &namespaces.time_offsets)
        .map_err(|e| OciError::step("set linux.timeOffsets", e))
}

/// Where the container's root may not make nodes itself.
fn nodes(config: &Config) -> Result<Option<OwnedFd>, OciError> {
    use nix::sched::CloneFlags;
    if config.foreign_dev || !config.namespaces.has(CloneFlags::CLONE_NEWUSER) {
        return Ok(None);
    }
    let joined = config.namespaces.joined.iter().find(|joined| joined.kind == CloneFlags::CLONE_NEWUSER);
    let found = joined.map(|joined| userns::mappings(&joined.file)).transpose()?;
    let mappings = config.namespaces.mappings.as_ref().or(found.as_ref());
    devices::prepare(&config.devices, mappings).map(Some)
}

/// The name of its session keyring, as runc has it.
pub fn keyring(record: &Record) -> Option<CString> {
    record.own_keyring.then(|| CString::new(format!("_ses.{}", record.id)).ok()).flatten()
}

/// The kernel asks whether whoever opened the file may move a process, not whoever writes to it.
pub fn open_tasks(cgroup: &Cgroup) -> Result<Vec<OwnedFd>, OciError> {
    let open = |path: PathBuf| {
        rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| OciError::File {
            operation: "open",
            path,
            source: e.into(),
        })
    };
    let entered = cgroup.unified.as_ref().filter(|dir| !cgroup.made.contains(dir)).map(|dir| dir.join("cgroup.procs"));
    cgroup.tasks_files().into_iter().chain(entered).map(open).collect()
}

/// In which it is born. One that was there before is entered instead: from Linux 6.14 on, whoever is born where `cgroup.kill` was ever written is
/// killed.
pub fn open_unified(cgroup: &Cgroup) -> Result<Option<OwnedFd>, OciError> {
    let open = |path: &PathBuf| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| OciError::File { operation: "open", path: path.clone(), source: e.into() })
    };
    cgroup.unified.as_ref().filter(|dir| cgroup.made.contains(dir)).map(open).transpose()
}

/// Nobody in the container may look into a process that has seen the host, nor follow a link to its file.
pub fn hide() -> Result<(), OciError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| OciError::step("hide from the container", e))
}

pub fn check_console(terminal: bool, socket: bool, foreground: bool) -> Result<(), OciError> {
    match (terminal, socket) {
        (true, false) if !foreground => {
            let why = "process.terminal is asked for, and nobody stays who would have it: name a --console-socket";
            Err(OciError::Usage(why.to_owned()))
        }
        (false, true) => {
            let why = "there is a --console-socket, but process.terminal asks for no terminal";
            Err(OciError::Usage(why.to_owned()))
        }
        _ => Ok(()),
    }
}

pub fn check_preserved(count: u32) -> Result<(), OciError> {
    const PRESERVED_MAX: u32 = 1 << 20;
    if count > PRESERVED_MAX {
        return Err(OciError::Usage(format!("--preserve-fds {count}: no process has as many descriptors")));
    }
    match (3..3 + count as i32).find(|fd| !sys::is_open(*fd)) {
        Some(fd) => Err(OciError::Usage(format!("--preserve-fds {count}: descriptor {fd} is not open"))),
        None => Ok(()),
    }
}

fn keep_config(dir: &Path, text: &[u8]) -> Result<(), OciError> {
    let path = dir.join(CONFIG_FILE);
    let write = || {
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        std::io::Write::write_all(&mut &file, text)
    };
    write().map_err(|source| OciError::File { operation: "write", path: path.clone(), source })
}

/// Whole or not at all: whoever waits for it reads a number.
pub fn write_pid(path: &Path, pid: i32) -> Result<(), OciError> {
    let mut next = path.as_os_str().to_owned();
    next.push(".cc-oci");
    std::fs::write(&next, pid.to_string())
        .and_then(|()| std::fs::rename(&next, path))
        .map_err(|source| OciError::File { operation: "write", path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_is_undone() {
        assert_eq!(caught(|| Ok(1)).unwrap(), 1);
        let error = caught(|| -> Result<(), OciError> { panic!("as a fault would") }).unwrap_err();
        assert!(error.chain().contains("panicked"), "{}", error.chain());
    }
}
