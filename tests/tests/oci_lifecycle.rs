//! `cc-oci` keeps the specification's lifecycle: each command does what it is for in the states that it is for, and nowhere else.

use std::os::fd::AsRawFd as _;
use std::process::Stdio;

use cc_tests::eventually;
use cc_tests::oci::{BOUND, Oci};

const LONG: &str = "trap 'exit 7' TERM; echo began; while :; do sleep 0.1; done";

#[test]
fn a_container_goes_through_its_states() {
    let oci = Oci::new();
    let config = oci.config("c", LONG);
    let pid_file = oci.path("pid");
    oci.create("c", &config, &["--pid-file", pid_file.to_str().unwrap()]).ok();
    let state = oci.state("c");
    let pid = oci.pid("c");
    assert_eq!(
        (state["status"].as_str(), state["id"].as_str(), state["ociVersion"].as_str()),
        (Some("created"), Some("c"), Some("1.2.0"))
    );
    assert_eq!(state["bundle"].as_str().unwrap(), std::fs::canonicalize(oci.path("c")).unwrap().to_str().unwrap());
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), pid.to_string());
    assert_eq!(oci.text("c", "out"), "", "nothing runs yet");
    oci.run(&["delete", "c"]).fails(1, "created");
    oci.run(&["resume", "c"]).fails(1, "created");

    oci.run(&["start", "c"]).ok();
    assert_eq!(oci.status("c"), "running");
    eventually("the program runs", BOUND, || (oci.text("c", "out") == "began\n").then_some(()));
    oci.run(&["start", "c"]).fails(1, "running");
    oci.run(&["delete", "c"]).fails(1, "running");
    assert_eq!(oci.pid("c"), pid);

    oci.run(&["pause", "c"]).ok();
    assert_eq!(oci.status("c"), "paused");
    oci.run(&["exec", "c", "true"]).fails(1, "paused");
    oci.run(&["pause", "c"]).fails(1, "paused");
    oci.run(&["resume", "c"]).ok();
    assert_eq!(oci.status("c"), "running");

    oci.run(&["kill", "c", "TERM"]).ok();
    oci.ended("c");
    assert_eq!(oci.state("c")["pid"], 0);
    oci.run(&["kill", "c"]).fails(1, "container not running");
    oci.run(&["start", "c"]).fails(1, "stopped");
    oci.run(&["exec", "c", "true"]).fails(1, "stopped");
    oci.run(&["pause", "c"]).fails(1, "stopped");
    oci.run(&["delete", "c"]).ok();
    oci.run(&["state", "c"]).fails(1, "does not exist");
    oci.assert_clean();
}

#[test]
fn ids_are_taken_once_and_are_no_paths() {
    let oci = Oci::new();
    let config = oci.config("c", LONG);
    oci.create("c", &config, &[]).ok();
    oci.create("c", &config, &[]).fails(1, "exists already");
    assert_eq!(oci.status("c"), "created", "the first one is as it was");
    let bundle = oci.path("c").display().to_string();
    for id in ["..", ".", "a/b", "a b", "ä"] {
        oci.run(&["create", "--bundle", &bundle, id]).fails(1, "is not an id");
        oci.run(&["state", id]).fails(1, "is not an id");
    }
    oci.run(&["delete", "--force", "c"]).ok();
    oci.run(&["delete", "--force", "c"]).ok();
    oci.run(&["delete", "c"]).fails(1, "does not exist");
    for command in ["start", "kill", "pause", "resume", "exec"] {
        let rest: &[&str] = if command == "exec" { &["true"] } else { &[] };
        oci.run(&[&[command, "none"], rest].concat()).fails(1, "does not exist");
    }
    oci.assert_clean();
}

#[test]
fn force_ends_whatever_runs() {
    let oci = Oci::new();
    oci.start("c", &oci.config("c", "trap '' TERM INT; sleep 1000 & sleep 1000; wait"));
    let pid = oci.pid("c");
    oci.run(&["delete", "-f", "c"]).ok();
    assert!(!std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists());
    oci.create("d", &oci.config("d", LONG), &[]).ok();
    oci.run(&["kill", "d", "TERM"]).ok();
    oci.ended("d");
    oci.run(&["delete", "d"]).ok();
    oci.create("d", &oci.config("d", LONG), &[]).ok();
    oci.run(&["delete", "-f", "d"]).ok();
    oci.start("p", &oci.config("p", LONG));
    oci.run(&["pause", "p"]).ok();
    oci.run(&["delete", "-f", "p"]).ok();
    oci.assert_clean();
}

#[test]
fn many_may_delete_the_same_containers_at_once() {
    let oci = Oci::new();
    let ids: Vec<String> = (0..25).map(|number| format!("c{number}")).collect();
    for id in &ids {
        let bundle = oci.bundle("c", &oci.config(id, LONG));
        oci.run(&["create", "--bundle", bundle.to_str().unwrap(), id]).ok();
    }
    for id in &ids {
        let begin = |_| oci.command(&["delete", "-f", id]).stderr(Stdio::piped()).spawn().unwrap();
        let all: Vec<_> = (0..3).map(begin).collect();
        for one in all {
            let output = one.wait_with_output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && words.is_empty(), "{id}: {} {words}", output.status);
        }
    }
    assert_eq!(oci.run(&["list", "--quiet"]).ok().stdout, "");
    oci.assert_clean();
}

#[test]
fn what_cannot_be_read_is_in_nobodys_way() {
    let oci = Oci::new();
    oci.create("good", &oci.config("good", LONG), &[]).ok();
    oci.start("part", &oci.config("part", LONG));
    let file = oci.path("state/part/state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    state.as_object_mut().unwrap().remove("bundle");
    std::fs::write(&file, state.to_string()).unwrap();
    for id in ["empty", "bad"] {
        std::fs::create_dir(oci.path("state").join(id)).unwrap();
    }
    std::fs::write(oci.path("state/bad/state.json"), "{").unwrap();
    // As whoever is killed halfway leaves them.
    std::fs::create_dir(oci.path("state/@new-1-0")).unwrap();
    std::fs::create_dir(oci.path("state/@old-1-0")).unwrap();
    std::fs::write(oci.path("state/@old-1-0/state.json"), "{").unwrap();

    let list = oci.run(&["list", "--quiet"]).ok();
    assert_eq!(list.stdout, "good\n");
    for id in ["empty", "bad", "part"] {
        assert!(list.stderr.contains(&format!("delete --force {id}")), "{}", list.stderr);
        oci.run(&["delete", "-f", id]).ok();
        oci.create(id, &oci.config(id, LONG), &[]).ok();
        oci.run(&["delete", "-f", id]).ok();
    }
    oci.run(&["delete", "-f", "good"]).ok();
    oci.assert_clean();
}

#[test]
fn whoever_waits_for_one_does_not_take_another_of_its_id() {
    let oci = Oci::new();
    oci.create("c", &oci.config("old", LONG), &[]).ok();
    let (dir, aside) = (oci.path("state/c"), oci.path("aside"));
    let lock = std::fs::OpenOptions::new().write(true).open(dir.join("lock")).unwrap();
    let set = |kind: i32| {
        let range =
            libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
        nix::fcntl::fcntl(&lock, nix::fcntl::FcntlArg::F_SETLK(&range)).unwrap();
    };
    set(libc::F_WRLCK);
    let all = [&["delete", "-f", "c"][..], &["start", "c"], &["pause", "c"]];
    let waiting: Vec<_> = all.iter().map(|args| oci.command(args).stderr(Stdio::null()).spawn().unwrap()).collect();
    let inode = format!(":{} ", std::os::unix::fs::MetadataExt::ino(&lock.metadata().unwrap()));
    eventually("they wait", BOUND, || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        (locks.lines().filter(|line| line.contains("->") && line.contains(&inode)).count() == all.len()).then_some(())
    });
    std::fs::rename(&dir, &aside).unwrap();
    oci.create("c", &oci.config("new", LONG), &[]).ok();
    set(libc::F_UNLCK);
    let codes: Vec<_> = waiting.into_iter().map(|mut one| one.wait().unwrap().code()).collect();
    assert_eq!(codes, [Some(0), Some(1), Some(1)]);
    assert_eq!(oci.status("c"), "created", "it is as it was");
    oci.run(&["delete", "-f", "c"]).ok();
    std::fs::rename(&aside, &dir).unwrap();
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn one_in_the_foreground_is_changed_and_deleted_like_others() {
    let oci = Oci::new();
    let bundle = oci.bundle("c", &oci.config("c", LONG));
    let mut command = oci.command(&["run", "--bundle", bundle.to_str().unwrap(), "c"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let run = command.spawn().unwrap();
    let is_running = || (oci.run(&["list", "--quiet"]).stdout == "c\n" && oci.status("c") == "running").then_some(());
    eventually("it runs", BOUND, is_running);
    oci.run(&["delete", "c"]).fails(1, "running");
    oci.run(&["start", "c"]).fails(1, "running");
    oci.run(&["pause", "c"]).ok();
    assert_eq!(oci.status("c"), "paused");
    oci.run(&["resume", "c"]).ok();
    let resources = oci.path("resources");
    std::fs::write(&resources, r#"{"pids": {"limit": 50}}"#).unwrap();
    oci.run(&["update", "--resources", resources.to_str().unwrap(), "c"]).ok();
    oci.run(&["delete", "-f", "c"]).ok();
    let output = run.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), words.as_ref()), (Some(137), ""));
    oci.assert_clean();
}

#[test]
fn a_cgroup_that_was_there_takes_one_container_after_another() {
    let oci = Oci::new();
    let unified = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_v2 = |line: &&str| line.contains(" - cgroup2 ");
    let Some(mount) = unified.lines().find(is_v2).and_then(|line| line.split(' ').nth(4)) else {
        return cc_tests::skip::skip("no cgroup v2 is mounted");
    };
    let dir = std::path::PathBuf::from(format!("{mount}{}", oci.cgroup("c")));
    std::fs::create_dir(&dir).unwrap();
    for _ in 0..3 {
        oci.start("c", &oci.config("c", LONG));
        oci.run(&["exec", "c", "true"]).ok();
        let first = format!("{}\n", oci.pid("c"));
        assert!(std::fs::read_to_string(dir.join("cgroup.procs")).unwrap().contains(&first));
        oci.run(&["delete", "-f", "c"]).ok();
    }
    std::fs::remove_dir(&dir).unwrap();
    oci.assert_clean();
}

#[test]
fn one_runs_though_its_start_could_not_say_so() {
    let oci = Oci::new();
    oci.create("c", &oci.config("c", LONG), &[]).ok();
    let file = oci.path("state/c/state.json");
    let before = std::fs::read(&file).unwrap();
    oci.run(&["start", "c"]).ok();
    // As a start leaves it that is killed when the program has begun.
    std::fs::write(&file, before).unwrap();
    assert_eq!(oci.status("c"), "running");
    oci.run(&["start", "c"]).fails(1, "running");
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn signals_go_to_the_first_process_or_to_all() {
    let oci = Oci::new();
    let script = "trap 'echo got' HUP; echo began; while :; do sleep 0.1; done";
    oci.start("c", &oci.config("c", script));
    eventually("it begins", BOUND, || (oci.text("c", "out") == "began\n").then_some(()));
    oci.run(&["kill", "c", "sighup"]).ok();
    eventually("it is told", BOUND, || oci.text("c", "out").contains("got").then_some(()));
    oci.run(&["kill", "c", "NONE"]).fails(1, "NONE is no signal");
    oci.run(&["kill", "c", "0"]).fails(1, "is no signal");
    oci.run(&["kill", "--all", "c", "9"]).ok();
    oci.ended("c");
    oci.run(&["delete", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn list_and_ps_show_what_is_there() {
    let oci = Oci::new();
    assert_eq!(oci.run(&["list", "--format", "json"]).ok().stdout, "[]\n");
    oci.start("a", &oci.config("a", LONG));
    oci.create("b", &oci.config("b", LONG), &[]).ok();
    let list = oci.run(&["list", "--format", "json"]).json();
    let shown: Vec<_> =
        list.as_array().unwrap().iter().map(|one| (one["id"].as_str(), one["status"].as_str())).collect();
    assert_eq!(shown, [(Some("a"), Some("running")), (Some("b"), Some("created"))]);
    assert_eq!(oci.run(&["list", "--quiet"]).ok().stdout, "a\nb\n");
    let table = oci.run(&["list"]).ok().stdout;
    assert!(table.starts_with("ID") && table.contains("running"), "{table}");
    let pids = oci.run(&["ps", "--format", "json", "a"]).json();
    assert!(pids.as_array().unwrap().contains(&oci.pid("a").into()), "{pids}");
    let table = oci.run(&["ps", "a"]).ok().stdout;
    assert!(table.contains("PID") && table.contains("trap"), "{table}");
    oci.run(&["delete", "-f", "a"]).ok();
    oci.run(&["delete", "-f", "b"]).ok();
    oci.assert_clean();
}

#[test]
fn run_has_the_programs_exit_code() {
    let oci = Oci::new();
    let ran = oci.once("c", &oci.config("c", "echo out; echo err >&2; exit 3"));
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "out\n"));
    assert!(ran.stderr.contains("err"));
    assert_eq!(
        oci.once("c", &oci.config("c", "kill -9 $$; sh -c 'kill -9 $PPID'; exit 4")).code,
        4,
        "an init ignores it"
    );
    let mut config = oci.config("c", "");
    config["process"]["args"] = serde_json::json!(["/no/such/program"]);
    oci.once("c", &config).fails(1, "no such file or directory");
    config["process"]["args"] = serde_json::json!(["nothing-on-the-path"]);
    oci.create("c", &config, &[]).fails(1, "executable file not found in $PATH");
    config["process"]["args"] = serde_json::json!(["/etc"]);
    oci.create("c", &config, &[]).fails(1, "permission denied, or it is a directory");
    oci.assert_clean();
}

#[test]
fn a_program_that_cannot_be_executed_is_told_by_start() {
    let oci = Oci::new();
    let mut config = oci.config("c", "");
    config["process"]["args"] = serde_json::json!(["/orphan"]);
    let bundle = oci.bundle("c", &config);
    std::fs::write(bundle.join("rootfs/orphan"), "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bundle.join("rootfs/orphan"), mode).unwrap();
    oci.create("c", &config, &[]).ok();
    oci.run(&["start", "c"]).fails(1, "its interpreter or loader is missing");
    oci.ended("c");
    oci.run(&["delete", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn no_process_can_be_created_but_not_started() {
    let oci = Oci::new();
    let mut config = oci.config("c", "");
    config.as_object_mut().unwrap().remove("process");
    oci.create("c", &config, &[]).ok();
    oci.run(&["start", "c"]).fails(1, "process");
    oci.run(&["delete", "-f", "c"]).ok();
    oci.assert_clean();
}

#[test]
fn descriptors_are_preserved_by_number_and_no_others() {
    let oci = Oci::new();
    let bundle = oci.bundle("c", &oci.config("c", "ls /proc/self/fd; cat <&3"));
    let file = std::fs::File::open(bundle.join("config.json")).unwrap();
    // Standard streams, the one that is preserved, and ls' own.
    let mut command = oci.command(&["run", "--preserve-fds", "1", "--bundle", bundle.to_str().unwrap(), "c"]);
    let raw = file.as_raw_fd();
    // SAFETY: three system calls between fork and exec, all async-signal-safe, on descriptors that the closure's owner keeps open.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            // A copy of itself would close itself.
            let high = libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 10);
            for to in [3, 4] {
                if libc::dup2(high, to) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let shown = oci.finish(command).ok().stdout;
    assert!(shown.starts_with("0\n1\n2\n3\n4\n{"), "{shown}");
    let bundle = bundle.display().to_string();
    oci.run(&["run", "--preserve-fds", "9", "--bundle", &bundle, "c"]).fails(1, "is not open");
    oci.assert_clean();
}

#[test]
fn a_root_may_be_moved_instead_of_pivoted() {
    let oci = Oci::new();
    let bundle = oci.bundle("c", &oci.config("c", "ls / | grep -c rootfs; cat /proc/self/mountinfo | wc -l"));
    let shown =
        oci.run(&["run", "--no-pivot", "--no-new-keyring", "--bundle", bundle.to_str().unwrap(), "c"]).ok().stdout;
    assert!(shown.starts_with("0\n"), "{shown}");
    oci.assert_clean();
}

#[test]
fn errors_are_in_the_log_for_whoever_called() {
    let oci = Oci::new();
    let log = oci.path("log");
    let path = log.to_str().unwrap();
    oci.run(&["--log", path, "--log-format", "json", "state", "none"]).fails(1, "container none does not exist");
    let line: serde_json::Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!((line["level"].as_str(), line["msg"].as_str()), (Some("error"), Some("container none does not exist")));
    let version = oci.run(&["--version"]).ok().stdout;
    assert!(version.starts_with("cc-oci version ") && version.contains("spec: 1.2.0"), "{version}");
    oci.run(&["--systemd-cgroup", "list"]).fails(1, "cgroupfs");
}
