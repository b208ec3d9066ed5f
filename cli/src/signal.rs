//! Signals as people name them, and the ones a foreground run passes on. Refuses to deliver any.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// Those that ask a process for something; the rest are about our own terminal and children.
pub const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM];

/// `TERM`, `SIGTERM`, `sigterm` or `15`; numbers up to 64 cover the real-time signals.
pub fn parse(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err("signals go from 1 to 64".to_owned()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&name)
        .map(|signal| signal as i32)
        .map_err(|_| "not a signal's name or number; try TERM, HUP or 9".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(parse(text), Ok(15), "{text}");
        }
        assert!(parse("0").is_err() && parse("65").is_err() && parse("SIG").is_err() && parse("no").is_err());
    }
}
