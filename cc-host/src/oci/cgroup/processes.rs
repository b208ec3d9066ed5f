//! What is in a container's directories, and its end. A directory is removed with what was made inside of it, when its processes are gone. Refuses
//! a process that is not listed there any more.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Cgroup, OciError, freezer};

/// A process in an uninterruptible wait can take longer.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(2);

fn failed(operation: &'static str, path: &Path, source: io::Error) -> OciError {
    OciError::File { operation, path: path.to_owned(), source }
}

pub fn pids(dirs: &[&Path]) -> Result<Vec<i32>, OciError> {
    let mut all = BTreeSet::new();
    for dir in dirs {
        listed(dir, &mut all)?;
    }
    Ok(all.into_iter().collect())
}

fn listed(dir: &Path, all: &mut BTreeSet<i32>) -> Result<(), OciError> {
    let file = dir.join("cgroup.procs");
    match std::fs::read_to_string(&file) {
        // 0 is a process of another PID namespace, which has no number here.
        Ok(text) => all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        // A threaded one, whose processes are listed above it; and one that is just going.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOENT)) => {}
        Err(source) => return Err(failed("read", &file, source)),
    }
    children(dir)?.iter().try_for_each(|child| listed(child, all))
}

/// By the kernel at once where it can; else one by one, while none can run to make another.
pub fn kill(cgroup: &Cgroup) -> Result<(), OciError> {
    let mut is_done = false;
    if let Some(dir) = &cgroup.unified {
        let file = dir.join("cgroup.kill");
        match std::fs::write(&file, "1") {
            Ok(()) => is_done = true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed("write", &file, source)),
        }
    }
    if cgroup.pids()?.is_empty() {
        return Ok(());
    }
    // Without a freezer some may get away; then there is a next time. What is left after the kernel has killed is only going.
    let frozen = !is_done && freezer::freeze(cgroup, true).is_ok();
    let killed = cgroup.pids().map(|first| kill_listed(cgroup, &first));
    // One that v1 has stopped ends when it goes on.
    if !is_done && (frozen || freezer::is_frozen(cgroup)) {
        freezer::freeze(cgroup, false)?;
    }
    killed
}

/// A number can be another's between reading and killing; opening it first and looking again cannot hit a stranger.
fn kill_listed(cgroup: &Cgroup, first: &[i32]) {
    let open = |pid: &i32| Some((*pid, pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?));
    let opened: Vec<_> = first.iter().filter_map(open).collect();
    let second = cgroup.pids().unwrap_or_default();
    for (_, process) in opened.iter().filter(|(pid, _)| second.contains(pid)) {
        // It has ended, which was wanted.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// Removes `dirs`, with what is inside, then `above`, as far as nobody else has come to be in them.
pub fn remove(cgroup: &Cgroup, dirs: &[&Path], above: &[PathBuf]) -> Result<(), OciError> {
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        match dirs.iter().try_for_each(|dir| unmake(dir)) {
            Err(OciError::File { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) => return Err(error),
            Ok(()) => break,
        }
        if Instant::now() >= deadline {
            let source = io::Error::new(io::ErrorKind::ResourceBusy, "it still has processes after they were killed");
            let path = dirs.first().copied().unwrap_or(Path::new("/"));
            return Err(failed("remove", path, source));
        }
        kill(cgroup)?;
        std::thread::sleep(TICK);
    }
    for dir in above.iter().rev() {
        let _ = std::fs::remove_dir(dir);
    }
    Ok(())
}

/// Children first.
fn unmake(dir: &Path) -> Result<(), OciError> {
    for child in children(dir)? {
        unmake(&child)?;
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|source| failed("remove", dir, source)),
    }
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, OciError> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| failed("list", dir, source))?,
    };
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}
