//! Flows as they begin and end, found by reading the table once a second and comparing. A flow lives for two seconds after its end,
//! so one that is shorter is seen too, unless what ended it was its container's end or a rule's. Refuses to watch more flows
//! than can be compared in time.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cc_common::flow::FlowKey;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::error::ExplainError;
use super::flows::{FlowView, view};
use super::{Explain, READERS_MAX};
use crate::datapath::flow_clock_ns;
use crate::ids::{Project, now_ms};

const INTERVAL: Duration = Duration::from_secs(1);
/// Flows of one watcher: 300 bytes each, twice.
const WATCHED_MAX: usize = 65_536;
/// Changes on their way to a client; one that takes none holds its own watch up, and nobody else's.
const CHANGES_MAX: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowChanged {
    Began,
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowChange {
    pub changed: FlowChanged,
    pub flow: FlowView,
    pub at_ms: u64,
}

/// What tells a flow from a later one between the same ends.
type Seen = HashMap<(FlowKey, u64), FlowView>;

impl Explain {
    /// Until the receiver is dropped.
    pub async fn watch_flows(
        self: &Arc<Self>,
        project: &Project,
        only: &str,
    ) -> Result<mpsc::Receiver<Result<FlowChange, ExplainError>>, ExplainError> {
        let only = self.only(project, only)?;
        let permit = Arc::clone(&self.readers).try_acquire_owned();
        let permit = permit.map_err(|_| ExplainError::TooManyReaders { max: READERS_MAX - 1 })?;
        let mut known = self.read(project, only).await?;
        let (explain, project) = (Arc::clone(self), project.clone());
        let (changes, receiver) = mpsc::channel(CHANGES_MAX);
        tokio::spawn(async move {
            let _permit = permit;
            let mut tick = tokio::time::interval(INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = changes.closed() => return,
                }
                match explain.read(&project, only).await {
                    Ok(now) => {
                        for change in compare(&known, &now, now_ms()) {
                            if changes.send(Ok(change)).await.is_err() {
                                return;
                            }
                        }
                        known = now;
                    }
                    Err(error) => {
                        // Whoever is not there any more need not hear it.
                        let _ = changes.send(Err(error)).await;
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    async fn read(self: &Arc<Self>, project: &Project, only: Option<u32>) -> Result<Seen, ExplainError> {
        let (explain, project) = (Arc::clone(self), project.clone());
        let reading = move || {
            let own = explain.own(&project)?;
            let (mut seen, now_ns) = (Seen::new(), flow_clock_ns());
            explain.datapath.each_flow(|key, flow| {
                if let Some(view) = view(&own, only, key, flow, now_ns) {
                    seen.insert((*key, flow.created_ns), view);
                }
                if seen.len() > WATCHED_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if seen.len() > WATCHED_MAX { Err(ExplainError::TooManyFlows { max: WATCHED_MAX }) } else { Ok(seen) }
        };
        tokio::task::spawn_blocking(reading).await.expect("reading flows does not panic")
    }
}

/// Ends first: a connection may follow another between the same ends.
fn compare(before: &Seen, after: &Seen, at_ms: u64) -> Vec<FlowChange> {
    let of = |changed, seen: &Seen, other: &Seen| -> Vec<FlowChange> {
        let mut gone: Vec<_> = seen.iter().filter(|(id, _)| !other.contains_key(id)).collect();
        gone.sort_by_key(|((_, created_ns), _)| *created_ns);
        gone.into_iter().map(|(_, flow)| FlowChange { changed, flow: flow.clone(), at_ms }).collect()
    };
    let ended = of(FlowChanged::Ended, before, after);
    ended.into_iter().chain(of(FlowChanged::Began, after, before)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::flows::tests::{flow, own};

    #[test]
    fn a_flow_between_the_same_ends_is_another() {
        let (key, row) = flow([1, 2], [101, 102]);
        let shown = view(&own(), None, &key, &row, 0).unwrap();
        let (first, second) = (Seen::from([((key, 1), shown.clone())]), Seen::from([((key, 2), shown)]));
        let changes = |before: &Seen, after: &Seen| -> Vec<FlowChanged> {
            compare(before, after, 9).into_iter().map(|change| change.changed).collect()
        };
        assert_eq!(changes(&first, &first), []);
        assert_eq!(changes(&Seen::new(), &first), [FlowChanged::Began]);
        assert_eq!(changes(&first, &second), [FlowChanged::Ended, FlowChanged::Began]);
    }
}
