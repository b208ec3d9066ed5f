//! One container's figures: from its cgroup, from the datapath and from its queues. Refuses to average or to remember.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::bandwidth::Queue;
use super::error::ContainerError;
use super::health::Status;
use super::record::ContainerRecord;
use super::room::Containers;
use crate::datapath::{DatapathError, EndpointCounters};
use crate::ids::ContainerId;
use crate::kernel::cgroup::{Cgroup, Stats};
use crate::shim::record::{self, LOG_FILE, LogRecord};

/// Threads that read files of containers at a time: it is the kernel's work, of which more of them only make one wait for the other.
const READERS: usize = 2;

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
        let source = self.source(record).await.ok_or_else(|| ContainerError::NotRunning { name: name.clone() })?;
        let datapath = Arc::clone(&self.rooms.datapath);
        tokio::task::spawn_blocking(move || {
            let traffic = datapath.counters(source.endpoint).map_err(|source| unread(name, source))?;
            Ok(source.read(traffic))
        })
        .await
        .expect("reading counters does not panic")
    }

    /// All of these must run.
    pub async fn metrics_of_running(
        &self,
        records: Vec<ContainerRecord>,
    ) -> Result<Vec<(ContainerRecord, ContainerMetrics)>, ContainerError> {
        if let [record] = records.as_slice() {
            return Ok(vec![(record.clone(), self.metrics(record).await?)]);
        }
        let read = self.metrics_of_all(records.clone()).await?;
        // Looked at afterwards: the figures of one that has ended meanwhile may be another's.
        let known: HashSet<&ContainerId> = read.iter().map(|(record, _)| &record.id).collect();
        let is_gone = |record: &&ContainerRecord| !known.contains(&record.id) || self.live(&record.id).is_none();
        match records.iter().find(is_gone) {
            Some(gone) => Err(ContainerError::NotRunning { name: gone.name.to_string() }),
            None => Ok(read),
        }
    }

    /// Those of all that run among these, in their order, for hardly more than the kernel takes: the files of one are read beside those
    /// of another, and what they lost is read for all together.
    pub async fn metrics_of_all(
        &self,
        records: Vec<ContainerRecord>,
    ) -> Result<Vec<(ContainerRecord, ContainerMetrics)>, ContainerError> {
        let mut sources = Vec::with_capacity(records.len());
        for record in records {
            if let Some(source) = self.source(&record).await {
                sources.push((record, source));
            }
        }
        let datapath = Arc::clone(&self.rooms.datapath);
        tokio::task::spawn_blocking(move || {
            let endpoints: Vec<u32> = sources.iter().map(|(_, source)| source.endpoint).collect();
            let traffic = datapath.counters_of_many(&endpoints);
            let traffic = traffic.map_err(|source| unread("all containers".to_owned(), source))?;
            let mut rest = sources.into_iter().zip(traffic);
            let share = endpoints.len().div_ceil(READERS).max(1);
            let shares: Vec<Vec<_>> = (0..READERS).map(|_| rest.by_ref().take(share).collect()).collect();
            let read = |share: Vec<((ContainerRecord, Source), EndpointCounters)>| -> Vec<_> {
                share.into_iter().map(|((record, source), traffic)| (record, source.read(traffic))).collect()
            };
            Ok(std::thread::scope(|scope| {
                let readers: Vec<_> = shares.into_iter().map(|share| scope.spawn(move || read(share))).collect();
                readers.into_iter().flat_map(|reader| reader.join().expect("reading files does not panic")).collect()
            }))
        })
        .await
        .expect("reading counters does not panic")
    }

    /// Where the figures of one that runs are.
    async fn source(&self, record: &ContainerRecord) -> Option<Source> {
        let live = self.live(&record.id)?;
        Some(Source {
            queues: self.queues(record, Arc::clone(&live.netns)).await,
            cgroup: Arc::clone(&live.cgroup),
            endpoint: record.slot,
            run_dir: self.run_dir(record),
            healthy: self.health(record).map(|health| health.status == Status::Healthy),
        })
    }
}

struct Source {
    cgroup: Arc<Cgroup>,
    endpoint: u32,
    run_dir: PathBuf,
    queues: Vec<Queue>,
    healthy: Option<bool>,
}

impl Source {
    fn read(self, traffic: EndpointCounters) -> ContainerMetrics {
        // Not there until something was dropped, and of shims that do not tell.
        let log: Option<LogRecord> = record::read(&self.run_dir, LOG_FILE).unwrap_or_default();
        ContainerMetrics {
            resources: self.cgroup.stats(),
            traffic,
            queues: self.queues,
            log_dropped: log.unwrap_or_default().dropped,
            healthy: self.healthy,
        }
    }
}

fn unread(name: String, source: DatapathError) -> ContainerError {
    ContainerError::Datapath { operation: "read the counters of", name, source }
}
