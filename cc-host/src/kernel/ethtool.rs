//! What an interface says of itself by ethtool's oldest way: one number per question. Refuses to change anything.

use std::io;
use std::os::fd::AsRawFd;

use super::ifreq;

const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// What is asked, by its number in `linux/ethtool.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Question {
    /// Whether there is a carrier. Before it answers, the kernel does what it has put off for this interface.
    Link = 0x0a,
    /// Whether it verifies checksums of what it receives.
    ReceiveChecksums = 0x14,
    /// Whether it computes them for what it sends.
    SendChecksums = 0x16,
    /// `ETH_FLAG_…`
    Flags = 0x25,
}

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Of an interface in the calling thread's network namespace. `EOPNOTSUPP` if it does not know.
pub fn ask(name: &str, question: Question) -> io::Result<u32> {
    let mut value = Value { command: question as u32, data: 0 };
    let mut request = ifreq::of(name).ok_or(io::ErrorKind::InvalidInput)?;
    let socket = ifreq::any_socket()?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and the value that it points to live past the call, and are what these commands take.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } {
        0 => Ok(value.data),
        _ => Err(io::Error::last_os_error()),
    }
}
