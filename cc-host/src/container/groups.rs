//! Moving a container into and out of security groups. Refuses to know what their rules are.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use super::error::ContainerError;
use super::record::{Attachment, ContainerRecord};
use super::room::Containers;
use crate::firewall::{GroupId, Membership};

impl Containers {
    /// Its new groups' rules are in force when this returns, and its conversations are judged anew.
    pub async fn set_groups(
        &self,
        record: &ContainerRecord,
        attach: &[String],
        detach: &[String],
    ) -> Result<ContainerRecord, ContainerError> {
        // One after the other, and none while groups are deleted.
        // Whoever starts it would write what it found.
        let _claim = match self.live(&record.id) {
            Some(_) => None,
            None => Some(self.claims.of(&record.id).await),
        };
        let _allocation = self.allocation().await;
        let mut record = self.find(&record.project, record.id.as_str())?;
        let name = record.name.to_string();
        let Some(vpc) = record.vpc.clone() else {
            let why = "it has no network to be judged in";
            return Err(ContainerError::BadField { field: "container", value: name, why });
        };
        let groups = self.changed(&record, &vpc, attach, detach)?;
        if groups == vpc.membership.groups {
            return Ok(record);
        }
        let live = self.live(&record.id);
        let joined = match &live {
            Some(_) => Some(self.rooms.firewall.join(&groups).await?),
            None => None,
        };
        let membership = match &joined {
            Some(joined) => joined.membership().clone(),
            None => Membership { groups, rule_set: 0 },
        };
        if joined.is_some() {
            self.judge_by(&record, membership.rule_set).await?;
        }
        let before = vpc.membership.rule_set;
        record.vpc = Some(Attachment { membership, ..vpc });
        if let Err(error) = self.update(&record).await {
            if joined.is_some() {
                self.judge_by(&record, before).await?;
            }
            return Err(error);
        }
        if let Some(live) = live {
            *live.joined.lock().unwrap_or_else(PoisonError::into_inner) = joined;
            self.publish_while_live(&record);
        }
        Ok(record)
    }

    fn changed(
        &self,
        record: &ContainerRecord,
        vpc: &Attachment,
        attach: &[String],
        detach: &[String],
    ) -> Result<BTreeSet<GroupId>, ContainerError> {
        let mut groups = vpc.membership.groups.clone();
        for name in attach {
            groups.extend(self.rooms.firewall.resolve(&record.project, std::slice::from_ref(name), &vpc.vpc)?);
        }
        for name in detach {
            let group = self.rooms.firewall.group(&record.project, name)?;
            groups.remove(&group.id);
        }
        let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
        match names.is_empty() {
            true => {
                let why = "a container stays in one group at least: attach another one first";
                Err(ContainerError::BadField { field: "--detach", value: detach.join(" "), why })
            }
            // Only for the limit of how many.
            false => Ok(self.rooms.firewall.resolve(&record.project, &names, &vpc.vpc)?),
        }
    }

    async fn judge_by(&self, record: &ContainerRecord, rule_set: u32) -> Result<(), ContainerError> {
        let (datapath, slot) = (Arc::clone(&self.rooms.datapath), record.slot);
        let done = tokio::task::spawn_blocking(move || datapath.set_rule_set(slot, rule_set)).await;
        done.expect("a datapath call does not panic").map_err(|source| ContainerError::Datapath {
            operation: "change the rules of",
            name: record.name.to_string(),
            source,
        })
    }

    /// Names of containers that are in a group, stopped ones too.
    pub fn in_group(&self, group: &GroupId) -> Vec<String> {
        let is_in = |r: &&ContainerRecord| r.vpc.as_ref().is_some_and(|vpc| vpc.membership.groups.contains(group));
        self.with_records(|records| records.values().filter(is_in).map(|r| r.name.to_string()).collect())
    }

    /// Names of the groups that a container is in.
    pub fn group_names(&self, record: &ContainerRecord) -> Vec<String> {
        let groups = record.vpc.iter().flat_map(|vpc| &vpc.membership.groups);
        let name = |id: &GroupId| self.rooms.firewall.group_name(id).map_or_else(|| id.to_string(), String::from);
        groups.map(name).collect()
    }
}
