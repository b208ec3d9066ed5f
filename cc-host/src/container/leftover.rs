//! Processes of a container whose daemon is gone: found by what the shim wrote down, and killed exactly. Refuses to signal a
//! pid that may belong to somebody else by now.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::launch::LaunchError;
use crate::shim::record::{self, ExitRecord, Process, STATE_FILE, StateRecord};

const GONE_WITHIN: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Kills the shim and the init that `dir` tells of, and waits until they are gone. True if there was any. Idempotent.
pub fn kill_leftover(dir: &Path) -> Result<bool, LaunchError> {
    let Some(state) = state_of_this_boot(dir)? else { return Ok(false) };
    let mut killed = false;
    // The shim first, so that it writes nothing more; init dies with it, and is killed in case it was not tied to it yet.
    for process in [Some(state.shim), state.init].into_iter().flatten() {
        let Some(pidfd) = open_process(process)? else { continue };
        killed = true;
        match pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(source) => return Err(LaunchError::OpenProcess { pid: process.pid, source: source.into() }),
        }
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&GONE_WITHIN)) {
            Ok(0) => return Err(LaunchError::Unkillable { pid: process.pid }),
            _ => continue,
        }
    }
    Ok(killed)
}

/// A shim ends by itself once everybody attached has the last output, or took nothing for too long. True if it has, or was
/// gone before; false if it is still there after `within`.
pub fn wait_for_shim_to_leave(dir: &Path, within: Duration) -> Result<bool, LaunchError> {
    let Some(state) = state_of_this_boot(dir)? else { return Ok(true) };
    let Some(pidfd) = open_process(state.shim)? else { return Ok(true) };
    let end = Instant::now() + within;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // One that does not fit is no limit.
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Timespec::try_from(left).ok().as_ref()) {
            Err(Errno::INTR) => {}
            Err(source) => return Err(LaunchError::OpenProcess { pid: state.shim.pid, source: source.into() }),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

/// Pids of an earlier boot mean nothing.
pub fn state_of_this_boot(dir: &Path) -> Result<Option<StateRecord>, LaunchError> {
    let failed = |source| LaunchError::Directory { operation: "read the state in", path: dir.to_owned(), source };
    let Some(state) = record::read::<StateRecord>(dir, STATE_FILE).map_err(failed)? else { return Ok(None) };
    let boot_id = record::boot_id().map_err(failed)?;
    Ok((state.boot_id == boot_id).then_some(state))
}

/// `None` if that very process is gone. Its start time is looked at after it was opened: an open one cannot be replaced.
pub fn open_process(process: Process) -> Result<Option<OwnedFd>, LaunchError> {
    let Some(pid) = Pid::from_raw(process.pid).filter(|_| process.pid > 0) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(process.is_alive().then_some(pidfd)),
        Err(Errno::SRCH) => Ok(None),
        Err(source) => Err(LaunchError::OpenProcess { pid: process.pid, source: source.into() }),
    }
}

/// Nothing and nobody says how it ended, which only a kill leaves behind.
pub fn unknown_exit(note: &str) -> ExitRecord {
    ExitRecord { note: Some(note.to_owned()), ..ExitRecord::from_wait_status(libc::SIGKILL) }
}
