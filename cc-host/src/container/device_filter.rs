//! A container's filter of devices: in force before anything of its image runs in its cgroup, and as long as there is the cgroup. Refuses to say what
//! a device is: the kernel does, of the host's node.

use std::sync::Arc;

use super::error::ContainerError;
use super::record::ContainerRecord;
use super::room::Containers;
use crate::blocking;
use crate::datapath::{Datapath, DatapathError, Repaired};
use crate::devices::Rule;
use crate::kernel::cgroup::Cgroup;
use crate::shim::spec::DeviceSpec;

impl Containers {
    /// Before the shim is told to start what is there.
    pub(super) async fn filter_devices(&self, record: &ContainerRecord, cgroup: &Cgroup) -> Result<(), ContainerError> {
        let (dir, given) = (cgroup.v2_dir(), record.spec.devices.clone());
        let failed = |source| ContainerError::Datapath {
            operation: "filter the devices of",
            name: record.name.to_string(),
            source,
        };
        self.on_datapath(move |datapath| datapath.filter_devices(&dir, &allowed(&given))).await.map_err(failed)
    }

    /// Of one that runs; whether it had none.
    pub(super) async fn keep_devices_filtered(
        &self,
        record: &ContainerRecord,
        cgroup: &Cgroup,
    ) -> Result<bool, DatapathError> {
        let (dir, given) = (cgroup.v2_dir(), record.spec.devices.clone());
        self.on_datapath(move |datapath| datapath.filter_devices_if_missing(&dir, &allowed(&given))).await
    }

    /// All that run. Nothing tells when somebody takes a filter away, so it is asked for.
    pub(super) async fn look_at_device_filters(&self) {
        for record in self.all() {
            let Some(live) = self.live(&record.id) else { continue };
            match self.keep_devices_filtered(&record, &live.cgroup).await {
                Ok(false) => {}
                Ok(true) => {
                    let what = "the filter of its devices".to_owned();
                    self.tell_of_repair(&Repaired { endpoint: Some(record.slot), what }).await;
                }
                // It may have ended meanwhile, cgroup and all.
                Err(error) if self.live(&record.id).is_none() => tracing::debug!(%error, "it has ended"),
                Err(error) => tracing::error!(container = %record.id, %error, "its devices are not filtered"),
            }
        }
    }

    async fn on_datapath<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Datapath) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, DatapathError> {
        let datapath = Arc::clone(&self.rooms.datapath);
        blocking::run(move || call(&datapath)).await
    }
}

/// By the host's nodes as they are now. The shim looks by itself when it makes its own: what is no device, or not there, it refuses; and a
/// node that became another's between the two is one that the filter does not let through.
fn allowed(given: &[DeviceSpec]) -> Vec<Rule> {
    let of = |device: &DeviceSpec| {
        let stat = rustix::fs::stat(&device.source).ok()?;
        Rule::of(&stat, device.read, device.write)
    };
    given.iter().filter_map(of).collect()
}
