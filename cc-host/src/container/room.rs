//! The room's state: which containers exist, which are live, and how they are found. Refuses to start or stop them itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::claims::Claims;
use super::error::ContainerError;
use super::health::Health;
use super::launch::Shim;
use super::pool::Pool;
use super::probes::Turns;
use super::record::{CONTAINERS, ContainerRecord, Exit, State};
use crate::config::Config;
use crate::daemon::events::Events;
use crate::datapath::Datapath;
use crate::disk::Disks;
use crate::firewall::{Firewall, Joined};
use crate::ids::{ContainerId, Name, Project};
use crate::image::Images;
use crate::kernel::cgroup::{Cgroup, CgroupRoot};
use crate::kernel::link::Links;
use crate::outside::Outside;
use crate::slots::Slots;
use crate::store::{Compare, Op, Store, Txn};
use crate::volume::Volumes;
use crate::vpc::{Gateways, Vpcs};

/// The rooms that this one stands on.
#[derive(Clone)]
pub struct Rooms {
    pub config: Arc<Config>,
    pub store: Arc<dyn Store>,
    pub datapath: Arc<Datapath>,
    pub images: Images,
    pub vpcs: Arc<Vpcs>,
    pub gateways: Arc<Gateways>,
    pub firewall: Arc<Firewall>,
    pub outside: Arc<Outside>,
    pub volumes: Arc<Volumes>,
    pub disks: Arc<Disks>,
    pub cgroups: Arc<CgroupRoot>,
    pub links: Links,
    pub events: Events,
    /// Marks our links, so that two daemons in one namespace never take each other's.
    pub host_id: String,
}

/// What only a live container has.
pub(super) struct Live {
    pub(super) shim: Shim,
    pub(super) cgroup: Arc<Cgroup>,
    /// Its network namespace, held open: a pid could be another's by now.
    pub(super) netns: Arc<OwnedFd>,
    /// Its place in its groups; changed when they are.
    pub(super) joined: Mutex<Option<Joined>>,
    /// Of one that is asked.
    pub(super) health: Option<Mutex<Health>>,
    /// `Some` once it has ended, its record says so, and none of its packets passes.
    pub(super) exit: watch::Receiver<Option<Exit>>,
}

pub struct Containers {
    pub(super) rooms: Rooms,
    pub(super) slots: Slots,
    pub(super) pool: Pool,
    /// Set when the daemon stops: from then on nothing starts.
    pub(super) closing: watch::Sender<bool>,
    /// Whether it stops its containers then: by its configuration, or as it was told.
    pub(super) stops_containers: Arc<AtomicBool>,
    /// The slots of those that have ended and are not gone yet.
    pub(super) leaving: watch::Sender<BTreeSet<u32>>,
    pub(super) claims: Claims,
    /// Files of theirs are being copied: by whose project, and by how many.
    pub(super) copying: watch::Sender<HashMap<ContainerId, (Project, usize)>>,
    pub(super) turns: Turns,
    /// Those that wait to be started by their policy, each with the number of the one task that is to do it.
    pub(super) restarting: Mutex<HashMap<ContainerId, u64>>,
    /// From when on policies start containers.
    pub(super) booted: watch::Sender<bool>,
    /// Held from the choice of an address to its record's being known here, and while VPCs are deleted: the records in memory
    /// are what both decide by.
    allocation: tokio::sync::Mutex<()>,
    live: Mutex<HashMap<ContainerId, Arc<Live>>>,
    /// Copies of the records: reads never wait for the disk. Written only after the store has taken a change.
    records: Mutex<BTreeMap<ContainerId, ContainerRecord>>,
}

/// Whatever the configuration says: each is two processes.
const PARKED_MAX: u32 = 64;

impl Containers {
    pub fn new(rooms: Rooms) -> Arc<Self> {
        let slots = Slots::new(rooms.config.id_ranges.min(cc_common::limits::CONTAINERS_MAX));
        let pool = Pool::new(rooms.config.parked_max.min(PARKED_MAX));
        let stops_containers = Arc::new(AtomicBool::new(rooms.config.stop_containers));
        Arc::new(Containers {
            rooms,
            slots,
            pool,
            closing: watch::Sender::new(false),
            stops_containers,
            leaving: watch::Sender::default(),
            copying: watch::Sender::default(),
            claims: Claims::default(),
            turns: Turns::default(),
            restarting: Mutex::default(),
            booted: watch::Sender::new(false),
            allocation: tokio::sync::Mutex::default(),
            live: Mutex::default(),
            records: Mutex::default(),
        })
    }

    /// Reads all records: the first step of boot.
    pub(super) async fn load(&self) -> Result<Vec<ContainerRecord>, ContainerError> {
        let failed = |source| ContainerError::Store { name: "*".to_owned(), source };
        let (kvs, _) = self.rooms.store.range(CONTAINERS).await.map_err(failed)?;
        let mut all = Vec::new();
        for kv in kvs {
            let record: ContainerRecord =
                serde_json::from_slice(&kv.value).map_err(|source| ContainerError::Decode { key: kv.key, source })?;
            self.slots.adopt(record.slot);
            self.remember(&record);
            all.push(record);
        }
        Ok(all)
    }

    pub fn list(&self, project: &Project) -> Vec<ContainerRecord> {
        self.with_records(|records| records.values().filter(|r| r.project == *project).cloned().collect())
    }

    /// Of every project.
    pub fn running(&self) -> Vec<ContainerRecord> {
        self.all().into_iter().filter(|record| self.live(&record.id).is_some()).collect()
    }

    pub fn all(&self) -> Vec<ContainerRecord> {
        self.with_records(|records| records.values().cloned().collect())
    }

    /// By id, name, or an unambiguous start of the id. Another project's is not found.
    pub fn find(&self, project: &Project, wanted: &str) -> Result<ContainerRecord, ContainerError> {
        self.with_records(|records| {
            let own = || records.values().filter(|r| r.project == *project);
            let exact = own().find(|r| r.id.as_str() == wanted || r.name.as_str() == wanted);
            let by_prefix = || {
                let mut matches = own().filter(|r| wanted.len() >= 4 && r.id.as_str().starts_with(wanted));
                matches.next().filter(|_| matches.next().is_none())
            };
            exact.or_else(by_prefix).cloned()
        })
        .ok_or_else(|| ContainerError::NotFound { wanted: wanted.to_owned(), project: project.clone() })
    }

    /// The container whose id spells this number, whoever's it is, and its project.
    pub fn of_number(&self, number: u64) -> Option<(ContainerId, Name, Project)> {
        let id = ContainerId::parse(&format!("{number:016x}"))?;
        self.with_records(|records| records.get(&id).map(|r| (r.id.clone(), r.name.clone(), r.project.clone())))
    }

    /// While it is held, no container gets an address.
    pub async fn allocation(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.allocation.lock().await
    }

    pub(super) fn live(&self, id: &ContainerId) -> Option<Arc<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn all_live(&self) -> Vec<Arc<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The slots of the containers that are live: what the datapath must keep.
    pub(super) fn live_slots(&self) -> HashSet<u32> {
        let is_live = |record: &&ContainerRecord| self.live(&record.id).is_some();
        self.all().iter().filter(is_live).map(|record| record.slot).collect()
    }

    pub(super) fn set_live(&self, id: &ContainerId, live: Option<Arc<Live>>) {
        let mut all = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        match live {
            Some(live) => all.insert(id.clone(), live),
            None => all.remove(id),
        };
    }

    fn remember(&self, record: &ContainerRecord) {
        self.with_records(|records| records.insert(record.id.clone(), record.clone()));
    }

    pub fn volumes(&self) -> &crate::volume::Volumes {
        &self.rooms.volumes
    }

    pub(super) fn with_records<T>(&self, f: impl FnOnce(&mut BTreeMap<ContainerId, ContainerRecord>) -> T) -> T {
        f(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes a record that exists: nothing is written for one that was removed meanwhile.
    pub(super) async fn update(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        self.update_with(record, true).await
    }

    /// As `update`, where power loss may undo it.
    pub(super) async fn update_unsynced(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        self.update_with(record, false).await
    }

    async fn update_with(&self, record: &ContainerRecord, synced: bool) -> Result<(), ContainerError> {
        let failed = |source| ContainerError::Store { name: record.name.to_string(), source };
        let put = vec![Op::Put { key: record.key(), value: record.encode(), lease: None }];
        let (known, store) = (vec![Compare::Present(record.key())], &self.rooms.store);
        let done = if synced { store.txn(known, put).await } else { store.txn_unsynced(known, put).await };
        match done.map_err(failed)? {
            Txn::Committed { .. } => {
                self.remember(record);
                Ok(())
            }
            Txn::Conflict => {
                Err(ContainerError::NotFound { wanted: record.name.to_string(), project: record.project.clone() })
            }
        }
    }

    /// The record and what hangs on its name; it holds its slot no more.
    pub(super) async fn forget(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        self.forget_with(record, true).await
    }

    /// As `forget`, for one that goes by itself: should power loss bring its record back, the next boot takes it away again.
    pub(super) async fn forget_ended(&self, record: &ContainerRecord) -> Result<(), ContainerError> {
        self.forget_with(record, false).await
    }

    async fn forget_with(&self, record: &ContainerRecord, synced: bool) -> Result<(), ContainerError> {
        let failed = |source| ContainerError::Store { name: record.name.to_string(), source };
        let ops = vec![Op::Delete { key: record.key() }, Op::Delete { key: record.name_key() }];
        // Once: by the second time the name may be another's.
        let known = vec![Compare::Present(record.key())];
        let store = &self.rooms.store;
        let done = if synced { store.txn(known, ops).await } else { store.txn_unsynced(known, ops).await };
        let _: Txn = done.map_err(failed)?;
        let known = self.with_records(|records| records.remove(&record.id));
        // Only the one who took the record away gives the slot back: it may be another's by now.
        if known.is_some() {
            self.slots.release(record.slot);
        }
        Ok(())
    }

    pub(super) async fn insert(
        &self,
        record: &ContainerRecord,
        vpc: Option<(Op, Compare)>,
        known: Vec<Compare>,
    ) -> Result<bool, ContainerError> {
        let failed = |source| ContainerError::Store { name: record.name.to_string(), source };
        let mut compares = vec![Compare::Absent(record.key()), Compare::Absent(record.name_key())];
        compares.extend(known);
        let mut ops = vec![
            Op::Put { key: record.key(), value: record.encode(), lease: None },
            Op::Put { key: record.name_key(), value: record.id.as_str().into(), lease: None },
        ];
        if let Some((op, compare)) = vpc {
            ops.push(op);
            compares.push(compare);
        }
        // Nobody is told of the container before its record says that it runs.
        let done = self.rooms.store.txn_unsynced(compares, ops).await.map_err(failed)?;
        let committed = matches!(done, Txn::Committed { .. });
        if committed {
            self.remember(record);
        }
        Ok(committed)
    }

    /// The containers that hang on a VPC, for its deletion.
    pub fn users_of(&self, vpc: &crate::ids::VpcId) -> Vec<String> {
        let uses = |r: &&ContainerRecord| r.vpc.as_ref().is_some_and(|a| a.vpc == *vpc);
        self.with_records(|records| records.values().filter(uses).map(|r| r.name.to_string()).collect())
    }

    /// Of all projects: the name of its directory, and whether it runs.
    pub fn all_that_run_or_not(&self) -> Vec<(String, bool)> {
        let runs = |record: &ContainerRecord| matches!(record.state, State::Running { .. });
        self.with_records(|records| records.values().map(|r| (r.id.to_string(), runs(r))).collect())
    }

    /// Of all projects: the name of its disk's file, and whether it runs.
    pub fn disk_files(&self) -> Vec<(String, bool)> {
        let all = self.all_that_run_or_not();
        all.into_iter().map(|(id, runs)| (self.rooms.disks.file_name(&id), runs)).collect()
    }

    /// Digests of the images that containers were made from.
    pub fn images_in_use(&self) -> HashSet<String> {
        self.with_records(|records| records.values().map(|r| r.image_digest.clone()).collect())
    }
}
