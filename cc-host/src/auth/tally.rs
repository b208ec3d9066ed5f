//! How many calls were refused since the daemon started, by door and by the refusal's code. Refuses codes beyond a bound:
//! they share one name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Codes that are counted apart, per door. Ours are a dozen, and all are constants.
const CODES_MAX: usize = 64;
const OTHERS: &str = "other";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    Grpc,
    Metrics,
    /// The console and the WebSockets.
    Web,
}

impl Door {
    pub fn name(self) -> &'static str {
        match self {
            Door::Grpc => "grpc",
            Door::Metrics => "metrics",
            Door::Web => "web",
        }
    }
}

/// Cheap to clone; the clones count together.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<(Door, String), u64>>>);

impl Tally {
    pub fn count(&self, door: Door, code: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (door, code.to_owned());
        let full = counts.keys().filter(|(of, _)| *of == door).count() >= CODES_MAX;
        if full && !counts.contains_key(&key) {
            key.1 = OTHERS.to_owned();
        }
        *counts.entry(key).or_insert(0) += 1;
    }

    pub fn all(&self) -> Vec<(Door, String, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|((door, code), count)| (*door, code.clone(), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_door_and_code_up_to_a_bound() {
        let tally = Tally::default();
        tally.count(Door::Grpc, "auth.unsigned");
        tally.clone().count(Door::Grpc, "auth.unsigned");
        tally.count(Door::Metrics, "auth.unsigned");
        assert_eq!(
            tally.all(),
            [(Door::Grpc, "auth.unsigned".to_owned(), 2), (Door::Metrics, "auth.unsigned".to_owned(), 1)]
        );
        for n in 0..3 * CODES_MAX {
            tally.count(Door::Grpc, &format!("code.{n}"));
        }
        assert!(tally.all().len() <= CODES_MAX + 2);
        assert!(tally.all().iter().any(|(_, code, count)| code == OTHERS && *count > CODES_MAX as u64));
    }
}
