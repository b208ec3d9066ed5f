//! What is counted: packets and bytes per endpoint and per container's cgroup, and drops by direction and reason. All of it
//! per CPU. Refuses to add CPUs up: whoever reads does.

/// Value of `CC_COUNTERS` and `CC_SOCKETS`, as the endpoint sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counters {
    pub received_packets: u64,
    pub received_bytes: u64,
    pub sent_packets: u64,
    pub sent_bytes: u64,
}
const _: () = assert!(size_of::<Counters>() == 32 && align_of::<Counters>() == 8);

/// Key of `CC_SOCKETS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct SocketKey {
    /// The id of the container's cgroup on the v2 tree: its directory's inode number.
    pub cgroup: u64,
}

/// Key of `CC_DROPS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DropKey {
    pub endpoint: u32,
    /// A `Direction`.
    pub direction: u16,
    /// A `DropReason`.
    pub reason: u16,
}
const _: () = assert!(size_of::<DropKey>() == 8);

/// Value of `CC_DROPS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DropCount {
    pub packets: u64,
    pub bytes: u64,
}
const _: () = assert!(size_of::<DropCount>() == 16);

/// Packets that will be on the wire for one buffer: a large one is cut into segments later.
#[inline(always)]
pub fn packets(gso_segments: u32) -> u64 {
    if gso_segments == 0 { 1 } else { gso_segments as u64 }
}

impl Counters {
    #[inline(always)]
    pub fn sent(&mut self, packets: u64, bytes: u64) {
        self.sent_packets = self.sent_packets.wrapping_add(packets);
        self.sent_bytes = self.sent_bytes.wrapping_add(bytes);
    }
    #[inline(always)]
    pub fn received(&mut self, packets: u64, bytes: u64) {
        self.received_packets = self.received_packets.wrapping_add(packets);
        self.received_bytes = self.received_bytes.wrapping_add(bytes);
    }
}

impl DropCount {
    #[inline(always)]
    pub fn add(&mut self, packets: u64, bytes: u64) {
        self.packets = self.packets.wrapping_add(packets);
        self.bytes = self.bytes.wrapping_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_counts_as_its_segments() {
        let mut counters = Counters::default();
        counters.sent(packets(0), 60);
        counters.sent(packets(45), 65_226);
        assert_eq!((counters.sent_packets, counters.sent_bytes, counters.received_packets), (46, 65_286, 0));
    }
}
