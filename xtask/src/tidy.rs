//! House style that a machine can check: sizes of files, and the `//!` that opens each. Refuses to judge anything else.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::output;

const LINES_WARN: usize = 400;
const LINES_MAX: usize = 700;

#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Long(usize),
    TooLong(usize),
    NoHeader,
}

impl Finding {
    fn fails(&self) -> bool {
        !matches!(self, Finding::Long(_))
    }

    fn text(&self) -> String {
        match self {
            Finding::Long(lines) => format!("warning: {lines} lines, more than {LINES_WARN}"),
            Finding::TooLong(lines) => format!("{lines} lines, more than {LINES_MAX}: split it by noun"),
            Finding::NoHeader => "does not open with `//!`: say what it owns, and what it refuses".to_owned(),
        }
    }
}

pub fn run(root: &Path) -> Result<()> {
    let files = output(Command::new("git").current_dir(root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
        ":!:*/generated/*",
    ]))?;
    let mut sizes = Vec::new();
    let mut failures = 0;
    for file in files.lines().filter(|file| root.join(file).is_file()) {
        let text = std::fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))?;
        sizes.push(text.lines().count());
        for finding in judge(&text) {
            println!("{file}: {}", finding.text());
            failures += usize::from(finding.fails());
        }
    }
    sizes.sort_unstable();
    let median = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
    println!("tidy: {} files, median {median} lines, {failures} failures", sizes.len());
    if failures > 0 {
        bail!("tidy: {failures} failures");
    }
    Ok(())
}

fn judge(text: &str) -> Vec<Finding> {
    let lines = text.lines().count();
    let mut findings = Vec::new();
    if lines > LINES_MAX {
        findings.push(Finding::TooLong(lines));
    } else if lines > LINES_WARN {
        findings.push(Finding::Long(lines));
    }
    if !text.starts_with("//!") {
        findings.push(Finding::NoHeader);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_headers_are_judged() {
        let of = |lines: usize| "//! x\n".repeat(lines);
        assert_eq!(judge(&of(400)), []);
        assert_eq!(judge(&of(401)), [Finding::Long(401)]);
        assert_eq!(judge(&of(701)), [Finding::TooLong(701)]);
        assert_eq!(judge("fn main() {}\n"), [Finding::NoHeader]);
    }
}
