//! The room when its daemon stops. Containers go on without it, and the next daemon adopts them; or they are stopped, if the
//! configuration says so. Refuses to start any from then on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::record::{ContainerRecord, State};
use super::room::Containers;
use crate::error_chain;

impl Containers {
    /// Returns when what ends has ended, and what has ended is gone.
    pub async fn close(self: &Arc<Self>, grace: Duration, with_containers: bool) {
        // Before the other, which tells whoever follows one.
        self.stops_containers.fetch_or(with_containers, Ordering::Relaxed);
        self.closing.send_replace(true);
        if self.stops_containers.load(Ordering::Relaxed) {
            self.stop_running(grace).await;
        }
        tokio::join!(self.wait_for_leaving(), self.wait_for_pool(), self.rooms.disks.wait_for_keeper());
    }

    /// Last of all, when no call is served any more: from here on a shim that is not heard is not taken for one that was killed.
    /// Returns how many containers go on.
    pub fn let_go(&self) -> usize {
        let live = self.all_live();
        live.iter().for_each(|live| live.shim.let_go());
        live.len()
    }

    /// Ready when the daemon stops and leaves its containers running: whoever follows one will not hear of its end here.
    pub fn leaves(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut closing, stops_them) = (self.closing.subscribe(), Arc::clone(&self.stops_containers));
        async move {
            let closed = closing.wait_for(|closing| *closing).await.is_ok();
            // Where they are stopped, each is followed to its end.
            if stops_them.load(Ordering::Relaxed) || !closed {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn stop_running(self: &Arc<Self>, grace: Duration) {
        let running: Vec<ContainerRecord> =
            self.all().into_iter().filter(|r| matches!(r.state, State::Running { .. })).collect();
        let mut stops = tokio::task::JoinSet::new();
        for record in running {
            let room = Arc::clone(self);
            stops.spawn(async move {
                if let Err(error) = room.end_within(&record, Some(grace)).await {
                    tracing::warn!(container = %record.id, error = error_chain(&error), "cannot stop it");
                }
            });
        }
        while stops.join_next().await.is_some() {}
    }
}
