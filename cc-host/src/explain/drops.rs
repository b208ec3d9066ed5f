//! Drops as a project may see them: how often each reason struck each of its containers. Refuses to add projects up.

use super::Explain;
use super::error::ExplainError;
use crate::container::State;
use crate::datapath::Drops;
use crate::ids::Project;

/// What one container has lost, since it was attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerDrops {
    /// Empty for what is no container's: frames on interfaces that nobody knows.
    pub id: String,
    pub name: String,
    pub drops: Vec<Drops>,
    /// Records that watchers did not get: beyond the rate, or for want of room.
    pub lost_records: u64,
}

impl Explain {
    /// Of the project's running containers, or of one; `host` adds what is nobody's.
    pub async fn drops(
        self: &std::sync::Arc<Self>,
        project: &Project,
        only: &str,
        host: bool,
    ) -> Result<Vec<ContainerDrops>, ExplainError> {
        let only = self.only(project, only)?;
        let mut records = self.containers.list(project);
        records.retain(|record| only.map_or(matches!(record.state, State::Running { .. }), |slot| record.slot == slot));
        records.sort_by_key(|record| record.created_ms);
        let explain = std::sync::Arc::clone(self);
        let reading = move || {
            let mut all = Vec::new();
            for record in records {
                let drops = explain.datapath.counters(record.slot)?.drops;
                let lost_records = explain.datapath.told(record.slot)?.lost;
                let (id, name) = (record.id.to_string(), record.name.to_string());
                all.push(ContainerDrops { id, name, drops, lost_records });
            }
            if host && only.is_none() {
                let drops = explain.datapath.unknown_drops()?;
                let lost_records = explain.datapath.told(cc_common::limits::ENDPOINT_UNKNOWN)?.lost;
                all.push(ContainerDrops { id: String::new(), name: String::new(), drops, lost_records });
            }
            Ok(all)
        };
        tokio::task::spawn_blocking(reading).await.expect("reading counters does not panic")
    }
}
