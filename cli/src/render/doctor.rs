//! How the findings of `cc net doctor` look.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Findings(Vec<FindingView>);

#[derive(Debug, Serialize)]
pub struct FindingView {
    pub subject: String,
    pub problem: String,
    pub next: String,
    /// Something does not work; otherwise it may surprise.
    pub grave: bool,
    pub fixed: bool,
}

impl From<v1::DoctorReport> for Findings {
    fn from(report: v1::DoctorReport) -> Self {
        let view = |finding: v1::DoctorFinding| {
            let v1::DoctorFinding { subject, problem, next, grave, fixed } = finding;
            FindingView { subject, problem, next, grave, fixed }
        };
        Findings(report.findings.into_iter().map(view).collect())
    }
}

impl Findings {
    /// Whether something still does not work.
    pub fn is_ill(&self) -> bool {
        self.0.iter().any(|finding| finding.grave && !finding.fixed)
    }
}

impl View for Findings {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        if self.0.is_empty() {
            return writeln!(out, "everything is as it should be");
        }
        let row = |finding: &FindingView| {
            let state = match (finding.fixed, finding.grave) {
                (true, _) => "fixed",
                (false, true) => "broken",
                (false, false) => "notice",
            };
            let next = if finding.fixed { String::new() } else { finding.next.clone() };
            vec![finding.subject.clone(), state.to_owned(), finding.problem.clone(), next]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        table::print_into(out, &["SUBJECT", "STATE", "PROBLEM", "NEXT"], &rows)
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|finding| finding.subject.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(grave: bool, fixed: bool) -> v1::DoctorFinding {
        let (subject, problem, next) = ("web".into(), "link x is detached".into(), "cc net doctor --fix".into());
        v1::DoctorFinding { subject, problem, next, grave, fixed }
    }

    #[test]
    fn only_what_is_broken_and_stays_so_is_ill() {
        let of = |findings| Findings::from(v1::DoctorReport { findings });
        assert!(of(vec![finding(true, false)]).is_ill());
        assert!(!of(vec![finding(true, true), finding(false, false)]).is_ill());
        let mut out = Vec::new();
        of(vec![finding(true, true)]).print_into(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("fixed") && !text.contains("--fix"), "{text}");
        let mut out = Vec::new();
        of(vec![]).print_into(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "everything is as it should be\n");
    }
}
