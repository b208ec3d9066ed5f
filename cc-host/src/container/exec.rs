//! Further programs in a container that runs, and being attached to its first one. Refuses to keep their output: it is for whoever asked.

use tokio::sync::watch;

use super::error::ContainerError;
use super::launch::LaunchError;
use super::record::{ContainerRecord, Exit};
use super::room::Containers;
use super::start::Stdio;
use crate::shim::exec_spec::ExecSpec;

impl Containers {
    /// Returns when the program runs.
    pub async fn exec(&self, record: &ContainerRecord, wanted: &ExecSpec) -> Result<Stdio, ContainerError> {
        let name = record.name.to_string();
        let live = self.live(&record.id).ok_or_else(|| ContainerError::NotRunning { name: name.clone() })?;
        match live.shim.exec(wanted).await {
            Ok((stdin, output)) => Ok(Stdio { stdin, output }),
            Err(LaunchError::Exec(source)) => Err(ContainerError::Exec { name, source }),
            Err(source) => Err(ContainerError::Shim { name, source }),
        }
    }

    /// Its streams from here on, and its end: of this run, though it may be started again at once.
    pub async fn attach(
        &self,
        record: &ContainerRecord,
        stdin: bool,
    ) -> Result<(Stdio, watch::Receiver<Option<Exit>>), ContainerError> {
        let name = record.name.to_string();
        let live = self.live(&record.id).ok_or_else(|| ContainerError::NotRunning { name: name.clone() })?;
        let attached = live.shim.attach(stdin).await;
        let (stdin, output) = attached.map_err(|source| ContainerError::Shim { name, source })?;
        Ok((Stdio { stdin, output }, live.exit.clone()))
    }
}
