//! Times as people write and read them: durations, RFC 3339, Unix seconds, ages. Refuses time zones other than UTC on
//! output.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TimeError {
    #[error("not a duration; write for example 90s, 5m, 1h30m or 2d")]
    Duration,
    #[error("not a time; write a duration back from now (10m), 2026-01-31T12:00:00Z, or Unix seconds")]
    Moment,
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// One or more number-and-unit pairs: `1h30m`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    let mut rest = text;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(TimeError::Duration)?;
        let number: u64 = rest[..digits].parse().map_err(|_| TimeError::Duration)?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms: u64 = match &rest[..unit_end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(TimeError::Duration),
        };
        rest = &rest[unit_end..];
        total_ms = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or(TimeError::Duration)?;
    }
    Ok(Duration::from_millis(total_ms))
}

/// A moment for `--since`, in Unix milliseconds.
pub fn parse_moment(text: &str, now_ms: u64) -> Result<u64, TimeError> {
    if let Ok(back) = parse_duration(text) {
        return Ok(now_ms.saturating_sub(back.as_millis() as u64));
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return if seconds.is_finite() && seconds >= 0.0 { Ok((seconds * 1e3) as u64) } else { Err(TimeError::Moment) };
    }
    parse_rfc3339(text).ok_or(TimeError::Moment)
}

fn parse_rfc3339(text: &str) -> Option<u64> {
    let (date, clock) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00:00Z"));
    let mut ymd = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (ymd.next()??, ymd.next()??, ymd.next()??);
    let zone_at = clock.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = clock.split_at(zone_at);
    let mut hms = clock.splitn(3, ':');
    let (hour, minute): (i64, i64) = (hms.next()?.parse().ok()?, hms.next()?.parse().ok()?);
    let second: f64 = hms.next().unwrap_or("0").parse().ok()?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&second);
    if !in_range {
        return None;
    }
    let offset_minutes = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let (hours, minutes) = (hours.parse::<i64>().ok()?, minutes.parse::<i64>().ok()?);
            if !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
                return None;
            }
            let minutes = hours * 60 + minutes;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    let minutes = days_from_civil(year, month, day) * 1440 + hour * 60 + minute - offset_minutes;
    // Downwards, so that a time from a log does not leave out its own line; a bit more than what a float lacks.
    u64::try_from(minutes * 60_000 + (second * 1e3 + 1e-7).floor() as i64).ok()
}

/// RFC 3339 in UTC with milliseconds; empty for 0, which the contract uses for "never".
pub fn rfc3339_ms(ms: u64) -> String {
    if ms == 0 { String::new() } else { format!("{}.{:03}Z", seconds_text(ms / 1000), ms % 1000) }
}

pub fn rfc3339_ns(ns: u64) -> String {
    format!("{}.{:09}Z", seconds_text(ns / 1_000_000_000), ns % 1_000_000_000)
}

/// How long ago, in one unit: `5m`, `3d`.
pub fn age(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn seconds_text(seconds: u64) -> String {
    let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
    let rest = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

// The civil calendar counted in eras of 400 years that start on 1 March, so that the leap day is a year's last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "5", "m", "5x", "-5m", "999999999999999999d"] {
            assert_eq!(parse_duration(bad), Err(TimeError::Duration), "{bad}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(parse_moment("10s", 60_000), Ok(50_000));
        assert_eq!(parse_moment("1700000000", 0), Ok(1_700_000_000_000));
        assert_eq!(parse_moment("2023-11-14T22:13:20Z", 0), Ok(1_700_000_000_000));
        assert_eq!(parse_moment("2023-11-15T00:13:20.5+02:00", 0), Ok(1_700_000_000_500));
        assert_eq!(parse_moment("2023-11-14T22:13:20.999999999Z", 0), Ok(1_700_000_000_999));
        for ms in 0..1000 {
            assert_eq!(parse_moment(&rfc3339_ms(1_700_000_000_000 + ms), 0), Ok(1_700_000_000_000 + ms));
        }
        assert_eq!(parse_moment("yesterday", 0), Err(TimeError::Moment));
        for bad in ["2023-13-14T22:13:20Z", "2023-11-15T00:13:20+24:00", "2023-11-15T00:13:20+200000000000000000:0"] {
            assert_eq!(parse_moment(bad, 0), Err(TimeError::Moment), "{bad}");
        }
    }

    #[test]
    fn every_day_survives_the_round_trip() {
        for day in (0..60_000).step_by(7) {
            let (y, m, d) = civil_from_days(day);
            assert_eq!(days_from_civil(y, m, d), day);
        }
        assert_eq!(rfc3339_ms(951_782_400_001), "2000-02-29T00:00:00.001Z");
    }
}
