//! What a process reads and writes, on the shim's side: three pipes or one terminal, and input that it has not read yet. Refuses to know
//! where the input comes from or where the output goes.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::protocol::CHUNK_BYTES_MAX;
use super::terminal::{self, Size};

/// Input that the program has not read yet; beyond it, the client that sends it is not read.
const INPUT_BYTES_MAX: usize = 128 << 10;

/// Standard output and standard error; a terminal has the first only.
pub const OUTPUTS: usize = 2;

#[derive(Default)]
pub struct Streams {
    input: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; OUTPUTS],
    queue: VecDeque<u8>,
    /// Nothing comes after what is in the queue.
    ends: bool,
    is_terminal: bool,
}

impl Streams {
    pub fn pipes(input: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd) -> Streams {
        let streams = Streams { input, outputs: [Some(stdout), Some(stderr)], ..Streams::default() };
        for fd in streams.input.iter().chain(streams.outputs.iter().flatten()) {
            let _ = rustix::io::ioctl_fionbio(fd, true);
        }
        streams
    }

    /// In the place of the pipes, of which standard error stays for what is said before the program runs.
    pub fn set_terminal(&mut self, master: OwnedFd, size: Size) {
        let _ = rustix::io::ioctl_fionbio(&master, true);
        let _ = terminal::resize(&master, size);
        self.input = rustix::io::fcntl_dupfd_cloexec(&master, 3).ok();
        self.outputs[0] = Some(master);
        self.is_terminal = true;
    }

    /// Nobody feeds it, and the program does not have it.
    pub fn without_input(&mut self) {
        if !self.is_terminal {
            self.input = None;
        }
    }

    pub fn resize(&self, size: Size) {
        if let Some(master) = self.outputs[0].as_ref().filter(|_| self.is_terminal) {
            // Gone already is fine.
            let _ = terminal::resize(master, size);
        }
    }

    pub fn has_room(&self) -> bool {
        self.queue.len() < INPUT_BYTES_MAX
    }

    /// To poll for room, where something waits.
    pub fn waiting_input(&self) -> Option<&OwnedFd> {
        self.input.as_ref().filter(|_| !self.queue.is_empty())
    }

    pub fn output(&self, index: usize) -> Option<&OwnedFd> {
        self.outputs[index].as_ref()
    }

    /// Nothing more comes out.
    pub fn are_silent(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if !self.ends {
            self.queue.extend(bytes);
            self.feed();
        }
    }

    /// The end of input. A terminal has none of its own: who types there says it by a character, and somebody else may come.
    pub fn end_input(&mut self) {
        self.ends |= !self.is_terminal;
        self.feed();
    }

    /// As a modem would: the session of a terminal is told that nobody is there any more, and pipes have no more input.
    pub fn hang_up(&mut self) {
        if self.is_terminal {
            self.queue.clear();
            self.input = None;
            self.outputs[0] = None;
        }
        self.end_input();
    }

    pub fn feed(&mut self) {
        if let Some(input) = &self.input {
            while !self.queue.is_empty() {
                match rustix::io::write(input, self.queue.as_slices().0) {
                    Ok(count) => drop(self.queue.drain(..count)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return,
                    // The program has closed its standard input.
                    Err(_) => {
                        self.queue.clear();
                        self.ends = true;
                    }
                }
            }
        } else {
            self.queue.clear();
        }
        if self.ends && self.queue.is_empty() {
            self.input = None;
        }
    }

    /// What is there: at most a chunk, and nothing if there is nothing now.
    pub fn read(&mut self, index: usize) -> Option<Vec<u8>> {
        let output = self.outputs[index].as_ref()?;
        let mut bytes = vec![0; CHUNK_BYTES_MAX];
        match rustix::io::read(output, &mut bytes) {
            Err(Errno::AGAIN | Errno::INTR) => None,
            // A pipe has no other errors, and a terminal one when nobody has its other end any more: take it for the end.
            Ok(0) | Err(_) => {
                self.outputs[index] = None;
                None
            }
            Ok(count) => {
                bytes.truncate(count);
                Some(bytes)
            }
        }
    }
}
