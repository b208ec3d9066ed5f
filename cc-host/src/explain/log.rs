//! What rules with `--log` have decided, as a project may see it: of its own containers, by the names of its own rules. Refuses to tell of
//! conversations that stood already.

use std::net::IpAddr;
use std::sync::Arc;

use cc_common::event::RuleRecord;
use cc_common::firewall::ACTION_ALLOW;
use cc_common::net::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use cc_common::verdict::Direction;
use tokio::sync::mpsc;

use super::Explain;
use super::error::ExplainError;
use super::flows::address;
use super::rules::Rules;
use super::watch::News;
use super::watchers::{RuleSeen, Seen, Wanted, What};
use crate::datapath::flow_clock_ns;
use crate::ids::{Project, now_ms};

/// A decision, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionView {
    pub at_ms: u64,
    /// Id and name of the container whose rule it is.
    pub container: (String, String),
    pub allowed: bool,
    pub direction: &'static str,
    pub protocol: u8,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Of TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// Type and code, of ICMP and ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// `GROUP#NUMBER`, or `#NUMBER` of a rule that is gone.
    pub rule: String,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub decisions: Vec<DecisionView>,
    /// Of the running containers among them: what was not written, since they were attached.
    pub lost: u64,
}

impl Explain {
    /// Of the project's containers, or of one: the newest that are kept, the oldest of them first.
    pub async fn log(self: &Arc<Self>, project: &Project, only: &str) -> Result<Logged, ExplainError> {
        let wanted = self.decisions_wanted(project, only)?;
        let lost = self.lost(&wanted).await?.values().sum();
        let rules = self.rules_of(project);
        let seen = self.watchers.kept(&wanted);
        Ok(Logged { decisions: seen.iter().map(|seen| view(seen, &rules)).collect(), lost })
    }

    /// As they are decided, until the receiver is dropped.
    pub async fn watch_log(
        self: &Arc<Self>,
        project: &Project,
        only: &str,
    ) -> Result<mpsc::Receiver<News<DecisionView>>, ExplainError> {
        let wanted = self.decisions_wanted(project, only)?;
        let (explain, project, mut rules) = (Arc::clone(self), project.clone(), self.rules_of(project));
        let view = move |seen: Seen| {
            let Seen::Decided(seen) = seen else { return None };
            if rules.name(seen.record.rule).is_none() {
                // One that was made since.
                rules = explain.rules_of(&project);
            }
            Some(view(&seen, &rules))
        };
        self.watch(wanted, view).await
    }

    fn decisions_wanted(&self, project: &Project, only: &str) -> Result<Wanted, ExplainError> {
        let only = if only.is_empty() { None } else { Some(self.containers.find(project, only)?.id) };
        Ok(Wanted { what: What::Decisions, project: project.clone(), only, host: false })
    }

    fn rules_of(&self, project: &Project) -> Rules {
        Rules::of(&self.firewall.groups(project))
    }
}

fn view(seen: &RuleSeen, rules: &Rules) -> DecisionView {
    let RuleSeen { record, container: (id, name) } = seen;
    let RuleRecord { at_ns, protocol, action, rule, icmp, .. } = *record;
    let direction = if record.direction == Direction::Egress as u8 { Direction::Egress } else { Direction::Ingress };
    let has_ports = matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP);
    DecisionView {
        at_ms: now_ms().saturating_sub(flow_clock_ns().saturating_sub(at_ns) / 1_000_000),
        container: (id.to_string(), name.to_string()),
        allowed: action == ACTION_ALLOW,
        direction: direction.name(),
        protocol,
        source: address(&record.source),
        destination: address(&record.destination),
        ports: has_ports.then_some((record.source_port.get(), record.destination_port.get())),
        icmp: matches!(protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6).then_some((icmp[0], icmp[1])),
        rule: rules.name(rule).map_or_else(|| format!("#{rule}"), str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContainerId, Name};
    use cc_common::firewall::ACTION_DENY;
    use cc_common::net::{Be16, Be32, Ip};

    #[test]
    fn a_decision_is_told_as_its_protocol_has_it() {
        let v4 = |last| Ip::v4(Be32([10, 0, 0, last]));
        let container = (ContainerId::parse("00000000000000ab").unwrap(), Name::parse("web").unwrap());
        let record = RuleRecord {
            rule: 7,
            source: v4(2),
            destination: v4(3),
            source_port: Be16::new(4000),
            destination_port: Be16::new(80),
            protocol: PROTOCOL_TCP,
            action: ACTION_DENY,
            direction: Direction::Ingress as u8,
            ..RuleRecord::default()
        };
        let seen = |record| view(&RuleSeen { record, container: container.clone() }, &Rules::default());
        let tcp = seen(record);
        assert_eq!((tcp.allowed, tcp.direction, tcp.ports, tcp.icmp), (false, "ingress", Some((4000, 80)), None));
        assert_eq!((tcp.rule.as_str(), tcp.source.to_string().as_str()), ("#7", "10.0.0.2"), "the rule is gone");
        let ping = RuleRecord { protocol: PROTOCOL_ICMP, action: ACTION_ALLOW, icmp: [8, 0], direction: 0, ..record };
        let ping = seen(ping);
        assert_eq!((ping.allowed, ping.direction, ping.ports, ping.icmp), (true, "egress", None, Some((8, 0))));
    }
}
