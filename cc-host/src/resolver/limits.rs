//! The resolver's limits, with their arithmetic; what happens at each is said beside it. Refuses to hold a number that is not
//! a limit.

use std::time::Duration;

/// Longest answer over UDP, however much the client would take: with its headers it is below 1,280 bytes, so that it is in one
/// packet on every link. What is longer is truncated, and asked again over TCP.
pub(super) const UDP_ANSWER_BYTES_MAX: u16 = 1232;

/// Of a client that does not say how much it takes (RFC 1035).
pub(super) const UDP_ANSWER_BYTES_PLAIN: u16 = 512;

/// Longest query: a name of 255 bytes, a cookie and padding to 468 are far below. A longer datagram is cut and then malformed,
/// a longer message over TCP ends its connection.
pub(super) const QUERY_BYTES_MAX: usize = 4096;

/// Records of a query beside its question: EDNS, and a signature. More is malformed.
pub(super) const QUERY_ADDITIONALS_MAX: u16 = 2;

/// Addresses in an answer over TCP; of a larger group these are some, and others the next time. 256 × at most 169 bytes: 43 KB
/// of the 64 KiB that a message has.
pub(super) const TCP_ADDRESSES_MAX: usize = 256;

/// Over UDP: one more than fit, at 16 bytes each, so that it shows when there are more.
pub(super) const UDP_ADDRESSES_MAX: usize = UDP_ANSWER_BYTES_MAX as usize / 16 + 1;

/// Name servers that are asked; more are ignored, as by the C library.
pub(super) const SERVERS_MAX: usize = 3;

/// How often the host's list of name servers is looked at for changes.
pub(super) const SERVERS_FRESH: Duration = Duration::from_secs(1);

/// Queries of all VPCs together that wait for name servers, one descriptor each, so that they leave most of 20,000 to
/// containers. A query beyond it is dropped and counted.
pub(super) const OUTSTANDING_MAX: usize = 2048;

/// What one VPC may use of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Its queries that wait for name servers, at 1.2 KiB each over UDP, and up to 64 KiB on each of its connections: 2.2 MiB.
    /// One more is dropped and counted.
    pub outstanding: usize,
    /// Its connections, each with at most one query at a time. One more is closed and counted.
    pub connections: usize,
    /// A connection that takes longer to send a query, or to take an answer, is closed.
    pub idle: Duration,
    /// How long a name server has for its answer.
    pub attempt: Duration,
    /// How many attempts are made at a query, servers taking turns. A client gives up after 5 s: 3 × 1.5 s are less.
    pub attempts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            outstanding: 128,
            connections: 32,
            idle: Duration::from_secs(10),
            attempt: Duration::from_millis(1500),
            attempts: 3,
        }
    }
}
