//! Between the contract's groups and rules and the firewall's. Refuses to decide anything but whether a field is well formed.

use cc_common::api::v1;
use cc_common::verdict::Direction;

use crate::firewall::{
    Action, Firewall, FirewallError, GroupId, GroupRecord, IcmpType, Peer, PortRange, PrefixListId, PrefixListRecord,
    Protocol, Rule, RuleSpec, parse_cidr,
};
use crate::ids::Project;

/// Types of ICMP by the names that people know, in both families. Numbers: IANA, "Internet Control Message Protocol (ICMP)
/// Parameters" and "ICMPv6 Parameters".
const ICMP_NAMES: [(&str, Option<u8>, Option<u8>); 8] = [
    ("echo-request", Some(8), Some(128)),
    ("echo-reply", Some(0), Some(129)),
    ("destination-unreachable", Some(3), Some(1)),
    ("packet-too-big", None, Some(2)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("timestamp-request", Some(13), None),
    ("timestamp-reply", Some(14), None),
];

fn bad(field: &'static str, value: impl ToString, why: impl Into<String>) -> FirewallError {
    FirewallError::BadRule { field, value: value.to_string(), why: why.into() }
}

/// What a rule may name.
pub(super) trait Known {
    fn group(&self, name: &str) -> Result<GroupId, FirewallError>;
    fn list(&self, name: &str) -> Result<PrefixListId, FirewallError>;
}

/// What a project has.
pub(super) struct Own<'a>(pub &'a Firewall, pub &'a Project);

impl Known for Own<'_> {
    fn group(&self, name: &str) -> Result<GroupId, FirewallError> {
        self.0.group(self.1, name).map(|group| group.id)
    }
    fn list(&self, name: &str) -> Result<PrefixListId, FirewallError> {
        self.0.prefix_list(self.1, name).map(|list| list.id)
    }
}

pub(super) fn rule_spec(known: &impl Known, rule: v1::Rule) -> Result<RuleSpec, FirewallError> {
    let action = match rule.action.as_str() {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        other => return Err(bad("action", other, "it is allow or deny")),
    };
    let direction = match rule.direction.as_str() {
        "ingress" => Direction::Ingress,
        "egress" => Direction::Egress,
        other => return Err(bad("direction", other, "it is ingress or egress")),
    };
    let priority = u16::try_from(rule.priority)
        .map_err(|_| bad("--priority", rule.priority, "priorities go from 0 to 65535; the least decides"))?;
    let (protocol, log) = (protocol(&rule)?, rule.log);
    Ok(RuleSpec { action, direction, protocol, peer: peer(known, &rule)?, priority, log })
}

fn protocol(rule: &v1::Rule) -> Result<Protocol, FirewallError> {
    let has_ports = rule.port_first != 0 || rule.port_last != 0;
    let protocol = match rule.protocol.as_str() {
        "any" => Protocol::Any,
        "tcp" => Protocol::Tcp(ports(rule)?),
        "udp" => Protocol::Udp(ports(rule)?),
        "icmp" if rule.icmp_type.is_empty() => Protocol::Icmp(None),
        "icmp" => Protocol::Icmp(Some(icmp_type(&rule.icmp_type)?)),
        other => return Err(bad("--proto", other, "it is tcp, udp, icmp or any")),
    };
    match protocol {
        Protocol::Any | Protocol::Icmp(_) if has_ports => {
            Err(bad("--port", rule.port_first, "only tcp and udp have ports"))
        }
        Protocol::Any | Protocol::Tcp(_) | Protocol::Udp(_) if !rule.icmp_type.is_empty() => {
            Err(bad("--icmp-type", &rule.icmp_type, "only icmp has types"))
        }
        protocol => Ok(protocol),
    }
}

fn ports(rule: &v1::Rule) -> Result<PortRange, FirewallError> {
    if (rule.port_first, rule.port_last) == (0, 0) {
        return Ok(PortRange::ALL);
    }
    let text = format!("{}-{}", rule.port_first, rule.port_last);
    match (u16::try_from(rule.port_first), u16::try_from(rule.port_last)) {
        (Ok(first), Ok(last)) if first <= last => Ok(PortRange { first, last }),
        _ => Err(bad("--port", text, "ports go from 0 to 65535, the first before the last")),
    }
}

/// A name, or `TYPE` or `TYPE/CODE` of ICMP for IPv4.
fn icmp_type(text: &str) -> Result<IcmpType, FirewallError> {
    if let Some(&(_, v4, v6)) = ICMP_NAMES.iter().find(|known| known.0 == text) {
        return Ok(IcmpType { v4, v6, code: None });
    }
    let (number, code) = text.split_once('/').map_or((text, None), |(number, code)| (number, Some(code)));
    let names: Vec<&str> = ICMP_NAMES.iter().map(|known| known.0).collect();
    let wrong = |_| bad("--icmp-type", text, format!("it is TYPE, TYPE/CODE, or one of {}", names.join(", ")));
    let number: u8 = number.parse().map_err(wrong)?;
    let code = code.map(str::parse::<u8>).transpose().map_err(wrong)?;
    Ok(IcmpType { v4: Some(number), v6: None, code })
}

fn peer(known: &impl Known, rule: &v1::Rule) -> Result<Peer, FirewallError> {
    let wanted = rule.peer.as_str();
    if matches!(wanted, "" | "any") {
        return Ok(Peer::Any);
    }
    let group = || known.group(wanted).map(Peer::Group);
    let list = || known.list(wanted).map(Peer::Prefixes);
    match rule.peer_kind.as_str() {
        "group" => group(),
        "prefixes" => list(),
        // A name is a group's or a list's; a CIDR has what no name has.
        _ if wanted.contains(['.', ':', '/']) => {
            parse_cidr(wanted).map(Peer::Cidr).map_err(|why| bad("--from/--to", wanted, why.to_string()))
        }
        _ => match (group(), list()) {
            (Ok(_), Ok(_)) => {
                let why = "a group and a prefix list have that name; write group:NAME or prefixes:NAME";
                Err(bad("--from/--to", wanted, why))
            }
            (Ok(peer), _) | (_, Ok(peer)) => Ok(peer),
            (Err(error), Err(_)) => Err(error),
        },
    }
}

pub(super) fn group_view(firewall: &Firewall, group: &GroupRecord, with_rules: bool) -> v1::Group {
    let mut rules: Vec<&Rule> = if with_rules { group.rules.iter().collect() } else { Vec::new() };
    // In the order in which they decide.
    rules.sort_by_key(|rule| {
        (rule.spec.direction as u8, rule.spec.priority, rule.spec.action == Action::Allow, rule.number)
    });
    v1::Group {
        id: group.id.to_string(),
        name: group.name.to_string(),
        vpc: group.default_of.as_ref().map(ToString::to_string).unwrap_or_default(),
        members: firewall.members(&group.id),
        rule_count: u32::try_from(group.rules.len()).unwrap_or(u32::MAX),
        rules: rules.into_iter().map(|rule| rule_view(firewall, rule)).collect(),
        created_ms: group.created_ms,
    }
}

pub(super) fn rule_view(firewall: &Firewall, rule: &Rule) -> v1::Rule {
    let spec = &rule.spec;
    let (protocol, ports, icmp_type) = match spec.protocol {
        Protocol::Any => ("any", None, String::new()),
        Protocol::Tcp(range) => ("tcp", Some(range), String::new()),
        Protocol::Udp(range) => ("udp", Some(range), String::new()),
        Protocol::Icmp(kind) => ("icmp", None, kind.as_ref().map(icmp_name).unwrap_or_default()),
    };
    let name = |name: Option<crate::ids::Name>, id: &dyn ToString| name.map_or_else(|| id.to_string(), String::from);
    let (peer, peer_kind) = match &spec.peer {
        Peer::Any => ("any".to_owned(), "any"),
        Peer::Cidr(net) => (net.to_string(), "cidr"),
        Peer::Group(id) => (name(firewall.group_name(id), id), "group"),
        Peer::Prefixes(id) => (name(firewall.list_name(id), id), "prefixes"),
    };
    v1::Rule {
        number: rule.number,
        action: if spec.action == Action::Allow { "allow" } else { "deny" }.to_owned(),
        direction: spec.direction.name().to_owned(),
        protocol: protocol.to_owned(),
        port_first: ports.map_or(0, |range| range.first.into()),
        port_last: ports.map_or(0, |range| range.last.into()),
        icmp_type,
        peer,
        peer_kind: peer_kind.to_owned(),
        priority: spec.priority.into(),
        log: spec.log,
        created_ms: rule.created_ms,
    }
}

fn icmp_name(kind: &IcmpType) -> String {
    let known = ICMP_NAMES.iter().find(|known| (known.1, known.2, None) == (kind.v4, kind.v6, kind.code));
    match (known, kind.code) {
        (Some(known), _) => known.0.to_owned(),
        (None, None) => kind.v4.unwrap_or_default().to_string(),
        (None, Some(code)) => format!("{}/{code}", kind.v4.unwrap_or_default()),
    }
}

pub(super) fn list_view(list: &PrefixListRecord) -> v1::PrefixList {
    v1::PrefixList {
        id: list.id.to_string(),
        name: list.name.to_string(),
        prefixes: list.prefixes,
        created_ms: list.created_ms,
        changed_ms: list.changed_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(protocol: &str, first: u32, last: u32, icmp: &str) -> v1::Rule {
        v1::Rule {
            protocol: protocol.into(),
            port_first: first,
            port_last: last,
            icmp_type: icmp.into(),
            ..Default::default()
        }
    }

    #[test]
    fn protocols_and_their_ports() {
        assert_eq!(protocol(&rule("tcp", 80, 90, "")).unwrap(), Protocol::Tcp(PortRange { first: 80, last: 90 }));
        assert_eq!(protocol(&rule("udp", 0, 0, "")).unwrap(), Protocol::Udp(PortRange::ALL));
        assert!(protocol(&rule("tcp", 90, 80, "")).is_err() && protocol(&rule("tcp", 1, 65_536, "")).is_err());
        assert!(protocol(&rule("any", 80, 80, "")).is_err() && protocol(&rule("tcp", 1, 1, "8")).is_err());
        assert!(protocol(&rule("sctp", 0, 0, "")).is_err());
    }

    #[test]
    fn icmp_types_have_names_and_numbers() {
        for (text, v4, v6, code) in
            [("echo-request", Some(8), Some(128), None), ("3/4", Some(3), None, Some(4)), ("42", Some(42), None, None)]
        {
            let kind = icmp_type(text).unwrap();
            assert_eq!(kind, IcmpType { v4, v6, code });
            assert_eq!(icmp_name(&kind), text);
        }
        let error = icmp_type("ping").unwrap_err();
        assert!(matches!(error, FirewallError::BadRule { why, .. } if why.contains("echo-request")));
    }
}
