//! Creating, finding and deleting VPCs. Refuses to delete one that is in use.

use std::collections::BTreeSet;
use std::sync::Arc;

use cc_common::api::fault::Fault;
use tonic::Code;

use super::cidr::{Cidr, CidrError};
use super::cidr6::{Cidr6, Cidr6Error};
use super::gateways::Gateways;
use super::ipam;
use super::record::{VPCS, VpcRecord, project_prefix};
use crate::datapath::{Datapath, DatapathError, Network, Range};
use crate::firewall::{Firewall, FirewallError, new_group};
use crate::ids::{Name, NameError, Project, VpcId, now_ms};
use crate::store::{Compare, Op, Store, StoreError, Txn};

/// VPCs of one project. The whole host's limit is the datapath's routes.
const VPCS_PER_PROJECT_MAX: usize = 1024;
/// VPCs of a host: each has a route to its gateway, and the other half of the routes is the endpoints'.
const VPCS_MAX: usize = 4096;
/// VPCs of one deletion: six operations each, in one transaction of at most 1,024.
const DELETE_MAX: usize = 160;
const VNI_CURSOR: &str = "vni-last";
/// 24 bits, as VXLAN has them; 0 stands for "none".
const VNI_MAX: u32 = (1 << 24) - 1;
/// How often a transaction that met another one is tried again before it is called busy.
const CONFLICT_RETRIES_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum VpcError {
    #[error("cannot create VPC {name:?}")]
    BadName { name: String, source: NameError },
    #[error("cannot create VPC {name}: CIDR {cidr:?}")]
    BadCidr { name: String, cidr: String, source: CidrError },
    #[error("cannot create VPC {name}: CIDR {cidr6:?}")]
    BadCidr6 { name: String, cidr6: String, source: Cidr6Error },
    #[error("cannot create VPC {name} without an IPv4 range")]
    NoIpv4 { name: String },
    #[error("cannot create VPC {name}: {cidr6} has fewer addresses than {cidr}")]
    Smaller { name: String, cidr: Cidr, cidr6: Cidr6 },
    #[error("cannot create VPC {name}: the name is taken by {id}")]
    NameTaken { name: Name, id: VpcId },
    #[error(
        "cannot create VPC {name}: a security group of that name exists, and the VPC's default group would bear it"
    )]
    GroupNameTaken { name: Name },
    #[error("the firewall refused")]
    Firewall(#[from] FirewallError),
    #[error("cannot create VPC {name}: project {project} has {VPCS_PER_PROJECT_MAX} already")]
    TooMany { name: Name, project: Project },
    #[error("cannot delete {count} VPCs at once")]
    TooManyAtOnce { count: usize },
    #[error("no VPC {wanted:?} in project {project}")]
    NotFound { wanted: String, project: Project },
    #[error("cannot delete VPC {name}: {users} containers are attached to it")]
    InUse { name: Name, users: usize, example: String },
    #[error("VPC {name} changed too often while it was being worked on")]
    Busy { name: String },
    #[error("the store failed while working on VPC {name}")]
    Store { name: String, source: StoreError },
    #[error("VPC record {key} cannot be read")]
    Decode { key: String, source: serde_json::Error },
    #[error("the datapath refused VPC {name}")]
    Datapath { name: String, source: DatapathError },
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

    /// An empty `cidr6` is none.
    pub async fn create(&self, project: &Project, name: &str, cidr: &str, cidr6: &str) -> Result<VpcRecord, VpcError> {
        let bad_name = |source| VpcError::BadName { name: name.to_owned(), source };
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
        Err(VpcError::Busy { name: name.to_owned() })
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
            internet: false,
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

impl From<VpcError> for Fault {
    fn from(error: VpcError) -> Fault {
        let what = error.to_string();
        match error {
            VpcError::BadName { source, .. } => {
                Fault::new(Code::InvalidArgument, "vpc.bad_name", what, source.to_string())
                    .next("choose a name like web-1: lower-case letters, digits and hyphens")
            }
            VpcError::BadCidr { source, .. } => {
                let next = match source {
                    CidrError::HostBits(network) => format!("use --cidr {network}"),
                    CidrError::Ipv6 => "give it as --cidr6, beside --cidr 10.0.0.0/24".to_owned(),
                    _ => "use a private range such as --cidr 10.0.0.0/24".to_owned(),
                };
                Fault::new(Code::InvalidArgument, "vpc.bad_cidr", what, source.to_string()).next(next)
            }
            VpcError::BadCidr6 { source, .. } => {
                let next = match source {
                    Cidr6Error::HostBits(network) => format!("use --cidr6 {network}"),
                    Cidr6Error::Ipv4 => "give it as --cidr".to_owned(),
                    _ => "use a unique local range such as --cidr6 fd00:1::/64".to_owned(),
                };
                Fault::new(Code::InvalidArgument, "vpc.bad_cidr", what, source.to_string()).next(next)
            }
            VpcError::NoIpv4 { .. } => {
                let why = "every container has an IPv4 address, and an IPv6 address beside it";
                Fault::new(Code::InvalidArgument, "vpc.no_ipv4", what, why).next("add one: --cidr 10.0.0.0/24")
            }
            VpcError::Smaller { cidr, .. } => {
                let why = "a container's two addresses have the same host part";
                let next = format!("use an IPv6 range of /{} or shorter: a /64 is usual", 128 - cidr.host_bits());
                Fault::new(Code::InvalidArgument, "vpc.bad_cidr", what, why).next(next)
            }
            VpcError::NameTaken { .. } => {
                Fault::new(Code::AlreadyExists, "vpc.name_taken", what, "names are unique within a project")
                    .next("choose another name, or delete that VPC: cc vpc delete NAME")
            }
            VpcError::GroupNameTaken { .. } => {
                Fault::new(Code::AlreadyExists, "vpc.name_taken", what, "names are unique within a project")
                    .next("choose another name, or delete that group: cc group delete NAME")
            }
            VpcError::Firewall(source) => Fault::from(source),
            VpcError::TooMany { .. } => {
                Fault::new(Code::ResourceExhausted, "vpc.too_many", what, "that is the limit of a project")
                    .next("delete what is not used: cc vpc list, cc vpc delete ID")
            }
            VpcError::TooManyAtOnce { .. } => {
                Fault::new(Code::InvalidArgument, "vpc.too_many_at_once", what, format!("{DELETE_MAX} is the limit"))
                    .next("delete them in several calls")
            }
            VpcError::NotFound { .. } => {
                Fault::new(Code::NotFound, "vpc.not_found", what, "there is none of that name or id")
                    .next("see cc vpc list, or create it: cc vpc create --cidr CIDR --name NAME")
            }
            VpcError::InUse { ref example, .. } => {
                let next = format!("remove them first, for example: cc rm -f {example}");
                Fault::new(Code::FailedPrecondition, "vpc.in_use", what, "nothing was deleted").next(next)
            }
            VpcError::Busy { .. } => {
                Fault::new(Code::Aborted, "vpc.busy", what, "others are changing it").next("try again")
            }
            VpcError::Store { .. } | VpcError::Decode { .. } | VpcError::Datapath { .. } => {
                Fault::new(Code::Internal, "vpc.internal", what, crate::error_chain(&error))
                    .next("see the daemon's log; cc-host check names what is missing")
            }
        }
    }
}
