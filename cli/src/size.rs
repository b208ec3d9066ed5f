//! Sizes as people write them: `512MiB`, `1g`, `1.5GiB`, plain bytes. Refuses to guess a unit it does not know.

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SizeError {
    #[error("it does not start with a number; write for example 512MiB, 1g or 1048576")]
    NoNumber,
    #[error("{0:?} is not a unit; use B, K, M, G, T, KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB (of 1000)")]
    Unit(String),
    #[error("it is too large")]
    TooLarge,
}

/// A single letter is a power of 1024, as container tools have it.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = factor(unit.trim())?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or(SizeError::TooLarge);
    }
    let number: f64 = match number.parse() {
        Ok(number) => number,
        Err(_) if number.chars().any(|c| c.is_ascii_digit()) && !number.contains('.') => {
            return Err(SizeError::TooLarge);
        }
        Err(_) => return Err(SizeError::NoNumber),
    };
    let bytes = number * factor as f64;
    if bytes >= u64::MAX as f64 { Err(SizeError::TooLarge) } else { Ok(bytes as u64) }
}

fn factor(unit: &str) -> Result<u64, SizeError> {
    Ok(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(SizeError::Unit(unit.to_owned())),
    })
}

/// At most four significant characters and a binary unit: `1.5GiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = if unit == 0 || value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{}{}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("512MiB", 512 << 20),
            ("512m", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("2 GB", 2_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_explained() {
        assert_eq!(parse(""), Err(SizeError::NoNumber));
        assert_eq!(parse("-1"), Err(SizeError::Unit("-1".into())));
        assert_eq!(parse("1.2.3m"), Err(SizeError::NoNumber));
        assert_eq!(parse("5x"), Err(SizeError::Unit("x".into())));
        assert_eq!(parse("18446744073709551616"), Err(SizeError::TooLarge));
        assert_eq!(parse("99999999999t"), Err(SizeError::TooLarge));
    }

    #[test]
    fn sizes_are_written() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(1023), "1023B");
        assert_eq!(human(3 << 29), "1.5GiB");
        assert_eq!(human(512 << 20), "512MiB");
    }
}
