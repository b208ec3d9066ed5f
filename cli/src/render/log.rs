//! How decisions of rules look: one a line, listed or as they come.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::flow::place;
use super::{View, clean};
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct Decision {
    pub at: String,
    pub id: String,
    pub container: String,
    /// allow or deny, as the rule says.
    pub action: &'static str,
    pub direction: String,
    pub protocol: String,
    pub source: String,
    pub source_port: Option<u32>,
    pub destination: String,
    pub destination_port: Option<u32>,
    pub icmp_type: Option<u32>,
    pub icmp_code: Option<u32>,
    pub rule: String,
}

impl From<v1::RuleDecision> for Decision {
    fn from(decision: v1::RuleDecision) -> Self {
        let number = |number: u32| (number != 0).then_some(number);
        Decision {
            at: rfc3339_ms(decision.at_ms),
            id: decision.id,
            container: decision.name,
            action: if decision.allowed { "allow" } else { "deny" },
            direction: decision.direction,
            protocol: decision.protocol,
            source: decision.source,
            source_port: number(decision.source_port),
            destination: decision.destination,
            destination_port: number(decision.destination_port),
            icmp_type: decision.icmp_type,
            icmp_code: decision.icmp_code,
            rule: decision.rule,
        }
    }
}

impl Decision {
    pub fn line(&self) -> String {
        let place = |address: &String, port: Option<u32>| match port {
            Some(port) => place(address, port, &self.protocol),
            None => address.clone(),
        };
        let (from, to) = (place(&self.source, self.source_port), place(&self.destination, self.destination_port));
        let icmp = match (self.icmp_type, self.icmp_code) {
            (Some(kind), Some(code)) => format!(" {kind}/{code}"),
            _ => String::new(),
        };
        let Decision { at, container, action, direction, protocol, rule, .. } = self;
        clean(&format!("{at} {container} {action} {direction} {protocol}{icmp} {from} -> {to} {rule}")).into_owned()
    }
}

/// What is kept of the log.
#[derive(Debug, Serialize)]
pub struct Log {
    pub decisions: Vec<Decision>,
    /// Beyond the rate of their containers.
    pub lost: u64,
}

impl From<v1::LogResponse> for Log {
    fn from(log: v1::LogResponse) -> Self {
        Log { decisions: log.decisions.into_iter().map(Into::into).collect(), lost: log.lost }
    }
}

impl View for Log {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        for decision in &self.decisions {
            writeln!(out, "{}", decision.line())?;
        }
        if self.lost > 0 { writeln!(out, "{} more were beyond the rate of a container", self.lost) } else { Ok(()) }
    }

    /// The rules that decided.
    fn ids(&self) -> Vec<&str> {
        self.decisions.iter().map(|decision| decision.rule.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Ui;

    #[test]
    fn lines_and_json() {
        let tcp = v1::RuleDecision {
            at_ms: 1_700_000_000_000,
            id: "00aa".into(),
            name: "web".into(),
            allowed: true,
            direction: "ingress".into(),
            protocol: "tcp".into(),
            source: "fd00::3".into(),
            source_port: 40_000,
            destination: "fd00::2".into(),
            destination_port: 80,
            rule: "web#7".into(),
            ..Default::default()
        };
        let ping = v1::RuleDecision {
            allowed: false,
            direction: "egress".into(),
            protocol: "icmp".into(),
            source: "10.0.0.2".into(),
            source_port: 0,
            destination: "203.0.113.1".into(),
            destination_port: 0,
            icmp_type: Some(8),
            icmp_code: Some(0),
            rule: "#3".into(),
            ..tcp.clone()
        };
        let log = Log::from(v1::LogResponse { decisions: vec![tcp, ping], lost: 2 });
        let mut out = Vec::new();
        for (json, quiet) in [(false, false), (true, false), (false, true)] {
            Ui { json, quiet }.show_into(&mut out, &log).unwrap();
        }
        insta::assert_snapshot!("log", String::from_utf8(out).unwrap());
    }
}
