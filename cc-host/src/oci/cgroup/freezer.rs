//! Stops all processes of a cgroup, and lets them go on: by v2, whose frozen ones can be killed, or by v1's controller. Returns when it is so.
//! Refuses to wait longer than a while, and undoes what did not come about.

use std::io::{Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Cgroup, OciError};

/// A process in an uninterruptible wait stops when that is over.
const WITHIN: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(2);
/// v1 can stay between the two while processes fork; let go for a moment, it gets there.
const TICKS_UNTIL_AGAIN: u32 = 50;

enum Freezer {
    Unified(PathBuf),
    Legacy(PathBuf),
}

fn freezer(cgroup: &Cgroup) -> Option<Freezer> {
    let unified = cgroup.unified.as_ref().map(|dir| dir.join("cgroup.freeze")).filter(|file| file.exists());
    let legacy = || cgroup.legacy.iter().map(|dir| dir.join("freezer.state")).find(|file| file.exists());
    unified.map(Freezer::Unified).or_else(|| legacy().map(Freezer::Legacy))
}

pub fn freeze(cgroup: &Cgroup, frozen: bool) -> Result<(), OciError> {
    match freezer(cgroup) {
        Some(Freezer::Unified(file)) => unified(&file, frozen),
        Some(Freezer::Legacy(file)) => legacy(&file, frozen),
        None => Err(OciError::Unsupported {
            field: "pause".to_owned(),
            why: "neither cgroup v2 nor the freezer of v1 is mounted here, or the container's cgroup is gone",
        }),
    }
}

pub fn is_frozen(cgroup: &Cgroup) -> bool {
    let says = |file: &Path, word: &str| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == word);
    match freezer(cgroup) {
        Some(Freezer::Unified(file)) => says(&file, "1"),
        Some(Freezer::Legacy(file)) => says(&file, "FROZEN"),
        None => false,
    }
}

fn failed(operation: &'static str, path: &Path, source: std::io::Error) -> OciError {
    OciError::File { operation, path: path.to_owned(), source }
}

fn late(path: &Path) -> OciError {
    let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "its processes did not all stop in time");
    failed("freeze", path, source)
}

fn unified(file: &Path, frozen: bool) -> Result<(), OciError> {
    let write = |value: &str| std::fs::write(file, value).map_err(|source| failed("write", file, source));
    write(if frozen { "1" } else { "0" })?;
    let events = file.with_file_name("cgroup.events");
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    let deadline = Instant::now() + WITHIN;
    let mut open = std::fs::File::open(&events).map_err(|source| failed("open", &events, source))?;
    loop {
        let mut text = String::new();
        let read = open.rewind().and_then(|()| open.read_to_string(&mut text));
        read.map_err(|source| failed("read", &events, source))?;
        if text.lines().any(|line| line == wanted) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            if frozen {
                write("0")?;
            }
            return Err(late(file));
        }
        // A change is told as something exceptional. Whether it is the one is seen above.
        let mut fds = [PollFd::from_borrowed_fd(open.as_fd(), PollFlags::PRI)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 }));
    }
}

fn legacy(file: &Path, frozen: bool) -> Result<(), OciError> {
    let write = |value: &str| std::fs::write(file, value).map_err(|source| failed("write", file, source));
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    let deadline = Instant::now() + WITHIN;
    for tick in 1.. {
        write(wanted)?;
        let state = std::fs::read_to_string(file).map_err(|source| failed("read", file, source))?;
        if state.trim() == wanted {
            break;
        }
        if Instant::now() >= deadline {
            write("THAWED")?;
            return Err(late(file));
        }
        if frozen && tick % TICKS_UNTIL_AGAIN == 0 {
            write("THAWED")?;
            sleep(TICK * 5);
        } else {
            sleep(TICK);
        }
    }
    Ok(())
}
