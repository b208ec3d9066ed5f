//! A pair's host end after its other end came up. The kernel notices that on a worker of its own, and until that has run everything that
//! is sent from this end is lost: on a busy machine, the first answers that a container waits for. Refuses to bring anything up.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::link::LinkError;

/// `ETHTOOL_GLINK`: whether there is a carrier. Before it answers, the kernel does what it has put off for this interface.
const GET_LINK: u32 = 0x0a;
const SIOCETHTOOL: nix::libc::c_ulong = 0x8946;

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// What is sent from the interface from now on arrives. Call it when both ends are up, in the interface's namespace. Whether it has a
/// carrier.
pub fn settle(name: &str) -> Result<bool, LinkError> {
    let failed = |source: io::Error| LinkError::Settle { name: name.to_owned(), source };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let socket = socket.map_err(|errno| failed(errno.into()))?;
    let mut value = Value { command: GET_LINK, data: 0 };
    // SAFETY: plain numbers and a pointer, for which zeros are a value.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if name.len() >= request.ifr_name.len() {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and the value that it points to live past the call, and are what this command takes.
    match unsafe { nix::libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } {
        0 => Ok(value.data != 0),
        _ => Err(failed(io::Error::last_os_error())),
    }
}
