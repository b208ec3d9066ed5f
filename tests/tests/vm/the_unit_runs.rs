//! The package's unit under a systemd that runs: the daemon is started by it, has its containers in what it was given, and is restarted,
//! killed, stopped and upgraded beside them, who go on. For machines whose every controller is on cgroup v2: `cargo xtask test --vm`.

use std::time::Duration;

use cc_tests::debian::{Debian, job, package};
use cc_tests::eventually::eventually;

const SERVICE: &str = "cc-host.service";
const CGROUP: &str = "/sys/fs/cgroup/system.slice/cc-host.service";
const BOUND: Duration = Duration::from_secs(10);
/// Of the job: `--memory 64MiB`.
const MEMORY: &str = "67108864\n";

#[test]
fn systemd_starts_it_and_containers_outlive_what_systemd_does() {
    let dir = tempfile::Builder::new().prefix("cct-").tempdir().unwrap();
    let packed = package::any(dir.path());
    let debian = Debian::booted().unwrap();
    std::fs::copy(packed, debian.share().join("ccloud.deb")).unwrap();

    // Nothing but the installation starts it.
    let said = debian.run("dpkg", &["-i", "/srv/ccloud.deb"]).ok();
    assert!(!said.stderr.contains("ccloud:"), "{said:?}\n{}", journal(&debian));
    let first = daemon(&debian);
    job::two_vpcs_with_one_cidr(&debian);

    // Where systemd keeps its hands off, with the limits that were asked for.
    assert_eq!(shown(&debian, "DelegateSubgroup"), "daemon");
    let cgroup = read(&debian, &format!("/proc/{first}/cgroup"));
    assert!(cgroup.contains("0::/system.slice/cc-host.service/daemon\n"), "{cgroup}");
    let web = init(&debian, "web-blue");
    let cgroup = read(&debian, &format!("/proc/{web}/cgroup"));
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/system.slice/cc-host.service/")).expect(&cgroup);
    assert!(own.starts_with("containers/"), "{cgroup}");
    assert_eq!(read(&debian, &format!("{CGROUP}/{own}/memory.max")), MEMORY);
    assert_eq!(debian.run("find", &["/sys/fs/cgroup/cc"]).code, 1, "it has cgroups of its own beside them");

    // However the daemon is replaced, the same processes go on, and are known.
    let second = replaced(&debian, first, web, |debian| {
        debian.run("systemctl", &["restart", SERVICE]).ok();
    });
    let third = replaced(&debian, second, web, |debian| {
        debian.run("systemctl", &["kill", "--signal=SIGKILL", "--kill-whom=main", SERVICE]).ok();
    });
    let fourth = replaced(&debian, third, web, |debian| {
        debian.run("systemctl", &["stop", SERVICE]).ok();
        assert_eq!(debian.run("ccloud", &["info"]).code, 1, "somebody answers");
        debian.run("test", &["-d", &format!("/proc/{web}")]).ok();
        debian.run("systemctl", &["start", SERVICE]).ok();
    });
    replaced(&debian, fourth, web, |debian| {
        let said = debian.run("dpkg", &["-i", "/srv/ccloud.deb"]).ok();
        assert!(!said.stderr.contains("ccloud:"), "{said:?}\n{}", journal(debian));
    });

    // It wrote what a service manager calls an error nowhere, and systemd knew every line of the unit.
    let failed = debian.run("systemctl", &["list-units", "--failed", "--plain", "--no-legend", SERVICE]).ok().stdout;
    assert_eq!(failed, "");
    let log = journal(&debian);
    assert!(log.contains("the daemon started"), "what it says is not in its journal:\n{log}");
    for word in ["Unknown key", "Failed to", "panicked", " ERROR "] {
        assert!(!log.contains(word), "{word:?} is in\n{log}");
    }

    // Who removes the engine is left with nothing that could manage them.
    debian.run("dpkg", &["-r", "ccloud"]).ok();
    eventually("the containers are gone", BOUND, || {
        (debian.run("pidof", &["cc-host", "cc-shim"]).code == 1).then_some(())
    });
    assert_eq!(debian.run("test", &["-e", &format!("/proc/{web}")]).code, 1);
}

/// The new daemon's process, when that answers for the container as it is.
fn replaced(debian: &Debian, before: u32, web: u32, replace: impl Fn(&Debian)) -> u32 {
    replace(debian);
    let after = eventually("another daemon", BOUND, || Some(daemon(debian)).filter(|pid| ![0, before].contains(pid)));
    eventually("it answers", BOUND, || debian.run("ccloud", &["info"]).ok_or_none());
    assert_eq!(init(debian, "web-blue"), web, "{}", journal(debian));
    let served = debian.run("ccloud", &["exec", "web-blue", "wget", "-q", "-O", "-", "http://127.0.0.1/"]).ok();
    assert_eq!(served.stdout, "hello from blue\n");
    after
}

/// The process that systemd has as the unit's own; 0 if there is none.
fn daemon(debian: &Debian) -> u32 {
    shown(debian, "MainPID").parse().expect("a process id")
}

fn shown(debian: &Debian, property: &str) -> String {
    debian.run("systemctl", &["show", "--value", "--property", property, SERVICE]).ok().stdout.trim().to_owned()
}

fn init(debian: &Debian, container: &str) -> u32 {
    let inspected = debian.run("ccloud", &["inspect", container]).ok().json();
    assert_eq!(inspected[0]["state"], "running", "{inspected:#}");
    inspected[0]["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("it has a process")
}

fn read(debian: &Debian, path: &str) -> String {
    debian.run("cat", &[path]).ok().stdout
}

fn journal(debian: &Debian) -> String {
    debian.run("journalctl", &["--no-pager", "--unit", SERVICE]).stdout
}
