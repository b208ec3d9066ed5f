//! How many of a thing are worth having before somebody asks for one, by when they were asked for. Refuses to make any.

use std::time::{Duration, Instant};

/// As many are kept as were started in this time.
const DEMAND_WITHIN: Duration = Duration::from_secs(10);
/// Nobody waits for a start that did not come for so long.
const QUIET_AFTER: Duration = Duration::from_secs(180);

/// Of one kind; the last that was asked for comes last.
pub fn wanted(asked: impl Iterator<Item = Instant> + Clone, now: Instant, max: usize) -> usize {
    let within = |since: &Instant, span| now.saturating_duration_since(*since) < span;
    let recent = asked.clone().filter(|at| within(at, DEMAND_WITHIN)).count();
    let at_rest = asked.last().is_some_and(|last| within(&last, QUIET_AFTER));
    recent.max(usize::from(at_rest)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_wanted_as_were_started_lately() {
        let now = Instant::now() + 2 * QUIET_AFTER;
        let ago = |seconds| now - Duration::from_secs(seconds);
        let wanted = |asked: &[u64], max| super::wanted(asked.iter().map(|&seconds| ago(seconds)), now, max);
        assert_eq!(wanted(&[], 16), 0);
        assert_eq!(wanted(&[179], 16), 1, "one, for minutes");
        assert_eq!(wanted(&[181], 16), 0);
        assert_eq!(wanted(&[200, 30, 9, 2, 1], 16), 3);
        assert_eq!(wanted(&[1; 40], 16), 16);
        assert_eq!(wanted(&[1], 0), 0);
    }
}
