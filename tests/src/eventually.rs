//! Waiting for what must become true, with a bound. Refuses to wait for what must stay false.

use std::time::{Duration, Instant};

/// How often the condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Returns when `condition` gives a value; panics, saying what was waited for, when it does not within `bound`.
#[track_caller]
pub fn eventually<T>(what: &str, bound: Duration, condition: impl FnMut() -> Option<T>) -> T {
    within(bound, condition).unwrap_or_else(|| panic!("{what}: not within {bound:?}"))
}

/// For a clean-up, which has its own way of failing: `None` when `condition` gives no value within `bound`.
pub fn within<T>(bound: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let value = condition();
        if value.is_some() || start.elapsed() >= bound {
            return value;
        }
        std::thread::sleep(INTERVAL);
    }
}
