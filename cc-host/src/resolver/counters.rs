//! What a VPC's resolver did, since it was opened. Refuses to interpret it.

use std::sync::atomic::{AtomicU64, Ordering};

/// As they were at one time. Every query is counted in `queries`, and at its end in one of the others but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResolverCounters {
    /// Messages that came in, malformed ones too.
    pub queries: u64,
    /// From the directory, also that there is no such name.
    pub answered: u64,
    /// By a name server's answer, whatever it says.
    pub forwarded: u64,
    /// Said to be malformed or not done here.
    pub refused: u64,
    /// No name server answered.
    pub failed: u64,
    /// Too many wait already, of which only a connection is told, or it was no query.
    pub dropped: u64,
    /// Connections beyond the VPC's share.
    pub connections_refused: u64,
}

impl ResolverCounters {
    /// Each with its name, as metrics have it.
    pub fn named(self) -> [(&'static str, u64); 7] {
        let ResolverCounters { queries, answered, forwarded, refused, failed, dropped, connections_refused } = self;
        [
            ("queries", queries),
            ("answered", answered),
            ("forwarded", forwarded),
            ("refused", refused),
            ("failed", failed),
            ("dropped", dropped),
            ("connections_refused", connections_refused),
        ]
    }
}

#[derive(Debug, Default)]
pub(super) struct Counting {
    queries: AtomicU64,
    answered: AtomicU64,
    forwarded: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    connections_refused: AtomicU64,
}

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    Forwarded,
    Refused,
    Failed,
    Dropped,
}

impl Counting {
    pub(super) fn query(&self) {
        self.queries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self, end: End) {
        let counter = match end {
            End::Answered => &self.answered,
            End::Forwarded => &self.forwarded,
            End::Refused => &self.refused,
            End::Failed => &self.failed,
            End::Dropped => &self.dropped,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> ResolverCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ResolverCounters {
            queries: read(&self.queries),
            answered: read(&self.answered),
            forwarded: read(&self.forwarded),
            refused: read(&self.refused),
            failed: read(&self.failed),
            dropped: read(&self.dropped),
            connections_refused: read(&self.connections_refused),
        }
    }
}
