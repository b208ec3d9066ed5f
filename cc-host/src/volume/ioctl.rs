//! The calls to loop devices, to file systems and to processes that no library wraps. The only file of this room with unsafe code. Refuses
//! to decide which are made.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

const LOOP_CONFIGURE: u64 = 0x4C0A;
const LOOP_GET_STATUS64: u64 = 0x4C05;
const LOOP_SET_CAPACITY: u64 = 0x4C07;
const LOOP_CLR_FD: u64 = 0x4C01;
const LOOP_CTL_GET_FREE: u64 = 0x4C82;
const FIFREEZE: u64 = 0xC004_5877;
const FITHAW: u64 = 0xC004_5878;
const EXT4_IOC_RESIZE_FS: u64 = 0x4008_6610;
const PIDFD_GET_USER_NAMESPACE: u64 = 0xFF09;

/// The kernel lets go of the file when nobody has the device open or mounted any more.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Past the page cache: what is in the file system's own would be in the file's once more.
const LO_FLAGS_DIRECT_IO: u32 = 16;
const NAME_BYTES: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME_BYTES],
    crypt_name: [u8; NAME_BYTES],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}
const _: () = assert!(size_of::<LoopInfo>() == 232);

/// `struct loop_config`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}
const _: () = assert!(size_of::<LoopConfig>() == 304);

impl LoopInfo {
    const NONE: LoopInfo = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; NAME_BYTES],
        crypt_name: [0; NAME_BYTES],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

fn done(result: libc::c_int) -> io::Result<libc::c_int> {
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error()) }
}

/// The number of a loop device that nobody has taken yet; somebody may have by the time that it is asked for.
pub fn free_loop(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: takes no argument, and returns a number.
    done(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) }).map(|number| number.cast_unsigned())
}

/// Makes the device show the file, whole, in one step. `name` is for people.
pub fn configure_loop(device: BorrowedFd<'_>, file: BorrowedFd<'_>, block_bytes: u32, name: &[u8]) -> io::Result<()> {
    let mut info = LoopInfo { flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO, ..LoopInfo::NONE };
    // The last byte stays zero.
    for (to, from) in info.file_name.iter_mut().take(NAME_BYTES - 1).zip(name) {
        *to = *from;
    }
    let fd = file.as_raw_fd().cast_unsigned();
    let config = LoopConfig { fd, block_size: block_bytes, info, reserved: [0; 8] };
    // SAFETY: the kernel reads a loop_config, of the size asserted above, which lives through the call.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) }).map(drop)
}

/// Device and inode of the file that it shows.
pub fn backing_of_loop(device: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let mut info = LoopInfo::NONE;
    // SAFETY: the kernel writes a loop_info64, of the size asserted above, which lives through the call.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) })?;
    Ok((info.device, info.inode))
}

/// Has it look at the size of its file again.
pub fn refresh_loop(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY as _, 0) }).map(drop)
}

/// At once, or when nobody has it open or mounted any more.
pub fn clear_loop(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _, 0) }).map(drop)
}

/// A file system in which nothing is written: until it is dropped, by whichever way that is.
#[derive(Debug)]
pub struct Frozen(OwnedFd);

impl Frozen {
    /// Everything that was written is on the device.
    pub fn freeze(root: OwnedFd) -> io::Result<Self> {
        // SAFETY: its argument is not looked at.
        done(unsafe { libc::ioctl(root.as_raw_fd(), FIFREEZE as _, 0) })?;
        Ok(Frozen(root))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: its argument is not looked at. It fails only if somebody else has thawed it.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), FITHAW as _, 0) };
    }
}

/// For one that may have been frozen by who is gone. Whether it was.
pub fn thaw(root: BorrowedFd<'_>) -> bool {
    // SAFETY: its argument is not looked at.
    unsafe { libc::ioctl(root.as_raw_fd(), FITHAW as _, 0) == 0 }
}

/// Makes a mounted ext4 larger. One that is as large already is no error.
pub fn grow_ext4(root: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads a number of 64 bits, which lives through the call.
    done(unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks) }).map(drop)
}

/// What it starts is asked to end when the thread that starts it has: for a thread that waits for it.
pub fn ends_with_us(command: &mut Command) {
    let us = getpid();
    let ask = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // Gone already, nobody will ask.
        if getppid() == Some(us) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    };
    // SAFETY: between fork and exec it makes two calls of the kernel's, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(ask) };
}

/// The user namespace of exactly that process.
pub fn user_namespace(pidfd: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: takes no argument.
    let fd = done(unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_USER_NAMESPACE as _, 0) })?;
    // SAFETY: the kernel has just made this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
