//! Raw frames for hostile traffic: made by hand, sent and heard on packet sockets inside a container's network namespace.
//! Refuses to be a protocol stack.

use std::io::{Error, Result};
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::world::on_netkit;

pub const BROADCAST: [u8; 6] = [0xff; 6];
const ETH_P_ALL: u16 = 0x0003;

pub fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src[..], &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with a right header checksum.
pub fn ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a test packet is small").to_be_bytes();
    let mut header = [0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0].to_vec();
    header.extend(src);
    header.extend(dst);
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [header, payload.to_vec()].concat()
}

/// A UDP datagram without a checksum, which IPv4 allows.
pub fn udp(src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a test packet is small");
    [&src_port.to_be_bytes()[..], &dst_port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// An IPv6 packet, `next` being the type of what `payload` begins with.
pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a test packet is small").to_be_bytes();
    [&[0x60, 0, 0, 0, length[0], length[1], next, hop_limit], &src.octets()[..], &dst.octets(), payload].concat()
}

/// With its checksum, which covers the addresses.
pub fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], rest].concat();
    let length = u32::try_from(message.len()).expect("a test packet is small").to_be_bytes();
    let pseudo = [&src.octets()[..], &dst.octets(), &length, &[0, 0, 0, 58], &message].concat();
    let sum = checksum(&pseudo).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// A UDP datagram with its checksum, which covers the addresses and which IPv6 wants.
pub fn udp6(src: Ipv6Addr, dst: Ipv6Addr, src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = udp(src_port, dst_port, payload);
    let length = u32::try_from(datagram.len()).expect("a test packet is small").to_be_bytes();
    let pseudo = [&src.octets()[..], &dst.octets(), &length, &[0, 0, 0, 17], &datagram].concat();
    let sum = checksum(&pseudo).to_be_bytes();
    datagram[6..8].copy_from_slice(&sum);
    datagram
}

/// A packet in pieces of `each` bytes, a multiple of eight, from the first to the last.
pub fn ipv4_fragments(src: [u8; 4], dst: [u8; 4], protocol: u8, id: u16, payload: &[u8], each: usize) -> Vec<Vec<u8>> {
    let pieces = payload.chunks(each).enumerate().map(|(number, piece)| {
        let more = u16::from((number + 1) * each < payload.len()) << 13;
        let place = u16::try_from(number * each / 8).expect("within a packet") | more;
        let mut packet = ipv4(src, dst, protocol, piece);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet
    });
    pieces.collect()
}

/// As `ipv4_fragments`.
pub fn ipv6_fragments(src: Ipv6Addr, dst: Ipv6Addr, next: u8, id: u16, payload: &[u8], each: usize) -> Vec<Vec<u8>> {
    const FRAGMENT: u8 = 44;
    let pieces = payload.chunks(each).enumerate().map(|(number, piece)| {
        let more = u16::from((number + 1) * each < payload.len());
        let [a, b] = (u16::try_from(number * each).expect("within a packet") | more).to_be_bytes();
        let [c, d] = id.to_be_bytes();
        ipv6(src, dst, FRAGMENT, 64, &[&[next, 0, a, b, 0, 0, c, d], piece].concat())
    });
    pieces.collect()
}

pub fn arp_request(sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 1][..], &sender_mac, &sender, &[0; 6], &target].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}

/// A packet socket on one interface of the calling thread's network namespace.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    pub fn open(interface: &str) -> Result<Self> {
        let protocol = i32::from(ETH_P_ALL.to_be());
        // SAFETY: socket takes three integers and returns a descriptor that nobody else has yet.
        let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if raw < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by socket and is owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let name = std::ffi::CString::new(interface).map_err(|_| Error::other("a NUL in a name"))?;
        // SAFETY: `name` is a NUL-terminated string that lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: all-zero bytes are a valid sockaddr_ll, which holds only integers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("a small constant");
        address.sll_protocol = ETH_P_ALL.to_be();
        address.sll_ifindex = index.cast_signed();
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).expect("a small constant");
        // SAFETY: the pointer and the length describe `address`, which lives through the call.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 { Err(Error::last_os_error()) } else { Ok(Wire { socket }) }
    }

    /// Whether or not it was dropped on its way: a netkit pair says so at once.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        match nix::sys::socket::send(self.socket.as_raw_fd(), frame, nix::sys::socket::MsgFlags::empty()) {
            Err(nix::errno::Errno::ENOBUFS) if on_netkit() => Ok(()),
            sent => Ok(sent.map(drop)?),
        }
    }

    /// All frames that arrive until `until`.
    pub fn hear(&self, until: Instant) -> Result<Vec<Vec<u8>>> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut frames = Vec::new();
        let mut buffer = vec![0; 65_536];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(frames);
            }
            let wait = PollTimeout::try_from(left.min(Duration::from_secs(60))).unwrap_or(PollTimeout::MAX);
            if poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait)? == 0 {
                return Ok(frames);
            }
            let n =
                nix::sys::socket::recv(self.socket.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::MSG_DONTWAIT)?;
            frames.push(buffer[..n].to_vec());
        }
    }
}
