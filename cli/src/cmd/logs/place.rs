//! How far a log was read, so that reading goes on there after the connection was lost: nothing twice, and nothing left out. Refuses
//! to connect.

use cc_common::api::v1::{LogRecord, LogsRequest};

const NS_PER_MS: u64 = 1_000_000;
const TAIL_ALL: i64 = -1;

#[derive(Debug)]
pub struct Place {
    request: LogsRequest,
    began_ms: u64,
    last: Option<Last>,
    /// How much of what comes first was printed before; 0 in the middle of a stream.
    again: usize,
}

#[derive(Debug)]
struct Last {
    at_ns: u64,
    /// Lines that are written at once have one time.
    records: usize,
}

impl Place {
    pub fn new(request: LogsRequest, now_ms: u64) -> Self {
        Place { request, began_ms: now_ms, last: None, again: 0 }
    }

    /// What to ask for from here on.
    pub fn request(&mut self) -> LogsRequest {
        let request = self.request.clone();
        if let Some(last) = &self.last {
            self.again = last.records;
            self.request = LogsRequest { tail: TAIL_ALL, since_ms: last.at_ns / NS_PER_MS, ..self.request.clone() };
            return self.request.clone();
        }
        // Asked again without having seen anything: what is there then was written meanwhile.
        let since_ms = if request.tail == 0 { request.since_ms.max(self.began_ms) } else { request.since_ms };
        self.request = LogsRequest { tail: TAIL_ALL, since_ms, ..request.clone() };
        request
    }

    /// Whether it was not seen before.
    pub fn is_new(&mut self, record: &LogRecord) -> bool {
        match &mut self.last {
            Some(last) if self.again > 0 && record.at_ns <= last.at_ns => {
                self.again -= usize::from(record.at_ns == last.at_ns);
                return false;
            }
            Some(last) if record.at_ns == last.at_ns => last.records += 1,
            _ => self.last = Some(Last { at_ns: record.at_ns, records: 1 }),
        }
        self.again = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = NS_PER_MS;

    fn first(tail: i64) -> Place {
        let request = LogsRequest { id: "web".into(), follow: true, tail, since_ms: 7 };
        Place::new(request, 1000)
    }

    fn read(place: &mut Place, at_ns: &[u64]) -> Vec<bool> {
        let record = |&at_ns: &u64| LogRecord { at_ns, ..LogRecord::default() };
        at_ns.iter().map(|at| place.is_new(&record(at))).collect()
    }

    #[test]
    fn what_was_seen_is_not_seen_again_and_the_rest_is() {
        let mut place = first(20);
        assert_eq!((place.request().tail, place.request.since_ms), (20, 7));
        assert_eq!(read(&mut place, &[8 * MS, 9 * MS, 9 * MS]), [true; 3]);
        let again = place.request();
        assert_eq!((again.tail, again.since_ms, again.follow), (-1, 9, true));
        // Of the same millisecond: one before it, the two that were seen, a third of that moment, and later ones.
        let seen = read(&mut place, &[9 * MS - 1, 9 * MS, 9 * MS, 9 * MS, 9 * MS + 1, 9 * MS + 1]);
        assert_eq!(seen, [false, false, false, true, true, true]);
        place.request();
        assert_eq!(read(&mut place, &[9 * MS + 1, 9 * MS + 1, 10 * MS]), [false, false, true]);
    }

    #[test]
    fn a_clock_that_went_back_hides_nothing_in_the_middle() {
        let mut place = first(-1);
        place.request();
        assert_eq!(read(&mut place, &[9 * MS, 3 * MS, 4 * MS]), [true; 3]);
    }

    #[test]
    fn a_place_that_was_lost_twice_is_still_the_place() {
        let mut place = first(-1);
        place.request();
        read(&mut place, &[9 * MS, 9 * MS]);
        place.request();
        read(&mut place, &[9 * MS]);
        place.request();
        assert_eq!(read(&mut place, &[9 * MS, 9 * MS, 9 * MS]), [false, false, true]);
    }

    #[test]
    fn whoever_saw_nothing_yet_misses_nothing_later() {
        let mut place = first(0);
        assert_eq!(place.request().tail, 0);
        let again = place.request();
        assert_eq!((again.tail, again.since_ms), (-1, 1000));
        let mut place = first(5);
        place.request();
        assert_eq!((place.request().tail, place.request.since_ms), (-1, 7));
    }
}
