//! A log that is written by a process of its own: what that cannot take at once is dropped and counted, and neither the container nor the
//! shim ever waits for the disk. Refuses to buffer beyond the socket between them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair, sockopt,
};

use super::BLOCK_BYTES_MAX;
use super::file::{LogFile, count};
use crate::shim::spec::LogSpec;
use crate::shim::sys;

/// Records on their way to the writer, of which the kernel takes some for itself.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// After the container's last word. A disk that takes longer loses what waits; it is not counted then.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub struct Apart {
    /// One message is one block of records. `None` once the writer is gone.
    socket: Option<OwnedFd>,
    /// What had no room.
    dropped_here: u64,
    /// What the disk did not take, as the writer has said.
    dropped_there: u64,
}

impl Apart {
    /// Before there is anything in this process that the writer must not have.
    pub fn spawn(spec: LogSpec) -> io::Result<Apart> {
        let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Without that right, what the system gives everybody has to do.
        let _ = sockopt::set_socket_send_buffer_size_force(&ours, WAITING_BYTES_MAX);
        // SAFETY: the shim starts no thread, ever.
        match unsafe { sys::fork() }? {
            sys::Forked::Parent(_) => Ok(Apart { socket: Some(ours), dropped_here: 0, dropped_there: 0 }),
            sys::Forked::Child => {
                let kept = sys::dup_to_standard(its.as_fd(), 0);
                // SAFETY: nothing that this process inherited is used from here on, or dropped: it ends by `exit_now`.
                if kept.is_ok() && unsafe { sys::close_from(3) }.is_ok() {
                    write_for_another(spec);
                }
                sys::exit_now(0)
            }
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped_here + self.dropped_there
    }

    /// Readable when there is something to `hear`.
    pub fn news(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    pub fn write(&mut self, records: &[u8]) {
        let sent = self.socket.as_ref().is_some_and(|socket| {
            send(socket, records, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok_and(|sent| sent == records.len())
        });
        if !sent {
            self.dropped_here += count(records);
        }
    }

    pub fn hear(&mut self) {
        let mut said = [0; 8];
        while let Some(socket) = &self.socket {
            match recv(socket, said.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((8, _)) => self.dropped_there = u64::from_le_bytes(said),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                // It has ended.
                _ => self.socket = None,
            }
        }
    }

    /// Returns when all is written, or the disk takes too long.
    pub fn close(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = shutdown(socket, Shutdown::Write);
        }
        let end = Instant::now() + LAST_WORDS;
        loop {
            self.hear();
            let Some(socket) = &self.socket else { return };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], Timespec::try_from(left).ok().as_ref());
        }
    }
}

/// The writer's whole life: until the shim has closed its end, by itself or by being killed.
fn write_for_another(spec: LogSpec) {
    let socket = rustix::stdio::stdin();
    let mut log = LogFile::open(spec);
    let mut told = 0;
    let mut block = vec![0; BLOCK_BYTES_MAX];
    loop {
        match recv(socket, block.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) => return,
            Ok((length, _)) => log.write(&block[..length]),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        // A number that has no room now goes with a later block.
        let dropped = log.dropped.to_le_bytes();
        if log.dropped != told && send(socket, &dropped, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok() {
            told = log.dropped;
        }
    }
}
