//! Creating, finding and deleting VPCs. Refuses to delete one that is in use.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cidr::Cidr;
use super::cidr6::Cidr6;
use super::error::VpcError;
use super::gateways::Gateways;
use super::ipam;
use super::record::{VPCS, VpcRecord, project_prefix};
use crate::datapath::{Datapath, Network, Range};
use crate::firewall::{Firewall, new_group};
use crate::ids::{Name, Project, VpcId, now_ms};
use crate::store::{Compare, Op, Store, Txn};

/// VPCs of one project. The whole host's limit is the datapath's routes.
pub(super) const VPCS_PER_PROJECT_MAX: usize = 1024;
/// VPCs of a host: each has a route to its gateway, and the other half of the routes is the endpoints'.
const VPCS_MAX: usize = 4096;
/// VPCs of one deletion: six operations each, in one transaction of at most 1,024.
pub(super) const DELETE_MAX: usize = 160;
const VNI_CURSOR: &str = "vni-last";
/// 24 bits, as VXLAN has them; 0 stands for "none".
const VNI_MAX: u32 = (1 << 24) - 1;
/// How often a transaction that met another one is tried again before it is called busy.
const CONFLICT_RETRIES_MAX: usize = 64;

/// A VPC that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVpc {
    pub name: String,
    pub cidr: String,
    /// Empty: none.
    pub cidr6: String,
    pub internet: bool,
}

/// The VPCs of all projects on this host.
pub struct Vpcs {
    store: Arc<dyn Store>,
    datapath: Arc<Datapath>,
    firewall: Arc<Firewall>,
    gateways: Arc<Gateways>,
}

impl Vpcs {
    pub fn new(
        store: Arc<dyn Store>,
        datapath: Arc<Datapath>,
        firewall: Arc<Firewall>,
        gateways: Arc<Gateways>,
    ) -> Self {
        Vpcs { store, datapath, firewall, gateways }
    }

    pub async fn create(&self, project: &Project, wanted: &NewVpc) -> Result<VpcRecord, VpcError> {
        let NewVpc { name, cidr, cidr6, internet } = wanted;
        let internet = *internet;
        let bad_name = |source| VpcError::BadName { name: name.clone(), source };
        let parsed = Name::parse(name).map_err(bad_name)?;
        let (cidr, cidr6) = ranges(name, cidr, cidr6)?;
        for _ in 0..CONFLICT_RETRIES_MAX {
            let all = self.all().await?;
            let own = all.iter().filter(|v| v.project == *project);
            if let Some(taken) = own.clone().find(|v| v.name == parsed) {
                return Err(VpcError::NameTaken { name: parsed, id: taken.id.clone() });
            }
            if self.firewall.group(project, parsed.as_str()).is_ok() {
                return Err(VpcError::GroupNameTaken { name: parsed });
            }
            if own.count() >= VPCS_PER_PROJECT_MAX || all.len() >= VPCS_MAX {
                return Err(VpcError::TooMany { name: parsed, project: project.clone() });
            }
            let (vni, cursor) = self.next_vni(&all).await?;
            let record = VpcRecord {
                id: VpcId::random(),
                name: parsed.clone(),
                project: project.clone(),
                cidr,
                cidr6,
                internet,
                vni,
                created_ms: now_ms(),
                last_address: None,
            };
            if self.insert(&record, cursor).await? {
                if let Err(error) = self.announce(&record).await {
                    self.retract(&record).await?;
                    return Err(error);
                }
                return Ok(record);
            }
        }
        Err(VpcError::Busy { name: name.clone() })
    }

    /// The number after the last that was given: one that was freed rests, so that nothing of its former VPC can meet the next.
    async fn next_vni(&self, all: &[VpcRecord]) -> Result<(u32, Compare), VpcError> {
        let failed = |source| VpcError::Store { name: "*".to_owned(), source };
        let stored = self.store.get(VNI_CURSOR).await.map_err(failed)?;
        let last = stored.as_ref().and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse::<u32>().ok());
        let cursor = match stored {
            Some(kv) => Compare::Modified(VNI_CURSOR.to_owned(), kv.modified),
            None => Compare::Absent(VNI_CURSOR.to_owned()),
        };
        Ok((free_vni(all, last.unwrap_or(0)), cursor))
    }

    async fn insert(&self, record: &VpcRecord, cursor: Compare) -> Result<bool, VpcError> {
        let failed = |source| VpcError::Store { name: record.name.to_string(), source };
        let keys = [record.key(), record.name_key(), record.vni_key()];
        let own_compares: Vec<Compare> = keys.iter().cloned().map(Compare::Absent).chain([cursor]).collect();
        let [key, name_key, vni_key] = keys;
        let id = record.id.as_str().as_bytes().to_vec();
        let own_ops = vec![
            Op::Put { key, value: encode(record), lease: None },
            Op::Put { key: name_key, value: id.clone(), lease: None },
            Op::Put { key: vni_key, value: id, lease: None },
            Op::Put { key: VNI_CURSOR.to_owned(), value: record.vni.to_string().into_bytes(), lease: None },
        ];
        let group = new_group(record.project.clone(), record.name.clone(), Some(record.id.clone()));
        let commit = async |mut compares: Vec<Compare>, mut ops: Vec<Op>| {
            compares.extend(own_compares);
            ops.extend(own_ops);
            let done = self.store.txn(compares, ops).await.map_err(failed)?;
            Ok::<bool, VpcError>(matches!(done, Txn::Committed { .. }))
        };
        self.firewall.with_default_group(group, commit).await
    }

    /// Undoes `insert`.
    async fn retract(&self, record: &VpcRecord) -> Result<(), VpcError> {
        self.erase(&[(record.clone(), None)]).await.map(drop)
    }

    /// Records and default groups, of the revisions that are given, in one transaction; whether nobody was faster.
    async fn erase(&self, doomed: &[(VpcRecord, Option<u64>)]) -> Result<bool, VpcError> {
        let names: Vec<&str> = doomed.iter().map(|(vpc, _)| vpc.name.as_str()).collect();
        let failed = |source| VpcError::Store { name: names.join(" "), source };
        let compares: Vec<Compare> =
            doomed.iter().filter_map(|(v, revision)| Some(Compare::Modified(v.key(), (*revision)?))).collect();
        let keys = doomed.iter().flat_map(|(v, _)| [v.key(), v.name_key(), v.vni_key()]);
        let own_ops: Vec<Op> = keys.map(|key| Op::Delete { key }).collect();
        let ids: Vec<VpcId> = doomed.iter().map(|(vpc, _)| vpc.id.clone()).collect();
        let commit = async |mut ops: Vec<Op>| {
            ops.extend(own_ops);
            let done = self.store.txn(compares, ops).await.map_err(failed)?;
            Ok::<bool, VpcError>(matches!(done, Txn::Committed { .. }))
        };
        self.firewall.without_default_groups(&ids, commit).await
    }

    /// Tells the datapath of a VPC: its gateway answers from then on.
    async fn announce(&self, record: &VpcRecord) -> Result<(), VpcError> {
        let network = Network {
            vni: record.vni,
            ipv4: Range {
                network: record.cidr.network(),
                prefix_len: record.cidr.prefix_len(),
                gateway: record.cidr.gateway(),
            },
            ipv6: record.cidr6.map(|cidr6| Range {
                network: cidr6.network(),
                prefix_len: cidr6.prefix_len(),
                gateway: cidr6.gateway(),
            }),
            internet: record.internet,
            resolver: self.gateways.endpoint(record.vni).await,
        };
        let datapath = Arc::clone(&self.datapath);
        tokio::task::spawn_blocking(move || datapath.add_network(&network))
            .await
            .expect("a datapath call does not panic")
            .map_err(|source| VpcError::Datapath { name: record.name.to_string(), source })
    }

    /// At boot: the datapath knows all VPCs again. One that it cannot take keeps the others from nothing but its gateway.
    pub async fn announce_all(&self) -> Result<Vec<VpcRecord>, VpcError> {
        let all = self.all().await?;
        for record in &all {
            self.complete(record).await?;
            if let Err(error) = self.announce(record).await {
                tracing::error!(vpc = %record.id, error = crate::error_chain(&error), "its gateway does not answer");
            }
        }
        Ok(all)
    }

    /// One that was made before there were groups gets its default group.
    async fn complete(&self, record: &VpcRecord) -> Result<(), VpcError> {
        if self.firewall.default_group(&record.id).is_some() {
            return Ok(());
        }
        let failed = |source| VpcError::Store { name: record.name.to_string(), source };
        let group = new_group(record.project.clone(), record.name.clone(), Some(record.id.clone()));
        let commit = async |compares: Vec<Compare>, ops: Vec<Op>| {
            let done = self.store.txn(compares, ops).await.map_err(failed)?;
            Ok::<bool, VpcError>(matches!(done, Txn::Committed { .. }))
        };
        self.firewall.with_default_group(group, commit).await.map(drop)
    }

    pub async fn list(&self, project: &Project) -> Result<Vec<VpcRecord>, VpcError> {
        self.read(&project_prefix(project)).await
    }

    pub async fn all(&self) -> Result<Vec<VpcRecord>, VpcError> {
        self.read(VPCS).await
    }

    async fn read(&self, prefix: &str) -> Result<Vec<VpcRecord>, VpcError> {
        let failed = |source| VpcError::Store { name: "*".to_owned(), source };
        let (kvs, _) = self.store.range(prefix).await.map_err(failed)?;
        kvs.into_iter()
            .map(|kv| serde_json::from_slice(&kv.value).map_err(|source| VpcError::Decode { key: kv.key, source }))
            .collect()
    }

    /// By id or name, with the revision at which it was last written.
    pub async fn find(&self, project: &Project, wanted: &str) -> Result<(VpcRecord, u64), VpcError> {
        let failed = |source| VpcError::Store { name: wanted.to_owned(), source };
        let (kvs, _) = self.store.range(&project_prefix(project)).await.map_err(failed)?;
        for kv in kvs {
            let record: VpcRecord =
                serde_json::from_slice(&kv.value).map_err(|source| VpcError::Decode { key: kv.key, source })?;
            if record.id.as_str() == wanted || record.name.as_str() == wanted {
                return Ok((record, kv.modified));
            }
        }
        Err(VpcError::NotFound { wanted: wanted.to_owned(), project: project.clone() })
    }

    /// All or nothing. `users` tells which containers hang on a VPC; unknown ids are no error. The compares make a
    /// container that arrives in between (it writes the VPC's record) start the whole thing over.
    pub async fn delete<F, Fut>(&self, project: &Project, wanted: &[String], users: F) -> Result<Vec<VpcId>, VpcError>
    where
        F: Fn(VpcId) -> Fut,
        Fut: Future<Output = Vec<String>>,
    {
        if wanted.len() > DELETE_MAX {
            return Err(VpcError::TooManyAtOnce { count: wanted.len() });
        }
        for _ in 0..CONFLICT_RETRIES_MAX {
            let mut doomed: Vec<(VpcRecord, u64)> = Vec::new();
            for name in wanted {
                match self.find(project, name).await {
                    Ok(found) if doomed.iter().any(|(v, _)| v.id == found.0.id) => {}
                    Ok(found) => doomed.push(found),
                    Err(VpcError::NotFound { .. }) => {}
                    Err(other) => return Err(other),
                }
            }
            for (vpc, _) in &doomed {
                let users = users(vpc.id.clone()).await;
                if let Some(example) = users.first() {
                    return Err(VpcError::InUse {
                        name: vpc.name.clone(),
                        users: users.len(),
                        example: example.clone(),
                    });
                }
            }
            let records: Vec<(VpcRecord, Option<u64>)> =
                doomed.iter().map(|(vpc, revision)| (vpc.clone(), Some(*revision))).collect();
            if self.erase(&records).await? {
                return self.forget(doomed).await;
            }
        }
        Err(VpcError::Busy { name: wanted.join(" ") })
    }

    async fn forget(&self, doomed: Vec<(VpcRecord, u64)>) -> Result<Vec<VpcId>, VpcError> {
        let mut deleted = Vec::new();
        for (vpc, _) in doomed {
            self.gateways.close(vpc.vni).await;
            let datapath = Arc::clone(&self.datapath);
            tokio::task::spawn_blocking(move || datapath.remove_network(vpc.vni))
                .await
                .expect("a datapath call does not panic")
                .map_err(|source| VpcError::Datapath { name: vpc.name.to_string(), source })?;
            deleted.push(vpc.id);
        }
        Ok(deleted)
    }
}

/// Both families' ranges, and whether they fit together.
fn ranges(name: &str, cidr: &str, cidr6: &str) -> Result<(Cidr, Option<Cidr6>), VpcError> {
    let name = name.to_owned();
    if cidr.is_empty() && !cidr6.is_empty() {
        return Err(VpcError::NoIpv4 { name });
    }
    let cidr = match Cidr::parse(cidr) {
        Ok(cidr) => cidr,
        Err(source) => return Err(VpcError::BadCidr { name, cidr: cidr.to_owned(), source }),
    };
    if cidr6.is_empty() {
        return Ok((cidr, None));
    }
    let cidr6 = match Cidr6::parse(cidr6) {
        Ok(cidr6) => cidr6,
        Err(source) => return Err(VpcError::BadCidr6 { name, cidr6: cidr6.to_owned(), source }),
    };
    if !ipam::is_as_large(cidr6, cidr) {
        return Err(VpcError::Smaller { name, cidr, cidr6 });
    }
    Ok((cidr, Some(cidr6)))
}

fn encode(record: &VpcRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record of strings and numbers is JSON")
}

fn free_vni(all: &[VpcRecord], last: u32) -> u32 {
    let taken: BTreeSet<u32> = all.iter().map(|v| v.vni).collect();
    let mut candidates = (last + 1..=VNI_MAX).chain(1..=last.min(VNI_MAX));
    candidates.find(|vni| !taken.contains(vni)).expect("a host has fewer VPCs than there are numbers")
}
