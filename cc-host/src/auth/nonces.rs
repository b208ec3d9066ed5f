//! The nonces of verified requests, remembered for as long as their signatures could be sent again. Refuses to forget
//! early: when a key's share is full, its further requests are refused until the oldest signature expires.
//!
//! Forgetting the oldest instead would let a recording of it in again, and a floor under the times that are still accepted
//! would lock out honest callers whose clocks are a little behind. Refusing hurts only the key that floods: shares are per
//! key, and only requests whose signature was verified take any room.

use std::collections::{BTreeSet, HashMap, HashSet};

use cc_common::api::signing::{KeyId, WINDOW_MS};

/// Nonces of one key: at most two windows of them count, so 500 requests per second for ever. 65,536 × ~80 B = 5 MiB.
const PER_KEY_MAX: usize = 65_536;
/// Nonces of all keys: 21 MiB.
const TOTAL_MAX: usize = 4 * PER_KEY_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Nonce {
    New,
    Replayed,
    Full,
}

#[derive(Default)]
struct OfKey {
    seen: HashSet<[u8; 16]>,
    by_expiry: BTreeSet<(u64, [u8; 16])>,
}

impl OfKey {
    fn forget_expired(&mut self, now_ms: u64) -> usize {
        let before = self.seen.len();
        while let Some(&(expires_ms, nonce)) = self.by_expiry.first()
            && expires_ms < now_ms
        {
            self.by_expiry.pop_first();
            self.seen.remove(&nonce);
        }
        before - self.seen.len()
    }
}

pub(super) struct Nonces {
    keys: HashMap<KeyId, OfKey>,
    total: usize,
    per_key_max: usize,
}

impl Default for Nonces {
    fn default() -> Self {
        Nonces { keys: HashMap::new(), total: 0, per_key_max: PER_KEY_MAX }
    }
}

impl Nonces {
    /// The signature of `signed_ms` is verified and within the window around `now_ms`.
    pub(super) fn remember(&mut self, key: &KeyId, nonce: [u8; 16], signed_ms: u64, now_ms: u64) -> Nonce {
        if self.total >= TOTAL_MAX {
            self.forget_expired(now_ms);
        }
        let of_key = self.keys.entry(key.clone()).or_default();
        self.total -= of_key.forget_expired(now_ms);
        if of_key.seen.contains(&nonce) {
            return Nonce::Replayed;
        }
        if of_key.seen.len() >= self.per_key_max || self.total >= TOTAL_MAX {
            return Nonce::Full;
        }
        of_key.seen.insert(nonce);
        of_key.by_expiry.insert((signed_ms + WINDOW_MS, nonce));
        self.total += 1;
        Nonce::New
    }

    fn forget_expired(&mut self, now_ms: u64) {
        let forgotten: usize = self.keys.values_mut().map(|of_key| of_key.forget_expired(now_ms)).sum();
        self.total -= forgotten;
        self.keys.retain(|_, of_key| !of_key.seen.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_new_once_within_its_window() {
        let (a, b) = (KeyId::from_random([1; 12]), KeyId::from_random([2; 12]));
        let mut nonces = Nonces::default();
        assert_eq!(nonces.remember(&a, [1; 16], 1000, 1000), Nonce::New);
        assert_eq!(nonces.remember(&a, [1; 16], 1000, 1000 + WINDOW_MS), Nonce::Replayed);
        assert_eq!(nonces.remember(&b, [1; 16], 1000, 1000), Nonce::New, "another key's nonce is another nonce");
        // A signature this old is refused by its time; its nonce need not be known any more.
        assert_eq!(nonces.remember(&a, [1; 16], 1000, 1001 + WINDOW_MS), Nonce::New);
    }

    #[test]
    fn a_full_share_refuses_its_key_only_and_forgets_nothing() {
        let (a, b) = (KeyId::from_random([1; 12]), KeyId::from_random([2; 12]));
        let mut nonces = Nonces { per_key_max: 2, ..Nonces::default() };
        assert_eq!(nonces.remember(&a, [1; 16], 1000, 1000), Nonce::New);
        assert_eq!(nonces.remember(&a, [2; 16], 2000, 2000), Nonce::New);
        assert_eq!(nonces.remember(&a, [3; 16], 2000, 2000), Nonce::Full);
        assert_eq!(nonces.remember(&a, [1; 16], 1000, 2000), Nonce::Replayed);
        assert_eq!(nonces.remember(&b, [3; 16], 2000, 2000), Nonce::New);
        assert_eq!(nonces.remember(&a, [3; 16], 61_500, 61_500), Nonce::New, "the oldest has expired");
    }
}
