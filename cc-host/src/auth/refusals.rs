//! How often each source was refused within the minute, so that one that guesses or floods is turned away unread. Refuses
//! to grow: sources beyond the table's size share one entry.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use super::Peer;

const MINUTE_MS: u64 = 60_000;
/// Sources that are counted apart: 4,096 × ~64 B = 256 KiB.
const SOURCES_MAX: usize = 4096;

/// Who is counted together: a user, an IPv4 address, or an IPv6 /64, which is what one subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Uid(u32),
    Address(IpAddr),
    /// All that the table has no room for.
    Others,
}

impl From<Peer> for Source {
    fn from(peer: Peer) -> Source {
        match peer {
            Peer::Local { uid } => Source::Uid(uid),
            Peer::Remote { address } => Source::Address(network_of(address.ip())),
        }
    }
}

/// One machine has a whole IPv6 /64 to choose from.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

struct Count {
    since_ms: u64,
    refusals: u32,
}

pub(super) struct Refusals {
    per_minute_max: u32,
    sources: HashMap<Source, Count>,
}

/// What to write to the log about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    Each,
    /// The source reaches its limit with this one: say so, then be quiet until its minute is over.
    Last,
}

impl Refusals {
    pub(super) fn new(per_minute_max: u32) -> Self {
        Refusals { per_minute_max: per_minute_max.max(1), sources: HashMap::new() }
    }

    pub(super) fn over_limit(&self, source: Source, now_ms: u64) -> bool {
        let key = if self.sources.contains_key(&source) || self.sources.len() < SOURCES_MAX {
            source
        } else {
            Source::Others
        };
        let Some(count) = self.sources.get(&key) else { return false };
        now_ms.saturating_sub(count.since_ms) < MINUTE_MS && count.refusals >= self.per_minute_max
    }

    pub(super) fn count(&mut self, source: Source, now_ms: u64) -> Log {
        let mut key = source;
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, count| now_ms.saturating_sub(count.since_ms) < MINUTE_MS);
            if self.sources.len() >= SOURCES_MAX {
                key = Source::Others;
            }
        }
        let count = self.sources.entry(key).or_insert(Count { since_ms: now_ms, refusals: 0 });
        if now_ms.saturating_sub(count.since_ms) >= MINUTE_MS {
            *count = Count { since_ms: now_ms, refusals: 0 };
        }
        count.refusals = count.refusals.saturating_add(1);
        if count.refusals == self.per_minute_max { Log::Last } else { Log::Each }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_over_its_limit_until_its_minute_ends() {
        let mut refusals = Refusals::new(2);
        let source = Source::Uid(7);
        assert_eq!(refusals.count(source, 0), Log::Each);
        assert!(!refusals.over_limit(source, 0));
        assert_eq!(refusals.count(source, 1), Log::Last);
        assert!(refusals.over_limit(source, MINUTE_MS - 1));
        assert!(!refusals.over_limit(Source::Uid(8), 1), "others are not hurt");
        assert!(!refusals.over_limit(source, MINUTE_MS));
    }

    #[test]
    fn the_table_stays_small() {
        let mut refusals = Refusals::new(1);
        for uid in 0..2 * SOURCES_MAX as u32 {
            refusals.count(Source::Uid(uid), 5);
        }
        assert!(refusals.sources.len() <= SOURCES_MAX + 1);
        assert!(refusals.over_limit(Source::Uid(u32::MAX), 5), "sources without an entry share one");
        refusals.count(Source::Uid(u32::MAX), 5 + MINUTE_MS);
        assert!(refusals.sources.len() <= 2);
    }

    #[test]
    fn an_ipv6_subscriber_is_one_source() {
        let source = |text: &str| Source::from(Peer::Remote { address: text.parse().unwrap() });
        assert_eq!(source("[2001:db8::1]:1"), source("[2001:db8::ffff:2]:9"));
        assert_ne!(source("[2001:db8::1]:1"), source("[2001:db8:0:1::1]:1"));
        assert_eq!(source("[::ffff:192.0.2.1]:1"), source("192.0.2.1:2"));
    }
}
