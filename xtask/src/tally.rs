//! Running `cargo test` with its output passed through, and counting what its closing lines say. Refuses to hide a line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::AddAssign;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::interrupt;
use crate::process::shown;

const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// What one run of `cargo test` came to.
pub struct Outcome {
    pub tally: Tally,
    pub success: bool,
    /// The lines that start with the wanted prefix, for a report.
    pub noted: Vec<String>,
}

pub fn run(command: &mut Command, note: &str) -> Result<Outcome> {
    eprintln!("+ {}", shown(command));
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", shown(command)))?;
    let lines = lines(child.stdout.take().context("the child's standard output was not piped")?);
    let mut tally = Tally::default();
    let mut noted = Vec::new();
    loop {
        interrupt::check()?;
        let line = match lines.recv_timeout(LOOK_EVERY) {
            Ok(line) => line.context("cannot read the tests' output")?,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let line = String::from_utf8_lossy(&line);
        writeln!(std::io::stdout(), "{line}").context("cannot pass the tests' output on")?;
        if let Some(one) = closing_line(&line) {
            tally += one;
        }
        if !note.is_empty() && line.starts_with(note) {
            noted.push(line.into_owned());
        }
    }
    let success = child.wait().context("cannot wait for the tests")?.success();
    Ok(Outcome { tally, success, noted })
}

/// By a thread of its own, which ends with the output, or with whoever wants it: a read would sleep through an interruption.
fn lines(out: ChildStdout) -> Receiver<std::io::Result<Vec<u8>>> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n') {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; …`
pub fn closing_line(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| {
        counts.split("; ").find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    Some(Tally { passed: count("passed"), failed: count("failed"), skipped: count("ignored") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted_and_others_are_not() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s";
        assert_eq!(closing_line(line), Some(Tally { passed: 12, failed: 3, skipped: 1 }));
        assert_eq!(closing_line("test store::conformance ... ok"), None);
    }

    #[test]
    fn lines_come_to_the_end_of_the_output() {
        let mut child = Command::new("printf").arg("one\\ntwo").stdout(Stdio::piped()).spawn().unwrap();
        let said: Vec<_> = lines(child.stdout.take().unwrap()).iter().map(Result::unwrap).collect();
        assert_eq!(said, [b"one", b"two"]);
        assert!(child.wait().unwrap().success());
    }
}
