//! What a program finds of its configuration: process, mounts, devices, users, paths, calls. Refuses cgroups and namespaces, which have files of their
//! own.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::rig::Rig;
use super::{Check, check};

pub const CHECKS: &[Check] = &[
    check("default", default),
    check("hostname", |rig| prints(rig, "hostname", |config| config["hostname"] = json!("named"), "named\n")),
    check("process", process),
    check("process_user", process_user),
    check("process_umask", |rig| {
        prints(rig, "umask", |config| config["process"]["user"]["umask"] = json!(0o77), "0077\n")
    }),
    check("process_capabilities", process_capabilities),
    check("process_ambient", process_ambient),
    check("process_rlimits", process_rlimits),
    check("process_rlimits_fail", process_rlimits_fail),
    check("process_oom_score_adj", |rig| {
        prints(rig, "cat /proc/self/oom_score_adj", |config| config["process"]["oomScoreAdj"] = json!(500), "500\n")
    }),
    check("process_no_such_program", process_no_such_program),
    check("no_new_privileges", |rig| prints(rig, "grep -c 'NoNewPrivs:.1' /proc/self/status", |_| (), "1\n")),
    check("root_readonly_true", root_readonly_true),
    check("mounts", mounts),
    check("mounts_recursive", mounts_recursive),
    check("linux_devices", linux_devices),
    check("linux_masked_paths", linux_masked_paths),
    check("linux_readonly_paths", linux_readonly_paths),
    check("linux_rootfs_propagation", linux_rootfs_propagation),
    check("linux_sysctl", linux_sysctl),
    check("linux_uid_mappings", linux_uid_mappings),
    check("linux_seccomp", linux_seccomp),
    check("linux_personality", |rig| {
        prints(rig, "uname -m", |config| config["linux"]["personality"] = json!({"domain": "LINUX32"}), "i686\n")
    }),
    check("domainname", |rig| {
        prints(
            rig,
            "cat /proc/sys/kernel/domainname",
            |config| config["domainname"] = json!("example.org"),
            "example.org\n",
        )
    }),
];

pub fn prints(rig: &Rig<'_>, script: &str, change: impl Fn(&mut Value), wanted: &str) -> Result<()> {
    let mut config = rig.config(script);
    change(&mut config);
    let printed = rig.once(&config)?;
    ensure!(printed == wanted, "it printed {printed:?}");
    Ok(())
}

/// Devices, links and file systems that every Linux container has.
fn default(rig: &Rig<'_>) -> Result<()> {
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
        for f in fd stdin stdout stderr; do readlink /dev/$f; done; readlink /dev/ptmx; \
        for m in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys; do grep -q \" $m \" /proc/mounts || echo no $m; done; \
        echo $$; pwd; echo $TERM; echo x > /dev/null; head -c 2 /dev/zero | wc -c";
    let wanted = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n1\n/\nxterm\n2\n";
    let printed = rig.once(&rig.config(script))?;
    ensure!(printed.replace("/dev/pts/ptmx", "pts/ptmx") == wanted, "it printed {printed:?}");
    Ok(())
}

fn process(rig: &Rig<'_>) -> Result<()> {
    let change = |config: &mut Value| {
        config["process"]["args"] = json!(["sh", "-c", "pwd; echo $0 $1 \"$A\"", "zero", "one"]);
        config["process"]["env"] = json!(["PATH=/bin", "A=b  c"]);
        // One that is not there is made.
        config["process"]["cwd"] = json!("/tmp/new");
    };
    prints(rig, "", change, "/tmp/new\nzero one b  c\n")
}

fn process_user(rig: &Rig<'_>) -> Result<()> {
    let change =
        |config: &mut Value| config["process"]["user"] = json!({"uid": 10, "gid": 11, "additionalGids": [5, 6]});
    prints(rig, "id -u; id -g; grep Groups /proc/self/status | cut -f 2", change, "10\n11\n5 6 \n")
}

fn capabilities(rig: &Rig<'_>, capabilities: Value, wanted: &[(&str, u64)]) -> Result<()> {
    let mut config = rig.config("cat /proc/self/status");
    config["process"]["capabilities"] = capabilities;
    let printed = rig.once(&config)?;
    for (name, wanted) in wanted {
        let line = printed.lines().find_map(|line| line.strip_prefix(&format!("{name}:\t"))).context("no such line")?;
        ensure!(line == format!("{wanted:016x}"), "{name} is {line}");
    }
    Ok(())
}

fn process_capabilities(rig: &Rig<'_>) -> Result<()> {
    let given = json!({"bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"]});
    capabilities(rig, given, &[("CapBnd", 0x21), ("CapPrm", 0x21), ("CapInh", 0), ("CapAmb", 0)])?;
    capabilities(rig, json!({}), &[("CapBnd", 0), ("CapPrm", 0), ("CapEff", 0)])
}

fn process_ambient(rig: &Rig<'_>) -> Result<()> {
    let kill = json!(["CAP_KILL"]);
    let mut config = rig.config("cat /proc/self/status | grep Cap | cut -f 2 | sort -u");
    config["process"]["user"] = json!({"uid": 10, "gid": 10});
    config["process"]["capabilities"] =
        json!({"bounding": kill, "permitted": kill, "effective": kill, "inheritable": kill, "ambient": kill});
    let printed = rig.once(&config)?;
    ensure!(printed == "0000000000000020\n", "it printed {printed:?}");
    Ok(())
}

fn process_rlimits(rig: &Rig<'_>) -> Result<()> {
    let change = |config: &mut Value| {
        config["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "hard": 128, "soft": 64}, {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}])
    };
    prints(rig, "ulimit -Sn; ulimit -Hn; ulimit -c", change, "64\n128\n0\n")
}

fn process_rlimits_fail(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("true");
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_TEST", "hard": 1024, "soft": 1024}]);
    ensure!(rig.create(&config).is_err(), "a limit that is none was taken");
    Ok(())
}

fn process_no_such_program(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("");
    config["process"]["args"] = json!(["/no/such/program"]);
    let failed = rig.create(&config).is_err() || rig.said(&["start", &rig.id]).is_ok_and(|said| !said.success);
    ensure!(failed, "neither create nor start told");
    Ok(())
}

fn root_readonly_true(rig: &Rig<'_>) -> Result<()> {
    let change = |config: &mut Value| config["root"]["readonly"] = json!(true);
    prints(rig, "touch /made 2>/dev/null || echo no; touch /dev/shm/made && echo yes", change, "no\nyes\n")
}

pub fn add_mount(config: &mut Value, mount: Value) {
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.push(mount);
    }
}

fn mounts(rig: &Rig<'_>) -> Result<()> {
    let source = rig.dir.join("source");
    std::fs::create_dir_all(&source)?;
    std::fs::write(source.join("file"), "bound\n")?;
    std::fs::create_dir_all(rig.dir.join("rootfs/under"))?;
    std::fs::write(rig.dir.join("rootfs/under/copied"), "up\n")?;
    let change = |config: &mut Value| {
        add_mount(
            config,
            json!({"destination": "/a/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["noexec", "nosuid", "size=1024k", "mode=1770"]}),
        );
        add_mount(
            config,
            json!({"destination": "/a/tmp/bound", "type": "bind", "source": source, "options": ["rbind", "ro"]}),
        );
        // Relative to the bundle; a file.
        add_mount(
            config,
            json!({"destination": "/a/file", "type": "bind", "source": "source/file", "options": ["bind"]}),
        );
        add_mount(
            config,
            json!({"destination": "/under", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
        );
    };
    let script = "cat /a/tmp/bound/file /a/file /under/copied; touch /a/tmp/bound/x 2>/dev/null || echo readonly; stat -c %a /a/tmp; \
        grep ' /a/tmp ' /proc/mounts | grep -o noexec";
    prints(rig, script, change, "bound\nbound\nup\nreadonly\n1770\nnoexec\n")
}

/// `rro` is of what is below too, `ro` is not.
fn mounts_recursive(rig: &Rig<'_>) -> Result<()> {
    let change = |config: &mut Value| {
        add_mount(config, json!({"destination": "/first", "type": "tmpfs", "source": "tmpfs"}));
        add_mount(
            config,
            json!({"destination": "/given", "type": "bind", "source": "/proc", "options": ["rbind", "rro", "rnosuid"]}),
        );
    };
    prints(rig, "grep ' /given ' /proc/mounts | cut -d ' ' -f 4 | grep -o ^ro", change, "ro\n")
}

fn linux_devices(rig: &Rig<'_>) -> Result<()> {
    let change = |config: &mut Value| {
        config["linux"]["devices"] = json!([
            {"type": "c", "path": "/dev/test-null", "major": 1, "minor": 3, "fileMode": 0o646, "uid": 7, "gid": 8},
            {"type": "b", "path": "/dev/test-loop", "major": 7, "minor": 0, "fileMode": 0o600},
            {"type": "p", "path": "/dev/test-fifo", "fileMode": 0o666}
        ]);
    };
    let script = "stat -c '%A %u %g %t:%T' /dev/test-null; stat -c '%A %t:%T' /dev/test-loop; stat -c %A /dev/test-fifo; echo > /dev/test-null && echo written";
    prints(rig, script, change, "crw-r--rw- 7 8 1:3\nbrw------- 7:0\nprw-rw-rw-\nwritten\n")
}

fn linux_masked_paths(rig: &Rig<'_>) -> Result<()> {
    for (name, text) in [("secret-dir/inside", "x"), ("secret-file", "x")] {
        let file = rig.dir.join("rootfs").join(name);
        std::fs::create_dir_all(file.parent().context("it has one")?)?;
        std::fs::write(file, text)?;
    }
    let change =
        |config: &mut Value| config["linux"]["maskedPaths"] = json!(["/secret-dir", "/secret-file", "/not/there"]);
    prints(rig, "ls /secret-dir | wc -l; cat /secret-file | wc -c", change, "0\n0\n")
}

fn linux_readonly_paths(rig: &Rig<'_>) -> Result<()> {
    std::fs::create_dir_all(rig.dir.join("rootfs/kept/deep"))?;
    std::fs::write(rig.dir.join("rootfs/kept-file"), "x")?;
    let change = |config: &mut Value| config["linux"]["readonlyPaths"] = json!(["/kept", "/kept-file", "/not/there"]);
    prints(
        rig,
        "for f in /kept/a /kept/deep/a /kept-file; do (echo > $f) 2>/dev/null && echo $f; done; echo > /free && echo yes",
        change,
        "yes\n",
    )
}

fn linux_rootfs_propagation(rig: &Rig<'_>) -> Result<()> {
    for (mode, wanted) in [("private", ""), ("unbindable", "unbindable"), ("shared", "shared:")] {
        let mut config = rig.config("grep -m 1 ' / / \\| / ' /proc/self/mountinfo | cut -d ' ' -f 7");
        config["linux"]["rootfsPropagation"] = json!(mode);
        let printed = rig.once(&config)?;
        let is_so = if wanted.is_empty() { !printed.contains(':') } else { printed.contains(wanted) };
        ensure!(is_so, "{mode}: {printed:?}");
    }
    Ok(())
}

fn linux_sysctl(rig: &Rig<'_>) -> Result<()> {
    let change =
        |config: &mut Value| config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"});
    prints(rig, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni", change, "1\n77\n")
}

fn linux_uid_mappings(rig: &Rig<'_>) -> Result<()> {
    let done = Command::new("chown").args(["-R", "100000:200000"]).arg(rig.dir.join("rootfs")).status()?;
    ensure!(done.success(), "chown failed");
    let change = |config: &mut Value| {
        if let Some(all) = config["linux"]["namespaces"].as_array_mut() {
            all.push(json!({"type": "user"}));
        }
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 200_000, "size": 2000}]);
    };
    prints(
        rig,
        "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; touch /made && stat -c %u:%g /made",
        change,
        " 0 100000 1000\n 0 200000 2000\n0\n0:0\n",
    )
}

fn linux_seccomp(rig: &Rig<'_>) -> Result<()> {
    let change = |config: &mut Value| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]
        });
    };
    prints(
        rig,
        "mkdir /made 2>&1 | grep -o 'not supported'; grep Seccomp: /proc/self/status | cut -f 2",
        change,
        "not supported\n2\n",
    )
}
