//! Where a start's or an end's time goes, in one debug line each. Refuses to be a profiler: a few steps, by the wall clock.

use std::fmt::Write as _;
use std::time::Instant;

pub(super) struct Pace {
    of: &'static str,
    last: Instant,
    text: String,
}

impl Pace {
    pub(super) fn new(of: &'static str) -> Self {
        Pace { of, last: Instant::now(), text: String::new() }
    }

    /// Names what was done since the last call.
    pub(super) fn step(&mut self, name: &str) {
        let now = Instant::now();
        let micros = (now - self.last).as_micros();
        self.last = now;
        write!(self.text, " {name}={micros}").expect("writing to a string does not fail");
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        tracing::debug!("{} in µs:{}", self.of, self.text);
    }
}
