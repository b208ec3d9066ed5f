//! Carries the rows of a hash table over into one of another layout. Refuses to know what a row means.

use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};

use super::super::batch;
use super::super::error::DatapathError;
use super::super::object::check_pinned;
use super::Carry;

const BPF_EXIST: u64 = 2;
/// Rows that are written at a time.
const ROWS_PER_WRITE: usize = 8_192;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// No program of ours runs yet: rows are written as they are.
    Copy,
    /// Programs change our rows: each takes in what the earlier one has still seen. One that is gone stays so.
    Join,
}

/// How a row of one layout becomes a row of the other.
pub struct Turn<V, W> {
    /// Of the table that is read.
    pub shape: [u32; 3],
    pub last_seen_ns: fn(&V) -> u64,
    /// `None` for a row that is nobody's any more.
    pub turn: fn(&V) -> Option<W>,
    /// Whether our row has changed.
    pub join: fn(&mut W, &W) -> bool,
}

/// Returns how many rows were written.
pub fn carry<K, V, W>(carry: &Carry<'_>, name: &'static str, how: &Turn<V, W>) -> Result<usize, DatapathError>
where
    K: Pod + Default,
    V: Pod + Default,
    W: Pod,
{
    let from = carry.from.join(name);
    // A pin of another layout would be read past its rows' ends.
    check_pinned(&from, how.shape)?;
    let (from, to) = (open(&from)?, open(&carry.to.join(name))?);
    let to = to.fd().as_fd().try_clone_to_owned().map(|fd| (to, fd));
    let (to, to_fd) = to.map_err(|source| DatapathError::Rows { operation: "open", name, source })?;
    let mut table: HashMap<_, K, W> =
        HashMap::try_from(Map::HashMap(to)).map_err(|source| DatapathError::Map { operation: "open", name, source })?;
    let (mut keys, mut rows) = (Vec::new(), Vec::new());
    let (mut written, mut failed) = (0, None);
    let mut flush = |keys: &mut Vec<K>, rows: &mut Vec<W>| {
        written += keys.len();
        let done = batch::update(to_fd.as_fd(), keys, rows);
        keys.clear();
        rows.clear();
        done.map_err(|source| DatapathError::Rows { operation: "write", name, source })
    };
    let look = |key: &K, row: &V| {
        if (how.last_seen_ns)(row) < carry.since_ns {
            return ControlFlow::Continue(());
        }
        let Some(row) = (how.turn)(row) else { return ControlFlow::Continue(()) };
        let done = match carry.pass {
            Pass::Copy => {
                keys.push(*key);
                rows.push(row);
                if keys.len() < ROWS_PER_WRITE { Ok(()) } else { flush(&mut keys, &mut rows) }
            }
            Pass::Join => join(&mut table, key, &row, how.join).map_err(|source| DatapathError::Map {
                operation: "write",
                name,
                source,
            }),
        };
        failed = done.err();
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    batch::each(from.fd().as_fd(), look).map_err(|source| DatapathError::Rows { operation: "read", name, source })?;
    failed.map_or_else(|| flush(&mut keys, &mut rows), Err)?;
    Ok(written)
}

fn open(path: &Path) -> Result<MapData, DatapathError> {
    MapData::from_pin(path).map_err(|source| DatapathError::OpenMap { path: path.to_owned(), source })
}

/// A packet that changes our row within these microseconds may be forgotten by it, as by two CPUs that meet.
fn join<K: Pod, W: Pod>(
    table: &mut HashMap<MapData, K, W>,
    key: &K,
    row: &W,
    join: fn(&mut W, &W) -> bool,
) -> Result<(), MapError> {
    let absent = |error: &MapError| match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    };
    let mut ours = match table.get(key, 0) {
        Err(error) if absent(&error) => return Ok(()),
        found => found?,
    };
    if !join(&mut ours, row) {
        return Ok(());
    }
    match table.insert(key, ours, BPF_EXIST) {
        Err(error) if absent(&error) => Ok(()),
        done => done,
    }
}
