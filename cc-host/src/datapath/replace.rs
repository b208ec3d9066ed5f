//! Puts another program behind a pinned link, in one step of the kernel's: every packet meets the old one or the new one. With
//! system calls of its own: aya does it for TCX and XDP links alone. Refuses to make or remove a link.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::bpf::{bpf, describe, number};

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_UPDATE: libc::c_int = 29;

/// The part of the kernel's `bpf_attr` that names a pin.
#[repr(C)]
#[derive(Default)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part that updates a link.
#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The link pinned at `pin` runs `program` from here on. It keeps its place among the programs of its hook.
pub fn program_of_link(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open(pin)?;
    let update = LinkUpdate {
        link_fd: number(link.as_raw_fd())?,
        new_prog_fd: number(program.as_raw_fd())?,
        ..LinkUpdate::default()
    };
    bpf(BPF_LINK_UPDATE, &update).map(drop)
}

/// The link that is pinned there.
pub(super) fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = ObjGet { pathname: path.as_ptr() as u64, ..ObjGet::default() };
    let link = bpf(BPF_OBJ_GET, &get)?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// The beginning of the kernel's `bpf_link_info`: behind it is, by kind, a cgroup's id or an interface's number.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    target: [u32; 2],
}

const LINK_CGROUP: u32 = 3;

/// Whether the link pinned at `pin` hangs on nothing any more.
pub fn is_detached(pin: &Path) -> io::Result<bool> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = ObjGet { pathname: path.as_ptr() as u64, ..ObjGet::default() };
    let link = bpf(BPF_OBJ_GET, &get)?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let mut info = LinkInfo::default();
    describe(link.as_fd(), &mut info)?;
    // An interface's number takes the first of the words; the other one is where on it.
    let [first, second] = info.target;
    Ok(if info.kind == LINK_CGROUP { first == 0 && second == 0 } else { first == 0 })
}
