//! The program of a netkit pair: it runs as the container's end sends, before any queue, with system calls of its own since aya has none for it.
//! As a filter does, it hangs on the interface and goes with it. As with TCX, the kernel ends the first attachment, and the interface, with a grace
//! period under the RTNL lock. Refuses to touch others' programs on the same interface.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::bpf::{bpf, named_programs, number};

const BPF_PROG_ATTACH: libc::c_int = 8;

/// Of what the container's end sends; asked for by the host's end.
const BPF_NETKIT_PEER: u32 = 55;
const BPF_F_REPLACE: u32 = 1 << 2;
const BPF_F_BEFORE: u32 = 1 << 3;

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

/// Whether it is the host's end of a netkit pair.
pub fn is_primary(ifindex: u32) -> io::Result<bool> {
    where_there_is_one(named_programs(ifindex, BPF_NETKIT_PEER, b"")).map(|found| found.is_some())
}

/// Puts the program in the place of an earlier one of its name, or, where there is none, before all others. Whether there was one; `None` if it
/// is not the host's end of a netkit pair.
pub fn put(program: BorrowedFd<'_>, name: &str, ifindex: u32) -> io::Result<Option<bool>> {
    let earlier = where_there_is_one(named_programs(ifindex, BPF_NETKIT_PEER, name.as_bytes()))?;
    let Some(earlier) = earlier else { return Ok(None) };
    let mut attach = Attach {
        target_ifindex: ifindex,
        attach_bpf_fd: number(program.as_raw_fd())?,
        attach_type: BPF_NETKIT_PEER,
        attach_flags: BPF_F_BEFORE,
        ..Attach::default()
    };
    if let Some(earlier) = earlier.first() {
        attach.attach_flags = BPF_F_REPLACE;
        attach.replace_bpf_fd = number(earlier.as_raw_fd())?;
    }
    match bpf(BPF_PROG_ATTACH, &attach) {
        // It is there itself.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(Some(true)),
        done => done.map(|_| Some(!earlier.is_empty())),
    }
}

/// `None` for another kind of interface, or the other end; or a kernel that does not know the hook.
fn where_there_is_one<T>(asked: io::Result<T>) -> io::Result<Option<T>> {
    match asked {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENXIO | libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error),
        },
    }
}
