//! What a shim leaves on disk for whoever comes later: `state.json` (who runs), `exit.json` (how it ended) and
//! `log.json` (what its log has lost). Refuses to
//! hold anything that the daemon can derive.

use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::protocol::StartFailure;

pub const STATE_FILE: &str = "state.json";
pub const EXIT_FILE: &str = "exit.json";
pub const SOCKET_FILE: &str = "shim.sock";
pub const STDERR_FILE: &str = "shim.stderr";
/// There once something was dropped.
pub const LOG_FILE: &str = "log.json";

/// A process that can be told from a later one that got its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot, as in /proc/PID/stat.
    pub start_ticks: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    pub boot_id: String,
    pub shim: Process,
    /// Absent until the container's first process exists.
    pub init: Option<Process>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// As a shell would say it: 128 + n for a signal.
    pub code: i32,
    pub signal: Option<i32>,
    pub finished_ms: u64,
    /// The program never ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<StartFailure>,
    /// Set where the record was put together after the shim had died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Log records that were dropped.
    #[serde(default)]
    pub log_dropped: u64,
}

/// How the log fares while the container runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    pub dropped: u64,
}

impl ExitRecord {
    /// From a wait status, as `waitpid` reports it.
    pub fn from_wait_status(status: i32) -> Self {
        let signal = (libc::WIFSIGNALED(status)).then(|| libc::WTERMSIG(status));
        let code = signal.map_or_else(|| libc::WEXITSTATUS(status), |signal| 128 + signal);
        ExitRecord { code, signal, finished_ms: now_ms(), failure: None, note: None, log_dropped: 0 }
    }
}

impl Process {
    /// `None` if there is no such process, or it has ended and only waits for its parent to look.
    pub fn of(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold any character; the fields after it are counted from there.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Process { pid, start_ticks })
    }

    pub fn is_alive(&self) -> bool {
        Process::of(self.pid) == Some(*self)
    }
}

pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

pub fn read<T: serde::de::DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match std::fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whoever reads `name` sees the old record or the new one, never half of one.
pub fn write<T: Serialize>(dir: &Path, name: &str, value: &T, durable: bool) -> io::Result<()> {
    let fresh = dir.join(format!(".{name}.new"));
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    if durable {
        file.sync_all()?;
    }
    std::fs::rename(&fresh, dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_read_as_a_shell_says_them() {
        assert_eq!(ExitRecord::from_wait_status(3 << 8).code, 3);
        let killed = ExitRecord::from_wait_status(libc::SIGKILL);
        assert_eq!((killed.code, killed.signal), (137, Some(9)));
    }

    #[test]
    fn a_process_is_told_from_another_with_its_pid() {
        let me = Process::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive());
        assert!(!Process { start_ticks: me.start_ticks + 1, ..me }.is_alive());
    }

    #[test]
    fn records_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read::<ExitRecord>(dir.path(), EXIT_FILE).unwrap(), None);
        let record = ExitRecord::from_wait_status(0);
        write(dir.path(), EXIT_FILE, &record, true).unwrap();
        assert_eq!(read(dir.path(), EXIT_FILE).unwrap(), Some(record));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
