//! Addresses and headers as they lie on the wire. Every type here has alignment 1 and no padding, and keeps network byte
//! order in its own bytes. Refuses to judge them.

/// A 16-bit number in network byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Be16(pub [u8; 2]);

/// A 32-bit number in network byte order: an IPv4 address, or a VNI that leads a key.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub struct Be32(pub [u8; 4]);

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`: one form for both, so that every table and decision serves both.
/// Aligned, so that the kernel's compiler reads it in words.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(4))]
pub struct Ip {
    pub octets: [u8; 16],
}

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

impl Ip {
    pub const UNSPECIFIED: Ip = Ip { octets: [0; 16] };
    pub const LOOPBACK_V6: Ip = Ip { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };

    #[inline(always)]
    pub const fn v4(address: Be32) -> Self {
        let [a, b, c, d] = address.0;
        Ip { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }
    /// Four words in the machine's order of bytes: for comparing, not for reading.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        let o = &self.octets;
        [
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ]
    }
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.words();
        a == 0 && b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }
    /// The last four bytes: an IPv4 address, if it is one.
    #[inline(always)]
    pub const fn last(&self) -> Be32 {
        let o = &self.octets;
        Be32([o[12], o[13], o[14], o[15]])
    }
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.words();
        a | b | c | d == 0
    }
    /// IPv6 only: fe80::/10.
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        self.octets[0] == 0xfe && self.octets[1] & 0xc0 == 0x80
    }
    /// IPv6 only: ff00::/8.
    #[inline(always)]
    pub const fn is_multicast_v6(&self) -> bool {
        self.octets[0] == 0xff
    }
}

// Compared as words, as `Be32` is; the last one differs most often.
impl PartialEq for Ip {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.words(), other.words());
        d == h && a == e && b == f && c == g
    }
}
impl Eq for Ip {}
impl core::hash::Hash for Ip {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.octets.hash(state);
    }
}

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

/// The fixed part of an IPv6 header.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Ipv6Header {
    /// Four bits of version, eight of traffic class, twenty of flow label.
    pub version_class_label: Be32,
    pub payload_len: Be16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

pub const PROTOCOL_ICMP: u8 = 1;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;
pub const PROTOCOL_ICMPV6: u8 = 58;

const _: () = assert!(size_of::<Ip>() == 16 && align_of::<Ip>() == 4);
const _: () = assert!(size_of::<Ipv6Header>() == 40 && align_of::<Ipv6Header>() == 1);
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
    fn one_form_for_both_families() {
        let v4 = Ip::v4(Be32([10, 0, 0, 2]));
        assert!(v4.is_v4() && v4.last() == Be32([10, 0, 0, 2]) && !v4.is_unspecified());
        let link_local = Ip { octets: [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };
        assert!(link_local.is_link_local() && !link_local.is_v4() && link_local != v4 && link_local == { link_local });
        assert!(Ip::UNSPECIFIED.is_unspecified() && !Ip::UNSPECIFIED.is_v4());
    }

    #[test]
    fn byte_order_lives_in_the_type() {
        assert_eq!(Be32::new(0x0a00_0001).0, [10, 0, 0, 1]);
        assert_eq!(Be16([0x08, 0x06]).get(), ETHERTYPE_ARP);
    }
}
