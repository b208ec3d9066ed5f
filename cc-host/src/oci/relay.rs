//! Whoever stays with a program: signals go to it, what is typed goes into its terminal, what that shows comes out, and its exit code is this
//! program's. Refuses to read ahead of what the terminal takes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::create::Process;
use super::error::OciError;
use crate::shim::terminal::Size;
use crate::shim::{sys, terminal};

/// How often a terminal is looked at whose other end nobody has.
const HUNG_UP: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Begun before there is a program, so that no signal is lost.
#[derive(Debug)]
pub struct Relay {
    signals: SignalFd,
}

/// The caller's terminal as it was.
struct Raw(Termios);

impl Raw {
    fn begin() -> Option<Raw> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.0);
    }
}

impl Relay {
    pub fn begin() -> Result<Relay, OciError> {
        let failed = |e: io::Error| OciError::step("take signals", e);
        sys::block_all_signals().map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&SigSet::all(), flags).map_err(|e| failed(e.into()))?;
        Ok(Relay { signals })
    }

    /// Until it has ended; its exit code as a shell says it.
    pub fn serve(self, process: &Process) -> Result<u8, OciError> {
        let raw = process.terminal.as_ref().and_then(|_| Raw::begin());
        let code = self.attend(process).map_err(|e| OciError::step("attend to the program", e));
        drop(raw);
        code
    }

    fn attend(&self, process: &Process) -> io::Result<u8> {
        let mut typed = Typed { pending: Vec::new(), open: process.terminal.is_some() };
        if let Some(master) = &process.terminal {
            rustix::io::ioctl_fionbio(master, true)?;
            resize(master);
        }
        let stdin = rustix::stdio::stdin();
        let mut hung_up = false;
        loop {
            let mut all = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&process.pidfd, PollFlags::IN)];
            if let Some(master) = &process.terminal {
                let out = if typed.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                // Nobody has the other end, and perhaps somebody opens it again: that is looked at now and then.
                match hung_up {
                    true => all.push(PollFd::new(&process.pidfd, PollFlags::IN)),
                    false => all.push(PollFd::new(master, PollFlags::IN | out)),
                }
                if typed.open && typed.pending.is_empty() {
                    all.push(PollFd::new(&stdin, PollFlags::IN));
                }
            }
            let pause = hung_up.then_some(&HUNG_UP);
            match poll(&mut all, pause) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready: Vec<bool> = all.iter().map(|one| !one.revents().is_empty()).collect();
            if ready[0] {
                self.pass_signals(process);
            }
            if let Some(master) = &process.terminal {
                if ready.get(3) == Some(&true) {
                    typed.read()?;
                }
                typed.write(master)?;
                hung_up = loop {
                    match show(master)? {
                        Shown::Some => {}
                        Shown::Nothing => break false,
                        Shown::HungUp => break true,
                    }
                };
            }
            if ready[1] {
                return ended(process);
            }
        }
    }

    fn pass_signals(&self, process: &Process) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match info.ssi_signo as i32 {
                libc::SIGCHLD => {}
                libc::SIGWINCH if process.terminal.is_some() => process.terminal.iter().for_each(resize),
                // Whoever is gone gets none.
                signal => drop(sys::pidfd_send_signal(process.pidfd.as_fd(), signal)),
            }
        }
    }
}

/// From the caller's standard input.
struct Typed {
    pending: Vec<u8>,
    open: bool,
}

impl Typed {
    fn read(&mut self) -> io::Result<()> {
        let mut piece = [0; 4096];
        match rustix::io::read(rustix::stdio::stdin(), &mut piece) {
            Ok(0) | Err(Errno::IO) => self.open = false,
            Ok(count) => self.pending.extend_from_slice(&piece[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    fn write(&mut self, master: &OwnedFd) -> io::Result<()> {
        while !self.pending.is_empty() {
            match rustix::io::write(master, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                // Nobody has the other end.
                Err(Errno::IO) => self.pending.clear(),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

enum Shown {
    Some,
    Nothing,
    /// Nobody has the other end.
    HungUp,
}

fn show(master: &OwnedFd) -> io::Result<Shown> {
    let mut piece = [0; 32 << 10];
    let count = match rustix::io::read(master, &mut piece) {
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Shown::Nothing),
        Ok(0) | Err(Errno::IO) => return Ok(Shown::HungUp),
        other => other?,
    };
    let mut rest = &piece[..count];
    while !rest.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(Shown::Some)
}

/// Of the terminal that this program is run in: a program that looks once has to see it when it begins.
pub fn size_here() -> Option<Size> {
    let stdin = rustix::stdio::stdin();
    let size = if isatty(stdin) { tcgetwinsize(stdin).ok()? } else { return None };
    Some(Size { rows: size.ws_row, columns: size.ws_col })
}

fn resize(master: &OwnedFd) {
    if let Some(size) = size_here() {
        let _ = terminal::resize(master, size);
    }
}

fn ended(process: &Process) -> io::Result<u8> {
    let status = loop {
        match waitpid(Pid::from_raw(process.pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => break status,
            Ok(None) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
