//! How the answer to `cc net why` looks.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, clean};

#[derive(Debug, Serialize)]
pub struct WhyView {
    pub packet: String,
    pub steps: Vec<StepView>,
    /// `allowed` or `denied`.
    pub verdict: String,
    pub reason: String,
    pub says: String,
    /// The command that would allow it.
    pub next: String,
}

#[derive(Debug, Serialize)]
pub struct StepView {
    pub step: String,
    pub outcome: String,
    pub says: String,
    #[serde(skip_serializing_if = "is_none")]
    pub rule: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_none(rule: &u32) -> bool {
    *rule == 0
}

impl From<v1::Explanation> for WhyView {
    fn from(explanation: v1::Explanation) -> Self {
        let v1::Explanation { packet, steps, verdict, reason, says, next } = explanation;
        let step = |v1::ExplainStep { step, outcome, says, rule, group }| StepView { step, outcome, says, rule, group };
        WhyView { packet, steps: steps.into_iter().map(step).collect(), verdict, reason, says, next }
    }
}

const VERDICT: &str = "verdict";

impl View for WhyView {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", clean(&self.packet))?;
        for step in self.steps.iter().filter(|step| step.step != VERDICT) {
            writeln!(out, "  {:<8} {:<7} {}", clean(&step.step), clean(&step.outcome), clean(&step.says))?;
        }
        let reason = if self.reason.is_empty() { String::new() } else { format!(" ({})", clean(&self.reason)) };
        writeln!(out, "{}: {}{reason}", clean(&self.verdict), clean(&self.says))?;
        if self.next.is_empty() { Ok(()) } else { writeln!(out, "to allow it: {}", clean(&self.next)) }
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.verdict]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> WhyView {
        let step = |step: &str, outcome: &str, says: &str, rule, group: &str| v1::ExplainStep {
            step: step.into(),
            outcome: outcome.into(),
            says: says.into(),
            rule,
            group: group.into(),
        };
        v1::Explanation {
            packet: "tcp 10.0.0.2:40000 -> 10.0.0.3:80".into(),
            steps: vec![
                step("port", "ok", "the interface is that of web, in VPC blue", 0, ""),
                step("egress", "ok", "by rule 3 of group blue: allow egress of anything to anybody", 3, "blue"),
                step("ingress", "denied", "no ingress rule of db allows it (db)", 0, ""),
                step("verdict", "denied", "no ingress rule of db allows it (db)", 0, ""),
            ],
            verdict: "denied".into(),
            reason: "firewall_ingress".into(),
            says: "no ingress rule of db allows it (db)".into(),
            next: "cc group allow db ingress --proto tcp --port 80 --from 10.0.0.2/32".into(),
        }
        .into()
    }

    #[test]
    fn steps_and_what_would_allow_it() {
        let mut out = Vec::new();
        denied().print_into(&mut out).unwrap();
        insta::assert_snapshot!("why_denied", String::from_utf8(out).unwrap());
    }

    #[test]
    fn json() {
        insta::assert_snapshot!("why_json", serde_json::to_string_pretty(&denied()).unwrap());
    }
}
