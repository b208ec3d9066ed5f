//! `kill` and `delete`. Refuses to signal a process that has the number of one that is gone, and to delete what still runs unless it is forced to.

use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::config;
use super::describe::Description;
use super::error::OciError;
use super::hooks::{self, Hooks};
use super::report;
use super::state::{Broken, CONFIG_FILE, Entry, Found, Init, Status, Store};
use crate::shim::sys;

/// From SIGKILL to the end of a process; one that the kernel holds takes longer, and is told about.
const END_BOUND_MS: i64 = 10_000;

pub fn kill(store: &Store, id: &str, signal: &str, all: bool) -> Result<(), OciError> {
    let signal = parse_signal(signal)?;
    let (_, record) = store.read(id)?;
    if all {
        if signal == libc::SIGKILL {
            return record.cgroup.kill();
        }
        // Whoever is gone meanwhile needs no signal.
        record.cgroup.pids()?.into_iter().for_each(|pid| sys::kill(pid, signal));
        return Ok(());
    }
    let init = record.alive()?;
    let sent = open(init).and_then(|pidfd| {
        use std::os::fd::AsFd as _;
        sys::pidfd_send_signal(pidfd.as_fd(), signal)
    });
    sent.map_err(|e| match e.raw_os_error() {
        Some(libc::ESRCH) => OciError::NotRunning { id: id.to_owned(), status: Status::Stopped.name() },
        _ => OciError::step(format!("signal container {id}"), e),
    })?;
    // In another's process namespace nobody ends with the first process.
    if signal == libc::SIGKILL && record.started {
        unfreeze(&record.cgroup);
    }
    Ok(())
}

/// A process that is frozen ends when it is not any more, on v1.
fn unfreeze(cgroup: &super::cgroup::Cgroup) {
    if cgroup.is_frozen()
        && let Err(error) = cgroup.freeze(false)
    {
        report::warn(&error.chain());
    }
}

/// The descriptor is asked once more whose it is: the number may have changed hands in between.
fn open(init: Init) -> std::io::Result<OwnedFd> {
    let pid = Pid::from_raw(init.pid).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESRCH))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    if init.is_alive() { Ok(pidfd) } else { Err(std::io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// `TERM`, `SIGTERM`, `15`; real-time ones by their number.
pub fn parse_signal(text: &str) -> Result<i32, OciError> {
    const SIGNAL_MAX: i32 = 64;
    let unknown = || OciError::Usage(format!("{text} is no signal"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=SIGNAL_MAX).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<Signal>().map(|signal| signal as i32).map_err(|_| unknown())
}

pub fn delete(store: &Store, id: &str, force: bool) -> Result<(), OciError> {
    if force {
        return match store.lock_any(id) {
            Err(OciError::NoContainer(_)) => Ok(()),
            Ok(Found::Broken(broken)) => discard(&broken),
            Ok(Found::Whole(mut entry)) => destroy(&mut entry),
            Err(error) => Err(error),
        };
    }
    let mut entry = store.lock(id)?;
    match entry.record.status() {
        Status::Stopped => destroy(&mut entry),
        other => Err(OciError::Status { operation: "delete", id: id.to_owned(), status: other.name() }),
    }
}

/// No process of it is known but by its cgroup, and no hook.
fn discard(broken: &Broken) -> Result<(), OciError> {
    let why = broken.why.chain();
    match &broken.cgroup {
        Some(cgroup) => cgroup.remove()?,
        None => report::warn(&format!("{why}: what runs of it, if anything does, is not known and goes on")),
    }
    broken.remove()
}

/// What `create` made goes, and then the hooks are told.
pub fn destroy(entry: &mut Entry) -> Result<(), OciError> {
    if let Some(init) = entry.record.init.filter(|init| init.is_alive()) {
        end(init, entry)?;
    }
    entry.record.cgroup.remove()?;
    // Read before it goes; what is not read any more was checked when the container was created.
    let path = entry.dir.join(CONFIG_FILE);
    let spec = config::read(&path).and_then(|text| config::parse(&text, &path));
    let hooks = spec.and_then(|spec| Hooks::parse(spec.hooks().as_ref()));
    entry.remove()?;
    match hooks {
        Ok(hooks) => hooks::run_all(&hooks.poststop, &Description::of(&entry.record).state("stopped", 0)),
        Err(error) => report::warn(&error.chain()),
    }
    Ok(())
}

fn end(init: Init, entry: &Entry) -> Result<(), OciError> {
    use std::os::fd::AsFd as _;
    let id = &entry.record.id;
    let failed = |e: std::io::Error| OciError::step(format!("end container {id}"), e);
    let pidfd = match open(init) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other.map_err(failed)?,
    };
    match sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other.map_err(failed)?,
    }
    unfreeze(&entry.record.cgroup);
    let bound = rustix::event::Timespec { tv_sec: END_BOUND_MS / 1000, tv_nsec: 0 };
    match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&bound)) {
        Ok(0) => Err(failed(std::io::ErrorKind::TimedOut.into())),
        Ok(_) => Ok(()),
        Err(e) => Err(failed(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [("TERM", 15), ("SIGKILL", 9), ("sighup", 1), ("15", 15), ("64", 64)] {
            assert_eq!(parse_signal(text).ok(), Some(number), "{text}");
        }
        for text in ["", "0", "65", "-9", "SIGNONE"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
