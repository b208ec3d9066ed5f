//! What came of a kernel, as its part of docs/kernels.md. Refuses to touch the parts of others, and what people wrote.

use std::fmt::Write as _;

use super::told::{Check, Ended, Program, Ran, Told};
use crate::tally::Tally;

/// Parts are between these; a new kernel's comes last.
const BEGIN: &str = "<!-- cargo xtask test --vm: ";
const END: &str = "<!-- end -->";
const AFTER_ALL: &str = "<!-- all kernels -->";

/// All that was told of one kernel.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub release: String,
    pub checks: Vec<Check>,
    pub programs: Vec<Program>,
    pub ran: Vec<Ran>,
}

impl Outcome {
    pub fn hear(&mut self, told: Told) {
        match told {
            Told::Check(check) => self.checks.push(check),
            Told::Program(program) => self.programs.push(program),
            Told::Ran(ran) => self.ran.push(ran),
            Told::Output(_) | Told::Done | Told::Failed(_) => {}
        }
    }

    /// A check counts as a test.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for check in &self.checks {
            tally += Tally { passed: u64::from(check.ok), failed: u64::from(!check.ok), skipped: 0 };
        }
        for &Ran { passed, failed, skipped, .. } in &self.ran {
            tally += Tally { passed, failed, skipped };
        }
        tally
    }

    pub fn failures(&self) -> Vec<String> {
        let checks =
            self.checks.iter().filter(|check| !check.ok).map(|check| format!("{}: {}", check.name, check.found));
        let ran = self.ran.iter().filter(|ran| !ran.is_good()).map(|ran| format!("{}: {}", ran.suite, result(ran)));
        checks.chain(ran).collect()
    }
}

/// `text` with the part of `name` replaced, or a new one. Files that did not run now keep their rows if the kernel is the same.
pub fn placed(text: &str, name: &str, outcome: &Outcome) -> String {
    let begin = format!("{BEGIN}{name} -->\n");
    let (before, old, after) = match text.split_once(&begin) {
        Some((before, rest)) => {
            let (old, after) = rest.split_once(END).unwrap_or((rest, ""));
            (before.to_owned(), old, after.strip_prefix('\n').unwrap_or(after).to_owned())
        }
        None => match text.split_once(AFTER_ALL) {
            Some((before, after)) => (before.to_owned(), "", format!("{AFTER_ALL}{after}")),
            None => (format!("{}\n\n", text.trim_end()), "", format!("{AFTER_ALL}\n")),
        },
    };
    let kept = if old.contains(&title(name, outcome)) { rows(old) } else { Vec::new() };
    format!("{before}{begin}{}{END}\n{after}", part(name, outcome, kept))
}

fn title(name: &str, outcome: &Outcome) -> String {
    format!("### {name}: Linux {}\n", outcome.release)
}

fn part(name: &str, outcome: &Outcome, kept: Vec<String>) -> String {
    let mut text = format!("\n{}\n| asked | | found |\n|---|---|---|\n", title(name, outcome));
    for Check { name, ok, found } in &outcome.checks {
        let mark = if *ok { "yes" } else { "no" };
        line(&mut text, &format!("| {name} | {mark} | {} |", found.replace('|', "/")));
    }
    let mut files: Vec<String> = outcome.ran.iter().map(row).collect();
    let file = |row: &str| row.split(" | ").next().unwrap_or_default().to_owned();
    let fresh: Vec<String> = files.iter().map(|row| file(row)).collect();
    files.extend(kept.into_iter().filter(|row| !fresh.contains(&file(row))));
    files.sort();
    if !files.is_empty() {
        text.push_str("\n| test file | result | passed | seconds |\n|---|---|---|---|\n");
        files.iter().for_each(|row| line(&mut text, row));
    }
    if !outcome.programs.is_empty() {
        text.push_str("\n| program | type | instructions | the verifier looked at |\n|---|---|---|---|\n");
    }
    for Program { name, kind, instructions, verified } in &outcome.programs {
        line(&mut text, &format!("| `{name}` | {kind} | {instructions} | {verified} |"));
    }
    text.push('\n');
    text
}

fn row(ran: &Ran) -> String {
    let tests = ran.passed + ran.failed + ran.skipped;
    format!("| {} | {} | {} of {tests} | {} |", ran.suite, result(ran), ran.passed, ran.seconds)
}

/// Of a part that was written before: rows of files have a number at their end, and one test or more.
fn rows(part: &str) -> Vec<String> {
    let table = part.split_once("| test file |").map_or("", |(_, rest)| rest);
    table.lines().skip(2).take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

pub fn result(ran: &Ran) -> &'static str {
    match ran.ended {
        Ended::TooLate => "took too long",
        Ended::Badly => "failed",
        Ended::Well if ran.skipped > 0 => "skipped some",
        Ended::Well => "passed",
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(release: &str, suite: &str, ended: Ended) -> Outcome {
        let ran = Ran { suite: suite.into(), passed: 2, failed: 0, skipped: 0, seconds: 3, ended };
        let check = Check { name: "modules".into(), ok: true, found: "veth".into() };
        Outcome { release: release.into(), checks: vec![check], ran: vec![ran], ..Outcome::default() }
    }

    #[test]
    fn a_kernel_replaces_its_own_part() {
        let text = placed("# Kernels\n\nWords.\n", "6.12", &outcome("6.12.1", "a", Ended::Badly));
        let text = placed(&text, "newest", &outcome("7.3", "a", Ended::Well));
        let text = placed(&text, "6.12", &outcome("6.12.1", "b", Ended::Well));
        assert!(text.starts_with("# Kernels\n\nWords.\n"), "{text}");
        assert!(text.contains("| a | failed | 2 of 2 | 3 |\n| b | passed | 2 of 2 | 3 |\n"), "{text}");
        let again = placed(&text, "6.12", &outcome("6.12.1", "a", Ended::Well));
        assert!(!again.contains("failed") && again.contains("| b | passed"), "{again}");
        let other = placed(&again, "6.12", &outcome("6.12.2", "a", Ended::Well));
        assert!(!other.contains("| b | passed") && other.contains("### newest: Linux 7.3"), "{other}");
    }

    #[test]
    fn what_did_not_pass_is_a_failure() {
        assert!(outcome("6.12.1", "a", Ended::Well).failures().is_empty());
        assert_eq!(outcome("6.12.1", "a", Ended::TooLate).failures(), ["a: took too long"]);
    }
}
