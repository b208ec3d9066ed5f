//! Addresses and headers as they lie on the wire. Every type here has alignment 1 and no padding, and keeps network byte
//! order in its own bytes. Refuses to judge them.

/// A 16-bit number in network byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Be16(pub [u8; 2]);

/// A 32-bit number in network byte order: an IPv4 address, or a VNI that leads a key.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub struct Be32(pub [u8; 4]);

/// An Ethernet address.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

/// The address that the datapath answers ARP with, for the gateway and for every neighbour: a container hands each frame to
/// us, and we choose the way. Locally administered, the same on every host.
pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0xcc, 0x00, 0x00, 0x00, 0x01]);

impl Be16 {
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Be16(host.to_be_bytes())
    }
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl Be32 {
    #[inline(always)]
    pub const fn new(host: u32) -> Self {
        Be32(host.to_be_bytes())
    }
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be_bytes(self.0)
    }
    #[inline(always)]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 0xf0 == 0xe0
    }
    #[inline(always)]
    pub fn is_broadcast(self) -> bool {
        self.get() == u32::MAX
    }
    #[inline(always)]
    pub fn is_unspecified(self) -> bool {
        self.get() == 0
    }
}

// Compared as one integer: the kernel's compiler has no memcmp to call for a derived comparison.
impl PartialEq for Be32 {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        u32::from_ne_bytes(self.0) == u32::from_ne_bytes(other.0)
    }
}
impl Eq for Be32 {}

impl MacAddr {
    #[inline(always)]
    const fn halves(self) -> (u32, u16) {
        let [a, b, c, d, e, f] = self.0;
        (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]))
    }
    #[inline(always)]
    pub const fn is_broadcast(self) -> bool {
        let (high, low) = self.halves();
        high == u32::MAX && low == u16::MAX
    }
    /// Broadcast is a multicast address too.
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl PartialEq for MacAddr {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.halves() == other.halves()
    }
}
impl Eq for MacAddr {}

/// The header of an Ethernet frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Ethernet {
    pub destination: MacAddr,
    pub source: MacAddr,
    pub ethertype: Be16,
}

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
pub const ETHERTYPE_VLAN: u16 = 0x8100;
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// ARP for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ArpPacket {
    pub hardware_type: Be16,
    pub protocol_type: Be16,
    pub hardware_len: u8,
    pub protocol_len: u8,
    pub operation: Be16,
    pub sender_mac: MacAddr,
    pub sender_ipv4: Be32,
    pub target_mac: MacAddr,
    pub target_ipv4: Be32,
}

/// The fixed part of an IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version and header length in 32-bit words, four bits each.
    pub version_ihl: u8,
    pub tos: u8,
    pub total_len: Be16,
    pub id: Be16,
    /// Three bits of flags, thirteen of offset.
    pub fragment: Be16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: Be16,
    pub source: Be32,
    pub destination: Be32,
}

const _: () = assert!(size_of::<Ethernet>() == 14 && align_of::<Ethernet>() == 1);
const _: () = assert!(size_of::<ArpPacket>() == 28 && align_of::<ArpPacket>() == 1);
const _: () = assert!(size_of::<Ipv4Header>() == 20 && align_of::<Ipv4Header>() == 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_addresses() {
        assert!(MacAddr([0xff; 6]).is_broadcast() && MacAddr([0xff; 6]).is_multicast());
        assert!(MacAddr([0x01, 0, 0x5e, 0, 0, 1]).is_multicast() && !MacAddr([0x01, 0, 0x5e, 0, 0, 1]).is_broadcast());
        assert!(!GATEWAY_MAC.is_multicast() && GATEWAY_MAC.0[0] & 2 == 2, "unicast and locally administered");
        assert!(Be32([239, 1, 2, 3]).is_multicast() && !Be32([240, 0, 0, 1]).is_multicast());
    }

    #[test]
    fn byte_order_lives_in_the_type() {
        assert_eq!(Be32::new(0x0a00_0001).0, [10, 0, 0, 1]);
        assert_eq!(Be16([0x08, 0x06]).get(), ETHERTYPE_ARP);
    }
}
