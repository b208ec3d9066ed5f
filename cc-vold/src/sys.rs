//! The one call that no library wraps, and the only file with unsafe code. Refuses to decide when it is made.

/// Of linux/prctl.h; libc has it for Android alone.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// The kernel lets us have memory without writing to a disk for it first: that disk may be ours, and wait for us. For this thread and those that it
/// starts.
pub fn become_io_flusher() -> std::io::Result<()> {
    // SAFETY: takes numbers and changes flags of the calling thread.
    #[expect(unsafe_code, reason = "no library has it")]
    let done = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1_u64, 0_u64, 0_u64, 0_u64) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
