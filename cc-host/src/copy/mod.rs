//! The child that copies files into a container or out of it: it enters the container's own view of its files, with the rights of the
//! container's root and no other, before it looks at any path. Refuses to see a file of the host.
//!
//! Its descriptors: 0 is a process of the container's if it runs, 1 a socket that carries the request and then an archive, 2 the pipe of its
//! report. What it says is as much worth as what a program of the container says.

mod enter;
mod pack;
mod place;
mod put;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::shim::spec::Rootfs;

/// The hidden subcommands' names.
pub const SUBCOMMAND: &str = "copy-files";
pub const HOLD_SUBCOMMAND: &str = "hold-user-namespace";

/// The length of what follows, in four bytes, least first.
const LENGTH_BYTES: usize = 4;
/// A request holds the paths of an image's layers.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// A header holds a name.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;
pub const REPORT_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where the container's files are; of one that runs, its process knows.
    pub stopped: Option<Stopped>,
    /// Its users are the host's.
    pub host_users: bool,
    pub wanted: Wanted,
}

/// Its file system has to be put together first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    pub rootfs: Rootfs,
    pub id_base: u32,
    pub id_count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// An archive of what is there, behind its header.
    Out {
        path: String,
        /// If the path is a symlink, what it leads to.
        follow: bool,
    },
    /// Where `path` leads, the archive's files.
    In {
        path: String,
        what: What,
        /// Their owners are the archive's; otherwise the container's root.
        keep_owner: bool,
    },
}

/// What the archive holds. All but `Archive` have one entry at the top, which is given its name here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    File {
        name: String,
    },
    Directory {
        name: String,
        /// What is in it, and not itself.
        contents: bool,
    },
    /// Any archive, unpacked into a directory.
    Archive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

/// Before the archive: all its entries are `name`, or are below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub name: String,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    Done(Copied),
    NotFound(String),
    /// What was asked for makes no sense there.
    Refused(String),
    /// We could not do it.
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Copied {
    pub entries: u64,
    pub bytes: u64,
    /// Sockets, devices and the kernel's own file systems, which are not copied.
    pub skipped: u64,
}

#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
    #[error("cannot {operation} {path:?}: {source}")]
    Disk { operation: &'static str, path: String, source: std::io::Error },
    #[error("the other side went away: {0}")]
    Stream(std::io::Error),
}

fn disk(operation: &'static str, path: impl AsRef<std::path::Path>, source: impl Into<std::io::Error>) -> CopyError {
    CopyError::Disk { operation, path: path.as_ref().to_string_lossy().into_owned(), source: source.into() }
}

impl From<CopyError> for Report {
    fn from(error: CopyError) -> Report {
        use rustix::io::Errno;
        let text = error.to_string();
        let refusals =
            [Errno::ROFS, Errno::BUSY, Errno::PERM, Errno::ACCESS, Errno::NOTDIR, Errno::ISDIR, Errno::NAMETOOLONG];
        match error {
            CopyError::NotFound(_) => Report::NotFound(text),
            CopyError::Refused(_) => Report::Refused(text),
            // The container's files are as they are.
            CopyError::Disk { source, .. }
                if refusals.iter().any(|one| source.raw_os_error() == Some(one.raw_os_error())) =>
            {
                Report::Refused(text)
            }
            CopyError::Disk { .. } | CopyError::Stream(_) => Report::Failed(text),
        }
    }
}

/// `main` of both subcommands: call it before any thread is started.
pub fn child_main(subcommand: &str) -> ExitCode {
    if subcommand == HOLD_SUBCOMMAND {
        return enter::hold();
    }
    let report = copy();
    let done = matches!(report, Report::Done(_));
    let written = serde_json::to_vec(&report).is_ok_and(|bytes| std::io::stderr().lock().write_all(&bytes).is_ok());
    if done && written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn copy() -> Report {
    let stream = match std::io::stdout().as_fd().try_clone_to_owned() {
        Ok(stream) => std::os::unix::net::UnixStream::from(stream),
        Err(source) => return Report::Failed(format!("cannot open the stream: {source}")),
    };
    let request: Request = match read_frame(&mut &stream, REQUEST_BYTES_MAX) {
        Ok(request) => request,
        Err(source) => return Report::Failed(format!("cannot read the request: {source}")),
    };
    let root = match enter::enter(request.stopped.as_ref(), request.host_users) {
        Ok(root) => root,
        Err(why) => return Report::Failed(format!("cannot enter the container: {why}")),
    };
    let done = match &request.wanted {
        Wanted::Out { path, follow } => pack::send(&root, path, *follow, &mut &stream),
        Wanted::In { path, what, keep_owner } => put::receive(&root, path, what, *keep_owner, &mut &stream),
    };
    done.map_or_else(Report::from, Report::Done)
}

pub fn frame<T: Serialize>(message: &T) -> std::io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
    Ok([&length.to_le_bytes()[..], &body].concat())
}

/// The length of a frame's body, from what stands before it.
pub fn body_bytes(length: [u8; LENGTH_BYTES], max: u32) -> std::io::Result<usize> {
    let length = u32::from_le_bytes(length);
    if length > max {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes is too long"),
        ));
    }
    Ok(length as usize)
}

fn read_frame<T: for<'a> Deserialize<'a>>(from: &mut impl Read, max: u32) -> std::io::Result<T> {
    let mut length = [0; LENGTH_BYTES];
    from.read_exact(&mut length)?;
    let mut body = vec![0; body_bytes(length, max)?];
    from.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written_and_bounded() {
        let request =
            Request { stopped: None, host_users: false, wanted: Wanted::Out { path: "/a".to_owned(), follow: true } };
        let bytes = frame(&request).unwrap();
        assert_eq!(read_frame::<Request>(&mut &bytes[..], 1 << 10).unwrap(), request);
        assert!(read_frame::<Request>(&mut &bytes[..], 4).is_err(), "longer than it may be");
        assert!(read_frame::<Request>(&mut &bytes[..bytes.len() - 1], 1 << 10).is_err(), "it breaks off");
    }

    #[test]
    fn what_the_container_does_not_let_us_do_is_a_refusal() {
        let of = |errno: rustix::io::Errno| Report::from(disk("write", "/a", errno));
        assert!(matches!(of(rustix::io::Errno::ROFS), Report::Refused(_)));
        assert!(matches!(of(rustix::io::Errno::NOSPC), Report::Failed(_)));
    }
}
