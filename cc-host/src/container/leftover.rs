//! Processes of a container whose daemon is gone: found by what the shim wrote down, and killed exactly. Refuses to signal a
//! pid that may belong to somebody else by now.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::launch::LaunchError;
use crate::shim::record::{self, ExitRecord, Process, STATE_FILE, StateRecord};

const GONE_WITHIN: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Kills the shim and the init that `dir` tells of, and waits until they are gone. True if there was any. Idempotent.
pub fn kill_leftover(dir: &Path) -> Result<bool, LaunchError> {
    let failed = |source| LaunchError::Directory { operation: "read the state in", path: dir.to_owned(), source };
    let Some(state) = record::read::<StateRecord>(dir, STATE_FILE).map_err(failed)? else { return Ok(false) };
    if state.boot_id != record::boot_id().map_err(failed)? {
        return Ok(false);
    }
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
