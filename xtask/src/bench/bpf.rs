//! Four calls of bpf(2): open what is pinned, open a program by its number, load a program of a few instructions, run a program on a packet. Refuses to be a
//! library: the daemon has one.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const LICENSE: &std::ffi::CStr = c"GPL";

/// `BPF_PROG_TYPE_…`
pub const SCHED_CLS: u32 = 3;
pub const XDP: u32 = 6;
/// Frames that the program sends really leave.
pub const LIVE_FRAMES: u32 = 2;

/// `struct bpf_insn`; the registers are two numbers of four bits.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Instruction {
    pub code: u8,
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

#[repr(C)]
#[derive(Default)]
struct Get {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    returned: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    ctx_in_bytes: u32,
    ctx_out_bytes: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    pad: u32,
}

/// What a program said of a packet, and how long one run took, as the kernel measured it.
pub struct Ran {
    pub returned: u32,
    pub duration_ns: u32,
}

pub fn pinned(path: &Path) -> Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes()).context("a path with a zero byte")?;
    let mut get = Get { path: name.as_ptr() as u64, ..Get::default() };
    fd(OBJ_GET, &mut get).with_context(|| format!("cannot open {}", path.display()))
}

/// As the kernel charges it.
pub fn memory_bytes(map: &Path) -> Result<u64> {
    info(&pinned(map)?, "memlock:")
}

/// How many instructions of a loaded program the verifier looked at, each as often as it came by.
pub fn verified_instructions(program: u32) -> Result<u64> {
    let mut by_id = ById { id: program, ..ById::default() };
    let fd = fd(PROG_GET_FD_BY_ID, &mut by_id).with_context(|| format!("cannot open program {program}"))?;
    info(&fd, "verified_insns:")
}

fn info(fd: &OwnedFd, key: &str) -> Result<u64> {
    let text =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).context("cannot read fdinfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).context("the kernel does not say it")?;
    line.trim().parse().with_context(|| format!("{line:?} is no number"))
}

pub fn load(kind: u32, instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut load = Load {
        kind,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        ..Load::default()
    };
    fd(PROG_LOAD, &mut load).context("cannot load a program")
}

/// One packet; of `ctx`, the context's first bytes, the program type decides the meaning.
pub fn run(program: &OwnedFd, packet: &[u8], ctx: &[u8], repeat: u32, flags: u32) -> Result<Ran> {
    let mut run = TestRun {
        program: program.as_raw_fd() as u32,
        data_in_bytes: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        ctx_in_bytes: ctx.len() as u32,
        ctx_in: if ctx.is_empty() { 0 } else { ctx.as_ptr() as u64 },
        repeat,
        flags,
        ..TestRun::default()
    };
    call(PROG_TEST_RUN, &mut run).context("cannot run a program on a packet")?;
    Ok(Ran { returned: run.returned, duration_ns: run.duration_ns })
}

fn fd<T>(command: libc::c_long, attributes: &mut T) -> Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: these commands return a new file descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<T>(command: libc::c_long, attributes: &mut T) -> Result<i32> {
    // SAFETY: each caller's struct is the command's part of `union bpf_attr`, plain numbers without hidden padding, and what it points to
    // lives in the caller past this call, as long as is said beside it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        bail!(std::io::Error::last_os_error());
    }
    Ok(result as i32)
}
