//! Boot: the disks of the containers that there are count again, and whatever is of none of them goes. Refuses to touch what has not the name of
//! one of ours.

use super::Disk;
use super::error::DiskError;
use super::place::{Place, is_ready_name, ready_name};
use super::room::Disks;
use crate::error_chain;
use crate::ids::ContainerId;

impl Disks {
    /// Before anybody asks for room, and before anything becomes of a container: each is named by its own, should a daemon, or the host, have gone
    /// down before that was on the disk.
    pub async fn take_up(&self, disks: Vec<(ContainerId, Disk)>) {
        for (_, disk) in &disks {
            self.volumes.note_disk(disk.uuid, disk.bytes);
        }
        self.at(move |place| {
            for (id, disk) in disks {
                if let Err(error) = place.name(id.as_str(), &disk) {
                    tracing::error!(container = %id, error = error_chain(&error), "cannot name its disk");
                }
            }
        })
        .await;
    }

    /// What a former daemon made ahead, and what it was making or removing when it died.
    pub async fn remove_strays(&self, known: &[(ContainerId, Disk)]) {
        let known: Vec<(ContainerId, Disk)> = known.to_vec();
        self.at(move |place| {
            if let Err(error) = remove_strays(place, &known) {
                tracing::error!(error = error_chain(&error), "cannot remove stray disks");
            }
        })
        .await;
    }
}

fn remove_strays(place: &Place, known: &[(ContainerId, Disk)]) -> Result<(), DiskError> {
    for uuid in place.places()? {
        if !known.iter().any(|(_, disk)| disk.uuid == uuid) {
            place.unmount(&Disk { uuid, bytes: 0 })?;
        }
    }
    for name in place.names()? {
        let is_known = |id: &ContainerId| known.iter().any(|(other, _)| other == id);
        // It could not be given its name: it is a container's all the same.
        if known.iter().any(|(_, disk)| ready_name(disk) == name) {
            continue;
        }
        if is_ready_name(&name) || ContainerId::parse(&name).is_some_and(|id| !is_known(&id)) {
            place.remove_file(&name)?;
        }
    }
    Ok(())
}
