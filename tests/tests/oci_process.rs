//! A program that `cc-oci` runs has the user, the capabilities, the limits and the file systems that its config.json says, and no more.

use cc_tests::oci::Oci;
use serde_json::{Value, json};

fn prints(oci: &Oci, config: &Value) -> String {
    oci.once("c", config).ok().stdout
}

#[test]
fn ids_groups_umask_and_directory_are_as_given() {
    let oci = Oci::new();
    let mut config = oci.config("c", "id -u; id -g; id -G; umask; pwd; echo $A $HOME; touch x; stat -c %a x");
    config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o027});
    config["process"]["cwd"] = json!("/made/for/it");
    config["process"]["env"] = json!(["PATH=/bin", "A=b c"]);
    assert_eq!(prints(&oci, &config), "1000\n1001\n1001 5 6\n0027\n/made/for/it\nb c /home/app\n640\n");
    let config = oci.config("c", "umask; echo $HOME");
    assert_eq!(prints(&oci, &config), "0022\n/root\n");
    oci.assert_clean();
}

#[test]
fn capabilities_are_the_five_sets() {
    let oci = Oci::new();
    let mut config = oci.config("c", "grep -E 'Cap|NoNew' /proc/self/status | tr -s '\\t' ' '");
    config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    config["process"]["user"] = json!({"uid": 1, "gid": 1});
    let shown = prints(&oci, &config);
    // For another user than root, what is ambient is what is left by execve.
    assert_eq!(
        shown,
        "CapInh: 0000000000000020\nCapPrm: 0000000000000020\nCapEff: 0000000000000020\nCapBnd: 00000000000000a1\nCapAmb: 0000000000000020\nNoNewPrivs: 1\n"
    );
    config["process"].as_object_mut().unwrap().remove("capabilities");
    config["process"]["user"] = json!({"uid": 0, "gid": 0});
    config["process"]["noNewPrivileges"] = json!(false);
    let shown = prints(&oci, &config);
    assert_eq!(shown.matches("0000000000000000").count(), 5, "{shown}");
    assert!(shown.ends_with("NoNewPrivs: 0\n"), "{shown}");
    oci.assert_clean();
}

#[test]
fn limits_and_scheduling_are_as_given() {
    let oci = Oci::new();
    let script = "ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; awk '{print $19, $41}' /proc/self/stat; ionice -p $$ | grep -o idle";
    let mut config = oci.config("c", script);
    config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    config["process"]["oomScoreAdj"] = json!(555);
    config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    assert_eq!(prints(&oci, &config), "100\n0\n555\n7 3\nidle\n");
    oci.assert_clean();
}

#[test]
fn a_personality_is_the_programs() {
    let oci = Oci::new();
    let mut config = oci.config("c", "cat /proc/self/personality; uname -m");
    config["linux"]["personality"] = json!({"domain": "LINUX32"});
    assert!(prints(&oci, &config).starts_with("00000008\n"));
    oci.assert_clean();
}

#[test]
fn names_and_settings_are_the_namespaces() {
    let oci = Oci::new();
    let script = "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni; ip addr show lo | grep -o LOOPBACK,UP; ip link | grep -c '^[0-9]'";
    let mut config = oci.config("c", script);
    config["hostname"] = json!("named");
    config["domainname"] = json!("domain");
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"});
    assert_eq!(prints(&oci, &config), "named\ndomain\n1\n77\nLOOPBACK,UP\n1\n");
    oci.assert_clean();
}

#[test]
fn paths_are_masked_and_read_only() {
    let oci = Oci::new();
    let script = "cat /secret; ls /hidden | wc -l; echo x > /fixed/f; echo x > /proc/sys/kernel/hostname; echo $?; touch /new; echo $?; stat -c %t:%T /proc/timer_list";
    let mut config = oci.config("c", script);
    config["root"]["readonly"] = json!(true);
    config["linux"]["maskedPaths"] = json!(["/secret", "/hidden", "/link", "/not/there", "/proc/timer_list"]);
    config["linux"]["readonlyPaths"] = json!(["/fixed", "/proc/sys", "/not/there"]);
    config["mounts"].as_array_mut().unwrap().push(json!({"destination": "/fixed", "type": "tmpfs", "source": "tmpfs"}));
    let root = oci.bundle("c", &config).join("rootfs");
    std::fs::write(root.join("secret"), "told").unwrap();
    std::fs::create_dir(root.join("hidden")).unwrap();
    std::fs::write(root.join("hidden/x"), "").unwrap();
    // A link of the container's leads nowhere on the host.
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
    let before = std::fs::read_to_string("/etc/passwd").unwrap();
    let ran = oci.once("c", &config);
    assert_eq!(ran.stdout, "0\n1\n1\n1:3\n", "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string("/etc/passwd").unwrap(), before);
    assert_eq!(std::fs::read_to_string(root.join("secret")).unwrap(), "told");
    oci.assert_clean();
}

#[test]
fn mounts_have_their_options() {
    let oci = Oci::new();
    let mut config = oci.config("c", "grep ' /m' /proc/self/mountinfo | cut -d' ' -f5,6,7- ; ls /m/up; cat /m/bind/in /m/file; touch /m/bind/x 2>&1; touch /m/rw/x; df -k /m/up | tail -n 1 | awk '{print $2}'");
    let bundle = oci.bundle("c", &config);
    let given = oci.path("given");
    std::fs::create_dir(&given).unwrap();
    std::fs::write(given.join("in"), "inside\n").unwrap();
    std::fs::create_dir_all(bundle.join("rootfs/m/up")).unwrap();
    std::fs::write(bundle.join("rootfs/m/up/copied"), "").unwrap();
    let bind = |target: &str, source: &std::path::Path, options: Value| json!({"destination": target, "source": source, "type": "bind", "options": options});
    config["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/m/up", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=700", "tmpcopyup", "noatime"]}),
        bind("/m/bind", &given, json!(["rbind", "ro", "nosuid", "nodev", "noexec", "nosymfollow"])),
        bind("/m/rw", &given, json!(["bind", "rshared", "strictatime", "nodiratime"])),
        bind("/m/file", &given.join("in"), json!(["bind", "rro", "private"])),
    ]);
    let shown = oci.once("c", &config).ok().stdout;
    let line = |target: &str| {
        shown.lines().find(|line| line.starts_with(target)).unwrap_or_else(|| panic!("{target}: {shown}")).to_owned()
    };
    assert!(line("/m/up ").contains("rw,noatime"), "{shown}");
    assert!(line("/m/bind ").contains("ro,nosuid,nodev,noexec"), "{shown}");
    assert!(line("/m/bind ").contains("nosymfollow") && !line("/m/bind ").contains("shared:"), "{shown}");
    assert!(line("/m/rw ").contains("nodiratime") && !line("/m/rw ").contains("relatime"), "{shown}");
    assert!(line("/m/file ").contains(" ro"), "{shown}");
    assert!(shown.contains("copied\ninside\ninside\n"), "{shown}");
    assert!(shown.contains("Read-only file system") && shown.trim_end().ends_with("64"), "{shown}");
    assert!(given.join("x").exists());
    oci.assert_clean();
}

#[test]
fn links_in_an_image_lead_nowhere_on_the_host() {
    let oci = Oci::new();
    let mut config = oci.config("c", "cat /link/made/in; readlink /link");
    let bundle = oci.bundle("c", &config);
    let (given, outside) = (oci.path("given"), oci.path("outside"));
    std::fs::create_dir(&given).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(given.join("in"), "inside\n").unwrap();
    std::os::unix::fs::symlink(&outside, bundle.join("rootfs/link")).unwrap();
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/link/made", "source": given, "options": ["bind"]}));
    assert!(oci.once("c", &config).ok().stdout.starts_with("inside\n"));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);

    // A procfs that would be elsewhere leaves /proc unprotected.
    let mut config = oci.config("d", "true");
    let bundle = oci.bundle("d", &config);
    let _ = std::fs::remove_dir(bundle.join("rootfs/proc"));
    std::os::unix::fs::symlink("/tmp", bundle.join("rootfs/proc")).unwrap();
    oci.once("d", &config).fails(1, "it may not be a link");
    std::fs::remove_file(bundle.join("rootfs/proc")).unwrap();
    std::fs::create_dir(bundle.join("rootfs/proc")).unwrap();
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/proc/self/attr", "type": "tmpfs", "source": "x"}));
    oci.once("d", &config).fails(1, "it lies in a procfs");
    config["mounts"].as_array_mut().unwrap().pop();
    config["process"]["cwd"] = json!("/proc/self/fd/3");
    oci.once("d", &config).fails(1, "cannot enter /proc/self/fd/3");
    oci.assert_clean();
}

#[test]
fn devices_are_there_and_made() {
    let oci = Oci::new();
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; readlink /dev/fd; readlink /dev/stdin; readlink /dev/ptmx; stat -c '%F %t:%T %a %u' /dev/own; stat -c %F /dev/pipe; echo x > /dev/null";
    let mut config = oci.config("c", script);
    config["linux"]["devices"] = json!([
        {"path": "/dev/own", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]);
    // In the place of one that everybody has.
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/dev/random", "source": "/dev/zero", "options": ["bind"]}));
    let own = config["process"]["args"][2].as_str().unwrap().to_owned();
    config["process"]["args"][2] = json!(format!("{own}; stat -c %t:%T /dev/random"));
    assert_eq!(
        prints(&oci, &config),
        "/proc/self/fd\n/proc/self/fd/0\npts/ptmx\ncharacter special file 1:5 640 7\nfifo\n1:5\n"
    );
    oci.assert_clean();
}

#[test]
fn system_calls_are_filtered_with_and_without_new_privileges() {
    let oci = Oci::new();
    for no_new_privileges in [true, false] {
        let mut config =
            oci.config("c", "mkdir /x 2>&1; grep -E 'Seccomp:|CapEff' /proc/self/status | tr -s '\\t' ' '");
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        config["process"]["user"] = json!({"uid": 0, "gid": 0});
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        });
        let shown = prints(&oci, &config);
        assert!(shown.contains("Operation not permitted") && shown.contains("Seccomp: 2"), "{shown}");
        assert!(shown.contains("CapEff: 00000000000004e1"), "nothing is left of what the filter needed: {shown}");
    }
    oci.assert_clean();
}

#[test]
fn the_cgroup_is_shown_and_is_its_own() {
    let oci = Oci::new();
    let mut config = oci
        .config("c", "cat /proc/self/cgroup | cut -d: -f3 | sort -u; find /sys/fs/cgroup -name cgroup.procs | wc -l");
    config["mounts"].as_array_mut().unwrap().push(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
    let shown = prints(&oci, &config);
    let (paths, files) = shown.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(paths, "/", "it is the root of what it sees");
    assert!(files.parse::<u32>().unwrap() > 0, "{shown}");
    oci.assert_clean();
}

#[test]
fn the_programs_own_file_cannot_be_written_by_a_container_of_the_hosts_root() {
    let oci = Oci::new();
    let config = oci.config("c", "while :; do sleep 0.1; done");
    oci.create("c", &config, &[]).ok();
    let exe = format!("/proc/{}/exe", oci.pid("c"));
    // While it runs nobody writes to it anyway; this is about whoever opens it now, and writes when it has ended.
    let held = std::fs::File::open(&exe).unwrap();
    let flags = nix::sys::statvfs::fstatvfs(&held).unwrap().flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY), "{flags:?}");
    // Nothing of the host's is open while it waits.
    let left: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", oci.pid("c")))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .filter(|target| {
            target.starts_with('/')
                && !target.starts_with("/dev/null")
                && !target.contains("/out")
                && !target.contains("/err")
        })
        .collect();
    assert_eq!(left, Vec::<String>::new());
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn nothing_is_made_in_a_directory_that_comes_to_be_dev() {
    let oci = Oci::new();
    let given = oci.path("given");
    std::fs::create_dir(&given).unwrap();
    std::fs::write(given.join("null"), "mine").unwrap();
    for (id, destination) in [("slashes", "//dev"), ("dots", "/x/../dev/."), ("link", "/volume")] {
        let mut config = oci.config(id, "cat /dev/null");
        let bundle = oci.bundle(id, &config);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        mounts.push(json!({"destination": destination, "source": given, "options": ["bind"]}));
        if id == "link" {
            let _ = std::fs::remove_dir_all(bundle.join("rootfs/dev"));
            std::os::unix::fs::symlink("/dev", bundle.join("rootfs/volume")).unwrap();
        }
        assert_eq!(oci.once(id, &config).ok().stdout, "mine", "{id}");
        let left: Vec<_> = std::fs::read_dir(&given).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["null"], "{id}");
        oci.assert_clean();
    }
}

#[test]
fn a_read_only_tmpfs_has_what_belongs_in_it() {
    let oci = Oci::new();
    let mut config = oci.config(
        "c",
        "echo x > /dev/null && echo written; ls /dev/pts /up; touch /dev/x 2>&1; touch /up/x 2>&1; touch /plain/x 2>&1",
    );
    let bundle = oci.bundle("c", &config);
    std::fs::create_dir(bundle.join("rootfs/up")).unwrap();
    std::fs::write(bundle.join("rootfs/up/copied"), "").unwrap();
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts[1]["options"].as_array_mut().unwrap().push(json!("ro"));
    mounts.extend([
        json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup"]}),
        json!({"destination": "/plain", "type": "tmpfs", "source": "tmpfs", "options": ["rro"]}),
    ]);
    let shown = oci.once("c", &config).stdout;
    assert!(shown.starts_with("written\n") && shown.contains("copied\n") && shown.contains("ptmx\n"), "{shown}");
    assert_eq!(shown.matches("Read-only file system").count(), 3, "{shown}");
    oci.assert_clean();
}
