//! What is looked after now and then: how full the pool is, and what could not be finished. Refuses to do anything about a pool but to say so.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::backend::Advice;
use super::error::VolumeError;
use super::room::{Volumes, blocking};
use crate::error_chain;

/// A minute; in builds with assertions, which are tests', no test waits that long.
const LOOK: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 60 });

impl Volumes {
    /// What a person should look after.
    pub async fn advice(&self) -> Result<Vec<Advice>, VolumeError> {
        let backend = Arc::clone(&self.backend);
        blocking(move || backend.advice()).await.map_err(|source| VolumeError::Pool { source })
    }

    /// For as long as the daemon runs: what is grave is an event, once until it is over.
    pub async fn watch(self: Arc<Self>) {
        let mut told = HashSet::new();
        loop {
            match self.advice().await {
                Ok(advice) => told = self.tell(advice, &told).await,
                Err(error) => tracing::warn!(error = error_chain(&error), "cannot look at the pool of volumes"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// For as long as the daemon runs: what could not be removed or made larger, because it was in use or its tools failed, may be by now.
    pub async fn finish_later(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.erase_all_unfinished(|_| true).await;
            self.grow_all(false).await;
        }
    }

    async fn tell(&self, advice: Vec<Advice>, told: &HashSet<String>) -> HashSet<String> {
        // Without the figures: it is the same trouble when they go on rising.
        let what = |advice: &Advice| advice.problem.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let grave: Vec<Advice> = advice.into_iter().filter(|advice| advice.grave).collect();
        for advice in grave.iter().filter(|advice| !told.contains(&what(advice))) {
            self.events.add("volume.pool_filling", "", &format!("{}; {}", advice.problem, advice.next)).await;
        }
        grave.iter().map(what).collect()
    }
}
