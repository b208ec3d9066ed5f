//! What a container has used, in the same words whatever the hierarchy. A file that is not there reads as 0 or no limit: a
//! container that ends while it is measured is no error. Refuses rates; whoever asks twice can divide.

use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::hierarchy::Hierarchies;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub cpu_usage_us: u64,
    pub memory_bytes: u64,
    pub memory_limit: Option<u64>,
    pub memory_peak: u64,
    /// Processes that the kernel has killed for want of memory.
    pub oom_kills: u64,
    /// Bytes from and to block devices.
    pub io_read: u64,
    pub io_write: u64,
    pub pids: u64,
    pub pids_limit: Option<u64>,
}

pub fn read(hierarchies: &Hierarchies, dir: &Path) -> Stats {
    let (cpu, cpu_v2) = hierarchies.controller("cpuacct", dir);
    let (memory, memory_v2) = hierarchies.controller("memory", dir);
    let (pids, _) = hierarchies.controller("pids", dir);
    let (io, io_v2) = hierarchies.controller("blkio", dir);
    let io_text = text(&io, if io_v2 { "io.stat" } else { "blkio.throttle.io_service_bytes_recursive" });
    let (io_read, io_write) = if io_v2 { io_v2_bytes(&io_text) } else { io_v1_bytes(&io_text) };
    let name = |v1, v2| if memory_v2 { v2 } else { v1 };
    Stats {
        cpu_usage_us: if cpu_v2 {
            keyed(&text(&cpu, "cpu.stat"), "usage_usec")
        } else {
            number(&cpu, "cpuacct.usage") / 1000
        },
        memory_bytes: number(&memory, name("memory.usage_in_bytes", "memory.current")),
        memory_limit: limit(&memory, name("memory.limit_in_bytes", "memory.max")),
        memory_peak: number(&memory, name("memory.max_usage_in_bytes", "memory.peak")),
        oom_kills: keyed(&text(&memory, name("memory.oom_control", "memory.events")), "oom_kill"),
        io_read,
        io_write,
        pids: number(&pids, "pids.current"),
        pids_limit: limit(&pids, "pids.max"),
    }
}

fn text(dir: &Path, name: &str) -> String {
    read_file(dir, name, |_| true)
}

/// Of a file that has one.
fn line(dir: &Path, name: &str) -> String {
    read_file(dir, name, |text| !text.ends_with(b"\n"))
}

/// With no system call more than it takes: whoever asks for all containers asks for ten thousand files.
fn read_file(dir: &Path, name: &str, has_more: impl Fn(&[u8]) -> bool) -> String {
    let mut text = Vec::new();
    let mut append = || -> rustix::io::Result<()> {
        let file = rustix::fs::open(dir.join(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut buffer = [0; 4096];
        loop {
            let count = rustix::io::read(&file, &mut buffer)?;
            text.extend_from_slice(&buffer[..count]);
            if count == 0 || !has_more(&text) {
                return Ok(());
            }
        }
    };
    if append().is_err() {
        return String::new();
    }
    String::from_utf8(text).unwrap_or_default()
}

fn number(dir: &Path, name: &str) -> u64 {
    line(dir, name).trim().parse().unwrap_or(0)
}

/// `max`, and v1's number that stands for it (the largest multiple of a page), are no limit.
fn limit(dir: &Path, name: &str) -> Option<u64> {
    line(dir, name).trim().parse().ok().filter(|&value| value < i64::MAX as u64 - 65_536)
}

fn keyed(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

fn io_v1_bytes(text: &str) -> (u64, u64) {
    let sum = |word: &str| {
        text.lines()
            .filter_map(|line| {
                let mut fields = line.split_ascii_whitespace().skip(1);
                (fields.next()? == word).then(|| fields.next()?.parse::<u64>().ok())?
            })
            .sum()
    };
    (sum("Read"), sum("Write"))
}

fn io_v2_bytes(text: &str) -> (u64, u64) {
    let sum =
        |key: &str| text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum();
    (sum("rbytes="), sum("wbytes="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_io_statistics() {
        assert_eq!(io_v1_bytes("8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n9:0 Read 1\nTotal 31\n"), (11, 20));
        assert_eq!(io_v2_bytes("8:0 rbytes=10 wbytes=20 rios=1\n9:0 rbytes=1 wbytes=2\n"), (11, 22));
    }

    #[test]
    fn oom_kill_is_not_oom_kill_disable() {
        assert_eq!(keyed("oom_kill_disable 1\nunder_oom 0\noom_kill 2\n", "oom_kill"), 2);
    }
}
