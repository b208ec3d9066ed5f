//! One container's place in the kernel, put together. Refuses to say whether it is as it should be.

use std::sync::Arc;

use super::Explain;
use super::error::ExplainError;
use crate::container::{ContainerError, ContainerRecord, State};
use crate::datapath::Inspection;
use crate::ids::Project;
use crate::kernel::filters::Filter;

#[derive(Debug, Clone)]
pub struct Inspected {
    pub record: ContainerRecord,
    pub groups: Vec<String>,
    pub datapath: Inspection,
    pub filters: Vec<Filter>,
}

impl Explain {
    /// Of a container that runs.
    pub async fn inspect(self: &Arc<Self>, project: &Project, wanted: &str) -> Result<Inspected, ExplainError> {
        let record = self.containers.find(project, wanted)?;
        let not_running = || ContainerError::NotRunning { name: record.name.to_string() };
        if !matches!(record.state, State::Running { .. }) {
            return Err(not_running().into());
        }
        let (explain, slot) = (Arc::clone(self), record.slot);
        let reading = tokio::task::spawn_blocking(move || explain.datapath.inspect(slot));
        let datapath = reading.await.expect("reading maps does not panic")?;
        // It may have ended meanwhile.
        if datapath.entry.generation == 0 {
            return Err(not_running().into());
        }
        let ifindex = datapath.entry.ifindex;
        let filters = if ifindex == 0 { Vec::new() } else { self.links.filters(ifindex).await? };
        Ok(Inspected { groups: self.containers.group_names(&record), record, datapath, filters })
    }
}
