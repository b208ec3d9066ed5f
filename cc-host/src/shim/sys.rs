//! System calls that no safe crate wraps yet. The only file of the shim with unsafe code. Refuses policy.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::filter::Instruction;

/// libc's constant is an int, which this value does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub struct Cloned {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Both sides of a fork.
pub enum Side {
    Parent(Cloned),
    Child,
}

/// `clone3` as a fork: new namespaces, born in `cgroup` if there is one, with a pidfd.
///
/// # Safety
/// The calling process has one thread: the child gets a copy of that thread alone, and of every lock as it is held now.
pub unsafe fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args: every field is an integer.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the arguments are a fork's, and the caller has one thread.
    unsafe { fork_as(&args, &raw const pidfd) }
}

/// `clone3` as a fork whose child is this process's sibling: a child of its parent, which reaps it.
///
/// # Safety
/// As of `clone3`.
pub unsafe fn clone3_sibling() -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args: every field is an integer.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    // The signal that its parent gets is the one that the parent gets of us: another is refused.
    args.flags = libc::CLONE_PIDFD as u64 | libc::CLONE_PARENT as u64;
    args.pidfd = &raw mut pidfd as u64;
    // SAFETY: the arguments are a fork's, and the caller has one thread.
    unsafe { fork_as(&args, &raw const pidfd) }
}

/// # Safety
/// `args` are those of a fork, with `pidfd` for the descriptor, and the calling process has one thread.
unsafe fn fork_as(args: &libc::clone_args, pidfd: *const RawFd) -> io::Result<Side> {
    // SAFETY: `args` has the size passed and lives through the call; without CLONE_VM and a stack the child continues here
    // on its own copy of memory, which the caller's single thread makes consistent.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const *args, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Side::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel has just stored a descriptor there that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(*pidfd) };
            Ok(Side::Parent(Cloned { pid: pid as i32, pidfd }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Both sides of a plain fork.
pub enum Forked {
    /// With the child's pid.
    Parent(i32),
    Child,
}

/// A copy of this process, in the same namespaces and cgroup.
///
/// # Safety
/// As of `clone3`: the calling process has one thread.
pub unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: the caller's single thread makes the child's copy of memory consistent.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid if pid > 0 => Ok(Forked::Parent(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the process at once: no destructors, no exit handlers of a library the parent set up.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Sets attributes of a detached mount; with a user namespace, maps the owners of its files into it.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    userns: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    change_mount(mount, Attributes { set, ..Attributes::default() }, userns, recursive)
}

/// What `mount_setattr` changes: `MOUNT_ATTR_*` twice, and one of the flags of propagation or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
}

/// The same with all that the kernel can change.
pub fn change_mount(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    userns: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    // SAFETY: all-zero is a valid mount_attr: every field is an integer.
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = attributes.set;
    attr.attr_clr = attributes.clear;
    attr.propagation = attributes.propagation;
    if let Some(userns) = userns {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = userns.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant, `attr` has the size passed and lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Any signal number, real-time ones included.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: takes integers and an optional pointer, which is null.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Filters the system calls of this thread and of what it will run, for good. The kernel checks the program, and that no new privileges
/// can come.
pub fn install_filter(flags: u32, program: &[Instruction]) -> io::Result<()> {
    let instruction = |&Instruction { code, jt, jf, k }: &Instruction| libc::sock_filter { code, jt, jf, k };
    let mut program: Vec<libc::sock_filter> = program.iter().map(instruction).collect();
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let handed = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads `handed` and `len` instructions behind its pointer, which both live through the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const handed) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// But those that tell of a fault of this process's own.
pub fn block_all_signals() -> io::Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
    let mut mask = SigSet::all();
    let faults = [Signal::SIGFPE, Signal::SIGILL, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGABRT, Signal::SIGTRAP];
    faults.into_iter().chain([Signal::SIGSYS]).for_each(|signal| mask.remove(signal));
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?)
}

/// The next one of those that are blocked, real-time ones included.
pub fn wait_for_signal() -> i32 {
    loop {
        // SAFETY: all-zero is a valid sigset_t, and sigfillset fills it.
        let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set lives through both calls, and nothing is asked about the signal but its number.
        let signal = unsafe {
            libc::sigfillset(&raw mut all);
            libc::sigwaitinfo(&raw const all, std::ptr::null_mut())
        };
        if signal > 0 {
            return signal;
        }
    }
}

/// Ends this process at one of the signals that ask for it, which the kernel keeps from a first process that has no handler.
#[cfg(feature = "oci")]
pub fn end_on_request() -> io::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    extern "C" fn end(number: libc::c_int) {
        exit_now(128 + number);
    }
    for one in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        // SAFETY: the handler makes one system call, which is async-signal-safe and does not return.
        unsafe { signal(one, SigHandler::Handler(end)) }?;
    }
    Ok(())
}

/// Any signal number. Whoever has gone gets none.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: takes integers.
    let _ = unsafe { libc::kill(pid, signal) };
}

/// Writes `name` over the arguments that this process was started with, as far as there is room: they are what `ps` shows, and name
/// directories of the host's. Nothing is changed where the kernel does not say where they are.
pub fn show_as(name: &[u8]) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Counted from the state, which is the third field: the 48th and the 49th.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().skip(45);
    let mut address = || fields.next().and_then(|field| field.parse::<usize>().ok());
    let (Some(start), Some(end)) = (address(), address()) else { return };
    if start == 0 || end <= start {
        return;
    }
    for index in 0..end - start {
        let byte = if index + 1 < end - start { name.get(index).copied().unwrap_or(0) } else { 0 };
        // SAFETY: the kernel says that these are the bytes of the arguments, on this process's own stack, which can be written; no
        // reference to them is held: std reads them through raw pointers, and nobody asks it for them any more.
        unsafe { std::ptr::write_volatile(std::ptr::with_exposed_provenance_mut::<u8>(start + index), byte) };
    }
}

/// Makes every descriptor from `first` on close itself when a program is executed.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

/// Of what is open here, the command has its standard streams alone.
#[cfg(feature = "oci")]
pub fn with_standard_streams_only(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: one system call between fork and exec, which takes integers and closes nothing before the exec.
    unsafe { command.pre_exec(|| close_on_exec_from(3)) };
}

/// Closes every descriptor from `first` on.
///
/// # Safety
/// No owner of such a descriptor is used or dropped afterwards.
pub unsafe fn close_from(first: u32) -> io::Result<()> {
    close_range(first, 0)
}

fn close_range(first: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes integers; what closing means for owners is the callers' contract.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor from `first` on but these.
///
/// # Safety
/// As of `close_from`, but for what owns one of `kept`.
#[cfg(feature = "oci")]
pub unsafe fn close_all_but(first: RawFd, kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().copied().filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut next = first;
    for fd in kept.into_iter().map(Some).chain([None]) {
        let last = fd.map_or(u32::MAX, |fd| (fd as u32).wrapping_sub(1));
        if fd.is_none_or(|fd| fd > next) {
            // SAFETY: takes integers; what closing means for owners is the caller's contract.
            if unsafe { libc::syscall(libc::SYS_close_range, next as u32, last, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        next = fd.map_or(next, |fd| fd + 1);
    }
    Ok(())
}

/// Duplicates `from` onto the number `to`, which the caller knows to be one of the standard three.
pub fn dup_to_standard(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    assert!((0..=2).contains(&to), "only the standard descriptors have no owner");
    // SAFETY: replaces a standard descriptor, which no OwnedFd of this program owns.
    let result = unsafe { libc::dup2(from.as_raw_fd(), to) };
    if result == to { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings the loopback interface of this network namespace up.
pub fn loopback_up() -> io::Result<()> {
    use std::os::fd::AsFd;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all-zero is a valid ifreq: integers, and a union of integers and addresses.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this process has a descriptor of that number.
#[cfg(feature = "oci")]
pub fn is_open(descriptor: RawFd) -> bool {
    // SAFETY: takes integers, and changes nothing.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) != -1 }
}

/// A session keyring of that name for this process and what it starts, instead of the one that it was started with.
pub fn join_session_keyring(name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: the kernel reads a NUL-terminated name, which lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What `sched_setattr` sets, as the kernel's header has it.
#[cfg(feature = "oci")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime_ns: u64,
    pub deadline_ns: u64,
    pub period_ns: u64,
}

#[cfg(feature = "oci")]
pub fn set_scheduling(pid: i32, wanted: Scheduling) -> io::Result<()> {
    // SAFETY: all-zero is a valid sched_attr: every field is an integer.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<libc::sched_attr>() as u32;
    attr.sched_policy = wanted.policy;
    attr.sched_flags = wanted.flags;
    attr.sched_nice = wanted.nice;
    attr.sched_priority = wanted.priority;
    attr.sched_runtime = wanted.runtime_ns;
    attr.sched_deadline = wanted.deadline_ns;
    attr.sched_period = wanted.period_ns;
    // SAFETY: the kernel reads a sched_attr of the size that it names, which lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attr, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `class` and `priority` as the kernel's header has them.
#[cfg(feature = "oci")]
pub fn set_io_priority(pid: i32, class: u32, priority: u32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    // SAFETY: takes integers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, pid, class << CLASS_SHIFT | priority) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Of this process and what it executes.
#[cfg(feature = "oci")]
pub fn set_personality(persona: u64) -> io::Result<()> {
    // SAFETY: takes an integer.
    if unsafe { libc::personality(persona) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(feature = "daemon")]
/// The wait status of a process that has been reaped by its parent (Linux 6.15 on).
pub fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: all-zero is a valid pidfd_info: every field is an integer.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: PIDFD_GET_INFO fills a pidfd_info of the size its number encodes.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0).then_some(info.exit_code)
}
