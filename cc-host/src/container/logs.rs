//! Reading a container's log, in CRI's line format, across rotation and while it grows; `pack` compresses what has grown old. Refuses to
//! write it, which the shim does, and to hold more of it than a piece at a time.
//!
//! `line` parses, `segment` is one file in either form, `reader` goes from file to file.

mod line;
pub(super) mod pack;
mod reader;
mod segment;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use self::reader::Reader;
use super::record::Exit;
use super::room::Containers;
use super::{ContainerError, ContainerRecord};

/// Lines on their way to a reader.
const QUEUE_LINES: usize = 256;

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
        let path = self.log_path(record);
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
    let follow = query.follow && exit.is_some();
    // Watch before reading: a line written in between is then seen by one of the two.
    let watcher = if follow { Some(watch_dir(path)?) } else { None };
    let (path, since_ns) = (path.to_owned(), query.since_ms.saturating_mul(1_000_000));
    let mut reader = apart(move || Reader::open(&path, since_ns, query.tail, follow)).await?;
    let (Some(watcher), Some(mut exit)) = (watcher, exit) else {
        return hand_over(reader, send).await.map(drop);
    };
    loop {
        let ended = exit.borrow().is_some() || exit.has_changed().is_err();
        match hand_over(reader, send).await? {
            Some(back) if !ended => reader = back,
            _ => return Ok(()),
        }
        tokio::select! {
            changed = changes(&watcher) => changed?,
            _ = exit.changed() => {}
            () = send.closed() => return Ok(()),
        }
    }
}

/// All that there is now. `None` where nobody wants it any more.
async fn hand_over(mut reader: Reader, send: &Sender) -> std::io::Result<Option<Reader>> {
    loop {
        let (back, lines) = apart(move || reader.piece().map(|lines| (reader, lines))).await?;
        reader = back;
        if lines.is_empty() {
            return Ok(Some(reader));
        }
        for line in lines {
            if send.send(Ok(line)).await.is_err() {
                return Ok(None);
            }
        }
    }
}

/// Where waiting for the disk holds nobody up.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
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
