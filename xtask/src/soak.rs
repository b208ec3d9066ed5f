//! What takes longer than CI has: the same end-to-end files with larger counts, the fuzz targets for longer, and a table of what came of
//! it. Refuses to hold a test of its own.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::build::{self, Profile};
use crate::process::{cargo, is_root, run as run_command};
use crate::{dist, fuzz, residue, setup, tally, test};

/// Files whose counts grow under CC_SOAK=1; each prints lines that start with `soak: `.
const FAMILIES: &[&str] = &["kill_", "churn_", "logs_stay_", "health_is_"];

/// How the fuzz targets are asked for.
const FUZZ: &str = "fuzz";
/// Of each target.
const FUZZ_SECONDS: u64 = 600;
/// As many as the reference machine has CPUs.
const FUZZ_JOBS: usize = 2;

/// How two builds of the package are asked for.
const DIST: &str = "dist";

const PASSED: &str = "passed";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    file: String,
    counts: String,
    seconds: u64,
    seed: u64,
    result: String,
}

pub fn run(root: &Path, which: Option<&str>) -> Result<()> {
    if !is_root() {
        bail!("the soak makes namespaces, mounts and eBPF programs: run it as root (sudo -E cargo xtask soak)");
    }
    let wanted = files(root, which)?;
    setup::run(root, setup::For::Tests)?;
    if !wanted.is_empty() {
        build::run_with_images(root, Profile::Release)?;
        run_command(std::process::Command::new(Profile::Release.bin_dir(root).join("make-image")).arg("all"))?;
    }

    let seed = test::seed();
    println!("seed: CC_TEST_SEED={seed} (set it to repeat this run)");
    let mut rows = Vec::new();
    for file in wanted {
        rows.push(one(root, &file, seed)?);
    }
    if let Some(targets) = fuzz_targets(which) {
        let ran = fuzz::all(root, &fuzz::Options::of(targets, FUZZ_SECONDS, FUZZ_JOBS), fuzz::Coverage::All)?;
        rows.extend(ran.into_iter().map(|ran| Row::of_fuzzing(ran, seed)));
    }
    if which.is_none_or(|which| DIST.starts_with(which)) {
        rows.push(Row::of_packages(root, seed));
    }
    let path = root.join("docs/soak.md");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let known: Vec<String> = files(root, None)?
        .into_iter()
        .chain(fuzz::targets(root)?.iter().map(|name| format!("{FUZZ} {name}")))
        .chain([DIST.to_owned()])
        .collect();
    let failed = rows.iter().any(|row| row.result != PASSED);
    let table = render(&merged(rows, &before, &known));
    print!("{table}");
    std::fs::create_dir_all(root.join("docs")).context("cannot make docs")?;
    std::fs::write(&path, table).with_context(|| format!("cannot write {}", path.display()))?;
    if failed { bail!("the soak failed; see docs/soak.md") } else { Ok(()) }
}

/// Those that are asked for, all if none is named; `None` without any.
fn fuzz_targets(which: Option<&str>) -> Option<Vec<String>> {
    let Some(which) = which else { return Some(Vec::new()) };
    match which.strip_prefix(FUZZ) {
        Some(names) => Some(names.split_whitespace().map(str::to_owned).collect()),
        None => FUZZ.starts_with(which).then(Vec::new),
    }
}

impl Row {
    fn of_fuzzing(ran: fuzz::Ran, seed: u64) -> Row {
        let fuzz::Ran { target, executions, seconds, found } = ran;
        let result = found.unwrap_or_else(|| PASSED.to_owned());
        Row { file: format!("{FUZZ} {target}"), counts: format!("{executions} executions"), seconds, seed, result }
    }

    fn of_packages(root: &Path, seed: u64) -> Row {
        let began = Instant::now();
        let (counts, result) = match dist::twice::run(root) {
            Ok(counts) => (counts, PASSED.to_owned()),
            Err(error) => (String::new(), format!("failed: {error:#}")),
        };
        Row { file: DIST.to_owned(), counts, seconds: began.elapsed().as_secs(), seed, result }
    }

    /// Of a table that was written before.
    fn parse(line: &str) -> Option<Row> {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [file, counts, seconds, seed, result] = cells.as_slice() else { return None };
        let (seconds, seed) = (seconds.parse().ok()?, seed.parse().ok()?);
        let [file, counts, result] = [file, counts, result].map(|cell| (*cell).to_owned());
        Some(Row { file, counts, seconds, seed, result })
    }
}

/// Of what did not run now, what came of it when it last ran; in the order of `known`. What is not known any more is left out.
fn merged(rows: Vec<Row>, before: &str, known: &[String]) -> Vec<Row> {
    let old = before.lines().filter_map(Row::parse).filter(|old| rows.iter().all(|row| row.file != old.file));
    let mut all: Vec<Row> = old.chain(rows.iter().cloned()).collect();
    all.retain(|row| known.contains(&row.file));
    all.sort_by_key(|row| known.iter().position(|file| *file == row.file));
    all
}

fn files(root: &Path, which: Option<&str>) -> Result<Vec<String>> {
    let names: Vec<String> = test::files(root, "tests")
        .into_iter()
        .filter(|name| FAMILIES.iter().any(|family| name.starts_with(family)))
        .filter(|name| which.is_none_or(|which| name.starts_with(which)))
        .collect();
    if names.is_empty() && fuzz_targets(which).is_none() && which.is_none_or(|which| !DIST.starts_with(which)) {
        bail!(
            "no file in tests/tests starts with {}; the fuzz targets are asked for by {FUZZ}, two builds of the package by {DIST}",
            which.unwrap_or_default()
        );
    }
    Ok(names)
}

fn one(root: &Path, file: &str, seed: u64) -> Result<Row> {
    let before = residue::now();
    let began = Instant::now();
    let mut command = cargo(root);
    command.args(["test", "--workspace", "--test", file, "--", "--nocapture"]);
    command.env("CC_SOAK", "1").env("CC_NO_SKIP", "1").env("CC_BIN_DIR", Profile::Release.bin_dir(root));
    let outcome = tally::run(test::seeded(&mut command, seed), "soak: ")?;
    let left: Vec<String> = residue::now().difference(&before).cloned().collect();
    let result = match (outcome.success && outcome.tally.skipped == 0, left.is_empty()) {
        (true, true) => PASSED.to_owned(),
        (true, false) => format!("left behind: {}", left.join(", ")),
        (false, _) => format!("failed: {} of {}", outcome.tally.failed, outcome.tally.passed + outcome.tally.failed),
    };
    let counts = outcome.noted.iter().filter_map(|line| line.strip_prefix("soak: ")).collect::<Vec<_>>().join("; ");
    Ok(Row { file: file.to_owned(), counts, seconds: began.elapsed().as_secs(), seed, result })
}

fn render(rows: &[Row]) -> String {
    let kernel = nix::sys::utsname::uname().map_or_else(|_| "unknown".into(), |name| name.release().to_owned());
    let mut text = format!(
        "# The last soak\n\nWritten by `cargo xtask soak`; kernel {}. A part that is run alone (`cargo xtask soak NAME`) replaces its own rows.\n\n\
         | file | counts | seconds | seed | result |\n|---|---|---|---|---|\n",
        // Its version; what a distribution adds to it says nothing here.
        kernel.to_string_lossy().split('-').next().unwrap_or_default()
    );
    for Row { file, counts, seconds, seed, result } in rows {
        writeln!(text, "| {file} | {counts} | {seconds} | {seed} | {result} |")
            .expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_asked_for_by_name() {
        let all = Some(Vec::new());
        assert_eq!(
            (fuzz_targets(None), fuzz_targets(Some("fuzz")), fuzz_targets(Some("fu"))),
            (all.clone(), all.clone(), all)
        );
        assert_eq!(fuzz_targets(Some("fuzz dns nat")), Some(vec!["dns".to_owned(), "nat".to_owned()]));
        assert_eq!(fuzz_targets(Some("kill_shims")), None);
    }

    #[test]
    fn a_part_replaces_its_own_rows() {
        let row = |file: &str, seed: u64, result: &str| Row {
            file: file.to_owned(),
            counts: "1 MiB; 2 kills".to_owned(),
            seconds: 3,
            seed,
            result: result.to_owned(),
        };
        let known = ["kill_a", "logs_b", "fuzz c"].map(str::to_owned);
        let before = render(&[row("logs_b", 1, "failed: 1 of 6"), row("fuzz c", 1, PASSED), row("gone", 1, PASSED)]);
        let now = merged(vec![row("logs_b", 2, PASSED), row("kill_a", 2, PASSED)], &before, &known);
        assert_eq!(now, [row("kill_a", 2, PASSED), row("logs_b", 2, PASSED), row("fuzz c", 1, PASSED)]);
        assert_eq!(merged(vec![], &render(&now), &known), now, "it is read as it was written");
    }
}
