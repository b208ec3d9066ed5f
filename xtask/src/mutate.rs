//! Switches each control of safety off, one at a time, and requires that the test which stands for it fails: a test that passes without
//! its control tests nothing. In a build of its own, with the feature that no release has. Refuses to touch any other build.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::build::{self, Profile};
use crate::process::{cargo, is_root, run as run_command};
use crate::regressions::{self, Regression};

const REPORT: &str = "docs/mutations.md";
const SWITCH: &str = "CC_MUTATION";
const TARGET: &str = "target/mutate";
/// A test that misses its control may wait for what does not come.
const BOUND: Duration = Duration::from_secs(180);
const FAILED: &str = "fails";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    control: String,
    test: String,
    with: String,
    without: String,
}

pub fn run(root: &Path, which: Option<&str>) -> Result<()> {
    if !is_root() {
        bail!("the tests make namespaces, mounts and eBPF programs: run it as root (sudo -E cargo xtask mutate)");
    }
    let all = regressions::all(root)?;
    let of_which = |one: &&Regression| one.control.as_ref().is_some_and(|name| which.is_none_or(|which| which == name));
    let wanted: Vec<&Regression> = all.iter().filter(of_which).collect();
    if wanted.is_empty() {
        bail!("no test in {} is there for {}", regressions::TABLE, which.unwrap_or_default());
    }
    prepare(root)?;
    let mut rows = Vec::new();
    for one in &wanted {
        let row = judge(root, one)?;
        println!("{}: {} with it, {} without ({})", row.control, row.with, row.without, row.test);
        rows.push(row);
    }
    let missed: Vec<&str> = rows.iter().filter(|row| !row.is_good()).map(|row| row.control.as_str()).collect();
    let missed = missed.join(", ");
    let path = root.join(REPORT);
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(&path, render(&merged(rows, &before, &all))).with_context(|| format!("cannot write {REPORT}"))?;
    if missed.is_empty() { Ok(()) } else { bail!("not missed by its test, or its test fails with it: {missed}") }
}

fn prepare(root: &Path) -> Result<()> {
    if !root.join("target/images/busybox").exists() {
        build::run_with_images(root, Profile::Debug)?;
        run_command(Command::new(Profile::Debug.bin_dir(root).join("make-image")).arg("all"))?;
    }
    let mut bins = cargo(root);
    bins.args(["build", "--target-dir", TARGET, "--features", "cc-host/mutations"]);
    bins.args(["-p", "cc-host", "-p", "cli", "-p", "tests", "--bins"]);
    run_command(&mut bins)
}

/// Once as it is, and once without its control.
fn judge(root: &Path, one: &Regression) -> Result<Row> {
    let mut build = command(root, one)?;
    run_command(build.arg("--no-run"))?;
    let control = one.control.clone().unwrap_or_default();
    let with = outcome(&mut command(root, one)?, &one.name)?;
    let without = outcome(command(root, one)?.env(SWITCH, &control), &one.name)?;
    Ok(Row { control, test: format!("`{}::{}`", one.file, one.name), with, without })
}

fn command(root: &Path, one: &Regression) -> Result<Command> {
    let mut command = one.command(root)?;
    command.args(["--quiet", "--target-dir", TARGET]);
    if one.file.starts_with("cc-host/") {
        command.args(["--features", "cc-host/mutations"]);
    }
    command.env("CC_NO_SKIP", "1").env("CC_BIN_DIR", root.join(TARGET).join("debug")).env("RUST_BACKTRACE", "0");
    Ok(command)
}

fn outcome(command: &mut Command, test: &str) -> Result<String> {
    let mut child = command
        .arg(test)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start cargo")?;
    let began = Instant::now();
    let out = child.stdout.take().context("the child's standard output was not piped")?;
    let reader = std::thread::spawn(move || std::io::read_to_string(out).unwrap_or_default());
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for the test")? {
            break Some(status);
        }
        if began.elapsed() > BOUND {
            // With the test, which is cargo's child.
            let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
            nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).context("cannot end the test")?;
            child.wait().context("cannot wait for the test")?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let Some(status) = status else { return Ok("does not end".to_owned()) };
    let said = reader.join().unwrap_or_default();
    // A name that matches nothing would pass.
    let ran = said.lines().any(|line| line.starts_with("running 1 test"));
    Ok(match (ran, status.success()) {
        (true, true) => "passes",
        (true, false) => FAILED,
        (false, _) => "did not run",
    }
    .to_owned())
}

impl Row {
    fn is_good(&self) -> bool {
        self.with == "passes" && self.without == FAILED
    }

    fn parse(line: &str) -> Option<Row> {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [control, test, with, without] = cells[..] else { return None };
        let control = control.strip_prefix('`')?.strip_suffix('`')?;
        let [control, test, with, without] = [control, test, with, without].map(str::to_owned);
        Some(Row { control, test, with, without })
    }
}

/// Of what did not run now, what came of it when it last ran; in the order of the regressions.
fn merged(rows: Vec<Row>, before: &str, all: &[Regression]) -> Vec<Row> {
    let key = |row: &Row| (row.control.clone(), row.test.clone());
    let mut merged: Vec<Row> = before.lines().filter_map(Row::parse).collect();
    merged.retain(|old| rows.iter().all(|row| key(row) != key(old)));
    merged.extend(rows);
    let place = |row: &Row| {
        all.iter().position(|one| {
            one.control.as_deref() == Some(&row.control) && row.test == format!("`{}::{}`", one.file, one.name)
        })
    };
    merged.retain(|row| place(row).is_some());
    merged.sort_by_key(|row| place(row));
    merged
}

fn render(rows: &[Row]) -> String {
    let mut text = "# Each control, switched off\n\nWritten by `cargo xtask mutate`, which builds everything with the feature `mutations`, switches one \
         control of\n`cc-host/src/mutation.rs` off at a time, and runs the test that stands for it. A part that is run alone (`cargo xtask mutate\n\
         NAME`) replaces its own row. What each test stands for is in [regressions.md](regressions.md).\n\n\
         | control | test | with it | without it |\n|---|---|---|---|\n"
        .to_owned();
    for Row { control, test, with, without } in rows {
        writeln!(text, "| `{control}` | {test} | {with} | {without} |").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_replaces_its_own_row() {
        let regression = |control: &str| Regression {
            stands_for: "x".into(),
            file: "tests/tests/a.rs".into(),
            name: "b".into(),
            control: Some(control.into()),
        };
        let row = |control: &str, without: &str| Row {
            control: control.into(),
            test: "`tests/tests/a.rs::b`".into(),
            with: "passes".into(),
            without: without.into(),
        };
        let all = [regression("First"), regression("Second")];
        let before = render(&[row("Second", FAILED), row("First", "passes"), row("Gone", FAILED)]);
        let now = merged(vec![row("First", FAILED)], &before, &all);
        assert_eq!(now, [row("First", FAILED), row("Second", FAILED)]);
        assert!(now.iter().all(Row::is_good) && !row("First", "passes").is_good());
        assert_eq!(merged(vec![], &render(&now), &all), now, "it is read as it was written");
    }
}
