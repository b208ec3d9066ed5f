//! The contents of prefix lists: files of plain text, one CIDR a line, named by their SHA-256. Refuses to know which list has which
//! content: the records say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::model::PREFIXES_PER_LIST_MAX;

/// A line of a list, at most: an IPv6 CIDR and what people write behind it.
const LINE_BYTES_MAX: usize = 256;

/// Longer than any edit takes.
const RECENT: std::time::Duration = std::time::Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("it is not ADDRESS/LENGTH, as in 192.0.2.0/24 or 2001:db8::/32")]
    Syntax,
    #[error("it has host bits set; the network is {0}")]
    HostBits(IpNet),
    #[error("it is an IPv4 address in IPv6's clothes; write the IPv4 address")]
    Mapped,
    #[error("it is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    #[error("there are more than {PREFIXES_PER_LIST_MAX} prefixes")]
    TooMany,
}

/// One CIDR; an address alone is the narrowest.
pub fn parse_cidr(text: &str) -> Result<IpNet, LineError> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| LineError::Syntax)?),
    };
    if matches!(net, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some()) {
        return Err(LineError::Mapped);
    }
    if net.trunc() != net { Err(LineError::HostBits(net.trunc())) } else { Ok(net) }
}

/// Takes a list's text in pieces, as it comes. `#` begins a comment.
#[derive(Debug, Default)]
pub struct Parser {
    rest: Vec<u8>,
    line: usize,
    found: Vec<IpNet>,
}

impl Parser {
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), (usize, LineError)> {
        let mut lines = bytes.split(|&byte| byte == b'\n');
        let last = lines.next_back().unwrap_or_default();
        for line in lines {
            self.rest.extend_from_slice(line);
            self.end_line()?;
        }
        self.rest.extend_from_slice(last);
        if self.rest.len() > LINE_BYTES_MAX { Err((self.line + 1, LineError::TooLong)) } else { Ok(()) }
    }

    fn end_line(&mut self) -> Result<(), (usize, LineError)> {
        self.line += 1;
        let line = std::mem::take(&mut self.rest);
        let failed = |error| (self.line, error);
        if line.len() > LINE_BYTES_MAX {
            return Err(failed(LineError::TooLong));
        }
        let text = std::str::from_utf8(&line).map_err(|_| failed(LineError::Syntax))?;
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            return Ok(());
        }
        if self.found.len() == PREFIXES_PER_LIST_MAX {
            return Err(failed(LineError::TooMany));
        }
        self.found.push(parse_cidr(text).map_err(failed)?);
        Ok(())
    }

    /// Sorted, each once.
    pub fn finish(mut self) -> Result<Vec<IpNet>, (usize, LineError)> {
        self.end_line()?;
        self.found.sort_unstable();
        self.found.dedup();
        Ok(self.found)
    }
}

/// The directory of contents, and those that are in use.
#[derive(Debug)]
pub struct Lists {
    dir: PathBuf,
    known: Mutex<BTreeMap<String, Arc<Vec<IpNet>>>>,
}

impl Lists {
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Lists { dir, known: Mutex::default() })
    }

    /// Keeps a content, on disk before it returns; gives its name. Blocks.
    pub fn store(&self, prefixes: Vec<IpNet>) -> io::Result<String> {
        let mut text = String::with_capacity(prefixes.len() * 20);
        for net in &prefixes {
            text.push_str(&net.to_string());
            text.push('\n');
        }
        let name: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.dir.join(&name);
        if !path.exists() {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(&self.dir)?.sync_all()?;
        }
        self.known().insert(name.clone(), Arc::new(prefixes));
        Ok(name)
    }

    /// A content by name. Blocks for the first time after a start.
    pub fn load(&self, name: &str) -> io::Result<Arc<Vec<IpNet>>> {
        if let Some(known) = self.known().get(name) {
            return Ok(Arc::clone(known));
        }
        let damaged = |(line, error)| {
            io::Error::new(io::ErrorKind::InvalidData, format!("line {line} of prefix list {name}: {error}"))
        };
        let mut parser = Parser::default();
        parser.push(&std::fs::read(self.dir.join(name))?).map_err(damaged)?;
        let prefixes = Arc::new(parser.finish().map_err(damaged)?);
        self.known().insert(name.to_owned(), Arc::clone(&prefixes));
        Ok(prefixes)
    }

    /// Removes every content that is not named.
    pub fn keep_only(&self, names: &BTreeSet<String>) {
        self.keep(names, |_| false);
    }

    /// The same, but for those that were written lately: an edit that is under way has not named its own yet.
    pub fn keep_recent_and(&self, names: &BTreeSet<String>) {
        self.keep(names, |file| {
            let age = file.metadata().and_then(|data| data.modified()).map(|at| at.elapsed().unwrap_or_default());
            age.is_ok_and(|age| age < RECENT)
        });
    }

    fn keep(&self, names: &BTreeSet<String>, also: impl Fn(&std::fs::DirEntry) -> bool) {
        self.known().retain(|name, _| names.contains(name));
        for file in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if !names.contains(&name)
                && !also(&file)
                && let Err(error) = std::fs::remove_file(file.path())
            {
                tracing::warn!(path = %file.path().display(), %error, "a prefix list that nobody has stays");
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Vec<IpNet>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Vec<IpNet>, (usize, LineError)> {
        let mut parser = Parser::default();
        parser.push(text.as_bytes())?;
        parser.finish()
    }

    #[test]
    fn lines_and_what_is_wrong_with_them() {
        let nets = parse("# bad ones\n\n192.0.2.0/24 # test\n  2001:db8::/32\r\n192.0.2.0/24\n10.0.0.1").unwrap();
        let expected: Vec<IpNet> =
            ["10.0.0.1/32", "192.0.2.0/24", "2001:db8::/32"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(nets, expected);
        assert_eq!(parse("10.0.0.0/8\nx\n"), Err((2, LineError::Syntax)));
        assert_eq!(parse("10.0.0.1/8"), Err((1, LineError::HostBits("10.0.0.0/8".parse().unwrap()))));
        assert_eq!(parse("::ffff:10.0.0.0/104"), Err((1, LineError::Mapped)));
        assert_eq!(parse(&"1".repeat(300)), Err((1, LineError::TooLong)));
        assert_eq!(parse("10.0.0.0/33"), Err((1, LineError::Syntax)));
    }

    #[test]
    fn a_content_is_kept_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let nets = parse("10.0.0.0/8\n2001:db8::/32").unwrap();
        let name = Lists::open(dir.path().join("prefixes")).unwrap().store(nets.clone()).unwrap();
        let again = Lists::open(dir.path().join("prefixes")).unwrap();
        assert_eq!(*again.load(&name).unwrap(), nets);
        let other = again.store(Vec::new()).unwrap();
        again.keep_only(&BTreeSet::from([other.clone()]));
        assert!(again.load(&name).is_err() && again.load(&other).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "([0-9./:a-f# \n]{0,40}\n){0,8}", cuts in proptest::collection::vec(0usize..64, 0..6)) {
            let whole = parse(&text);
            let mut parser = Parser::default();
            let mut left = text.as_bytes();
            let mut pushed = Ok(());
            for cut in cuts {
                let (now, rest) = left.split_at(cut.min(left.len()));
                left = rest;
                pushed = pushed.and_then(|()| parser.push(now));
            }
            let pieces = pushed.and_then(|()| parser.push(left)).and_then(|()| parser.finish());
            prop_assert_eq!(whole, pieces);
        }
    }
}
