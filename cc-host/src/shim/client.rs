//! One connection to the shim, with bounded buffers. Refuses to interpret requests.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde::Serialize;

use super::protocol::{CHUNK_BYTES_MAX, FRAME_BYTES_MAX, Frame, Kind, encode};

/// Output that waits for a client. Beyond it, the shim stops reading the container's pipes until the client has caught up.
pub const OUT_BYTES_MAX: usize = 256 << 10;

pub struct Client {
    /// Of this shim's clients; never given twice.
    pub id: u64,
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    /// When the client last took something, or first had something to take.
    pub progress: Instant,
    pub greeted: bool,
    pub attached: bool,
    /// Its stdin frames go to the container.
    pub feeds_stdin: bool,
    /// It is the connection of a further program's.
    pub has_exec: bool,
    /// It sends nothing more; it may still listen.
    pub silent: bool,
    pub gone: bool,
}

impl Client {
    pub fn new(id: u64, stream: UnixStream) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        Ok(Client {
            id,
            stream,
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            progress: Instant::now(),
            greeted: false,
            attached: false,
            feeds_stdin: false,
            has_exec: false,
            silent: false,
            gone: false,
        })
    }

    pub fn message<T: Serialize>(&mut self, message: &T) {
        self.expect_progress();
        self.outbox.extend(Frame::message(message).encode());
    }

    pub fn output(&mut self, kind: Kind, bytes: &[u8]) {
        self.expect_progress();
        for piece in bytes.chunks(CHUNK_BYTES_MAX) {
            self.outbox.extend(encode(kind, piece));
        }
    }

    fn expect_progress(&mut self) {
        if self.outbox.is_empty() {
            self.progress = Instant::now();
        }
    }

    pub fn has_room(&self) -> bool {
        self.outbox.len() < OUT_BYTES_MAX
    }

    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Reads what is there. Frames that are already whole stay in the inbox until they are taken.
    pub fn fill(&mut self) {
        let mut bytes = [0; 16 << 10];
        while self.inbox.len() <= FRAME_BYTES_MAX + 4 {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.silent = true;
                    self.gone |= !(self.attached || self.has_exec);
                    return;
                }
                Ok(count) => self.inbox.extend_from_slice(&bytes[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.gone |= e.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    /// The next whole frame. A client that breaks the protocol is hung up on.
    pub fn next_frame(&mut self) -> Option<Frame> {
        match Frame::take(&mut self.inbox) {
            Ok(frame) => frame,
            Err(_) => {
                self.inbox.clear();
                self.gone = true;
                None
            }
        }
    }

    pub fn flush(&mut self) {
        while !self.outbox.is_empty() {
            let (front, _) = self.outbox.as_slices();
            match self.stream.write(front) {
                Ok(count) => {
                    self.outbox.drain(..count);
                    self.progress = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.gone |= e.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
