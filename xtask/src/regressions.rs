//! `docs/regressions.md` as it is read: which test stands for what, and which control that test is to miss. Refuses to run any.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::cargo;

pub const TABLE: &str = "docs/regressions.md";

/// A line of one of its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regression {
    pub stands_for: String,
    /// From the repository's root.
    pub file: String,
    pub name: String,
    /// As `cc-host/src/mutation.rs` names it; without one, the table says why.
    pub control: Option<String>,
}

pub fn all(root: &Path) -> Result<Vec<Regression>> {
    let text = std::fs::read_to_string(root.join(TABLE)).with_context(|| format!("cannot read {TABLE}"))?;
    text.lines().filter(|line| is_row(line)).map(parse).collect()
}

fn is_row(line: &str) -> bool {
    line.starts_with("| ") && !line.starts_with("| stands for")
}

fn parse(line: &str) -> Result<Regression> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [stands_for, test, control] = cells[..] else { bail!("{TABLE}: not three cells: {line}") };
    let quoted = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    let (file, name) = quoted(test)
        .and_then(|test| test.split_once("::").map(|(file, name)| (file.to_owned(), name.to_owned())))
        .with_context(|| format!("{TABLE}: {test} is not `FILE::TEST`"))?;
    if stands_for.is_empty() || control.is_empty() {
        bail!("{TABLE}: an empty cell: {line}");
    }
    Ok(Regression { stands_for: stands_for.to_owned(), file, name, control: quoted(control) })
}

impl Regression {
    /// `cargo test` of this one alone; where end-to-end tests are, and where unit tests are, is said by the path.
    pub fn command(&self, root: &Path) -> Result<Command> {
        let mut command = cargo(root);
        command.arg("test");
        let stem = Path::new(&self.file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match self.file.split('/').collect::<Vec<_>>()[..] {
            ["tests", "tests", _] => command.args(["-p", "tests", "--test", stem]),
            ["cc-host", "tests", _] => command.args(["-p", "cc-host", "--test", stem]),
            ["cc-host", "src", ..] => command.args(["-p", "cc-host", "--lib"]),
            _ => bail!("{TABLE}: {} is where no test of this project is", self.file),
        };
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn every_row_names_a_test_that_is_there() {
        let all = all(root()).unwrap();
        assert!(all.len() > 40, "{} rows", all.len());
        for Regression { file, name, .. } in &all {
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let at = text.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("{file} has no test {name}"));
            let before: Vec<&str> = text[..at].lines().rev().take(6).collect();
            let is_test = before.iter().any(|line| line.contains("#[test]") || line.contains("#[tokio::test"));
            assert!(is_test, "{file}: {name} is no test");
        }
    }

    /// So that none is switched off by nobody, and none is asked for that is not there.
    #[test]
    fn every_control_has_its_test() {
        let text = std::fs::read_to_string(root().join("cc-host/src/mutation.rs")).unwrap();
        let body = text.split_once("pub enum Control {").unwrap().1.split_once("\n}").unwrap().0;
        let known: Vec<&str> = body
            .lines()
            .filter_map(|line| line.trim().strip_suffix(','))
            .filter(|line| line.chars().all(char::is_alphanumeric))
            .collect();
        let asked: Vec<String> = all(root()).unwrap().into_iter().filter_map(|row| row.control).collect();
        for control in &known {
            assert!(asked.iter().any(|asked| asked == control), "no test is there for {control}");
        }
        for control in &asked {
            assert!(known.contains(&control.as_str()), "{control} is no control");
        }
    }

    #[test]
    fn a_row_is_read() {
        let row = parse("| CVE-1: this, and that | `tests/tests/a.rs::b_is_c` | `Thing` |").unwrap();
        assert_eq!((row.file.as_str(), row.name.as_str()), ("tests/tests/a.rs", "b_is_c"));
        assert_eq!(row.control.as_deref(), Some("Thing"));
        assert_eq!(parse("| a | `b.rs::c` | by construction |").unwrap().control, None);
        assert!(parse("| a | b.rs | c |").is_err() && parse("| a | `b.rs::c` |").is_err());
    }
}
