//! A coarse picture of a set of IPv4 prefixes: of each block of 256 addresses, whether none of it is in the set, some or all. One look
//! answers for most addresses, however many prefixes there are. Refuses to answer for a block of which some is: the prefixes do.
//!
//! The first step of the tables that routers have (Gupta, Lin, McKeown: Routing Lookups in Hardware at Memory Access Speeds, 1998).

/// Prefixes that are longer than this leave a block mixed.
const BLOCK_PREFIX: u8 = 24;
const BITS_PER_BLOCK: u32 = 2;
const BLOCKS_PER_WORD: u32 = u64::BITS / BITS_PER_BLOCK;
/// Of a whole picture: 2^24 blocks.
pub const WORDS: u32 = (1 << BLOCK_PREFIX) / BLOCKS_PER_WORD;
/// One block's bits.
const MASK: u64 = (1 << BITS_PER_BLOCK) - 1;
/// A word whose blocks are all in the set.
const FULL: u64 = u64::MAX;

/// How much of a block is in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Nothing,
    Some,
    All,
}

const SOME: u64 = 1;
const ALL: u64 = 3;

/// The word that an address's block is in, and where in it.
#[inline(always)]
pub fn place(address: [u8; 4]) -> (u32, u32) {
    let block = u32::from_be_bytes(address) >> (u32::BITS - BLOCK_PREFIX as u32);
    (block / BLOCKS_PER_WORD, block % BLOCKS_PER_WORD * BITS_PER_BLOCK)
}

#[inline(always)]
pub fn share(word: u64, shift: u32) -> Share {
    match word >> (shift & (u64::BITS - 1)) & MASK {
        0 => Share::Nothing,
        ALL => Share::All,
        _ => Share::Some,
    }
}

/// Adds a prefix to a picture of `WORDS` words.
pub fn add(words: &mut [u64], address: [u8; 4], prefix_len: u8) {
    let (first, shift) = place(address);
    if prefix_len > BLOCK_PREFIX {
        words[first as usize] |= SOME << shift;
        return;
    }
    let blocks = 1u32 << (BLOCK_PREFIX - prefix_len);
    if blocks >= BLOCKS_PER_WORD {
        words[first as usize..][..(blocks / BLOCKS_PER_WORD) as usize].fill(FULL);
    } else {
        let bits = (1u64 << (blocks * BITS_PER_BLOCK)) - 1;
        words[first as usize] |= bits << shift;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn mask(prefix_len: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
    }

    /// Close to each other, so that they meet.
    fn any_prefix() -> impl Strategy<Value = (u32, u8)> {
        (0u32..1 << 14, 10u8..=32).prop_map(|(low, prefix_len)| ((0x0a00_0000 | low) & mask(prefix_len), prefix_len))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_block_has_the_share_that_its_addresses_have(prefixes in prop::collection::vec(any_prefix(), 0..6)) {
            let mut words = vec![0; WORDS as usize];
            for &(address, prefix_len) in &prefixes {
                add(&mut words, address.to_be_bytes(), prefix_len);
            }
            for block in (0x0a00_0000u32..0x0a00_4000).step_by(256).chain([0x0a40_0000, 0x0940_0000, 0, u32::MAX]) {
                let is_in = |address: u32| prefixes.iter().any(|&(net, len)| address & mask(len) == net);
                let inside: Vec<bool> = (0..256).map(|last| is_in(block & !255 | last)).collect();
                let (word, shift) = place(block.to_be_bytes());
                match share(words[word as usize], shift) {
                    Share::Nothing => prop_assert!(!inside.contains(&true)),
                    Share::All => prop_assert!(!inside.contains(&false)),
                    Share::Some => prop_assert!(inside.contains(&true)),
                }
            }
        }
    }

    #[test]
    fn everything_and_the_ends_of_the_range() {
        let mut words = vec![0; WORDS as usize];
        add(&mut words, [255, 255, 255, 255], 32);
        add(&mut words, [255, 255, 254, 0], 24);
        add(&mut words, [0, 0, 0, 0], 24);
        let of = |words: &[u64], address| {
            let (word, shift) = place(address);
            share(words[word as usize], shift)
        };
        assert_eq!(of(&words, [255, 255, 255, 0]), Share::Some);
        assert_eq!(of(&words, [255, 255, 254, 9]), Share::All);
        assert_eq!((of(&words, [0, 0, 0, 9]), of(&words, [0, 0, 1, 0])), (Share::All, Share::Nothing));
        add(&mut words, [128, 0, 0, 0], 1);
        assert_eq!((of(&words, [127, 255, 255, 255]), of(&words, [255, 255, 255, 0])), (Share::Nothing, Share::All));
        add(&mut words, [0, 0, 0, 0], 0);
        assert_eq!(of(&words, [127, 255, 255, 255]), Share::All);
    }
}
