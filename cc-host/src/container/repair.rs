//! Watches over what the kernel has of running containers: what somebody else takes away is put back, or the container is cut off; an event
//! says so. Refuses to act on what a container's own end takes away.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cc_common::names::{PIN_LINKS_DIR, PIN_PROGRAMS_DIR};
use tokio::time::Instant;

use super::pool::Parked;
use super::record::ContainerRecord;
use super::room::Containers;
use crate::datapath::{DatapathError, Repaired};
use crate::error_chain;
use crate::ids::ContainerId;
use crate::kernel::tampering::{InterfaceLosses, Removals};

/// Should the kernel have told less than happened: its queues are bounded.
const LOOK_ALL: Duration = Duration::from_secs(60);
/// What comes within this time of a removal is looked at together.
const SETTLED: Duration = Duration::from_millis(100);

impl Containers {
    /// As long as the daemon runs.
    pub async fn watch_over(self: Arc<Self>) {
        let pins = Arc::clone(&self);
        tokio::join!(self.watch_interfaces(), pins.watch_pins());
    }

    async fn watch_interfaces(&self) {
        let mut losses = match InterfaceLosses::watch() {
            Ok(losses) => losses,
            Err(error) => return tracing::error!(error = error_chain(&error), "interfaces are not watched"),
        };
        // However much happens meanwhile.
        let mut look_all = Instant::now() + LOOK_ALL;
        loop {
            let looked = match tokio::time::timeout_at(look_all, losses.next()).await {
                Ok(Some(lost)) => lost.into_iter().collect(),
                Ok(None) => return tracing::error!("the kernel tells of interfaces no more"),
                Err(_) => {
                    self.look_at_links().await;
                    // Of what became a container just when its pin went.
                    self.look_at_pins().await;
                    self.look_at_device_filters().await;
                    look_all = Instant::now() + LOOK_ALL;
                    let mut all = self.rooms.datapath.interfaces().unwrap_or_default();
                    all.extend(self.pool.interfaces());
                    all
                }
            };
            for ifindex in looked {
                self.look_at_parked(ifindex).await;
                self.look_at_interface(ifindex).await;
            }
        }
    }

    /// A link that somebody has detached keeps its pin, and nothing tells of it. Without the pin it is missing, which is noticed.
    async fn look_at_links(&self) {
        let datapath = Arc::clone(&self.rooms.datapath);
        let looked = tokio::task::spawn_blocking(move || datapath.detached_links()).await;
        for pin in looked.expect("a datapath call does not panic").unwrap_or_default() {
            if let Err(error) = std::fs::remove_file(&pin) {
                tracing::warn!(pin = %pin.display(), %error, "a detached link stays");
            }
        }
    }

    pub(super) async fn look_at_interface(&self, ifindex: u32) {
        let datapath = Arc::clone(&self.rooms.datapath);
        let looked = tokio::task::spawn_blocking(move || datapath.repair_interface(ifindex)).await;
        match looked.expect("a datapath call does not panic") {
            Ok(repaired) => {
                if let Some(repaired) = repaired {
                    self.tell_of_repair(&repaired).await;
                }
                self.hold_back(ifindex).await;
                self.bring_back_up(ifindex).await;
            }
            // It has gone with its container.
            Err(DatapathError::NoInterface { .. }) => {}
            Err(error) => self.cut_off(ifindex, &error).await,
        }
    }

    /// A container's limit of what it receives, if it is gone.
    async fn hold_back(&self, ifindex: u32) {
        let Some(record) = self.on_interface(ifindex) else { return };
        if self.limit_again(&record, ifindex).await {
            let what = "the limit of what it receives".to_owned();
            self.tell_of_repair(&Repaired { endpoint: Some(record.slot), what }).await;
        }
    }

    /// One of a container's, if somebody has taken it down.
    async fn bring_back_up(&self, ifindex: u32) {
        let Some(record) = self.on_interface(ifindex) else { return };
        match self.rooms.links.bring_up(ifindex).await {
            Ok(false) => {}
            Ok(true) => {
                let repaired =
                    Repaired { endpoint: Some(record.slot), what: "its interface, which was down".to_owned() };
                self.tell_of_repair(&repaired).await;
            }
            Err(error) => tracing::warn!(container = %record.id, error = error_chain(&error), "its interface is down"),
        }
    }

    fn on_interface(&self, ifindex: u32) -> Option<ContainerRecord> {
        let name = nix::net::if_::if_indextoname(ifindex).ok()?;
        let name = name.to_str().ok()?;
        // Once a minute for every interface: not with a copy of every record for each.
        let found = self.with_records(|records| records.values().find(|record| record.interface() == name).cloned());
        found.filter(|record| self.live(&record.id).is_some())
    }

    /// What cannot be guarded must not be open: nobody reaches it, and its frames go nowhere.
    async fn cut_off(&self, ifindex: u32, why: &DatapathError) {
        let why = error_chain(why);
        let Some(record) = self.on_interface(ifindex) else {
            return tracing::error!(ifindex, why, "an interface is not guarded, and no container's");
        };
        if let Err(error) = self.rooms.links.take_down(ifindex).await {
            tracing::error!(container = %record.id, error = error_chain(&error), "its interface cannot be taken down");
        }
        let (datapath, slot) = (Arc::clone(&self.rooms.datapath), record.slot);
        let silenced = tokio::task::spawn_blocking(move || datapath.silence(slot)).await;
        if let Ok(Err(error)) = silenced {
            tracing::error!(container = %record.id, error = error_chain(&error), "cannot end its traffic");
        }
        let text =
            format!("{} is cut off: its interface lost its programs, and they cannot be put back: {why}", record.name);
        self.rooms.events.add_for(Some(&record.project), "datapath.cut_off", record.id.as_str(), &text).await;
    }

    async fn watch_pins(&self) {
        let dir = self.rooms.datapath.pin_dir();
        let dirs = [dir.clone(), dir.join(PIN_LINKS_DIR), dir.join(PIN_PROGRAMS_DIR)];
        loop {
            let mut removals = match Removals::watch(dirs.iter().map(PathBuf::as_path)) {
                Ok(removals) => removals,
                Err(error) => return tracing::error!(%error, "pins are not watched"),
            };
            loop {
                let names = match removals.next().await {
                    Ok(names) => names,
                    Err(error) => return tracing::error!(%error, "pins are not watched any more"),
                };
                let parted = self.part_with_parked(&names);
                if !names.iter().all(|name| self.may_go(name)) {
                    tokio::time::sleep(SETTLED).await;
                    self.look_at_pins().await;
                }
                self.unpark(parted).await;
                // A directory that was made anew is another one.
                if names.iter().any(String::is_empty) {
                    break;
                }
            }
        }
    }

    /// Whether a pin's removal is part of a container's end.
    fn may_go(&self, name: &str) -> bool {
        whose(name).is_some_and(|id| self.live(&id).is_none())
    }

    /// No container is made of an init that has lost programs of its cgroup.
    fn part_with_parked(&self, pins: &[String]) -> Vec<Parked> {
        let ids: Vec<ContainerId> = pins.iter().filter_map(|pin| whose(pin)).collect();
        // Where it is not said which pins, any may have gone.
        let untold = pins.iter().any(String::is_empty);
        self.pool.drop_but(|parked| !untold && !ids.contains(&parked.id))
    }

    async fn look_at_pins(&self) {
        let places: HashMap<u32, PathBuf> = self
            .all()
            .into_iter()
            .filter_map(|record| Some((record.slot, self.live(&record.id)?.cgroup.v2_dir())))
            .collect();
        let (datapath, root) = (Arc::clone(&self.rooms.datapath), self.rooms.cgroups.v2_root());
        let looked =
            tokio::task::spawn_blocking(move || datapath.repair_pins(&root, |endpoint| places.get(&endpoint).cloned()));
        match looked.await.expect("a datapath call does not panic") {
            Ok(all) => {
                for repaired in all {
                    self.tell_of_repair(&repaired).await;
                }
            }
            Err(error) => {
                tracing::error!(error = error_chain(&error), "a pin cannot be put back");
                let text = format!("a pin was removed and cannot be put back: {}", error_chain(&error));
                self.rooms.events.add("datapath.failed", "host", &text).await;
            }
        }
    }

    pub(super) async fn tell_of_repair(&self, repaired: &Repaired) {
        let record = repaired.endpoint.and_then(|slot| self.all().into_iter().find(|record| record.slot == slot));
        let (events, what) = (&self.rooms.events, &repaired.what);
        match record {
            Some(record) => {
                let text = format!("{}: somebody had removed {what}; it is back", record.name);
                let project = Some(&record.project);
                events.add_for(project, "datapath.repaired", record.id.as_str(), &text).await;
            }
            None => {
                events.add("datapath.repaired", "host", &format!("somebody had removed {what}; it is back")).await;
            }
        }
    }
}

/// The container or the parked init that a pin is named after.
fn whose(pin: &str) -> Option<ContainerId> {
    pin.split_once('-').and_then(|(tag, _)| ContainerId::parse(tag))
}
