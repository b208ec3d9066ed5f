//! One watch: records as they come, and once a second how many did not come. Refuses to know what a record says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cc_common::limits::ENDPOINT_UNKNOWN;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::Explain;
use super::error::ExplainError;
use super::watchers::{Seen, Wanted, What};

const INTERVAL: Duration = Duration::from_secs(1);
/// Messages on their way to a client; the watcher's queue before it is where a slow one loses records.
const MESSAGES_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News<View> {
    Told(View),
    /// Since this was said last: records that were not written, and records that this watcher did not take in time.
    Lost {
        unwritten: u64,
        missed: u64,
    },
}

impl Explain {
    /// Until the receiver is dropped.
    pub(super) async fn watch<View: Send + 'static>(
        self: &Arc<Self>,
        wanted: Wanted,
        mut view: impl FnMut(Seen) -> Option<View> + Send + 'static,
    ) -> Result<mpsc::Receiver<News<View>>, ExplainError> {
        let mut watching = self.watchers.join(wanted.clone())?;
        let mut lost = self.lost(&wanted).await?;
        let (news, receiver) = mpsc::channel(MESSAGES_MAX);
        let explain = Arc::clone(self);
        let follow = async move {
            let mut tick = tokio::time::interval(INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let next = tokio::select! {
                    Some(seen) = watching.queue.recv() => view(seen).map(News::Told),
                    _ = tick.tick() => {
                        let missed = watching.take_missed();
                        let unwritten = match explain.lost(&wanted).await {
                            Ok(now) => grown(&std::mem::replace(&mut lost, now), &lost),
                            Err(error) => {
                                tracing::warn!(error = crate::error_chain(&error), "cannot tell what was not recorded");
                                0
                            }
                        };
                        (missed + unwritten > 0).then_some(News::Lost { unwritten, missed })
                    }
                    () = news.closed() => return,
                };
                if let Some(next) = next
                    && news.send(next).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::spawn(follow);
        Ok(receiver)
    }

    /// Records that were not written, by endpoint and its generation.
    pub(super) async fn lost(self: &Arc<Self>, wanted: &Wanted) -> Result<HashMap<(u32, u64), u64>, ExplainError> {
        let (explain, wanted) = (Arc::clone(self), wanted.clone());
        let reading = tokio::task::spawn_blocking(move || explain.read_lost(&wanted));
        reading.await.expect("reading counters does not panic")
    }

    fn read_lost(&self, wanted: &Wanted) -> Result<HashMap<(u32, u64), u64>, ExplainError> {
        let own = self.own(&wanted.project)?;
        let meant = own.containers.iter().filter(|(_, own)| wanted.only.as_ref().is_none_or(|only| own.id == *only));
        let mut lost = HashMap::new();
        for (&endpoint, own) in meant {
            let told = match wanted.what {
                What::Drops => self.datapath.told(endpoint)?,
                What::Decisions => self.datapath.logged(endpoint)?,
            };
            lost.insert((endpoint, own.generation), told.lost);
        }
        if wanted.host {
            lost.insert((ENDPOINT_UNKNOWN, 0), self.datapath.told(ENDPOINT_UNKNOWN)?.lost);
        }
        Ok(lost)
    }
}

/// An endpoint that was not there before has counted from zero.
fn grown(before: &HashMap<(u32, u64), u64>, after: &HashMap<(u32, u64), u64>) -> u64 {
    after.iter().map(|(endpoint, lost)| lost.saturating_sub(before.get(endpoint).copied().unwrap_or(0))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_once() {
        let (before, after) = (HashMap::from([((1, 5), 10)]), HashMap::from([((1, 5), 12), ((2, 6), 3)]));
        assert_eq!(grown(&before, &after), 5);
        assert_eq!(grown(&after, &after), 0);
        assert_eq!(grown(&after, &before), 0, "a container that is gone");
    }
}
