//! What a pull, a load or a run in flight still needs although no record names it. Refuses to let prune race with them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    counts: HashMap<String, usize>,
    /// Let go while a prune runs. It may have read the records before the holder wrote its own, so these stay held until
    /// it ends.
    released: HashSet<String>,
    prunes: usize,
}

impl State {
    fn is_held(&self, digest: &str) -> bool {
        self.counts.contains_key(digest) || self.released.contains(digest)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Holds(Arc<Mutex<State>>);

/// Keeps digests from prune while it lives.
#[derive(Debug)]
#[must_use = "what it holds is let go when it is dropped"]
pub struct Hold {
    holds: Holds,
    digests: Vec<String>,
}

/// A prune in progress.
pub struct Pruning(Holds);

impl Holds {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the counts half changed: each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn hold(&self, digests: impl IntoIterator<Item = String>) -> Hold {
        let digests: Vec<String> = digests.into_iter().collect();
        let mut state = self.state();
        for digest in &digests {
            *state.counts.entry(digest.clone()).or_default() += 1;
        }
        drop(state);
        Hold { holds: self.clone(), digests }
    }

    /// Begin before reading the records.
    pub fn prune(&self) -> Pruning {
        self.state().prunes += 1;
        Pruning(self.clone())
    }
}

impl Pruning {
    /// Runs `remove` if nobody holds the digest; nobody can take it meanwhile.
    pub fn unless_held<T>(&self, digest: &str, remove: impl FnOnce() -> T) -> Option<T> {
        let state = self.0.state();
        (!state.is_held(digest)).then(remove)
    }

    /// Held, or let go only after this prune began.
    pub fn is_held(&self, digest: &str) -> bool {
        self.0.state().is_held(digest)
    }
}

impl Drop for Pruning {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.prunes -= 1;
        if state.prunes == 0 {
            state.released.clear();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.holds.state();
        for digest in self.digests.drain(..) {
            if let Some(count) = state.counts.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    state.counts.remove(&digest);
                }
            }
            if state.prunes > 0 {
                state.released.insert(digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_twice_needs_two_drops() {
        let holds = Holds::default();
        let (a, b) = (holds.hold(["x".to_owned()]), holds.hold(["x".to_owned()]));
        drop(a);
        assert!(holds.prune().unless_held("x", || ()).is_none());
        drop(b);
        assert!(holds.prune().unless_held("x", || ()).is_some());
    }

    #[test]
    fn what_is_let_go_during_a_prune_stays_until_it_ends() {
        let holds = Holds::default();
        let prune = holds.prune();
        drop(holds.hold(["x".to_owned()]));
        assert!(prune.unless_held("x", || ()).is_none());
        drop(prune);
        assert!(holds.prune().unless_held("x", || ()).is_some());
    }
}
