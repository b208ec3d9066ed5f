//! `state`, `list` and `ps`: what is there. Refuses to change anything.

use std::io::Write as _;

use super::describe::shown;
use super::error::OciError;
use super::state::Store;

pub fn state(store: &Store, id: &str) -> Result<(), OciError> {
    let (_, record) = store.read(id)?;
    let text = serde_json::to_string_pretty(&shown(&record)).map_err(std::io::Error::from);
    print(&text.map_err(|e| OciError::step("show a state", e))?)
}

pub fn list(store: &Store, json: bool, quiet: bool) -> Result<(), OciError> {
    let records = store.all()?;
    let all: Vec<_> = records.iter().map(shown).collect();
    if json {
        let text = serde_json::to_string(&all).map_err(std::io::Error::from);
        return print(&text.map_err(|e| OciError::step("show the containers", e))?);
    }
    if quiet {
        return records.iter().try_for_each(|record| print(&record.id));
    }
    let rows = records.iter().map(|record| {
        let pid = record.alive().map_or(0, |init| init.pid).to_string();
        let (status, bundle) = (record.status().name().to_owned(), record.bundle.display().to_string());
        [record.id.clone(), pid, status, bundle, record.created.clone(), "root".to_owned()]
    });
    table(
        &std::iter::once(["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned))
            .chain(rows)
            .collect::<Vec<_>>(),
    )
}

/// Each column as wide as its widest.
fn table<const N: usize>(rows: &[[String; N]]) -> Result<(), OciError> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    for row in rows {
        let line: String = row.iter().enumerate().map(|(n, cell)| format!("{cell:<w$}  ", w = width(n))).collect();
        print(line.trim_end())?;
    }
    Ok(())
}

/// With the options of ps(1) for a table, of which the lines of the container's processes are shown.
pub fn ps(store: &Store, id: &str, json: bool, options: &[String]) -> Result<(), OciError> {
    let (_, record) = store.read(id)?;
    let mut pids = record.cgroup.pids()?;
    pids.sort_unstable();
    if json {
        let text = serde_json::to_string(&pids).map_err(std::io::Error::from);
        return print(&text.map_err(|e| OciError::step("show the processes", e))?);
    }
    let mut command = std::process::Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    }
    let output = command.args(options).output().map_err(|e| OciError::step("run ps", e))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(OciError::Usage(format!("ps failed ({}): {why}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_ascii_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| OciError::Usage("these options of ps show no column PID".to_owned()))?;
    print(head)?;
    for line in lines {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            print(line)?;
        }
    }
    Ok(())
}

pub fn print(text: &str) -> Result<(), OciError> {
    writeln!(std::io::stdout(), "{text}").map_err(|e| OciError::step("write to standard output", e))
}
