//! Boot: the disks of the containers that there are count again, and whatever is of none of them goes. Refuses to touch what has not the name of
//! one of ours.

use super::Disk;
use super::place::is_ready_name;
use super::room::Disks;
use crate::error_chain;
use crate::ids::ContainerId;

impl Disks {
    /// Before anybody asks for room.
    pub fn count_again<'a>(&self, disks: impl Iterator<Item = &'a Disk>) {
        for disk in disks {
            self.volumes.note_disk(disk.uuid, disk.bytes);
        }
    }

    /// What a former daemon made ahead, and what it was making or removing when it died.
    pub async fn remove_strays(&self, is_known: impl Fn(&ContainerId) -> bool) {
        let names = match self.at(|place| place.names()).await {
            Ok(names) => names,
            Err(error) => return tracing::error!(error = error_chain(&error), "cannot list disks"),
        };
        for name in names {
            let is_stray = is_ready_name(&name) || ContainerId::parse(&name).is_some_and(|id| !is_known(&id));
            if !is_stray {
                continue;
            }
            let gone = name.clone();
            if let Err(error) = self.at(move |place| place.remove(&gone)).await {
                tracing::error!(disk = name, error = error_chain(&error), "cannot remove a stray disk");
            }
        }
    }
}
