//! The cgroup of an OCI container in this host's own hierarchies, whatever their layout: limits that the kernel shows, processes that stop, go on
//! and end, and nothing left.
#![cfg(feature = "oci")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use cc_host::oci::cgroup::Cgroup;
use oci_spec::runtime::LinuxResources;

/// Nobody else's: the number of this process is in it. A test's own, since who made a directory removes it.
fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("/cc-test-oci-{}-{name}", std::process::id()))
}

fn create(name: &str, resources: &str) -> Result<Cgroup, cc_host::oci::error::OciError> {
    let resources: LinuxResources = serde_json::from_str(resources).unwrap();
    Cgroup::create(Some(&path(name)), "id", Some(&resources))
}

fn dirs(cgroup: &Cgroup) -> Vec<PathBuf> {
    cgroup.legacy.iter().chain(&cgroup.unified).cloned().collect()
}

/// The first of these files that is in one of its directories.
fn read(cgroup: &Cgroup, names: [&str; 2]) -> String {
    let all = dirs(cgroup);
    let mut found =
        names.iter().flat_map(|name| all.iter().map(move |dir| dir.join(name))).filter(|file| file.exists());
    std::fs::read_to_string(found.next().unwrap_or_else(|| panic!("none of {names:?}"))).unwrap().trim().to_owned()
}

/// A process in it, as a container's first comes to be in it.
fn inside(cgroup: &Cgroup, script: &str) -> Child {
    let enter: String =
        dirs(cgroup).iter().map(|dir| format!("echo $$ > {}/cgroup.procs && ", dir.display())).collect();
    Command::new("sh").arg("-c").arg(format!("{enter} {script}")).spawn().unwrap()
}

/// The same, of one that stays: when it has come to be there.
fn settled(cgroup: &Cgroup, script: &str) -> Child {
    let child = inside(cgroup, script);
    let pid = child.id().to_string();
    let is_in =
        |dir: &PathBuf| std::fs::read_to_string(dir.join("cgroup.procs")).unwrap().lines().any(|line| line == pid);
    cc_eventually(|| dirs(cgroup).iter().all(is_in));
    child
}

fn cc_eventually(mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed().as_secs() < 10, "it never came about");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn assert_gone(cgroup: &Cgroup) {
    for dir in dirs(cgroup) {
        assert!(!dir.exists() && !dir.parent().unwrap().exists(), "{} is left", dir.display());
    }
}

#[test]
fn limits_are_the_kernels_and_change() {
    let cgroup = create(
        "limits/one",
        r#"{"memory":{"limit":67108864,"swap":134217728},"cpu":{"shares":512,"quota":50000,"period":100000},"pids":{"limit":77}}"#,
    )
    .unwrap();
    assert_eq!(read(&cgroup, ["memory.max", "memory.limit_in_bytes"]), "67108864");
    assert_eq!(read(&cgroup, ["pids.max", "pids.max"]), "77");
    assert!(["50000", "50000 100000"].contains(&read(&cgroup, ["cpu.max", "cpu.cfs_quota_us"]).as_str()));
    assert!(["512", "20"].contains(&read(&cgroup, ["cpu.weight", "cpu.shares"]).as_str()));
    let update = |text: &str| cgroup.update(&serde_json::from_str(text).unwrap());
    update(r#"{"memory":{"limit":268435456,"swap":268435456},"pids":{"limit":-1}}"#).unwrap();
    assert_eq!(read(&cgroup, ["memory.max", "memory.limit_in_bytes"]), "268435456");
    assert_eq!(read(&cgroup, ["pids.max", "pids.max"]), "max");
    update(r#"{"memory":{"limit":33554432,"swap":33554432}}"#).unwrap();
    assert_eq!(read(&cgroup, ["memory.max", "memory.limit_in_bytes"]), "33554432");
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert_gone(&cgroup);
}

#[test]
fn all_that_is_inside_stops_goes_on_and_ends() {
    let cgroup = create("processes/one", "{}").unwrap();
    let mut child = settled(&cgroup, "i=0; while :; do i=$((i+1)); done");
    let pid = child.id().cast_signed();
    assert_eq!(cgroup.pids().unwrap(), [pid]);
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().split(' ').nth(12).unwrap().parse::<u64>().unwrap()
    };
    cgroup.freeze(true).unwrap();
    assert!(cgroup.is_frozen());
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(ticks(), before, "it ran while it was frozen");
    cgroup.freeze(false).unwrap();
    assert!(!cgroup.is_frozen());
    cc_eventually(|| ticks() > before);
    // A frozen one can be killed too; a taken directory is nobody else's.
    cgroup.freeze(true).unwrap();
    let taken = create("processes/one", "{}").unwrap_err().to_string();
    assert!(taken.contains("processes already"), "{taken}");
    cgroup.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    cgroup.remove().unwrap();
    assert_gone(&cgroup);
}

#[test]
fn what_was_made_inside_goes_too_and_what_was_there_stays() {
    let outer = create("outer/one", "{}").unwrap();
    let inner = create("outer/one/inner", "{}").unwrap();
    for dir in dirs(&inner) {
        std::fs::create_dir(dir.join("deeper")).unwrap();
    }
    let mut child = settled(&inner, "exec sleep 600");
    inner.remove().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(dirs(&inner).iter().all(|dir| !dir.exists()) && dirs(&outer).iter().all(|dir| dir.exists()));
    outer.remove().unwrap();
    assert_gone(&outer);
}

#[test]
fn a_failure_leaves_nothing() {
    let error =
        create("failure", r#"{"memory":{"limit":4096000},"unified":{"memory.nothing":"1"}}"#).unwrap_err().to_string();
    assert!(error.contains("linux.resources.unified.memory.nothing"), "{error}");
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        assert!(!entry.path().join(path("failure").strip_prefix("/").unwrap()).exists());
    }
    assert!(!Path::new("/sys/fs/cgroup").join(path("failure").strip_prefix("/").unwrap()).exists());
}

#[test]
fn devices_are_what_the_list_says() {
    let cgroup = create(
        "devices/one",
        r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":237,"access":"r"}]}"#,
    )
    .unwrap();
    let opens = |script: &str| inside(&cgroup, &format!("({script}) 2>/dev/null")).wait().unwrap().success();
    assert!(opens("exec 3</dev/loop-control") && opens("exec 3</dev/null") && !opens("exec 3</dev/kmsg"));
    assert!(!opens("exec 3<>/dev/loop-control"));
    let update = r#"{"devices":[{"allow":true},{"allow":false,"type":"c","major":10,"minor":237}]}"#;
    cgroup.update(&serde_json::from_str(update).unwrap()).unwrap();
    assert!(!opens("exec 3</dev/loop-control") && opens("exec 3</dev/kmsg"));
    cgroup.remove().unwrap();
    assert_gone(&cgroup);
}

#[test]
fn a_program_keeps_its_devices_while_they_are_updated() {
    let cgroup = create("kept/one", r#"{"devices":[{"allow":false}]}"#).unwrap();
    // Where v1 alone has to do it, and where a program does.
    let alone = Cgroup { unified: None, ..cgroup.clone() };
    let mut all = vec![&cgroup];
    all.extend((!cgroup.legacy.is_empty()).then_some(&alone));
    let failures = tempfile::NamedTempFile::new().unwrap();
    let script = format!("while :; do (exec 3</dev/null) 2>/dev/null || echo >> {}; done", failures.path().display());
    let mut child = settled(&cgroup, &script);
    let one = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;
    let more =
        r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":237,"access":"r"}]}"#;
    for n in 0..400 {
        let update = serde_json::from_str(if n % 4 == 0 { more } else { one }).unwrap();
        all.iter().for_each(|cgroup| cgroup.update(&update).unwrap());
    }
    cgroup.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(failures.as_file().metadata().unwrap().len(), 0, "it could not open its own /dev/null");
    // A part of what is allowed taken back: v1 cannot say it, and must not stay in the way.
    let part = r#"{"devices":[{"allow":true,"type":"c","major":1},{"allow":false,"type":"c","major":1,"minor":5}]}"#;
    cgroup.update(&serde_json::from_str(part).unwrap()).unwrap();
    let opens = |script: &str| inside(&cgroup, &format!("({script}) 2>/dev/null")).wait().unwrap().success();
    assert!(opens("exec 3</dev/kmsg") && opens("exec 3</dev/null") && !opens("exec 3</dev/loop-control"));
    cgroup.remove().unwrap();
    assert_gone(&cgroup);
}
