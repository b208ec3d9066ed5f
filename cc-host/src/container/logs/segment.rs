//! One file of a log, as it was written or compressed, line by line. Refuses lines that no shim writes: they are passed over.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use flate2::bufread::GzDecoder;

use super::line::{Line, parse};
use crate::shim::log::{compressed, numbered};

/// A record has 16 KiB of text at most, and a header.
const LINE_BYTES_MAX: usize = 64 << 10;

pub(super) struct Segment {
    /// The inode that the shim wrote: a compressed file tells it, too. Nothing that exists beside it has the same.
    pub(super) ino: u64,
    bytes: Bytes,
    line: Vec<u8>,
    /// The line exceeds what a line may have.
    overlong: bool,
    /// Plain bytes that are read; `None` to its end, wherever that is then.
    limit: Option<u64>,
    left: Option<u64>,
}

enum Bytes {
    Plain(BufReader<File>),
    Packed(Box<BufReader<GzDecoder<BufReader<File>>>>),
}

impl Segment {
    /// The file that was rotated `index` times, in whichever form there is: one that is being replaced by its compressed form is in both.
    pub(super) fn open(path: &Path, index: u32) -> io::Result<Option<Segment>> {
        let plain = numbered(path, index);
        if let Some(file) = open(&plain)? {
            let ino = file.metadata()?.ino();
            return Ok(Some(Segment::new(ino, Bytes::Plain(BufReader::new(file)))));
        }
        if index == 0 {
            return Ok(None);
        }
        let Some(file) = open(&compressed(&plain))? else { return Ok(None) };
        let own = file.metadata()?.ino();
        let packed = GzDecoder::new(BufReader::new(file));
        let told = packed.header().and_then(|header| header.comment()).and_then(|text| std::str::from_utf8(text).ok());
        let ino = told.and_then(|text| text.parse().ok()).unwrap_or(own);
        Ok(Some(Segment::new(ino, Bytes::Packed(Box::new(BufReader::new(packed))))))
    }

    fn new(ino: u64, bytes: Bytes) -> Segment {
        Segment { ino, bytes, line: Vec::new(), overlong: false, limit: None, left: None }
    }

    /// What is written from now on is left out.
    pub(super) fn end_here(&mut self) -> io::Result<()> {
        if let Bytes::Plain(file) = &self.bytes {
            self.limit = Some(file.get_ref().metadata()?.len());
            self.left = self.limit;
        }
        Ok(())
    }

    pub(super) fn rewind(&mut self) -> io::Result<()> {
        match &mut self.bytes {
            Bytes::Plain(file) => file.rewind()?,
            Bytes::Packed(packed) => {
                let file = packed.get_ref().get_ref().get_ref().try_clone()?;
                let mut file = BufReader::new(file);
                file.rewind()?;
                **packed = BufReader::new(GzDecoder::new(file));
            }
        }
        self.line.clear();
        self.overlong = false;
        self.left = self.limit;
        Ok(())
    }

    /// The next whole line; `None` where there is none yet, or no more. A file that is damaged ends where it is.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            if self.line.last() == Some(&b'\n') {
                self.line.clear();
            }
            if !self.fill_line()? {
                return Ok(None);
            }
            // Twice, for the borrow of what is returned.
            if !std::mem::take(&mut self.overlong) && parse(&self.line).is_some() {
                return Ok(parse(&self.line));
            }
        }
    }

    /// False at the end of what there is, the line's start being kept.
    fn fill_line(&mut self) -> io::Result<bool> {
        loop {
            let available = match &mut self.bytes {
                Bytes::Plain(file) => file.fill_buf()?,
                Bytes::Packed(packed) => match packed.fill_buf() {
                    Ok(bytes) => bytes,
                    Err(error) if is_damage(&error) => return Ok(false),
                    Err(error) => return Err(error),
                },
            };
            let within = self
                .left
                .map_or(available.len(), |left| available.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            if within == 0 {
                return Ok(false);
            }
            let end = memchr::memchr(b'\n', &available[..within]);
            let used = end.map_or(within, |end| end + 1);
            if self.line.len() + used > LINE_BYTES_MAX {
                self.overlong = true;
                self.line.clear();
            }
            if !self.overlong {
                self.line.extend_from_slice(&available[..used]);
            }
            self.left = self.left.map(|left| left - used as u64);
            match &mut self.bytes {
                Bytes::Plain(file) => file.consume(used),
                Bytes::Packed(packed) => packed.consume(used),
            }
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
