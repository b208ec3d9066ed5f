//! The time before each record, as RFC 3339 has it. Refuses time zones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-01-02T03:04:05.123456789Z`.
pub const TIME_BYTES: usize = 30;

/// RFC 3339 with nanoseconds, in UTC. Written by hand: it comes before each line that a container writes. A year has four digits,
/// and no clock is later than that.
pub fn timestamp(now: SystemTime) -> [u8; TIME_BYTES] {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date: eras of 400 years that start on the first of March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let places = [(0, 4, year), (5, 2, month), (8, 2, day), (11, 2, hour), (14, 2, minute), (17, 2, second)];
    for (at, digits, number) in places.into_iter().chain([(20, 9, u64::from(since.subsec_nanos()))]) {
        let mut rest = number;
        for place in text[at..at + digits].iter_mut().rev() {
            *place = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_calendar_dates() {
        let text =
            |secs, nanos| String::from_utf8(timestamp(UNIX_EPOCH + Duration::new(secs, nanos)).to_vec()).unwrap();
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(text(1_735_689_599, 999_999_999), "2024-12-31T23:59:59.999999999Z");
    }
}
