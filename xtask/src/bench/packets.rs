//! Datagrams in batches: one call to the kernel for many, so that the tool is not what is measured. Refuses to hold more
//! than the two batched calls.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::traffic::UDP_PAYLOAD_BYTES;

const BATCH: usize = 64;
/// Room for what arrives while the receiver is off its CPU.
const RECEIVE_BUFFER_BYTES: libc::c_int = 64 << 20;

/// Buffers and the headers that point into them; the headers live no longer than the buffers.
struct Batch {
    _payloads: Box<[[u8; UDP_PAYLOAD_BYTES]; BATCH]>,
    _vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl Batch {
    fn new() -> Self {
        let mut payloads = Box::new([[0x5a; UDP_PAYLOAD_BYTES]; BATCH]);
        let mut vectors: Box<[libc::iovec]> = payloads
            .iter_mut()
            .map(|payload| libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: UDP_PAYLOAD_BYTES })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: both are plain C structs of integers and pointers, for which all zeroes is a valid value.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Batch { _payloads: payloads, _vectors: vectors, headers }
    }
}

/// Sends until the time is over; refusals for want of room are part of the game and tried again.
pub fn send(to: SocketAddr, length: Duration) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("cannot make a UDP socket")?;
    socket.connect(to).with_context(|| format!("cannot connect a UDP socket to {to}"))?;
    let mut batch = Batch::new();
    let began = Instant::now();
    while began.elapsed() < length {
        // SAFETY: `headers` holds BATCH headers that point at vectors and payloads owned by `batch`, which lives past the
        // call; the sockets are open.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), batch.headers.as_mut_ptr(), BATCH as u32, 0) };
        if sent < 0 {
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR) => {}
                _ => bail!("cannot send to {to}: {error}"),
            }
        }
    }
    Ok(())
}

/// Counts datagrams until the client says on its connection that it has sent all; per second, first to last.
pub fn count(socket: &UdpSocket, client: &mut TcpStream) -> Result<f64> {
    enlarge(socket)?;
    let mut batch = Batch::new();
    while receive(socket, &mut batch)? > 0 {}
    client.write_all(&[1]).context("cannot say that the count begins")?;
    client.set_nonblocking(true).context("cannot poll the client")?;
    let (mut packets, mut first, mut last) = (0u64, None, Instant::now());
    loop {
        let received = receive(socket, &mut batch)?;
        if received > 0 {
            last = Instant::now();
            first.get_or_insert(last);
            packets += received as u64;
        } else if has_ended(client) {
            break;
        } else {
            std::hint::spin_loop();
        }
    }
    client.set_nonblocking(false).context("cannot wait for the client again")?;
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    Ok(if seconds > 0.0 { packets as f64 / seconds } else { 0.0 })
}

fn has_ended(client: &TcpStream) -> bool {
    !matches!(client.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

fn receive(socket: &UdpSocket, batch: &mut Batch) -> Result<usize> {
    // SAFETY: as in `send`; each payload has UDP_PAYLOAD_BYTES bytes, which is what its vector says.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            batch.headers.as_mut_ptr(),
            BATCH as u32,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    if received >= 0 {
        return Ok(received as usize);
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(0),
        _ => bail!("cannot receive: {error}"),
    }
}

fn enlarge(socket: &UdpSocket) -> Result<()> {
    let size = RECEIVE_BUFFER_BYTES;
    // SAFETY: `size` is an int that lives past the call, and its size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            size_of_val(&size) as u32,
        )
    };
    if done < 0 { Err(std::io::Error::last_os_error()).context("cannot enlarge a socket's buffer") } else { Ok(()) }
}
