//! The socket pair between a shim and the init that it has cloned: mounts and "go" one way, progress and failure the other.
//! It closes itself when init executes the program, which is how the shim learns of it. Refuses to outlive that moment.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::protocol::StartFailure;

const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// The kernel's own limit for one message.
const DESCRIPTORS_MAX: usize = 253;

#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// With the shim's end of the terminal that the program will have.
    Terminal,
    /// With a descriptor of the process that was cloned inside the container, which waits for `Go`.
    Joined {
        pid: i32,
    },
    /// Without a specification yet: all that needs none is prepared.
    Parked,
    /// All that could be prepared is; the next thing is the program.
    Ready,
    /// About to execute. If the channel closes after this without a failure, the program runs.
    Executing,
    Failed(StartFailure),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum ToInit {
    /// Its ids are mapped, and what it is to run will be said later.
    Park,
    /// What it is to run, as a file that is open.
    Spec,
    /// With the root, the devices and the bind mounts as descriptors, in this order.
    Mounts,
    Go,
}

pub struct Channel(OwnedFd);

impl Channel {
    pub fn pair() -> io::Result<(Channel, Channel)> {
        // One message is one record, so a crash never leaves half of one.
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Channel(a), Channel(b)))
    }

    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    pub fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
        }
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// `None` when the other side is gone.
    pub fn receive<T: serde::de::DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptors.extend(fds);
            }
        }
        Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}
