//! The container's log: CRI lines (`TIME STREAM F|P TEXT`), rotated by renaming. Refuses to make the container wait: what a
//! full disk does not take is dropped and counted.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::spec::LogSpec;

/// A longer line is written in parts, all but the last marked `P`.
pub const LINE_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

pub struct Log {
    spec: LogSpec,
    file: Option<File>,
    written_bytes: u64,
    /// The start of a line whose end has not come yet, for each stream.
    pending: [Vec<u8>; 2],
    /// A record was cut in the middle: the next one starts on a line of its own.
    torn: bool,
    pub dropped: u64,
}

impl Log {
    /// A log that cannot be opened drops and counts everything, as on a full disk.
    pub fn open(spec: LogSpec) -> Log {
        let mut log =
            Log { spec, file: None, written_bytes: 0, pending: [Vec::new(), Vec::new()], torn: false, dropped: 0 };
        log.reopen();
        log
    }

    pub fn append(&mut self, stream: Stream, mut bytes: &[u8], now: SystemTime) {
        let mut records = Vec::with_capacity(bytes.len() + 64);
        let mut count = 0;
        while !bytes.is_empty() {
            let pending = &mut self.pending[stream as usize];
            let room = LINE_BYTES_MAX - pending.len();
            let piece = &bytes[..bytes.len().min(room)];
            match piece.iter().position(|&b| b == b'\n') {
                Some(end) => {
                    pending.extend_from_slice(&piece[..end]);
                    write_record(&mut records, now, stream, b'F', pending);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    pending.extend_from_slice(piece);
                    bytes = &bytes[piece.len()..];
                    if pending.len() < LINE_BYTES_MAX {
                        continue;
                    }
                    write_record(&mut records, now, stream, b'P', pending);
                }
            }
            pending.clear();
            count += 1;
        }
        self.write(&records, count);
    }

    /// The last line need not have had an end.
    pub fn close(&mut self, now: SystemTime) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[stream as usize]);
            if !pending.is_empty() {
                let mut record = Vec::new();
                write_record(&mut record, now, stream, b'F', &pending);
                self.write(&record, 1);
            }
        }
    }

    fn write(&mut self, records: &[u8], count: u64) {
        if records.is_empty() {
            return;
        }
        if self.written_bytes > 0 && self.written_bytes + records.len() as u64 > self.spec.bytes_max {
            self.rotate();
        }
        let Some(file) = &mut self.file else {
            self.dropped += count;
            self.reopen();
            return;
        };
        let result = if self.torn {
            file.write_all(b"\n").and_then(|()| file.write_all(records))
        } else {
            file.write_all(records)
        };
        self.torn = result.is_err();
        match result {
            Ok(()) => self.written_bytes += records.len() as u64,
            Err(_) => self.dropped += count,
        }
    }

    fn rotate(&mut self) {
        let name = |index: u32| if index == 0 { self.spec.path.clone() } else { numbered(&self.spec.path, index) };
        for index in (0..self.spec.files_max.saturating_sub(1)).rev() {
            // Where a file of that number does not exist yet there is nothing to move.
            let _ = std::fs::rename(name(index), name(index + 1));
        }
        if self.spec.files_max <= 1 {
            let _ = std::fs::remove_file(name(0));
        }
        self.reopen();
    }

    fn reopen(&mut self) {
        self.file = open(&self.spec.path).ok();
        self.written_bytes = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |m| m.len());
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn numbered(path: &Path, index: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    name.into()
}

fn write_record(out: &mut Vec<u8>, now: SystemTime, stream: Stream, tag: u8, text: &[u8]) {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    out.extend_from_slice(timestamp(now).as_bytes());
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// RFC 3339 with nanoseconds, in UTC.
pub fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date: eras of 400 years that start on the first of March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(secs, nanos)
    }

    fn log(bytes_max: u64) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let spec = LogSpec { path: dir.path().join("0.log"), bytes_max, files_max: 3 };
        (dir, Log::open(spec))
    }

    #[test]
    fn timestamps_are_calendar_dates() {
        assert_eq!(timestamp(at(0, 0)), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(at(951_782_400, 5)), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(timestamp(at(1_735_689_599, 999_999_999)), "2024-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn lines_are_whole_whatever_the_pieces_and_streams_do_not_mix() {
        let (dir, mut log) = log(1 << 20);
        log.append(Stream::Stdout, b"hel", at(0, 0));
        log.append(Stream::Stderr, b"oops\n", at(0, 0));
        log.append(Stream::Stdout, b"lo\n\nrest", at(0, 0));
        log.close(at(0, 0));
        let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        let t = "1970-01-01T00:00:00.000000000Z";
        assert_eq!(text, format!("{t} stderr F oops\n{t} stdout F hello\n{t} stdout F \n{t} stdout F rest\n"));
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let (dir, mut log) = log(1 << 20);
        let mut line = vec![b'x'; LINE_BYTES_MAX + 1];
        line.push(b'\n');
        log.append(Stream::Stdout, &line, at(0, 0));
        let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        let tags: Vec<_> = text.lines().map(|l| l.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "F"]);
    }

    #[test]
    fn rotation_keeps_the_newest_files() {
        let (dir, mut log) = log(200);
        for number in 0..50 {
            log.append(Stream::Stdout, format!("line {number}\n").as_bytes(), at(number, 0));
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        let newest = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        assert!(newest.ends_with("line 49\n") && newest.len() <= 200);
    }

    #[test]
    fn what_cannot_be_written_is_dropped_and_counted() {
        let mut log = Log::open(LogSpec { path: "/dev/full".into(), bytes_max: 1 << 20, files_max: 1 });
        log.append(Stream::Stdout, b"a\nb\n", at(0, 0));
        assert_eq!(log.dropped, 2);
    }
}
