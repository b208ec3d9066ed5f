//! Beyond the network: which ports translated conversations get, what is published, and by which addresses the host itself and its
//! containers reach each other. Refuses to know routes: the host's are asked.

use crate::limits::{NAT_BLOCK_PORTS, NAT_BLOCKS_PER_ENDPOINT};
use crate::net::{Be16, Be32, Ip};
use crate::settings::Settings;

/// Value of `CC_BLOCKS`, by a block's number, which is its first port's over its size: whose conversations are to find their ports there. All atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Block {
    /// The endpoint's generation; 0 is free.
    pub owner: u64,
    /// Conversations that have a port of it, the owner's and others'.
    pub uses: u64,
}
const _: () = assert!(size_of::<Block>() == 16);

/// Which port is tried for the `attempt`th time: first in blocks that the endpoint has or can get, then in anybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub block: u32,
    pub port: Be16,
    /// Only if the block is, or becomes, the endpoint's own.
    pub own: bool,
}

/// Attempts in one block before the next one is looked at.
const ATTEMPTS_PER_BLOCK: u32 = 2;
/// Of all attempts, those in blocks of the endpoint's own.
const ATTEMPTS_OWN: u32 = NAT_BLOCKS_PER_ENDPOINT * ATTEMPTS_PER_BLOCK;

/// `seed` is drawn per conversation, `generation` is the endpoint's. Every endpoint walks through the blocks in an order of its own, and
/// begins somewhere else each time, so that neighbours rarely meet. `None` on a host that has no ports for it.
#[inline(always)]
pub fn candidate(settings: &Settings, generation: u64, seed: u32, attempt: u32) -> Option<Candidate> {
    let blocks = u32::from(settings.nat_blocks);
    if blocks == 0 {
        return None;
    }
    let own = attempt < ATTEMPTS_OWN;
    let step = attempt / ATTEMPTS_PER_BLOCK;
    // Golden-ratio steps spread over any number of blocks (Knuth, The Art of Computer Programming, 6.4).
    let first = (generation as u32).wrapping_mul(0x9e37_79b1);
    let begin = if own { first } else { seed };
    let block = begin.wrapping_add(step.wrapping_mul(0x9e37_79b1)) % blocks;
    let within = seed.wrapping_add(attempt.wrapping_mul(29)) % NAT_BLOCK_PORTS;
    let block = u32::from(settings.nat_block_first) + block;
    let port = block * NAT_BLOCK_PORTS + within;
    Some(Candidate { block, port: Be16::new(port as u16), own })
}

/// The block that a port is in. All ports are in one, so that a port that was leased from another range finds its own.
#[inline(always)]
pub fn block_of(port: Be16) -> u32 {
    u32::from(port.get()) / NAT_BLOCK_PORTS
}

/// Key of `CC_FORWARDS`: an address and port of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ForwardKey {
    pub address: Ip,
    pub port: Be16,
    pub protocol: u8,
    pub pad: u8,
}
const _: () = assert!(size_of::<ForwardKey>() == 20 && align_of::<ForwardKey>() == 4);

/// Value of `CC_FORWARDS`: the published port's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Forward {
    /// Of the endpoint: one that has gone is not confused with its slot's next.
    pub generation: u64,
    pub endpoint: u32,
    pub port: Be16,
    /// Who may use it: one of `FORWARD_…`. What only the host's sockets see is not for others to claim.
    pub from: u8,
    pub pad: u8,
}
const _: () = assert!(size_of::<Forward>() == 16 && align_of::<Forward>() == 8);

/// At an address of the host: from outside, from containers, and from the host's sockets, which are led to a stand-in.
pub const FORWARD_FROM_ALL: u8 = 0;
/// At a loopback address: the host's sockets are led to a stand-in.
pub const FORWARD_FROM_SOCKETS: u8 = 1;
/// At a stand-in: what the host's sockets then send.
pub const FORWARD_FROM_HOST: u8 = 2;

/// Key of `CC_MEANT`: a socket of the host's, and the stand-in and port that it was led to. The value is the address that it meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct MeantKey {
    /// The kernel's cookie of it.
    pub socket: u64,
    pub address: Ip,
    pub port: Be16,
    pub pad: [u8; 6],
}
const _: () = assert!(size_of::<MeantKey>() == 32);

/// Value of `CC_UPLINKS`, by interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Uplink {
    pub ifindex: u32,
}

/// Where a host's stand-in addresses begin: the host itself has the first, each endpoint one behind it. By them the host's own
/// sockets reach containers whose addresses other networks have, too, and containers reach the host where a rule lets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct StandIns {
    pub ipv4: Be32,
    /// Its last four bytes are added to.
    pub ipv6: Ip,
}
const _: () = assert!(size_of::<StandIns>() == 20);

/// The host's own stand-in is this far behind the first address, which nobody has.
const HOST: u32 = 1;
const ENDPOINTS: u32 = 2;
/// Bits of an IPv4 range that holds everybody's: 8,194 addresses.
pub const STAND_IN_PREFIX_LEN_MAX: u8 = 18;

impl StandIns {
    /// Whether this host has them in this family.
    #[inline(always)]
    pub fn has(&self, v4: bool) -> bool {
        if v4 { !self.ipv4.is_unspecified() } else { !self.ipv6.is_unspecified() }
    }

    #[inline(always)]
    fn at(&self, v4: bool, offset: u32) -> Ip {
        if v4 {
            return Ip::v4(Be32::new(self.ipv4.get().wrapping_add(offset)));
        }
        let mut address = self.ipv6;
        let last = Be32::new(address.last().get().wrapping_add(offset));
        [address.octets[12], address.octets[13], address.octets[14], address.octets[15]] = last.0;
        address
    }

    #[inline(always)]
    pub fn host(&self, v4: bool) -> Ip {
        self.at(v4, HOST)
    }

    #[inline(always)]
    pub fn of(&self, v4: bool, endpoint: u32) -> Ip {
        self.at(v4, ENDPOINTS.wrapping_add(endpoint))
    }

    /// The endpoint that an address stands for.
    #[inline(always)]
    pub fn endpoint_of(&self, address: &Ip) -> Option<u32> {
        let v4 = address.is_v4();
        let first = self.at(v4, 0);
        let [a, b, c, _] = address.words();
        let [d, e, f, _] = first.words();
        if !self.has(v4) || a != d || b != e || c != f {
            return None;
        }
        let above = address.last().get().wrapping_sub(first.last().get());
        let endpoint = above.wrapping_sub(ENDPOINTS);
        if endpoint < crate::limits::ENDPOINTS_MAX { Some(endpoint) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{ENDPOINTS_MAX, NAT_TRIES_MAX};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn settings(first: u16, blocks: u16) -> Settings {
        Settings { nat_block_first: first, nat_blocks: blocks, ..Settings::DEFAULT }
    }

    proptest! {
        #[test]
        fn candidates_lie_in_the_range_and_in_their_block(
            first in 16u16..900, blocks in 1u16..124, generation: u64, seed: u32, attempt in 0..NAT_TRIES_MAX,
        ) {
            let settings = settings(first, blocks);
            let candidate = candidate(&settings, generation, seed, attempt).unwrap();
            prop_assert_eq!(block_of(candidate.port), candidate.block);
            prop_assert!((first.into()..u32::from(first + blocks)).contains(&candidate.block));
        }

        #[test]
        fn attempts_of_one_conversation_are_different_ports(generation: u64, seed: u32) {
            let settings = settings(953, 71);
            let ports: HashSet<u16> = (0..NAT_TRIES_MAX)
                .map(|attempt| candidate(&settings, generation, seed, attempt).unwrap().port.get())
                .collect();
            // The shared half may meet the own one; nearly all are new.
            prop_assert!(ports.len() as u32 >= NAT_TRIES_MAX * 3 / 4, "{}", ports.len());
        }

        #[test]
        fn a_stand_in_tells_its_endpoint(endpoint in 0..ENDPOINTS_MAX, v4: bool) {
            let mut octets = [0; 16];
            octets[0] = 0xfd;
            let all = StandIns { ipv4: Be32([198, 18, 0, 0]), ipv6: Ip { octets } };
            prop_assert_eq!(all.endpoint_of(&all.of(v4, endpoint)), Some(endpoint));
            prop_assert_eq!(all.endpoint_of(&all.host(v4)), None);
            prop_assert_eq!(StandIns::default().endpoint_of(&all.of(v4, endpoint)), None);
        }
    }

    #[test]
    fn a_host_without_ports_has_no_candidates() {
        assert_eq!(candidate(&settings(953, 0), 1, 2, 3), None);
    }

    #[test]
    fn stand_ins_fit_their_range() {
        const { assert!(ENDPOINTS_MAX + ENDPOINTS < 1 << (32 - STAND_IN_PREFIX_LEN_MAX)) };
    }
}
