//! What the process that creates a container, or a further program in it, and the one inside say to each other. Refuses to carry more than steps
//! and descriptors.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind,
    connect, listen, sendmsg, socket_with,
};
use serde::{Deserialize, Serialize};

use super::error::OciError;
use crate::shim::channel::Channel;
use crate::shim::init::lost;
use crate::shim::protocol::{FailureKind, StartFailure};
use crate::shim::sys;

#[derive(Debug, Serialize, Deserialize)]
pub enum FromInside {
    /// Its ids are to be mapped.
    Ids,
    /// The clocks of what it will clone are to be set.
    Clocks,
    /// With a descriptor of the process that goes on in its place.
    Cloned {
        pid: i32,
    },
    /// Everything is where it belongs, and the host's root is still there.
    Mounted,
    /// With the other end of its terminal.
    Terminal,
    /// It is root for the last time: what is set from outside is to be set.
    Limits,
    /// Nothing is left but to wait for `start`.
    Ready,
    /// The next thing is the program. If nothing comes after this, it runs.
    Executing,
    /// By a startContainer hook: the program is not to run.
    Refused(StartFailure),
    Failed(StartFailure),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum ToInside {
    Go,
}

/// Says what is needed, and waits until it is done.
pub fn ask(channel: &Channel, what: &FromInside) -> Result<(), StartFailure> {
    channel.send(what, &[]).map_err(lost)?;
    expect_go(channel)
}

pub fn expect_go(channel: &Channel) -> Result<(), StartFailure> {
    match channel.receive().map_err(lost)? {
        Some((ToInside::Go, _)) => Ok(()),
        // Whoever asked for the container is gone, and so is everyone who could be told.
        None => sys::exit_now(125),
    }
}

pub fn go(channel: &Channel) -> Result<(), OciError> {
    channel.send(&ToInside::Go, &[]).map_err(|e| OciError::step("talk to the container's process", e))
}

/// What ended without a word.
pub fn silence(what: &str) -> OciError {
    StartFailure::new(FailureKind::Other, format!("{what} ended before it was ready; was it killed?")).into()
}

/// A socket's address is at most 108 bytes: a longer path is reached from its directory.
fn address(path: &Path) -> rustix::io::Result<(OwnedFd, SocketAddrUnix)> {
    let (dir, name) = (path.parent().filter(|dir| !dir.as_os_str().is_empty()), path.file_name());
    let name = name.ok_or(rustix::io::Errno::INVAL)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir.unwrap_or(Path::new(".")), flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    SocketAddrUnix::new(&short).map(|address| (dir, address))
}

/// On which a container's first process waits.
pub fn listen_at(path: &Path) -> Result<OwnedFd, OciError> {
    let make = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (_dir, address) = address(path)?;
        bind(&socket, &address)?;
        listen(&socket, 1)?;
        Ok(socket)
    };
    make().map_err(|e: rustix::io::Errno| OciError::File {
        operation: "listen at",
        path: path.into(),
        source: e.into(),
    })
}

pub fn connect_to(path: &Path, kind: SocketType) -> std::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let (_dir, address) = address(path)?;
    connect(&socket, &address)?;
    Ok(socket)
}

/// Where the caller waits for a terminal.
pub fn console(path: &Path) -> Result<OwnedFd, OciError> {
    connect_to(path, SocketType::STREAM).map_err(|e| OciError::File {
        operation: "connect to the console socket",
        path: path.into(),
        source: e,
    })
}

/// With the terminal's name as the message, as runc does it.
pub fn send_terminal(console: &OwnedFd, master: BorrowedFd<'_>, name: &[u8]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = [master];
    control.push(SendAncillaryMessage::ScmRights(&rights));
    sendmsg(console.as_fd(), &[IoSlice::new(name)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
