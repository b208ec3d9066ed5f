//! How a group and its rules look.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct GroupView {
    pub id: String,
    pub name: String,
    /// The id of the VPC whose default group it is.
    pub vpc: String,
    pub members: u32,
    pub rule_count: u32,
    pub created: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleView>,
}

#[derive(Debug, Serialize)]
pub struct RuleView {
    pub number: u32,
    pub action: String,
    pub direction: String,
    pub protocol: String,
    pub port_first: u32,
    pub port_last: u32,
    pub icmp_type: String,
    pub peer: String,
    pub peer_kind: String,
    pub priority: u32,
    pub log: bool,
    pub created: String,
}

impl From<v1::Group> for GroupView {
    fn from(group: v1::Group) -> Self {
        let v1::Group { id, name, vpc, members, rules, rule_count, created_ms } = group;
        let rules = rules.into_iter().map(Into::into).collect();
        GroupView { id, name, vpc, members, rule_count, created: rfc3339_ms(created_ms), rules }
    }
}

impl From<v1::Rule> for RuleView {
    fn from(rule: v1::Rule) -> Self {
        RuleView {
            number: rule.number,
            action: rule.action,
            direction: rule.direction,
            protocol: rule.protocol,
            port_first: rule.port_first,
            port_last: rule.port_last,
            icmp_type: rule.icmp_type,
            peer: rule.peer,
            peer_kind: rule.peer_kind,
            priority: rule.priority,
            log: rule.log,
            created: rfc3339_ms(rule.created_ms),
        }
    }
}

impl RuleView {
    /// Ports or a type, as a person would write them.
    pub fn service(&self) -> String {
        match (self.protocol.as_str(), self.port_first, self.port_last) {
            ("icmp", ..) if !self.icmp_type.is_empty() => self.icmp_type.clone(),
            ("tcp" | "udp", first, last) if (first, last) != (0, 65_535) => {
                if first == last {
                    first.to_string()
                } else {
                    format!("{first}-{last}")
                }
            }
            _ => "all".to_owned(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Groups(pub Vec<GroupView>);

impl View for Groups {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let row = |group: &GroupView| {
            let GroupView { id, name, vpc, members, rule_count, .. } = group;
            vec![id.clone(), name.clone(), vpc.clone(), members.to_string(), rule_count.to_string()]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        table::print_into(out, &["ID", "NAME", "DEFAULT OF", "MEMBERS", "RULES"], &rows)
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|group| group.id.as_str()).collect()
    }
}

/// A new group prints its id only, so that a shell can keep it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct GroupCreated(pub GroupView);

impl View for GroupCreated {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.0.id)
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.0.id]
    }
}

/// One group's rules.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct GroupRules(pub GroupView);

impl View for GroupRules {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let row = |rule: &RuleView| {
            let log = if rule.log { "yes" } else { "no" };
            vec![
                rule.number.to_string(),
                rule.direction.clone(),
                rule.priority.to_string(),
                rule.action.clone(),
                rule.protocol.clone(),
                rule.service(),
                rule.peer.clone(),
                log.to_owned(),
            ]
        };
        let rows: Vec<_> = self.0.rules.iter().map(row).collect();
        let header = ["RULE", "DIRECTION", "PRIORITY", "ACTION", "PROTO", "PORT/TYPE", "FROM/TO", "LOG"];
        table::print_into(out, &header, &rows)?;
        writeln!(out, "What no rule matches is denied.")
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.0.id]
    }
}

/// A new rule prints its number only.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct RuleAdded(pub RuleView);

impl View for RuleAdded {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.0.number)
    }

    fn ids(&self) -> Vec<&str> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Ui;

    #[test]
    fn tables() {
        let rule = |number, protocol: &str, ports: (u32, u32), peer: &str| v1::Rule {
            number,
            action: "allow".into(),
            direction: "ingress".into(),
            protocol: protocol.into(),
            port_first: ports.0,
            port_last: ports.1,
            peer: peer.into(),
            peer_kind: "cidr".into(),
            priority: 1000,
            ..Default::default()
        };
        let group = || v1::Group {
            id: "grp-1".into(),
            name: "web".into(),
            members: 2,
            rule_count: 3,
            rules: vec![
                rule(1, "tcp", (80, 80), "0.0.0.0/0"),
                rule(2, "udp", (0, 65_535), "db"),
                v1::Rule { icmp_type: "echo-request".into(), ..rule(3, "icmp", (0, 0), "any") },
            ],
            created_ms: 1_700_000_000_000,
            ..Default::default()
        };
        let mut out = Vec::new();
        let ui = |json| Ui { json, quiet: false };
        ui(false).show_into(&mut out, &Groups(vec![group().into()])).unwrap();
        ui(false).show_into(&mut out, &GroupRules(group().into())).unwrap();
        ui(true).show_into(&mut out, &GroupRules(group().into())).unwrap();
        insta::assert_snapshot!("group", String::from_utf8(out).unwrap());
    }
}
