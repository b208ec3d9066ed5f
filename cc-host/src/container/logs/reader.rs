//! A position in a log that is rotated by renames and compressed meanwhile. Refuses to wait, and to open a file for every line.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::LogLine;
use super::segment::Segment;

/// Of text that is handed over at a time.
const PIECE_BYTES: usize = 256 << 10;
/// A log has ten files at most: `.1` to `.9`, and the one being written.
const INDEX_MAX: u32 = 9;
/// Rotation in the middle of opening them all is rare, and rarer twice in a row.
const LOOKS_MAX: u32 = 100;

pub(super) struct Reader {
    path: PathBuf,
    since_ns: u64,
    follow: bool,
    /// The oldest, which is being read, to the newest.
    segments: VecDeque<Segment>,
    /// Lines to pass over before the first that is wanted, and how many are wanted.
    skip: usize,
    wanted: usize,
}

impl Reader {
    pub(super) fn open(path: &Path, since_ns: u64, tail: Option<usize>, follow: bool) -> io::Result<Reader> {
        let mut segments = VecDeque::from(open_all(path)?);
        let (mut skip, mut wanted) = (0, usize::MAX);
        if !follow && let Some(newest) = segments.back_mut() {
            newest.end_here()?;
        }
        if let Some(tail) = tail {
            skip = skip_to_tail(&mut segments, since_ns, tail)?;
            if !follow {
                wanted = tail;
            }
        }
        Ok(Reader { path: path.to_owned(), since_ns, follow, segments, skip, wanted })
    }

    /// The next lines; none where there are none now.
    pub(super) fn piece(&mut self) -> io::Result<Vec<LogLine>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES && self.wanted > 0 {
            let line = match self.segments.front_mut() {
                Some(current) => current.next()?,
                None => None,
            };
            if let Some(line) = line {
                if line.at_ns < self.since_ns {
                    continue;
                }
                if self.skip > 0 {
                    self.skip -= 1;
                    continue;
                }
                bytes += line.text.len() + size_of::<LogLine>();
                self.wanted -= 1;
                lines.push(LogLine { at_ns: line.at_ns, stderr: line.stderr, data: line.text.to_vec() });
            } else if self.segments.len() > 1 {
                self.segments.pop_front();
            } else if !(self.follow && self.go_on()?) {
                break;
            }
        }
        Ok(lines)
    }

    /// Whether there is more than the file that was read to its end: it was renamed since, and what is left of it comes before the next
    /// ones. If it is gone altogether, what there is now has been written later.
    fn go_on(&mut self) -> io::Result<bool> {
        let current = self.segments.front().map(|segment| segment.ino);
        if current.is_none() && !self.path.exists() || current.is_some() && current == ino(&self.path)? {
            return Ok(false);
        }
        let all = open_all(&self.path)?;
        // Compressed ones may tell an inode that was used again since: then the newest of them is meant, for this one is held open.
        let known = all.iter().rposition(|segment| Some(segment.ino) == current);
        self.segments.extend(all.into_iter().skip(known.map_or(0, |at| at + 1)));
        Ok(self.segments.len() > usize::from(current.is_some()))
    }
}

/// As they were at one moment, the oldest first.
fn open_all(path: &Path) -> io::Result<Vec<Segment>> {
    let mut looks = 0;
    loop {
        let mut all: Vec<Segment> = Vec::new();
        // The newest first: what is renamed meanwhile comes again, rather than not at all.
        for index in 0..=INDEX_MAX {
            let Some(segment) = Segment::open(path, index)? else { continue };
            all.push(segment);
        }
        looks += 1;
        if looks == LOOKS_MAX || all.first().map(|newest| newest.ino) == ino(path)? {
            all.reverse();
            return Ok(all);
        }
    }
}

fn ino(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Leaves the files that hold the last lines, and says how many lines come before those. Most logs are asked for their end: the old
/// files are not even opened again for that.
fn skip_to_tail(segments: &mut VecDeque<Segment>, since_ns: u64, tail: usize) -> io::Result<usize> {
    let mut counted = 0;
    let mut needed = 0;
    while needed < segments.len() && counted < tail {
        needed += 1;
        let at = segments.len() - needed;
        let segment = &mut segments[at];
        while let Some(line) = segment.next()? {
            counted += usize::from(line.at_ns >= since_ns);
        }
        segment.rewind()?;
    }
    segments.drain(..segments.len() - needed.max(1).min(segments.len()));
    if needed == 0 {
        // Nothing of what there is: only what follows.
        while let Some(newest) = segments.front_mut() {
            if newest.next()?.is_none() {
                break;
            }
        }
    }
    Ok(counted.saturating_sub(tail))
}
