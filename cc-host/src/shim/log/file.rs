//! The file that is written and those that it was: rotated by renaming, `.1` being the newest. Where the daemon has compressed
//! one, it is renamed as it is. Refuses to make anybody wait for a full disk: what does not fit is dropped and counted.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::mutation::{self, Control};
use crate::shim::spec::LogSpec;

/// Behind the number of a file that was compressed.
pub const COMPRESSED: &str = ".gz";

pub struct LogFile {
    spec: LogSpec,
    file: Option<File>,
    written_bytes: u64,
    /// A record was cut in the middle: the next one starts on a line of its own.
    torn: bool,
    pub dropped: u64,
}

impl LogFile {
    /// A file that cannot be opened drops and counts everything, as on a full disk.
    pub fn open(spec: LogSpec) -> LogFile {
        let mut log = LogFile { spec, file: None, written_bytes: 0, torn: false, dropped: 0 };
        log.reopen();
        log
    }

    /// Whole records only. No file grows beyond its size unless one record alone is larger.
    pub fn write(&mut self, mut records: &[u8]) {
        if self.file.is_none() {
            self.reopen();
        }
        while !records.is_empty() {
            let mut fits = self.fitting(records);
            if fits == 0 && self.written_bytes > 0 && !mutation::off(Control::LogRotation) && self.rotate() {
                fits = self.fitting(records);
            }
            if fits == 0 {
                fits = records.iter().position(|&b| b == b'\n').map_or(records.len(), |end| end + 1);
            }
            let (now, later) = records.split_at(fits);
            self.put(now);
            records = later;
        }
    }

    /// Bytes of the leading records that the file has room for.
    fn fitting(&self, records: &[u8]) -> usize {
        let room = self.spec.bytes_max.saturating_sub(self.written_bytes);
        match usize::try_from(room) {
            Ok(room) if room < records.len() => {
                records[..room].iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1)
            }
            _ => records.len(),
        }
    }

    fn put(&mut self, records: &[u8]) {
        let Some(file) = &mut self.file else {
            self.dropped += count(records);
            return;
        };
        if self.torn && file.write_all(b"\n").is_err() {
            self.dropped += count(records);
            return;
        }
        let mut done = 0;
        while done < records.len() {
            match file.write(&records[done..]) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.written_bytes += done as u64 + u64::from(self.torn);
        self.dropped += count(&records[done..]);
        self.torn = done > 0 && records[done - 1] != b'\n';
    }

    /// False where it has to be later: the daemon is putting a compressed file in its place, which takes it microseconds. One that
    /// stands still at that moment is not waited for beyond twice the file's size.
    fn rotate(&mut self) -> bool {
        let dir = self.spec.path.parent().unwrap_or(Path::new("/"));
        let lock = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let held = lock.as_ref().is_ok_and(|dir| flock(dir, FlockOperation::NonBlockingLockExclusive).is_ok());
        if !held && self.written_bytes < self.spec.bytes_max.saturating_mul(2) {
            return false;
        }
        let last = self.spec.files_max.saturating_sub(1);
        remove(&numbered(&self.spec.path, last));
        for index in (1..last).rev() {
            let (from, to) = (numbered(&self.spec.path, index), numbered(&self.spec.path, index + 1));
            // Where a file of that number does not exist yet, or is not compressed, there is nothing to move.
            let _ = std::fs::rename(compressed(&from), compressed(&to));
            let _ = std::fs::rename(from, to);
        }
        if last > 0 {
            let _ = std::fs::rename(&self.spec.path, numbered(&self.spec.path, 1));
        }
        self.reopen();
        self.torn = false;
        true
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

/// In either form. One that does not exist is as good.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(compressed(path));
    let _ = std::fs::remove_file(path);
}

/// The file that was rotated so many times; 0 is the one being written.
pub fn numbered(path: &Path, index: u32) -> PathBuf {
    if index == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    name.into()
}

pub fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(COMPRESSED);
    name.into()
}

/// Each record ends with a newline, and holds no other; of a cut one the end counts.
pub fn count(records: &[u8]) -> u64 {
    records.iter().filter(|&&b| b == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::spec::LogMode;

    fn spec(path: PathBuf, bytes_max: u64, files_max: u32) -> LogSpec {
        LogSpec { path, bytes_max, files_max, mode: LogMode::Block }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn rotation_keeps_the_newest_files_and_cuts_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(spec(path.clone(), 100, 3));
        let records: String = (0..50).map(|number| format!("record number {number}\n")).collect();
        log.write(records.as_bytes());
        assert_eq!((names(dir.path()), log.dropped), (["0.log", "0.log.1", "0.log.2"].map(str::to_owned).to_vec(), 0));
        let kept: String = [2, 1, 0].map(|index| std::fs::read_to_string(numbered(&path, index)).unwrap()).concat();
        assert!(records.ends_with(&kept) && kept.starts_with("record"), "{kept}");
        for index in 0..3 {
            assert!(std::fs::metadata(numbered(&path, index)).unwrap().len() <= 100);
        }
    }

    #[test]
    fn what_was_compressed_moves_along_and_goes_when_it_is_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(spec(path.clone(), 10, 4));
        let mut rotate = || log.write(b"123456789\n");
        for _ in 0..3 {
            rotate();
        }
        std::fs::rename(numbered(&path, 2), compressed(&numbered(&path, 2))).unwrap();
        rotate();
        assert_eq!(names(dir.path()), ["0.log", "0.log.1", "0.log.2", "0.log.3.gz"]);
        rotate();
        assert_eq!(names(dir.path()), ["0.log", "0.log.1", "0.log.2", "0.log.3"]);
    }

    #[test]
    fn a_single_file_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(spec(path.clone(), 10, 1));
        log.write(b"one\ntwo\nthree\nfour\n");
        assert_eq!(
            (names(dir.path()), std::fs::read_to_string(&path).unwrap().as_str()),
            (vec!["0.log".into()], "four\n")
        );
    }

    #[test]
    fn while_somebody_holds_the_directory_rotation_waits_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(spec(path.clone(), 20, 2));
        let held = File::open(dir.path()).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        log.write(b"123456789\n123456789\n123456789\n");
        assert_eq!(names(dir.path()), ["0.log"]);
        log.write(b"123456789\n123456789\n");
        assert_eq!((names(dir.path()), log.dropped), (["0.log", "0.log.1"].map(str::to_owned).to_vec(), 0));
    }

    #[test]
    fn what_cannot_be_written_is_dropped_and_counted() {
        let mut log = LogFile::open(spec("/dev/full".into(), 1 << 20, 1));
        log.write(b"a\nb\n");
        assert_eq!(log.dropped, 2);
        let mut log = LogFile::open(spec("/nonexistent/0.log".into(), 1 << 20, 1));
        log.write(b"a\nb\nc\n");
        assert_eq!(log.dropped, 3);
    }
}
