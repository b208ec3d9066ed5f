//! The processes of a container, as the kernel has them now. Refuses to keep any: a pid may be another's a moment later.

use std::path::Path;

use super::error::ContainerError;
use super::record::ContainerRecord;
use super::room::Containers;

/// Of one container; whoever has more is told of these.
const PROCESSES_MAX: usize = 4096;
/// Of a command line, which may be 2 MiB.
const COMMAND_BYTES_MAX: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// On the host.
    pub pid: i32,
    /// In the container.
    pub own_pid: i32,
    /// In the container; `None` for an id that it does not have.
    pub uid: Option<u32>,
    pub state: String,
    pub cpu_ms: u64,
    pub resident_bytes: u64,
    pub command: String,
}

impl Containers {
    /// In the order of their pids; none of one that does not run.
    pub async fn processes(&self, record: &ContainerRecord) -> Result<Vec<Process>, ContainerError> {
        let name = record.name.to_string();
        let live = self.live(&record.id).ok_or_else(|| ContainerError::NotRunning { name: name.clone() })?;
        let (dir, id_base) = (live.cgroup.v2_dir(), self.id_base(record));
        let read = tokio::task::spawn_blocking(move || processes(&dir, id_base));
        let failed = |source| ContainerError::File { operation: "list the processes", name, source };
        read.await.expect("reading files does not panic").map_err(failed)
    }
}

fn processes(cgroup: &Path, id_base: u32) -> std::io::Result<Vec<Process>> {
    let pids = std::fs::read_to_string(cgroup.join("cgroup.procs"))?;
    let mut pids: Vec<i32> = pids.lines().filter_map(|line| line.parse().ok()).take(PROCESSES_MAX).collect();
    pids.sort_unstable();
    // One that has ended meanwhile is left out.
    Ok(pids.into_iter().filter_map(|pid| process(pid, id_base)).collect())
}

fn process(pid: i32, id_base: u32) -> Option<Process> {
    use std::io::Read as _;
    let dir = std::path::PathBuf::from(format!("/proc/{pid}"));
    let status = std::fs::read_to_string(dir.join("status")).ok()?;
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    let mut command = Vec::new();
    std::fs::File::open(dir.join("cmdline")).ok()?.take(COMMAND_BYTES_MAX).read_to_end(&mut command).ok()?;
    parse(pid, id_base, &status, &stat, &command)
}

fn parse(pid: i32, id_base: u32, status: &str, stat: &str, command: &[u8]) -> Option<Process> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let first = |text: &str| text.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok());
    // The name is in parentheses and may hold any character; the fields after it are counted from there.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let words: Vec<_> =
        command.split(|&b| b == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
    // A kernel's thread or a zombie has no command line.
    let command = if words.is_empty() { format!("[{}]", field("Name").unwrap_or_default()) } else { words.join(" ") };
    Some(Process {
        pid,
        own_pid: field("NSpid")?.split_ascii_whitespace().last()?.parse().ok()?,
        uid: first(field("Uid")?).and_then(|uid| u32::try_from(uid).ok()).and_then(|uid| uid.checked_sub(id_base)),
        state: (*fields.first()?).to_owned(),
        cpu_ms: (ticks(11) + ticks(12)) * 1000 / ticks_per_s(),
        resident_bytes: field("VmRSS").and_then(first).unwrap_or(0) * 1024,
        command,
    })
}

fn ticks_per_s() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tnginx\nUid:\t536871011\t0\t0\t0\nNSpid:\t4711\t7\nVmRSS:\t   12 kB\n";

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "4711 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 20 0 0 20 0 1 0 100 1 1";
        let process = parse(4711, 0x2000_0000, STATUS, stat, b"nginx\0-g\0daemon off;\0").unwrap();
        assert_eq!((process.pid, process.own_pid, process.uid), (4711, 7, Some(99)));
        assert_eq!((process.state.as_str(), process.resident_bytes), ("S", 12 << 10));
        assert_eq!((process.cpu_ms, process.command.as_str()), (50_000 / ticks_per_s(), "nginx -g daemon off;"));
        assert_eq!(parse(4711, u32::MAX, STATUS, stat, b"").unwrap().command, "[nginx]");
        assert_eq!(parse(4711, u32::MAX, STATUS, stat, b"").unwrap().uid, None);
    }

    #[test]
    fn garbage_is_none() {
        for (status, stat) in [("", ""), (STATUS, "4711"), ("NSpid:\tx\n", ") S")] {
            assert_eq!(parse(1, 0, status, stat, b"x"), None);
        }
    }
}
