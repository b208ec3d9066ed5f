//! What serving metrics may cost, each number with its arithmetic. Refuses to depend on who asks.

use std::time::Duration;

use cc_common::limits::ENDPOINTS_MAX;

/// Series of one scrape. A container has 20, and two for each direction and reason that it lost packets by: 32 are six
/// reasons for each of 4,096. A series takes 110 bytes with short names, 340 with the longest: 14 to 43 MiB of text. Beyond it
/// whole containers are left out, the youngest first, and the scrape says so.
pub const SERIES_MAX: usize = 16 * ENDPOINTS_MAX as usize;

/// Connections at a time; each may hold the text of a scrape, which is 2 MiB with 1,000 containers: 16 MiB, and 340 MiB at
/// the very worst. A pair of scrapers and a person need three. More are closed unread.
pub const CONNECTIONS_MAX: usize = 8;
/// Of them for one source.
pub const CONNECTIONS_PER_SOURCE_MAX: usize = 4;

/// Scrapes that are collected at a time. More wait, within their connection's time.
pub const SCRAPES_MAX: usize = 2;
/// For the scrapes in flight when the daemon stops: one of 4,096 containers takes some 400 ms.
pub const REST_WITHIN: Duration = Duration::from_secs(1);

/// Bytes of a request's head. A scraper sends some 400, and a token has 93.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// For sending it.
pub const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// From accepting to the last byte of the answer, handshake included: a scraper gives up after 10 s unless told otherwise.
pub const CONNECTION_WITHIN: Duration = Duration::from_secs(30);
