//! One container's figures: from its cgroup, from the datapath and from its queues. Refuses to average or to remember.

use std::sync::Arc;

use super::bandwidth::Queue;
use super::error::ContainerError;
use super::health::Status;
use super::record::ContainerRecord;
use super::room::Containers;
use crate::datapath::EndpointCounters;
use crate::kernel::cgroup::Stats;
use crate::shim::record::{self, LOG_FILE, LogRecord};

#[derive(Debug, Clone, Default)]
pub struct ContainerMetrics {
    pub resources: Stats,
    pub traffic: EndpointCounters,
    /// Of what is limited.
    pub queues: Vec<Queue>,
    /// Records of its output that were not written.
    pub log_dropped: u64,
    /// Of one that is asked.
    pub healthy: Option<bool>,
}

impl Containers {
    /// A stopped container has no figures any more.
    pub async fn metrics(&self, record: &ContainerRecord) -> Result<ContainerMetrics, ContainerError> {
        let name = record.name.to_string();
        let live = self.live(&record.id).ok_or_else(|| ContainerError::NotRunning { name: name.clone() })?;
        let (cgroup, datapath) = (Arc::clone(&live.cgroup), Arc::clone(&self.rooms.datapath));
        let endpoint = record.slot;
        let queues = self.queues(record, Arc::clone(&live.netns)).await;
        let run_dir = self.run_dir(record);
        let healthy = self.health(record).map(|health| health.status == Status::Healthy);
        tokio::task::spawn_blocking(move || {
            let resources = cgroup.stats();
            let traffic = datapath.counters(endpoint).map_err(|source| ContainerError::Datapath {
                operation: "read the counters of",
                name,
                source,
            })?;
            // Not there until something was dropped, and of shims that do not tell.
            let log: Option<LogRecord> = record::read(&run_dir, LOG_FILE).unwrap_or_default();
            let log_dropped = log.unwrap_or_default().dropped;
            Ok(ContainerMetrics { resources, traffic, queues, log_dropped, healthy })
        })
        .await
        .expect("reading counters does not panic")
    }
}
