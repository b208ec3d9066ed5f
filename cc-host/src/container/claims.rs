//! Who may start or remove a container that has ended: one at a time, and the next one waits. Refuses to say what is done meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::ids::ContainerId;

#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<ContainerId, Arc<tokio::sync::Mutex<()>>>>);

/// Held for as long as nobody else may.
pub(super) type Claim = OwnedMutexGuard<()>;

impl Claims {
    /// Taken before the lock of allocations, never while that is held.
    pub(super) async fn of(&self, id: &ContainerId) -> Claim {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are of containers that may be long gone.
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(all.entry(id.clone()).or_default())
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_kept() {
        let claims = Claims::default();
        let (one, other) = (ContainerId::random(), ContainerId::random());
        let held = claims.of(&one).await;
        let second = tokio::time::timeout(std::time::Duration::from_millis(20), claims.of(&one)).await;
        assert!(second.is_err(), "it waits");
        let of_other = claims.of(&other).await;
        drop((held, of_other));
        drop(claims.of(&one).await);
        drop(claims.of(&other).await);
        assert_eq!(claims.0.lock().unwrap().len(), 1, "only what was asked for last");
    }
}
