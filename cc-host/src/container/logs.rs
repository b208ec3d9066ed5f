//! Reading a container's log, in CRI's line format, across rotation and while it grows. Refuses to write it; the shim does.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::record::Exit;
use super::room::Containers;
use super::{ContainerError, ContainerRecord};

/// A line of the shim's is at most a pipe's worth of bytes and a header; what is longer is not a log line.
const LINE_BYTES_MAX: usize = 256 << 10;
/// Lines on their way to a reader.
const QUEUE_LINES: usize = 256;
/// Rotated files that are looked for: `.1` to `.9`.
const FILES_MAX: u32 = 9;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub at_ns: u64,
    pub stderr: bool,
    /// With its newline, unless the line is only part of one.
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
pub struct LogQuery {
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<usize>,
    pub since_ms: u64,
}

impl Containers {
    /// The lines from the oldest to the newest; with `follow`, on until the container has ended.
    pub fn logs(&self, record: &ContainerRecord, query: LogQuery) -> mpsc::Receiver<Result<LogLine, ContainerError>> {
        let (send, receive) = mpsc::channel(QUEUE_LINES);
        let path = self.state_dir(record).join("log").join("0.log");
        let exit = self.live(&record.id).map(|live| live.exit.clone());
        let name = record.name.to_string();
        tokio::spawn(async move {
            let failed = |source| ContainerError::File { operation: "read the log", name, source };
            if let Err(source) = stream(&path, query, exit, &send).await {
                // The reader may be gone: then there is nobody to tell.
                let _ = send.send(Err(failed(source))).await;
            }
        });
        receive
    }
}

type Sender = mpsc::Sender<Result<LogLine, ContainerError>>;

async fn stream(
    path: &Path,
    query: LogQuery,
    exit: Option<watch::Receiver<Option<Exit>>>,
    send: &Sender,
) -> std::io::Result<()> {
    // Watch before reading: a line written in between is then seen by one of the two.
    let watcher = if query.follow { Some(watch_dir(path)?) } else { None };
    let mut tail = Tail::open(path.to_owned());
    let since_ns = query.since_ms.saturating_mul(1_000_000);
    let old = tail.drain()?.into_iter().filter(|line| line.at_ns >= since_ns);
    let old: VecDeque<LogLine> = old.collect();
    let skip = query.tail.map_or(0, |tail| old.len().saturating_sub(tail));
    for line in old.into_iter().skip(skip) {
        if send.send(Ok(line)).await.is_err() {
            return Ok(());
        }
    }
    let (Some(watcher), Some(mut exit)) = (watcher, exit) else { return Ok(()) };
    loop {
        let ended = exit.borrow().is_some() || exit.has_changed().is_err();
        for line in tail.drain()? {
            if line.at_ns >= since_ns && send.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            changed = changes(&watcher) => changed?,
            _ = exit.changed() => {}
            () = send.closed() => return Ok(()),
        }
    }
}

fn watch_dir(path: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_FROM;
    inotify::add_watch(&fd, dir, flags)?;
    // SAFETY: an OwnedFd is one open descriptor from its making to its drop, and AsyncFd owns it until then.
    unsafe { AsyncFd::register(fd) }.map_err(std::io::Error::from)
}

/// Waits for a change and forgets which: the reader looks for itself.
async fn changes(watcher: &AsyncFd<OwnedFd>) -> std::io::Result<()> {
    let mut ready = watcher.readable().await?;
    let mut buffer = [0u8; 4096];
    loop {
        match rustix::io::read(ready.get_inner(), &mut buffer) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    ready.clear_ready();
    // One write makes several events; a moment's pause lets a burst become one read.
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(())
}

/// A position in a log that is rotated by renames.
struct Tail {
    path: PathBuf,
    file: Option<BufReader<File>>,
    partial: Vec<u8>,
    started: bool,
}

impl Tail {
    fn open(path: PathBuf) -> Self {
        Tail { path, file: None, partial: Vec::new(), started: false }
    }

    /// All complete lines since the last call.
    fn drain(&mut self) -> std::io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        if !self.started {
            self.started = true;
            for n in (1..=FILES_MAX).rev() {
                self.file = open(&rotated(&self.path, n))?;
                self.read(&mut lines)?;
            }
            self.file = open(&self.path)?;
        }
        self.read(&mut lines)?;
        self.follow_rotation(&mut lines)?;
        Ok(lines)
    }

    /// When the file was renamed, what is left of it comes before the new one.
    fn follow_rotation(&mut self, lines: &mut Vec<LogLine>) -> std::io::Result<()> {
        let Some(newest) = open(&self.path)? else { return Ok(()) };
        let same = |a: &BufReader<File>| -> std::io::Result<bool> {
            let (a, b) = (a.get_ref().metadata()?, newest.get_ref().metadata()?);
            Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
        };
        if match &self.file {
            Some(file) => same(file)?,
            None => false,
        } {
            return Ok(());
        }
        self.read(lines)?;
        self.file = Some(newest);
        self.partial.clear();
        self.read(lines)
    }

    fn read(&mut self, lines: &mut Vec<LogLine>) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        loop {
            let read = file.read_until(b'\n', &mut self.partial)?;
            if read == 0 {
                return Ok(());
            }
            if self.partial.last() != Some(&b'\n') {
                self.partial.truncate(LINE_BYTES_MAX);
                return Ok(());
            }
            lines.extend(parse(&self.partial));
            self.partial.clear();
        }
    }
}

fn open(path: &Path) -> std::io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn rotated(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// `2026-01-02T03:04:05.123456789Z stdout F text\n`; `None` for anything else.
fn parse(line: &[u8]) -> Option<LogLine> {
    let mut parts = line.strip_suffix(b"\n")?.splitn(4, |&b| b == b' ');
    let at_ns = parse_time(std::str::from_utf8(parts.next()?).ok()?)?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let full = match parts.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let mut data = parts.next()?.to_vec();
    if full {
        data.push(b'\n');
    }
    Some(LogLine { at_ns, stderr, data })
}

/// RFC 3339 in UTC, with up to nine digits of a second.
fn parse_time(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|n| n.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':').map(|n| n.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let is_day = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_clock = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
    if !is_day || !is_clock || fraction.len() > 9 {
        return None;
    }
    let nanos: u64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    // Days from the civil calendar: years start in March, so that the leap day comes last.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn a_line_parses() {
        let line = parse(b"2026-01-02T03:04:05.5Z stderr F hello world\n").unwrap();
        assert_eq!(line, LogLine { at_ns: 1_767_323_045_500_000_000, stderr: true, data: b"hello world\n".to_vec() });
        assert_eq!(parse(b"2026-01-02T03:04:05.5Z stdout P hel\n").unwrap().data, b"hel");
    }

    #[test]
    fn the_epoch_is_zero() {
        assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(0));
        for bad in ["1970-01-01T9000000000000000000:00:00Z", "1970-01-32T00:00:00Z", "1970-01-01T00:-1:00Z"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
        assert_eq!(parse_time("2000-02-29T00:00:00Z"), Some(951_782_400_000_000_000));
    }

    #[test]
    fn reading_goes_on_across_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |n: u32| format!("2026-01-02T03:04:05.{n}Z stdout F {n}\n");
        std::fs::write(rotated(&path, 1), line(1)).unwrap();
        std::fs::write(&path, line(2)).unwrap();
        let mut tail = Tail::open(path.clone());
        let texts =
            |lines: Vec<LogLine>| lines.into_iter().map(|l| String::from_utf8(l.data).unwrap()).collect::<String>();
        assert_eq!(texts(tail.drain().unwrap()), "1\n2\n");
        let mut old = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        old.write_all(line(3).as_bytes()).unwrap();
        std::fs::rename(&path, rotated(&path, 1)).unwrap();
        std::fs::write(&path, line(4)).unwrap();
        assert_eq!(texts(tail.drain().unwrap()), "3\n4\n");
        assert_eq!(texts(tail.drain().unwrap()), "");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(line: Vec<u8>) {
            let _ = parse(&line);
        }

        #[test]
        fn parsing_times_never_panics(text in "[0-9TZ:.-]{0,40}") {
            let _ = parse_time(&text);
        }
    }
}
