//! The Debian package, installed in a clean Debian, does the main job as it comes: with its own configuration, by its own unit's command; and
//! it goes again, leaving what docs/packaging.md says.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::time::Duration;

use cc_tests::daemon::bin_dir;
use cc_tests::debian::package::{UNIT, packed};
use cc_tests::debian::{Debian, job};
use cc_tests::eventually::eventually;

const READY_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn it_is_the_same_bytes_each_time_installs_does_the_job_and_goes() {
    let dir = tempfile::Builder::new().prefix("cct-").tempdir().unwrap();
    let package = packed(&dir.path().join("one"));
    let again = packed(&dir.path().join("two"));
    assert!(std::fs::read(&package).unwrap() == std::fs::read(&again).unwrap(), "two packings differ");

    let debian = Debian::new().unwrap();
    let before = files(&debian);
    std::fs::copy(&package, debian.share().join("ccloud.deb")).unwrap();
    debian.run("dpkg", &["-i", "/srv/ccloud.deb"]).ok();
    files_are_as_they_should(&debian);
    the_unit_is_sound(&debian);
    its_own_words_are_right(&debian);

    configure(&debian);
    let daemon = Daemon::start(&debian);
    job::two_vpcs_with_one_cidr(&debian);
    daemon.stop_with_containers(&debian);

    // Removed: all but what an administrator may have changed, and whether the unit is enabled.
    debian.run("dpkg", &["-r", "ccloud"]).ok();
    let left = files(&debian).difference(&before).cloned().collect::<Vec<_>>();
    let left: Vec<&String> = left.iter().filter(|path| !path.contains("/cc-host.service")).collect();
    assert_eq!(left, ["/etc/cc", "/etc/cc/config.toml"]);
    // Purged: all but data, and that is said.
    let said = debian.run("dpkg", &["-P", "ccloud"]).ok();
    assert!(said.stderr.contains("/var/lib/cc is left"), "{said:?}");
    assert_eq!(files(&debian).difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
    debian.run("test", &["-e", "/var/lib/cc/store.sqlite"]).ok();
    debian.run("test", &["!", "-e", "/run/cc"]).ok();
    assert_eq!(debian.run("dpkg", &["-l", "ccloud"]).code, 1);
}

/// Of the system, without what dpkg keeps of itself.
fn files(debian: &Debian) -> BTreeSet<String> {
    let found = debian.run("find", &["/", "-xdev"]).ok().stdout;
    let of_dpkg = |path: &str| path.starts_with("/var/lib/dpkg/") || path.starts_with("/var/log/");
    found.lines().filter(|path| !of_dpkg(path)).map(str::to_owned).collect()
}

fn files_are_as_they_should(debian: &Debian) {
    let listed = debian.run("dpkg", &["-L", "ccloud"]).ok().stdout;
    for line in listed.lines().filter(|line| *line != "/.") {
        let stat = debian.run("stat", &["-c", "%F %a %U:%G", line]).ok().stdout;
        let program = line.starts_with("/usr/bin/");
        let wanted = match stat.split(' ').next().unwrap() {
            "directory" => "directory 755 root:root\n",
            "symbolic" => "symbolic link 777 root:root\n",
            _ if program => "regular file 755 root:root\n",
            _ => "regular file 644 root:root\n",
        };
        assert_eq!(stat, wanted, "{line}");
    }
    for wanted in [
        "/usr/bin/ccloud",
        "/usr/bin/cc-host",
        "/usr/bin/cc-shim",
        "/usr/bin/cc-oci",
        "/usr/lib/ccloud/bin/cc",
        "/etc/cc/config.toml",
        UNIT,
        "/usr/share/man/man1/ccloud-vpc-create.1.gz",
        "/usr/share/man/man1/cc-host.1.gz",
        "/usr/share/man/man1/cc-oci.1.gz",
        "/usr/share/bash-completion/completions/ccloud",
        "/usr/share/zsh/vendor-completions/_ccloud",
        "/usr/share/fish/vendor_completions.d/ccloud.fish",
        "/usr/share/doc/ccloud/packaging.md.gz",
    ] {
        let there = listed.lines().any(|line| line == wanted || format!("{line}.gz") == wanted);
        assert!(there, "{wanted} is not in\n{listed}");
    }
    // The machine's `cc` is nobody's but the compilers'.
    assert!(!listed.lines().any(|line| line == "/usr/bin/cc"), "{listed}");
    assert_eq!(debian.run("test", &["-e", "/usr/bin/cc"]).code, 1);
    let conffiles = debian.run("dpkg-query", &["-W", "-f=${Conffiles}", "ccloud"]).ok().stdout;
    assert!(conffiles.contains("/etc/cc/config.toml"), "{conffiles}");
    // Whatever it was built on has no newer libc than the package asks for.
    let depends = debian.run("dpkg-query", &["-W", "-f=${Depends}", "ccloud"]).ok().stdout;
    let asked = glibc_minors(&depends.replace("libc6 (>= ", "GLIBC_")).into_iter().max().unwrap();
    for program in ["cc", "cc-host"] {
        let needed = std::fs::read(bin_dir().join(program)).unwrap();
        let needed = glibc_minors(&String::from_utf8_lossy(&needed)).into_iter().max().unwrap();
        assert!(needed <= asked, "{program} needs GLIBC_2.{needed}, and the package asks for 2.{asked}");
    }
}

fn glibc_minors(text: &str) -> Vec<u32> {
    let after = text.split("GLIBC_2.").skip(1);
    after.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}

fn the_unit_is_sound(debian: &Debian) {
    let verified = debian.run("systemd-analyze", &["verify", "--man=no", UNIT]).ok();
    assert!(!format!("{}{}", verified.stdout, verified.stderr).contains("cc-host"), "{verified:?}");
    let text = debian.run("cat", &[UNIT]).ok().stdout;
    for line in ["Delegate=yes", "KillMode=process", "RuntimeDirectoryPreserve=yes"] {
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
    // docs/packaging.md says what it is, in tenths here, and why it is not less.
    debian.run("systemd-analyze", &["security", "--offline=true", "--no-pager", "--threshold=87", UNIT]).ok();
    // Enabled, as its section says, though nothing has started it.
    debian.run("test", &["-L", "/etc/systemd/system/multi-user.target.wants/cc-host.service"]).ok();
}

/// What it says of itself has the name that it has here.
fn its_own_words_are_right(debian: &Debian) {
    let help = debian.run("ccloud", &["vpc", "create", "--help"]).ok().stdout;
    assert!(help.contains("Usage: ccloud vpc create") && !help.contains(" cc vpc"), "{help}");
    let page = debian.run("sh", &["-c", "zcat /usr/share/man/man1/ccloud-run.1.gz"]).ok().stdout;
    assert!(page.contains(".SH SYNOPSIS") && page.contains("ccloud run"), "{page}");
    let loaded = "source /usr/share/bash-completion/completions/ccloud && complete -p ccloud";
    let completion = debian.run("bash", &["-c", loaded]).ok().stdout;
    assert!(completion.contains("_ccloud"), "{completion}");
    // Who wants the short name has it, and a C compiler's calls go on to the C compiler, if there is one.
    let with = |words: &str| debian.run("sh", &["-c", &format!("PATH=/usr/lib/ccloud/bin:$PATH; {words}")]);
    assert!(with("cc vpc --help").ok().stdout.contains("Usage: cc vpc"));
    with("cc -c a.c").fails(127, "no other program named cc");
}

/// As it comes, but that this machine has other cgroups, and other users.
fn configure(debian: &Debian) {
    let overrides = format!("cgroup_dir = {:?}\nid_base = 1610612736\nid_ranges = 64\n", debian.cgroup);
    std::fs::write(debian.share().join("overrides"), overrides).unwrap();
    // Before its tables.
    let add = "cat /srv/overrides /etc/cc/config.toml > /srv/config && cat /srv/config > /etc/cc/config.toml";
    debian.run("sh", &["-c", add]).ok();
}

struct Daemon(Child);

impl Daemon {
    /// By the unit's own command, ready when it says so as the unit's type has it.
    fn start(debian: &Debian) -> Daemon {
        let text = debian.run("cat", &[UNIT]).ok().stdout;
        assert!(text.contains("\nType=notify\n"));
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap().to_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let notified = UnixDatagram::bind(debian.share().join("notify")).unwrap();
        notified.set_read_timeout(Some(READY_WITHIN)).unwrap();
        let log = std::fs::File::create(debian.share().join("log")).unwrap();
        let mut command = debian.command(words[0], &words[1..]);
        command.env("NOTIFY_SOCKET", "/srv/notify").stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Daemon(command.stdin(Stdio::null()).spawn().unwrap());
        let mut said = [0; 64];
        let length = notified.recv(&mut said).unwrap_or_else(|error| {
            panic!("{error}:\n{}", std::fs::read_to_string(debian.share().join("log")).unwrap_or_default())
        });
        assert_eq!(&said[..length], b"READY=1");
        daemon
    }

    /// As prerm has it when the package is removed.
    fn stop_with_containers(mut self, debian: &Debian) {
        let shims = || debian.run("pidof", &["cc-shim"]).stdout;
        assert!(!shims().is_empty(), "nothing runs");
        debian.run("sh", &["-c", "kill -s QUIT $(pidof -s cc-host)"]).ok();
        let status = self.0.wait().unwrap();
        let log = || std::fs::read_to_string(debian.share().join("log")).unwrap_or_default();
        assert!(status.success(), "{status}\n{}", log());
        eventually("the containers end with the daemon", Duration::from_secs(5), || shims().is_empty().then_some(()));
    }
}
