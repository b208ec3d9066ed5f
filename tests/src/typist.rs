//! Somebody at a terminal: a command has its other end, what is typed goes in, and what it shows is waited for. Refuses to type ahead of
//! what was shown: each step waits for the one before it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::eventually;

const BOUND: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Typist {
    master: File,
    child: Child,
    shown: Vec<u8>,
    /// Of what was shown, what was waited for already.
    read: usize,
}

fn window(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Typist {
    pub fn start(mut command: Command, rows: u16, columns: u16) -> Typist {
        let pty = openpty(Some(&window(rows, columns)), None).expect("a terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor can be copied"));
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: three system calls between fork and exec, both async-signal-safe, on the standard input that was just set.
        unsafe {
            command.pre_exec(|| {
                // Whoever runs the tests may ignore it, and what is ignored is inherited; a login does this, too.
                nix::sys::signal::signal(nix::sys::signal::Signal::SIGINT, nix::sys::signal::SigHandler::SigDfl)?;
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the command can be run");
        drop(command);
        Typist { master: pty.master.into(), child, shown: Vec::new(), read: 0 }
    }

    pub fn types(&mut self, text: &str) -> &mut Self {
        self.master.write_all(text.as_bytes()).expect("somebody has the other end");
        self
    }

    /// Until it is shown, after all that was seen before.
    #[track_caller]
    pub fn sees(&mut self, text: &str) -> &mut Self {
        let began = Instant::now();
        loop {
            let unread = &self.shown[self.read..];
            if let Some(at) = unread.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.read += at + text.len();
                return self;
            }
            let left = BOUND.saturating_sub(began.elapsed());
            assert!(!left.is_zero() && self.more(left), "{text:?} is not shown; what is: {}", self.all());
        }
    }

    /// False at the end.
    fn more(&mut self, within: Duration) -> bool {
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        use std::os::fd::AsFd as _;
        if poll(&mut [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready == 0) {
            return false;
        }
        let mut bytes = [0; 4096];
        match self.master.read(&mut bytes) {
            Ok(count) if count > 0 => {
                self.shown.extend_from_slice(&bytes[..count]);
                true
            }
            // EIO: nobody has the other end any more.
            _ => false,
        }
    }

    pub fn all(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// The window is dragged.
    pub fn resizes(&mut self, rows: u16, columns: u16) -> &mut Self {
        let window = window(rows, columns);
        // SAFETY: a winsize that lives through the call, on a terminal that is ours.
        let set = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const window) };
        assert_eq!(set, 0, "a terminal has a size");
        self
    }

    /// Whether lines are put together here: not while a program far away does that.
    pub fn is_cooked(&self) -> bool {
        tcgetattr(&self.master).expect("it is a terminal").local_flags.contains(LocalFlags::ICANON)
    }

    /// Until whoever has the other end takes every key as it is typed.
    #[track_caller]
    pub fn takes_over(&mut self) -> &mut Self {
        eventually("the terminal is taken over", BOUND, || (!self.is_cooked()).then_some(()));
        self
    }

    /// Reads on until it has ended.
    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                while self.more(Duration::from_millis(1)) {}
                return status;
            }
            assert!(began.elapsed() < BOUND, "it does not end; what is shown: {}", self.all());
            self.more(Duration::from_millis(20));
        }
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
