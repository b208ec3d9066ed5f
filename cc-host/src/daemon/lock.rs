//! One daemon per run directory, by a lock that the kernel releases however its holder ends. Refuses to wait for another daemon.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cc_common::api::fault::Fault;
use rustix::fs::{FlockOperation, flock};
use tonic::Code;

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("cannot make the directory {path}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("another daemon holds {path}")]
    Held { path: PathBuf },
}

/// A daemon that was killed while it started a program has left a child with all its descriptors, the lock's too, until that child runs the
/// program a moment later. So long is waited for; who still holds it then is a daemon.
const INHERITED: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// Held until dropped. The file stays: to remove it would let two daemons lock two files of the same name.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    pub fn take(run_dir: &Path) -> Result<Self, LockError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir)
            .map_err(|source| LockError::Directory { path: run_dir.to_owned(), source })?;
        let path = run_dir.join("lock");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| LockError::Open { path: path.clone(), source })?;
        RunLock::lock(file, path)
    }

    /// A directory that exists, itself: for those of the kernel, which take no lock file.
    pub fn of_directory(path: &Path) -> Result<Self, LockError> {
        let file = File::open(path).map_err(|source| LockError::Open { path: path.to_owned(), source })?;
        RunLock::lock(file, path.to_owned())
    }

    fn lock(file: File, path: PathBuf) -> Result<Self, LockError> {
        let began = Instant::now();
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if began.elapsed() > INHERITED {
                return Err(LockError::Held { path });
            }
            std::thread::sleep(LOOK);
        }
        Ok(RunLock { _file: file })
    }
}

impl From<LockError> for Fault {
    fn from(error: LockError) -> Fault {
        let mut why = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            why = format!("{why}: {source}");
        }
        Fault::new(Code::FailedPrecondition, "server.lock", "cannot start", why)
            .next("stop the other daemon, or give this one its own run_dir, state_dir, bpffs_dir and cgroup_dir")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_daemons_never_share_a_run_directory() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let first = RunLock::take(&run_dir).unwrap();
        assert!(matches!(RunLock::take(&run_dir), Err(LockError::Held { .. })));
        drop(first);
        assert!(RunLock::take(&run_dir).is_ok());
    }

    #[test]
    fn who_lets_go_a_moment_later_was_no_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::take(dir.path()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                drop(first);
            });
            assert!(RunLock::take(dir.path()).is_ok());
        });
    }
}
