//! The program of a netkit pair: it runs as the container's end sends, before any queue, with system calls of its own since aya has none for it.
//! As a filter does, it hangs on the interface and goes with it. As with TCX, the kernel ends the first attachment, and the interface, with a grace
//! period under the RTNL lock. Refuses to touch others' programs on the same interface.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::bpf::{bpf, bpf_filled, describe, number};

const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;

/// Of what the container's end sends; asked for by the host's end.
const BPF_NETKIT_PEER: u32 = 55;
const BPF_F_REPLACE: u32 = 1 << 2;
const BPF_F_BEFORE: u32 = 1 << 3;

/// Programs of one hook, ours and others'; the kernel takes no more.
const PROGRAMS_MAX: usize = 64;

/// The part of the kernel's `bpf_attr` that attaches a program.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    relative_fd: u32,
    expected_revision: u64,
}

/// The part that asks what is attached.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The part that opens a program by its number.
#[repr(C)]
#[derive(Default)]
struct GetById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The beginning of the kernel's `bpf_prog_info`, with what is not asked for as words.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    before: [u64; 8],
    name: [u8; 16],
}

/// Whether it is the host's end of a netkit pair.
pub fn is_primary(ifindex: u32) -> io::Result<bool> {
    Ok(query(ifindex, &mut [])?.is_some())
}

/// Puts the program in the place of an earlier one of its name, or, where there is none, before all others. Whether there was one; `None` if it
/// is not the host's end of a netkit pair.
pub fn put(program: BorrowedFd<'_>, name: &str, ifindex: u32) -> io::Result<Option<bool>> {
    let mut ids = [0; PROGRAMS_MAX];
    let Some(count) = query(ifindex, &mut ids)? else { return Ok(None) };
    let earlier = named(name, ids.get(..count).unwrap_or(&ids))?;
    let mut attach = Attach {
        target_ifindex: ifindex,
        attach_bpf_fd: number(program.as_raw_fd())?,
        attach_type: BPF_NETKIT_PEER,
        attach_flags: BPF_F_BEFORE,
        ..Attach::default()
    };
    if let Some(earlier) = &earlier {
        attach.attach_flags = BPF_F_REPLACE;
        attach.replace_bpf_fd = number(earlier.as_raw_fd())?;
    }
    match bpf(BPF_PROG_ATTACH, &attach) {
        // It is there itself.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(Some(true)),
        done => done.map(|_| Some(earlier.is_some())),
    }
}

/// The program of that name, if it is among these.
fn named(name: &str, ids: &[u32]) -> io::Result<Option<OwnedFd>> {
    for &id in ids {
        let program = match bpf(BPF_PROG_GET_FD_BY_ID, &GetById { id, ..GetById::default() }) {
            // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            // Detached meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        if name_of(&program)?.split(|&byte| byte == 0).next() == Some(name.as_bytes()) {
            return Ok(Some(program));
        }
    }
    Ok(None)
}

fn name_of(program: &OwnedFd) -> io::Result<[u8; 16]> {
    let mut info = ProgramInfo::default();
    describe(program.as_fd(), &mut info)?;
    Ok(info.name)
}

/// The numbers of the programs on the hook; how many there are, or `None` where there is no such hook.
fn query(ifindex: u32, ids: &mut [u32]) -> io::Result<Option<usize>> {
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: BPF_NETKIT_PEER,
        prog_ids: if ids.is_empty() { 0 } else { ids.as_mut_ptr() as u64 },
        count: ids.len() as u32,
        ..Query::default()
    };
    match bpf_filled(BPF_PROG_QUERY, &mut query) {
        Ok(_) => Ok(Some(query.count as usize)),
        Err(error) => match error.raw_os_error() {
            // Another kind of interface, or the other end; or a kernel that does not know the hook.
            Some(libc::ENXIO | libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error),
        },
    }
}
