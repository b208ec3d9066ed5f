//! A container's filter of devices, where the daemon has it hung. Refuses to know how it is made: the room `devices` does.

use std::path::Path;

use super::error::DatapathError;
use super::{Datapath, DatapathError as E};
use crate::devices::{self, Rule};
use crate::mutation::{self, Control};

impl Datapath {
    /// From here on, processes of the cgroup have these devices and those that everybody has. Whatever they have open stays open.
    pub fn filter_devices(&self, cgroup_v2_dir: &Path, given: &[Rule]) -> Result<(), DatapathError> {
        attach(cgroup_v2_dir, given)
    }

    /// The same where no earlier daemon has, or somebody took it away; whether that was so.
    pub fn filter_devices_if_missing(&self, cgroup_v2_dir: &Path, given: &[Rule]) -> Result<bool, DatapathError> {
        let is_missing = !devices::is_attached(&open(cgroup_v2_dir)?).map_err(|source| E::Devices { source })?;
        if is_missing {
            attach(cgroup_v2_dir, given)?;
        }
        Ok(is_missing)
    }
}

fn open(cgroup_v2_dir: &Path) -> Result<std::fs::File, DatapathError> {
    std::fs::File::open(cgroup_v2_dir).map_err(|source| E::Cgroup { path: cgroup_v2_dir.to_owned(), source })
}

fn attach(cgroup_v2_dir: &Path, given: &[Rule]) -> Result<(), DatapathError> {
    if mutation::off(Control::DeviceFilter) {
        return Ok(());
    }
    let rules = [&Rule::EVERYBODYS, given].concat();
    devices::attach(&open(cgroup_v2_dir)?, &rules).map_err(|source| E::Devices { source })
}
