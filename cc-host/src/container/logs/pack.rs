//! Compresses what has grown old of containers' logs, one file at a time. Refuses to touch the file being written and the one before it,
//! which may still be followed, and to take more of the disk meanwhile than the log may.
//!
//! A compressed file is whole before it has its name. A daemon that dies in the middle leaves a temporary file, which the next
//! one removes, or both forms of one file, of which it makes the compressed one again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use flate2::{Compression, GzBuilder};
use rustix::fs::{FlockOperation, flock};

use crate::container::log_options::LogOptions;
use crate::container::record::ContainerRecord;
use crate::container::room::Containers;
use crate::ids::ContainerId;
use crate::shim::log::{compressed, numbered};

/// To look at a log is to ask the kernel for two names that mostly are not there: 4,096 logs take some 10 ms.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// A container that fills its files faster has them deleted before compressing them is of any use.
const OLD_AFTER: Duration = Duration::from_secs(3);
/// After a failure, which mostly is a full disk.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Between two looks at whether it is still worth it.
const BLOCK_BYTES: usize = 256 << 10;
/// The first that is compressed.
const OLD: u32 = 2;

/// What became of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packed {
    Done,
    /// There would not have been room for both forms, or it was deleted meanwhile.
    NotNow,
}

impl Containers {
    /// As long as the daemon runs.
    pub async fn pack_logs(self: Arc<Self>) {
        let mut failed = std::collections::HashMap::new();
        let mut first = true;
        loop {
            let mut logs = self.logs_to_pack();
            logs.retain(|(id, ..)| failed.get(id).is_none_or(|since: &Instant| since.elapsed() >= AGAIN_AFTER));
            // All in one go: to hand each to another thread would cost more than to look at it.
            let looked = tokio::task::spawn_blocking(move || {
                let look = |(id, path, options): (ContainerId, PathBuf, LogOptions)| {
                    if first {
                        let _ = std::fs::remove_file(temporary(&path));
                    }
                    // One log's panic is not the others'.
                    let looked = std::panic::catch_unwind(|| look(&path, options, OLD_AFTER));
                    let error = looked.unwrap_or_else(|_| Err(io::Error::other("it panicked"))).err()?;
                    tracing::warn!(log = %path.display(), %error, "cannot compress a log");
                    Some((id, Instant::now()))
                };
                logs.into_iter().filter_map(look).collect::<Vec<_>>()
            });
            match looked.await {
                Ok(errors) => failed.extend(errors),
                Err(error) => tracing::error!(%error, "compressing logs panicked"),
            }
            failed.retain(|_, since| since.elapsed() < AGAIN_AFTER);
            first = false;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Of containers that have ended, too. Shims from before there was compression rename in their own way.
    fn logs_to_pack(&self) -> Vec<(ContainerId, PathBuf, LogOptions)> {
        let log = |record: &ContainerRecord| Some((record.id.clone(), self.log_path(record), record.spec.log?));
        self.with_records(|records| records.values().filter_map(log).collect())
    }
}

/// Compresses all of one log that has grown old.
fn look(path: &Path, options: LogOptions, old_after: Duration) -> io::Result<()> {
    for index in OLD..options.files_max {
        let plain = numbered(path, index);
        let Ok(metadata) = std::fs::metadata(&plain) else {
            if compressed(&plain).exists() { continue } else { return Ok(()) }
        };
        let age = metadata.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_some_and(|age| age >= old_after) && pack(path, index, options)? == Packed::NotNow {
            return Ok(());
        }
    }
    Ok(())
}

fn pack(path: &Path, index: u32, options: LogOptions) -> io::Result<Packed> {
    let fresh = temporary(path);
    let packed = File::open(numbered(path, index)).and_then(|old| {
        // Left by a daemon that died between giving the name and removing the old file.
        let _ = std::fs::remove_file(compressed(&numbered(path, index)));
        if !compress(&old, &fresh, path, options)? {
            return Ok(Packed::NotNow);
        }
        replace(path, &old, &fresh, options)
    });
    match packed {
        Ok(Packed::Done) => Ok(Packed::Done),
        // It was deleted, or moved, which is seen the next time.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let _ = std::fs::remove_file(&fresh);
            Ok(Packed::NotNow)
        }
        other => {
            let _ = std::fs::remove_file(&fresh);
            other
        }
    }
}

/// False where it is not to be, for now: the rest is then the caller's to remove.
fn compress(mut old: &File, fresh: &Path, path: &Path, options: LogOptions) -> io::Result<bool> {
    let metadata = old.metadata()?;
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(fresh)?;
    // Whoever follows knows the file by its inode, also when it has another one.
    let header = GzBuilder::new().comment(metadata.ino().to_string());
    let mut packer = header.write(file, Compression::fast());
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let read = old.read(&mut block)?;
        if read == 0 {
            break;
        }
        packer.write_all(&block[..read])?;
        if old.metadata()?.nlink() == 0 || disk_bytes(path, fresh, options) > allowance(options) {
            return Ok(false);
        }
    }
    let file = packer.finish()?;
    file.set_modified(metadata.modified()?)?;
    file.sync_all()?;
    Ok(true)
}

/// In the place of the old one, wherever that is by now. The shim does not rename meanwhile.
fn replace(path: &Path, old: &File, fresh: &Path, options: LogOptions) -> io::Result<Packed> {
    let dir = File::open(path.parent().unwrap_or(Path::new("/")))?;
    if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(Packed::NotNow);
    }
    let ino = old.metadata()?.ino();
    let places = (1..options.files_max).map(|index| numbered(path, index));
    let place = places.into_iter().find(|place| std::fs::metadata(place).is_ok_and(|found| found.ino() == ino));
    let Some(place) = place else { return Ok(Packed::NotNow) };
    std::fs::rename(fresh, compressed(&place))?;
    std::fs::remove_file(&place)?;
    Ok(Packed::Done)
}

/// Of all the log's files, and of the one that is being made.
fn disk_bytes(path: &Path, fresh: &Path, options: LogOptions) -> u64 {
    let plain = (0..options.files_max).map(|index| numbered(path, index));
    let packed = (OLD..options.files_max).map(|index| compressed(&numbered(path, index)));
    let bytes = |path: PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    plain.chain(packed).chain([fresh.to_owned()]).map(bytes).sum()
}

fn allowance(options: LogOptions) -> u64 {
    options.bytes_max.saturating_mul(options.files_max.into())
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".packing");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::logs::reader::Reader;
    use crate::shim::log::{Log, Stream};
    use crate::shim::spec::LogMode;

    const OPTIONS: LogOptions = LogOptions { bytes_max: 64 << 10, files_max: 5, mode: LogMode::Block };

    /// Fifty bytes each: almost five files.
    const LINES: u32 = 6_400;

    struct Written {
        dir: tempfile::TempDir,
        path: PathBuf,
        log: Log,
        next: u32,
    }

    impl Written {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("0.log");
            let log = Log::open(OPTIONS.spec(path.clone()));
            Written { dir, path, log, next: 0 }
        }

        fn lines(&mut self, count: u32) {
            for _ in 0..count {
                self.log.append(Stream::Stdout, format!("line {}\n", self.next).as_bytes(), SystemTime::now());
                self.next += 1;
            }
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.path()).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn read(&self, tail: Option<usize>) -> Vec<u32> {
            numbers(&mut Reader::open(&self.path, 0, tail, false).unwrap())
        }
    }

    fn numbers(reader: &mut Reader) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            let piece = reader.piece().unwrap();
            if piece.is_empty() {
                return all;
            }
            let number = |data: &[u8]| String::from_utf8_lossy(data)["line ".len()..].trim().parse::<u32>().unwrap();
            all.extend(piece.iter().map(|line| number(&line.data)));
        }
    }

    #[test]
    fn old_files_are_compressed_and_read_as_before() {
        let mut written = Written::new();
        written.lines(LINES);
        let before = written.read(None);
        assert_eq!(written.names(), ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4"]);
        look(&written.path, OPTIONS, Duration::from_secs(3600)).unwrap();
        assert_eq!(written.names().len(), 5, "none of it is old");
        look(&written.path, OPTIONS, Duration::ZERO).unwrap();
        assert_eq!(written.names(), ["0.log", "0.log.1", "0.log.2.gz", "0.log.3.gz", "0.log.4.gz"]);
        assert_eq!(before, (0..LINES).collect::<Vec<_>>());
        assert_eq!(written.read(None), before);
        for tail in [0, 1, 700, 3_000, 4_000, 100_000] {
            let from = LINES - (tail as u32).min(LINES);
            assert_eq!(written.read(Some(tail)), (from..LINES).collect::<Vec<_>>(), "the last {tail}");
        }
        // They are renamed and deleted as they are.
        written.lines(2_000);
        assert_eq!(written.names(), ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4.gz"]);
        assert_eq!(written.read(None).last(), Some(&(LINES + 1_999)));
    }

    #[test]
    fn who_follows_misses_nothing_and_doubles_nothing() {
        let mut written = Written::new();
        written.lines(10);
        let mut reader = Reader::open(&written.path, 0, None, true).unwrap();
        let mut seen = numbers(&mut reader);
        for round in 0..200 {
            // Up to three files behind, in either form.
            written.lines(round * 37 % 3_000);
            if round % 2 == 0 {
                look(&written.path, OPTIONS, Duration::ZERO).unwrap();
            }
            seen.extend(numbers(&mut reader));
        }
        assert_eq!(seen, (0..written.next).collect::<Vec<_>>());
    }

    #[test]
    fn who_is_too_slow_misses_what_was_deleted_and_doubles_nothing() {
        let mut written = Written::new();
        written.lines(10);
        let mut reader = Reader::open(&written.path, 0, Some(5), true).unwrap();
        written.lines(50_000);
        look(&written.path, OPTIONS, Duration::ZERO).unwrap();
        let seen = numbers(&mut reader);
        assert_eq!(seen[0], 5);
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]) && seen.last() == Some(&50_009));
        assert_eq!(seen.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count(), 1, "one gap");
    }

    #[test]
    fn what_a_dead_daemon_left_is_put_right() {
        let mut written = Written::new();
        written.lines(LINES);
        let before = written.read(None);
        // It died after it had given the name.
        std::fs::copy(numbered(&written.path, 2), written.dir.path().join("copy")).unwrap();
        look(&written.path, OPTIONS, Duration::ZERO).unwrap();
        std::fs::rename(written.dir.path().join("copy"), numbered(&written.path, 2)).unwrap();
        assert_eq!(written.read(None), before);
        look(&written.path, OPTIONS, Duration::ZERO).unwrap();
        assert_eq!(written.names(), ["0.log", "0.log.1", "0.log.2.gz", "0.log.3.gz", "0.log.4.gz"]);
        assert_eq!(written.read(None), before);
    }

    #[test]
    fn what_has_no_room_for_both_forms_waits() {
        let mut written = Written::new();
        written.lines(LINES);
        let tight = LogOptions { bytes_max: 60 << 10, ..OPTIONS };
        look(&written.path, tight, Duration::ZERO).unwrap();
        assert_eq!(written.names(), ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4"]);
    }

    #[test]
    fn a_file_that_moves_on_meanwhile_is_replaced_where_it_is() {
        let mut written = Written::new();
        written.lines(4_000);
        let old = File::open(numbered(&written.path, 2)).unwrap();
        let fresh = temporary(&written.path);
        assert!(compress(&old, &fresh, &written.path, OPTIONS).unwrap());
        let before = written.read(None);
        // One rotation.
        let rotated = std::fs::metadata(numbered(&written.path, 1)).unwrap().ino();
        while std::fs::metadata(numbered(&written.path, 2)).unwrap().ino() != rotated {
            written.lines(1);
        }
        assert_eq!(replace(&written.path, &old, &fresh, OPTIONS).unwrap(), Packed::Done);
        assert_eq!(written.names(), ["0.log", "0.log.1", "0.log.2", "0.log.3.gz", "0.log.4"]);
        let after = written.read(None);
        assert!(after.windows(2).all(|pair| pair[0] + 1 == pair[1]) && after.contains(before.last().unwrap()));
    }
}
