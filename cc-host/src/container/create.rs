//! Making the record of a container: its name, slot and address, all in one transaction. Refuses to touch the kernel.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use nix::sys::signal::Signal;

use super::error::ContainerError;
use super::pool::Parked;
use super::record::{Attachment, ContainerRecord, Ipv6Attachment, RunSpec, State};
use super::room::Containers;
use crate::disk::Disk;
use crate::firewall::Membership;
use crate::ids::{ContainerId, Name, Project, now_ms};
use crate::image::ImageRecord;
use crate::kernel::cgroup::CpuSet;
use crate::resolver;
use crate::store::{Compare, Op};
use crate::vpc::{VpcRecord, ipam};

/// Half of what the store takes, so that how it ended still fits.
const RECORD_BYTES_MAX: usize = crate::store::VALUE_BYTES_MAX / 2;
/// Names that mean something else in every VPC.
const RESERVED_NAMES: [&str; 2] = [resolver::GATEWAY_LABEL, resolver::LOCALHOST_LABEL];
/// How often a transaction that met another one is tried again before it is called busy.
const CONFLICT_RETRIES_MAX: usize = 256;

/// `SIGQUIT`, `QUIT` or `3`; SIGTERM for anything else, as an image that asks for nonsense must still stop.
fn stop_signal(text: &str) -> i32 {
    parse_signal(text).unwrap_or(libc::SIGTERM)
}

pub fn parse_signal(text: &str) -> Option<i32> {
    let named = || text.parse::<Signal>().or_else(|_| format!("SIG{text}").parse()).map(|signal| signal as i32);
    text.parse::<i32>().ok().filter(|n| (1..=64).contains(n)).or_else(|| named().ok())
}

/// Here, because a machine may lose some: what is started again is refused by the kernel.
fn check_cpus(spec: &RunSpec) -> Result<(), ContainerError> {
    let Some(wanted) = &spec.cpuset else { return Ok(()) };
    match CpuSet::online() {
        Ok(online) if !wanted.is_within(&online) => {
            let why = format!("this machine has CPUs {online}, and not all of {wanted}");
            Err(ContainerError::BadOption { field: "--cpuset", why })
        }
        // Where it cannot be read, the kernel decides.
        _ => Ok(()),
    }
}

impl Containers {
    /// Writes the intent. Nothing of it exists in the kernel yet.
    pub(super) async fn create(
        &self,
        project: &Project,
        name: &str,
        spec: RunSpec,
        image: &ImageRecord,
        parked: Option<&Parked>,
        disk: Option<Disk>,
    ) -> Result<ContainerRecord, ContainerError> {
        let id = parked.map_or_else(ContainerId::random, |parked| parked.id.clone());
        let name = if name.is_empty() { format!("c-{}", &id.as_str()[..8]) } else { name.to_owned() };
        let name = Name::parse(&name).map_err(|source| ContainerError::BadName { name, source })?;
        if RESERVED_NAMES.contains(&name.as_str()) {
            return Err(ContainerError::ReservedName { name: name.to_string() });
        }
        check_cpus(&spec)?;
        let health = spec.health.with(&image.config);
        if health.is_none() && spec.health.asks() {
            let (field, value) = ("--health-cmd", String::new());
            return Err(ContainerError::BadField { field, value, why: "neither it nor the image says what to ask" });
        }
        let slot = match parked {
            Some(parked) => parked.slot,
            None => self.take_slot(&name).await?,
        };
        // What is parked keeps its own.
        let release = || {
            if parked.is_none() {
                self.slots.release(slot)
            }
        };
        let record = ContainerRecord {
            id,
            project: project.clone(),
            name,
            slot,
            image_reference: image.reference.clone(),
            image_digest: image.digest.clone(),
            stop_signal: stop_signal(spec.stop_signal.as_deref().unwrap_or(&image.config.stop_signal)),
            spec,
            vpc: None,
            volumes: Vec::new(),
            disk,
            created_ms: now_ms(),
            restarts: 0,
            stopped_by_hand: false,
            health,
            state: State::Created,
        };
        if record.encode().len() > RECORD_BYTES_MAX {
            release();
            let value = format!("{} bytes", record.encode().len());
            let why = "its arguments, variables and labels together exceed 512 KiB";
            return Err(ContainerError::BadField { field: "specification", value, why });
        }
        let created = self.insert_with_address(record).await;
        if created.is_err() {
            release();
        }
        created
    }

    async fn take_slot(&self, name: &Name) -> Result<u32, ContainerError> {
        if let Some(slot) = self.slots.take() {
            return Ok(slot);
        }
        self.pool_yields().await;
        let max = self.rooms.config.id_ranges;
        self.slots.take().ok_or_else(|| ContainerError::NoSlot { name: name.to_string(), max })
    }

    async fn insert_with_address(&self, mut record: ContainerRecord) -> Result<ContainerRecord, ContainerError> {
        let _allocation = self.allocation().await;
        for _ in 0..CONFLICT_RETRIES_MAX {
            if let Ok(other) = self.find_by_name(&record) {
                return Err(ContainerError::NameTaken { name: record.name.to_string(), id: other.id.to_string() });
            }
            let change = match record.spec.vpc.clone() {
                None if !record.spec.groups.is_empty() => {
                    let (field, value) = ("--group", record.spec.groups.join(" "));
                    return Err(ContainerError::BadField { field, value, why: "groups need a network: name a --vpc" });
                }
                None if !record.spec.dns.is_empty() => {
                    let value = record.spec.dns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                    let why = "name servers need a network to be asked in: name a --vpc";
                    return Err(ContainerError::BadField { field: "--dns", value, why });
                }
                None => None,
                Some(wanted) => {
                    let (vpc, revision) = self.rooms.vpcs.find(&record.project, &wanted).await?;
                    Some(self.attach_record(&mut record, vpc, revision)?)
                }
            };
            let (volumes, known) = self.claim_volumes(&record.project, &record.spec.volumes).await?;
            record.volumes = volumes;
            if self.insert(&record, change, known).await? {
                return Ok(record);
            }
        }
        Err(ContainerError::Busy { name: record.name.to_string() })
    }

    fn find_by_name(&self, record: &ContainerRecord) -> Result<ContainerRecord, ContainerError> {
        let same = |other: &&ContainerRecord| other.project == record.project && other.name == record.name;
        self.with_records(|records| records.values().find(same).cloned()).ok_or_else(|| ContainerError::NotFound {
            wanted: record.name.to_string(),
            project: record.project.clone(),
        })
    }

    /// Chooses the address. Writing the VPC's record in the same transaction orders this against other containers and
    /// against the VPC's deletion.
    fn attach_record(
        &self,
        record: &mut ContainerRecord,
        mut vpc: VpcRecord,
        revision: u64,
    ) -> Result<(Op, Compare), ContainerError> {
        let groups = self.rooms.firewall.resolve(&record.project, &record.spec.groups, &vpc.id)?;
        let taken: BTreeSet<Ipv4Addr> = self.with_records(|records| {
            let attached = records.values().filter_map(|r| r.vpc.as_ref()).filter(|a| a.vpc == vpc.id);
            attached.map(|a| a.ipv4).collect()
        });
        let ipv4 = ipam::next_address(vpc.cidr, vpc.last_address, &taken).ok_or_else(|| ContainerError::NoAddress {
            name: record.name.to_string(),
            vpc: vpc.name.to_string(),
            cidr: vpc.cidr.to_string(),
        })?;
        record.vpc = Some(Attachment {
            vpc: vpc.id.clone(),
            vpc_name: vpc.name.clone(),
            vni: vpc.vni,
            ipv4,
            prefix_len: vpc.cidr.prefix_len(),
            gateway: vpc.cidr.gateway(),
            ipv6: vpc.cidr6.map(|cidr6| Ipv6Attachment {
                address: ipam::ipv6_of(cidr6, vpc.cidr, ipv4),
                prefix_len: cidr6.prefix_len(),
                gateway: cidr6.gateway(),
            }),
            mac: ipam::mac_of(ipv4),
            membership: Membership { groups, rule_set: 0 },
        });
        vpc.last_address = Some(ipv4);
        let value = serde_json::to_vec(&vpc).expect("a record of strings and numbers is JSON");
        Ok((Op::Put { key: vpc.key(), value, lease: None }, Compare::Modified(vpc.key(), revision)))
    }
}

#[cfg(test)]
mod tests {
    use super::stop_signal;

    #[test]
    fn an_images_stop_signal_is_read_in_all_its_forms() {
        assert_eq!(["SIGQUIT", "QUIT", "3", "", "nonsense", "99"].map(stop_signal), [3, 3, 3, 15, 15, 15]);
    }
}
