//! bpf(2), and its instructions, for what aya does not do or where aya is not. Refuses to know a command but those of a program itself (it
//! is loaded, found on a hook, opened and described): each room has its own, with the parts of the kernel's `bpf_attr` that belong to it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::sys::signal::SigSet;

/// Runs a command, whose `attr` is only read.
pub fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a struct of `datapath::replace`, `datapath::xdp_link`, `datapath::netkit`, `devices`, of `kernel::departure` or of this
    // file, whose layout is the kernel's for its command; it and what it points at live through the call, and the size that is passed is its own.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    libc::c_int::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(io::Error::last_os_error)
}

/// The same, where the kernel writes its answer into the struct.
pub fn bpf_filled<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: as of `bpf`; nobody else refers to what the kernel writes to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    libc::c_int::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(io::Error::last_os_error)
}

/// An instruction as the kernel takes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    /// Destination in the lower half, source in the upper.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

pub const fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

const PROG_LOAD: libc::c_int = 5;

/// Loads with signals blocked for this thread: the verifier gives up, with EAGAIN, as soon as one waits for whoever asked it, if it is only a
/// child's that has ended. Signals to the process go to its other threads meanwhile, or wait.
pub fn undisturbed<T>(load: impl FnOnce() -> T) -> T {
    /// Put back as it was also by a panic.
    struct Mask(SigSet);
    impl Drop for Mask {
        fn drop(&mut self) {
            if let Err(error) = self.0.thread_set_mask() {
                debug_assert!(false, "a mask that was in force is refused: {error}");
            }
        }
    }
    // A set of valid signals cannot be refused; and if it were, loading would only be as it is without.
    let _mask = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).map(Mask);
    load()
}

/// Of a kind that needs no more than this to be said. The kernel keeps 15 bytes of the name.
pub fn load_program(
    kind: u32,
    expected_attach_type: u32,
    name: &[u8; 16],
    program: &[Instruction],
) -> io::Result<OwnedFd> {
    let load = Load {
        prog_type: kind,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        prog_name: *name,
        expected_attach_type,
        ..Load::default()
    };
    let fd = undisturbed(|| bpf(PROG_LOAD, &load))?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A part of the kernel's `bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;

/// Programs of one hook that are looked at: the kernel has no more of an interface, and a cgroup few.
const PROGRAMS_MAX: usize = 64;

/// Those on a hook of an interface or of an open cgroup that have this name, with or without zeros behind.
pub fn named_programs(target: u32, attach_type: u32, name: &[u8]) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut query = Query {
        target,
        attach_type,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_cnt: PROGRAMS_MAX as u32,
        ..Query::default()
    };
    bpf_filled(PROG_QUERY, &mut query)?;
    let count = (query.prog_cnt as usize).min(PROGRAMS_MAX);
    let word = |name: &[u8]| name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let mut named = Vec::new();
    for &id in &ids[..count] {
        match program_of(id) {
            Ok(program) => {
                let found = program_name(program.as_fd())?;
                if found[..word(&found)] == name[..word(name)] {
                    named.push(program);
                }
            }
            // It goes at this very moment.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(named)
}

fn program_of(id: u32) -> io::Result<OwnedFd> {
    let fd = bpf(PROG_GET_FD_BY_ID, &ById { id, ..ById::default() })?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// As the kernel has kept it, with zeros behind.
pub fn program_name(program: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    let mut info = ProgramInfo::default();
    describe(program, &mut info)?;
    Ok(info.name)
}

/// The part that asks what is on a hook.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The part that opens a program by its number.
#[repr(C)]
#[derive(Default)]
struct ById {
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

/// The part of the kernel's `bpf_attr` that asks for an object's description.
#[repr(C)]
struct Describe {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Fills in the beginning of the kernel's description of an object; `T` is its layout, of integers alone.
pub fn describe<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let ask = Describe {
        bpf_fd: number(object.as_raw_fd())?,
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(info).expose_provenance() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &ask).map(drop)
}

pub fn number(fd: libc::c_int) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
}
