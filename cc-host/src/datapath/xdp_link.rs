//! Makes, pins and detaches the link of an XDP program. aya makes one too, and where the kernel refuses (because somebody else's program is
//! there) it takes the old way and replaces that program. Refuses to replace anything.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::replace::open;
use crate::bpf::{bpf, number};

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where in a packet's way the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// In the driver, before the kernel has made anything of the packet.
    Native,
    /// Before the stack, where the driver has no place for it.
    Generic,
}

impl Mode {
    /// The better one first.
    pub const ALL: [Mode; 2] = [Mode::Native, Mode::Generic];

    pub const fn name(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
        }
    }
}

/// The part of the kernel's `bpf_attr` that makes a link.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 4],
}

/// The part that detaches.
#[repr(C)]
#[derive(Default)]
struct LinkDetach {
    link_fd: u32,
}

/// The part that pins.
#[repr(C)]
#[derive(Default)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Detached again when it is dropped, unless it is pinned.
pub fn create(program: BorrowedFd<'_>, ifindex: u32, mode: Mode) -> io::Result<OwnedFd> {
    let flags = match mode {
        Mode::Native => XDP_FLAGS_DRV_MODE,
        Mode::Generic => XDP_FLAGS_SKB_MODE,
    };
    let create = LinkCreate {
        prog_fd: number(program.as_raw_fd())?,
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags,
        ..LinkCreate::default()
    };
    let link = bpf(BPF_LINK_CREATE, &create)?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

pub fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let pin = ObjPin { pathname: path.as_ptr() as u64, bpf_fd: number(link.as_raw_fd())?, ..ObjPin::default() };
    bpf(BPF_OBJ_PIN, &pin).map(drop)
}

/// The program is off its interface when this returns: the kernel would do it some time after the pin has gone. Nothing there is fine.
pub fn unpin(path: &Path) -> io::Result<()> {
    let detached = open(path).and_then(|link| {
        let detach = LinkDetach { link_fd: number(link.as_raw_fd())? };
        bpf(BPF_LINK_DETACH, &detach).map(drop)
    });
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Of an interface that is gone there is nothing to detach.
        Ok(()) => {
            detached.or_else(|error| if error.raw_os_error() == Some(libc::ENOLINK) { Ok(()) } else { Err(error) })
        }
        failed => failed,
    }
}
