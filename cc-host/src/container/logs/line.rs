//! A line of the log as the shim writes it: `TIME STREAM F|P TEXT`. Refuses anything else.

/// A record, its text still where it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) at_ns: u64,
    pub(super) stderr: bool,
    /// Without a newline where the line is only part of one.
    pub(super) text: &'a [u8],
}

/// `2026-01-02T03:04:05.123456789Z stdout F text\n`; `None` for anything else.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.strip_suffix(b"\n")?.splitn(4, |&b| b == b' ');
    let at_ns = parse_time(std::str::from_utf8(parts.next()?).ok()?)?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let newline = match parts.next()? {
        b"F" => 1,
        b"P" => 0,
        _ => return None,
    };
    let length = parts.next()?.len() + newline;
    let end = line.len() - 1 + newline;
    Some(Line { at_ns, stderr, text: &line[end - length..end] })
}

/// RFC 3339 in UTC, with up to nine digits of a second.
fn parse_time(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|n| n.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':').map(|n| n.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let is_day = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_clock = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
    if !is_day || !is_clock || fraction.len() > 9 {
        return None;
    }
    let nanos: u64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    // Days from the civil calendar: years start in March, so that the leap day comes last.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_parses() {
        let line = parse(b"2026-01-02T03:04:05.5Z stderr F hello world\n");
        assert_eq!(line, Some(Line { at_ns: 1_767_323_045_500_000_000, stderr: true, text: b"hello world\n" }));
        assert_eq!(parse(b"2026-01-02T03:04:05.5Z stdout P hel\n").unwrap().text, b"hel");
        assert_eq!(parse(b"2026-01-02T03:04:05.5Z stdout F \n").unwrap().text, b"\n");
    }

    #[test]
    fn the_epoch_is_zero() {
        assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(0));
        for bad in ["1970-01-01T9000000000000000000:00:00Z", "1970-01-32T00:00:00Z", "1970-01-01T00:-1:00Z"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
        assert_eq!(parse_time("2000-02-29T00:00:00Z"), Some(951_782_400_000_000_000));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(line: Vec<u8>) {
            let _ = parse(&line);
        }

        #[test]
        fn parsing_times_never_panics(text in "[0-9TZ:.-]{0,40}") {
            let _ = parse_time(&text);
        }
    }
}
