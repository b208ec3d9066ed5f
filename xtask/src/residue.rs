//! What end-to-end tests may leave behind: namespaces, links, pins, mounts, cgroups and processes under the tests' prefix.
//! Refuses to remove any: a residue is a failure to explain.

use std::collections::BTreeSet;
use std::path::Path;

use crate::process::ask;

/// Every object that a test, the demo or a benchmark makes has a name that starts so.
pub const PREFIX: &str = "cct";

/// The cgroups of the daemon's own test files begin so.
const CGROUPS: &str = "cc-test-";

/// The objects there are now; taken before and after, the difference is what was left.
pub fn now() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    found.extend(entries(Path::new("/run/netns"), "network namespace"));
    found.extend(entries(Path::new("/sys/class/net"), "link"));
    found.extend(entries(Path::new("/sys/fs/bpf"), "bpf pin"));
    found.extend(entries(&std::env::temp_dir(), "file"));
    found.extend(mounts());
    let cgroups = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(cgroups).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([cgroups.to_owned()]) {
        found.extend(entries(&hierarchy, "cgroup"));
        found.extend(named(&hierarchy, CGROUPS, "cgroup"));
    }
    found.extend(processes());
    found
}

fn entries(dir: &Path, kind: &str) -> Vec<String> {
    named(dir, PREFIX, kind)
}

fn named(dir: &Path, prefix: &str, kind: &str) -> Vec<String> {
    let list = std::fs::read_dir(dir).into_iter().flatten().flatten();
    list.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| format!("{kind} {}", entry.path().display()))
        .collect()
}

fn mounts() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|target| target.split('/').any(|part| part.starts_with(PREFIX)))
        .map(|target| format!("mount {target}"))
        .collect()
}

/// Daemons and shims name their directories on their command lines.
fn processes() -> Vec<String> {
    let all = ask("ps", &["-eo", "pid=,args="]).unwrap_or_default();
    all.lines()
        .filter(|line| line.contains("cc-host") || line.contains("cc-shim"))
        .filter(|line| line.contains(&format!("/{PREFIX}")))
        .map(|line| format!("process {}", line.trim()))
        .collect()
}
