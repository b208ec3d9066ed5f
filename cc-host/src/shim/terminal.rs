//! A terminal of the container's own: made in its own devpts, by descriptors alone, and sized from outside. Refuses to find it by the
//! name that the container could give to something else.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstatfs};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};

use super::protocol::{FailureKind, StartFailure};
use super::sys;
use super::user::User;
use crate::inside;

/// `DEVPTS_SUPER_MAGIC` of the kernel's uapi/linux/magic.h.
const DEVPTS: u64 = 0x1cd1;
/// Programs read it for what the terminal understands; docker says this of every terminal.
pub const TERM: &str = "TERM=xterm";

/// In characters. Zero is what a program takes for "not known".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// Both ends of a new one. Inside the container, after its mounts are there.
pub fn open(root: &OwnedFd) -> Result<(OwnedFd, OwnedFd), StartFailure> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = inside::open(root, "dev/pts/ptmx", flags, Mode::empty(), resolve).map_err(|e| failed("make", e))?;
    let kind = fstatfs(&master).map_err(|e| failed("look at", e))?.f_type;
    if kind as u64 != DEVPTS {
        let why = "cannot make a terminal: the container has something else over /dev/pts";
        return Err(StartFailure::new(FailureKind::Mount, why));
    }
    unlockpt(&master).map_err(|e| failed("unlock", e))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(|e| failed("open the other end of", e))?;
    Ok((master, slave))
}

/// Its session's, and the program's three streams. After `setsid`, by somebody who may give files away.
pub fn take(slave: OwnedFd, user: &User) -> Result<(), StartFailure> {
    fchown(&slave, Some(Uid::from_raw(user.uid)), None::<Gid>).map_err(|e| failed("give away", e))?;
    fchmod(&slave, Mode::RUSR | Mode::WUSR | Mode::WGRP).map_err(|e| failed("protect", e))?;
    rustix::process::ioctl_tiocsctty(&slave).map_err(|e| failed("take charge of", e))?;
    for standard in 0..=2 {
        sys::dup_to_standard(slave.as_fd(), standard)
            .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot connect a terminal: {e}")))?;
    }
    Ok(())
}

/// Whoever reads it is told by SIGWINCH.
pub fn resize(master: &OwnedFd, size: Size) -> rustix::io::Result<()> {
    let Size { rows, columns } = size;
    tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
}

fn failed(step: &str, source: rustix::io::Errno) -> StartFailure {
    StartFailure::new(FailureKind::Other, format!("cannot {step} a terminal: {source}"))
}
