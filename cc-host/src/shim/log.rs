//! The container's log: CRI lines (`TIME STREAM F|P TEXT`), into a file here or by a writer apart, and how many were dropped. Refuses to
//! make the container wait for a full disk; a slow one it waits for, unless it was told to drop.
//!
//! `file` rotates and counts, `apart` is the writer's process, `time` the time before each line.

mod apart;
mod file;
mod time;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use self::apart::Apart;
use self::file::LogFile;
use self::time::TIME_BYTES;
pub use self::time::timestamp;
use super::record::{self, LOG_FILE, LogRecord};
use super::spec::{LogMode, LogSpec};

pub use self::file::{compressed, numbered};

/// A longer line is written in parts, all but the last marked `P`.
pub const LINE_BYTES_MAX: usize = 16 << 10;
/// Records that are written at once; one with its line of the longest fits.
const BLOCK_BYTES_MAX: usize = 32 << 10;
/// Between two notes of how many were dropped.
const TOLD_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

enum Sink {
    Here(LogFile),
    Apart(Apart),
}

pub struct Log {
    sink: Sink,
    /// The start of a line whose end has not come yet, for each stream.
    pending: [Vec<u8>; 2],
    /// Records on their way to the sink.
    block: Vec<u8>,
    /// How many drops are noted, and since when.
    told: (u64, Option<Instant>),
}

impl Log {
    /// Before there is an init: a writer apart must not have its pipes.
    pub fn open(spec: LogSpec) -> Log {
        let sink = match spec.mode {
            LogMode::Block => Sink::Here(LogFile::open(spec)),
            // Without a process to spare it is written here: a log that may hold the container up is better than none.
            LogMode::Drop => match Apart::spawn(spec.clone()) {
                Ok(apart) => Sink::Apart(apart),
                Err(_) => Sink::Here(LogFile::open(spec)),
            },
        };
        Log { sink, pending: [Vec::new(), Vec::new()], block: Vec::new(), told: (0, None) }
    }

    pub fn append(&mut self, stream: Stream, mut bytes: &[u8], now: SystemTime) {
        let header = Header::new(now, stream);
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.pending[stream as usize].len();
            let piece = &bytes[..bytes.len().min(room)];
            let (text, tag, used) = match memchr::memchr(b'\n', piece) {
                Some(end) => (&piece[..end], b'F', end + 1),
                None if piece.len() == room => (piece, b'P', room),
                None => {
                    self.pending[stream as usize].extend_from_slice(piece);
                    break;
                }
            };
            self.record(&header, tag, stream, text);
            bytes = &bytes[used..];
        }
        self.flush();
    }

    /// The last line need not have had an end. After this, `dropped` is final.
    pub fn close(&mut self, now: SystemTime) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.pending[stream as usize].is_empty() {
                self.record(&Header::new(now, stream), b'F', stream, b"");
            }
        }
        self.flush();
        if let Sink::Apart(apart) = &mut self.sink {
            apart.close();
        }
    }

    pub fn dropped(&self) -> u64 {
        match &self.sink {
            Sink::Here(file) => file.dropped,
            Sink::Apart(apart) => apart.dropped(),
        }
    }

    /// A descriptor to poll for reading, and to `hear` when there is something.
    pub fn news(&self) -> Option<BorrowedFd<'_>> {
        match &self.sink {
            Sink::Here(_) => None,
            Sink::Apart(apart) => apart.news(),
        }
    }

    pub fn hear(&mut self) {
        if let Sink::Apart(apart) = &mut self.sink {
            apart.hear();
        }
    }

    /// Whether `tell` has to be called within a second.
    pub fn has_untold(&self) -> bool {
        self.dropped() != self.told.0
    }

    /// Notes in the container's run-time directory how many were dropped; the first time at once, then once a second at most.
    pub fn tell(&mut self, dir: &Path) {
        if !self.has_untold() || self.told.1.is_some_and(|last| last.elapsed() < TOLD_EVERY) {
            return;
        }
        let dropped = self.dropped();
        // That directory may be full too: then it is tried again in a second.
        let noted = record::write(dir, LOG_FILE, &LogRecord { dropped }, false).is_ok();
        self.told = (if noted { dropped } else { self.told.0 }, Some(Instant::now()));
    }

    /// What is pending of the line comes before `text`.
    fn record(&mut self, header: &Header, tag: u8, stream: Stream, text: &[u8]) {
        let pending = self.pending[stream as usize].len();
        if self.block.len() + Header::BYTES + pending + text.len() + 1 > BLOCK_BYTES_MAX {
            self.flush();
        }
        header.write(tag, &mut self.block);
        self.block.append(&mut self.pending[stream as usize]);
        self.block.extend_from_slice(text);
        self.block.push(b'\n');
    }

    fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        match &mut self.sink {
            Sink::Here(file) => file.write(&self.block),
            Sink::Apart(apart) => apart.write(&self.block),
        }
        self.block.clear();
    }
}

/// What comes before the text, the same for all records of one piece of output but for the tag.
struct Header([u8; Header::BYTES]);

impl Header {
    const BYTES: usize = TIME_BYTES + 10;

    fn new(now: SystemTime, stream: Stream) -> Header {
        let mut bytes = [b' '; Header::BYTES];
        bytes[..TIME_BYTES].copy_from_slice(&timestamp(now));
        bytes[TIME_BYTES + 1..TIME_BYTES + 7].copy_from_slice(match stream {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        });
        Header(bytes)
    }

    fn write(&self, tag: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
        let at = out.len() - 2;
        out[at] = tag;
    }
}

const _: () = assert!(Header::BYTES + LINE_BYTES_MAX < BLOCK_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn log(bytes_max: u64) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        (dir, Log::open(LogSpec { path, bytes_max, files_max: 3, mode: LogMode::Block }))
    }

    #[test]
    fn lines_are_whole_whatever_the_pieces_and_streams_do_not_mix() {
        let (dir, mut log) = log(1 << 20);
        log.append(Stream::Stdout, b"hel", UNIX_EPOCH);
        log.append(Stream::Stderr, b"oops\n", UNIX_EPOCH);
        log.append(Stream::Stdout, b"lo\n\nrest", UNIX_EPOCH);
        log.close(UNIX_EPOCH);
        let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        let t = "1970-01-01T00:00:00.000000000Z";
        assert_eq!(text, format!("{t} stderr F oops\n{t} stdout F hello\n{t} stdout F \n{t} stdout F rest\n"));
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let (dir, mut log) = log(1 << 20);
        let mut line = vec![b'x'; LINE_BYTES_MAX + 1];
        line.push(b'\n');
        // In two pieces: what is pending counts.
        log.append(Stream::Stdout, &line[..100], UNIX_EPOCH);
        log.append(Stream::Stdout, &line[100..], UNIX_EPOCH);
        let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        let records: Vec<(&str, usize)> =
            text.lines().map(|l| (&l[TIME_BYTES + 8..TIME_BYTES + 9], l.len() - Header::BYTES)).collect();
        assert_eq!(records, [("P", LINE_BYTES_MAX), ("F", 1)]);
    }

    #[test]
    fn many_lines_of_one_piece_are_split_among_files() {
        let (dir, mut log) = log(64 << 10);
        log.append(Stream::Stdout, &b"\n".repeat(4000), UNIX_EPOCH);
        let sizes = ["0.log", "0.log.1", "0.log.2"].map(|name| std::fs::metadata(dir.path().join(name)).unwrap().len());
        let all = (4000 * (Header::BYTES as u64 + 1)).min(3 * (64 << 10));
        assert!(sizes.iter().all(|&size| size <= 64 << 10) && sizes.iter().sum::<u64>() == all, "{sizes:?}");
    }

    #[test]
    fn drops_are_noted_at_once_and_then_once_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let spec = LogSpec { path: "/dev/full".into(), bytes_max: 1 << 20, files_max: 1, mode: LogMode::Block };
        let mut log = Log::open(spec);
        let noted = || record::read::<LogRecord>(dir.path(), LOG_FILE).unwrap().map(|log| log.dropped);
        log.tell(dir.path());
        assert_eq!(noted(), None);
        log.append(Stream::Stdout, b"a\nb\n", UNIX_EPOCH);
        assert!(log.has_untold());
        log.tell(dir.path());
        assert_eq!((noted(), log.has_untold()), (Some(2), false));
        log.append(Stream::Stdout, b"c\n", UNIX_EPOCH);
        log.tell(dir.path());
        assert_eq!((noted(), log.has_untold()), (Some(2), true));
    }
}
