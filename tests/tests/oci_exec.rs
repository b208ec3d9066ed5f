//! Further programs run in a container as it is: in its namespaces and cgroup, with its user and no more than its capabilities, with a terminal if they ask
//! for one.

use cc_tests::eventually;
use cc_tests::oci::{BOUND, Console, Oci, sees, types};
use cc_tests::typist::Typist;
use serde_json::json;

const LONG: &str = "while :; do sleep 0.1; done";

#[test]
fn a_program_is_in_the_container_with_what_it_may() {
    let oci = Oci::new();
    let mut config = oci.config("c", LONG);
    config["hostname"] = json!("inside");
    config["process"]["env"] = json!(["PATH=/bin", "A=own"]);
    oci.start("c", &config);
    let exec = |options: &[&str], script: &str| oci.run(&[&["exec"], options, &["c", "sh", "-c", script]].concat());
    assert_eq!(exec(&[], "hostname; echo $A; test $(cat /proc/1/comm) = sh; exit 5").stdout, "inside\nown\n");
    assert_eq!(exec(&[], "exit 5").code, 5);
    assert_eq!(exec(&[], "kill -9 $$").code, 137);
    assert_eq!(
        exec(&["--user", "7:8", "-g", "9", "--cwd", "/etc", "--env", "A=b"], "id -u; id -g; id -G; pwd; echo $A")
            .ok()
            .stdout,
        "7\n8\n8 9\n/etc\nb\n"
    );
    let effective = |options: &[&str]| exec(options, "grep CapEff /proc/self/status | tr -s '\\t' ' '").ok().stdout;
    assert_eq!(effective(&[]), "CapEff: 00000000000004e1\n");
    assert_eq!(effective(&["--cap", "CAP_SYS_CHROOT"]), "CapEff: 00000000000404e1\n");
    for kind in ["net", "mnt", "pid", "ipc", "uts", "cgroup"] {
        exec(&[], &format!("test $(readlink /proc/self/ns/{kind}) = $(readlink /proc/1/ns/{kind})")).ok();
    }
    assert_eq!(exec(&[], "cat /proc/self/cgroup").ok().stdout, exec(&[], "cat /proc/1/cgroup").ok().stdout);
    oci.run(&["exec", "c", "/no/such"]).fails(1, "no such file or directory");
    oci.run(&["exec", "c"]).fails(1, "needs a program");
    oci.run(&["exec", "--cwd", "/proc/self/fd/4", "c", "true"]).fails(1, "cannot enter");
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn a_process_file_says_all_and_detached_is_not_waited_for() {
    let oci = Oci::new();
    oci.start("c", &oci.config("c", LONG));
    let (file, pid_file) = (oci.path("process.json"), oci.path("pid"));
    let process = json!({
        "user": {"uid": 3, "gid": 4}, "cwd": "/etc", "env": ["PATH=/bin"], "args": ["sh", "-c", "id -u > /tmp/who; exec sleep 1000"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}], "oomScoreAdj": 321,
    });
    std::fs::write(&file, process.to_string()).unwrap();
    std::fs::create_dir_all(oci.path("c/rootfs/tmp")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(oci.path("c/rootfs/tmp"), mode).unwrap();
    let args = ["exec", "--detach", "--process", file.to_str().unwrap(), "--pid-file", pid_file.to_str().unwrap(), "c"];
    oci.run(&args).ok();
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    eventually("it runs", BOUND, || (oci.text("c", "rootfs/tmp/who") == "3\n").then_some(()));
    let of = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(of("oom_score_adj"), "321\n");
    assert!(
        of("limits")
            .lines()
            .any(|line| line.starts_with("Max open files") && line.contains("50") && line.contains("60"))
    );
    assert_eq!(of("cgroup"), std::fs::read_to_string(format!("/proc/{}/cgroup", oci.pid("c"))).unwrap());
    oci.run(&["exec", "--process", file.to_str().unwrap(), "--cwd", "/", "c"]).fails(1, "--process says all");
    oci.run(&["delete", "-f", "c"]).ok();
    eventually("it is gone", BOUND, || {
        (!std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists()).then_some(())
    });
    oci.assert_clean();
}

/// Whatever is open of the host's, an image that names it for its PATH gets nothing by it (CVE-2024-21626).
#[test]
fn no_program_is_found_by_a_descriptor_of_the_hosts() {
    let oci = Oci::new();
    let ways = (3..40)
        .flat_map(|fd| ["..", "../..", "../../..", "1/root"].map(|way| format!("/proc/self/fd/{fd}/{way}/usr/bin")));
    let path = format!("PATH={}", ways.collect::<Vec<_>>().join(":"));
    assert!(std::path::Path::new("/usr/bin/bash").exists());
    let mut config = oci.config("c", LONG);
    oci.bundle("c", &config);
    oci.start("c", &config);
    oci.run(&["exec", "--env", &path, "c", "bash"]).fails(1, "executable file not found");
    let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": [path], "args": ["bash"]});
    let file = oci.path("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    oci.run(&["exec", "--process", file.to_str().unwrap(), "c"]).fails(1, "executable file not found");
    oci.run(&["delete", "-f", "c"]).ok();
    config["process"]["env"] = json!([path]);
    config["process"]["args"] = json!(["bash"]);
    oci.create("c", &config, &[]).fails(1, "executable file not found");
    oci.assert_clean();
}

#[test]
fn filters_and_processors_are_a_further_programs_too() {
    let oci = Oci::new();
    let mut config = oci.config("c", LONG);
    config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    });
    oci.start("c", &config);
    let shown = oci
        .run(&[
            "exec",
            "c",
            "sh",
            "-c",
            "mkdir /x 2>&1; grep -E 'Cpus_allowed_list|Seccomp:' /proc/self/status | tr -s '\\t' ' '",
        ])
        .ok()
        .stdout;
    assert!(shown.contains("Operation not permitted"), "{shown}");
    assert!(shown.contains("Seccomp: 2\n") && shown.contains("Cpus_allowed_list: 0\n"), "{shown}");
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    let oci = Oci::new();
    let mut config = oci.config(
        "c",
        "tty; stty size; test -c /dev/console && echo console; read line; echo got $line; exec sleep 1000",
    );
    config["process"]["terminal"] = json!(true);
    config["process"]["consoleSize"] = json!({"height": 12, "width": 34});
    let console = Console::listen(oci.path("console.sock"));
    oci.create("c", &config, &["--console-socket", console.path.to_str().unwrap()]).ok();
    let (mut terminal, name) = console.receive();
    assert_eq!(name, "/dev/pts/0");
    oci.run(&["start", "c"]).ok();
    sees(&mut terminal, "/dev/pts/0\r\n12 34\r\nconsole\r\n");
    types(&mut terminal, "typed\n");
    sees(&mut terminal, "got typed");

    let args = [
        "exec",
        "--tty",
        "--detach",
        "--console-socket",
        console.path.to_str().unwrap(),
        "c",
        "sh",
        "-c",
        "tty; exec sleep 1000",
    ];
    oci.run(&args).ok();
    let (mut second, name) = console.receive();
    assert_eq!(name, "/dev/pts/1");
    sees(&mut second, "/dev/pts/1");
    oci.create("d", &config, &[]).fails(1, "--console-socket");
    config["process"]["terminal"] = json!(false);
    oci.create("d", &config, &["--console-socket", console.path.to_str().unwrap()]).fails(1, "asks for no terminal");
    oci.run(&["exec", "--tty", "--detach", "c", "true"]).fails(1, "--console-socket");
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn whoever_stays_has_the_terminal() {
    let oci = Oci::new();
    oci.start("c", &oci.config("c", LONG));
    let mut typist = Typist::start(
        oci.command(&["exec", "--tty", "c", "sh", "-c", "stty size; read line; echo got $line; read line; exit 9"]),
        21,
        43,
    );
    typist.sees("21 43").types("typed\r").sees("got typed").types("\r");
    assert_eq!(typist.ends().code(), Some(9));
    oci.run(&["delete", "-f", "c"]).ok();
    let mut config = oci.config("d", "tty; read line; echo got $line; exit 8");
    config["process"]["terminal"] = json!(true);
    let bundle = oci.bundle("d", &config);
    let mut typist = Typist::start(oci.command(&["run", "--bundle", bundle.to_str().unwrap(), "d"]), 21, 43);
    typist.sees("/dev/pts/0").types("typed\r").sees("got typed");
    assert_eq!(typist.ends().code(), Some(8));
    oci.assert_clean();
}

#[test]
fn signals_go_through_whoever_waits() {
    let oci = Oci::new();
    let bundle = oci.bundle("c", &oci.config("c", "trap 'exit 4' TERM; echo began; while :; do sleep 0.1; done"));
    let out = oci.path("out");
    let mut child = oci
        .command(&["run", "--bundle", bundle.to_str().unwrap(), "c"])
        .stdout(std::fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    eventually("it begins", BOUND, || std::fs::read_to_string(&out).unwrap().contains("began").then_some(()));
    // timeout(1) passes it on.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    assert!(matches!(status.code(), Some(4 | 124)), "{status}");
    oci.assert_clean();
}

/// CVE-2025-52565: the terminal would lie over what the link leads to.
#[test]
fn a_link_at_the_console_leads_nowhere() {
    let oci = Oci::new();
    let script = "test -L /dev/console || echo no link; test -c /dev/console && echo console; cat /etc/target; grep -c target /proc/self/mountinfo; exec sleep 1000";
    let mut config = oci.config("c", script);
    config["process"]["terminal"] = json!(true);
    // The image's own /dev.
    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev");
    let root = oci.bundle("c", &config).join("rootfs");
    std::fs::create_dir_all(root.join("dev")).unwrap();
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/target"), "untouched\n").unwrap();
    std::os::unix::fs::symlink("/etc/target", root.join("dev/console")).unwrap();
    let console = Console::listen(oci.path("console.sock"));
    oci.create("c", &config, &["--console-socket", console.path.to_str().unwrap()]).ok();
    let (mut terminal, _) = console.receive();
    oci.run(&["start", "c"]).ok();
    sees(&mut terminal, "no link\r\nconsole\r\nuntouched\r\n0\r\n");
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}
