//! podman runs its containers by `cc-oci`, as it does by runc: in the foreground and in the background, with terminals, limits, users, mounts and
//! profiles, and nothing is left of them.

use std::time::Duration;

use cc_tests::podman::Podman;

#[test]
fn a_container_in_the_foreground_is_what_its_options_say() {
    let podman = Podman::new();
    let once = |options: &[&str], command: &[&str]| podman.once(options, command);
    let sh = |options: &[&str], script: &str| once(options, &["sh", "-c", script]);
    assert_eq!(once(&[], &["echo", "hello"]).ok().stdout, "hello\n");
    assert_eq!(sh(&[], "exit 7").code, 7);
    assert_eq!(sh(&[], "sh -c 'kill -9 $$'; exit $?").code, 137);
    assert_eq!(once(&[], &["/no/such/program"]).code, 127);
    assert_eq!(
        podman
            .run_with(
                &[
                    "run",
                    "--rm",
                    "-i",
                    "--network=none",
                    "--cgroup-parent",
                    &podman.parent,
                    cc_tests::podman::IMAGE,
                    "cat"
                ],
                b"fed"
            )
            .ok()
            .stdout,
        "fed"
    );
    assert_eq!(
        sh(&["-e", "A=b c", "-w", "/etc", "--hostname", "named"], "echo $A $PWD $(hostname)").ok().stdout,
        "b c /etc named\n"
    );

    assert_eq!(sh(&["--user", "1000:1001"], "id -u; id -g").ok().stdout, "1000\n1001\n");
    sh(&["--read-only", "--read-only-tmpfs=false"], "touch /made").fails(1, "Read-only");
    assert_eq!(
        sh(&["--tmpfs", "/scratch:size=1m"], "touch /scratch/x && df -k /scratch | tail -n 1 | awk '{print $2}'")
            .ok()
            .stdout,
        "1024\n"
    );
    let dir = podman.path("given");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("in"), "from outside").unwrap();
    let bind = |options: &str| format!("{}:/given{options}", dir.display());
    assert_eq!(sh(&["-v", &bind("")], "cat /given/in; echo out > /given/out").ok().stdout, "from outside");
    assert_eq!(std::fs::read_to_string(dir.join("out")).unwrap(), "out\n");
    sh(&["-v", &bind(":ro")], "echo > /given/out").fails(1, "Read-only");

    let capabilities = |options: &[&str]| {
        sh(options, "grep CapEff /proc/self/status").ok().stdout.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(capabilities(&["--cap-drop", "all"]), "0000000000000000");
    assert_eq!(capabilities(&["--cap-drop", "all", "--cap-add", "kill"]), "0000000000000020");
    assert_eq!(
        capabilities(&["--privileged"]),
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))
            .unwrap()
            .trim()
    );

    let terminal = sh(&["-t"], "tty; test -t 0 && test -t 1 && echo both").ok().stdout;
    assert_eq!(terminal, "/dev/pts/0\r\nboth\r\n");
    let init = ["--init", "--init-path", "/usr/bin/catatonit"];
    assert_eq!(sh(&init, "cat /proc/1/comm; test $$ = 1 || echo child").ok().stdout, "podman-init\nchild\n");
    // podman adds its own of the other, which may be more than who runs the tests may have.
    let limits = ["--ulimit", "nofile=64:64", "--ulimit", "nproc=1024:1024"];
    assert_eq!(sh(&limits, "ulimit -n").ok().stdout, "64\n");
    assert_eq!(sh(&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward").ok().stdout, "1\n");
    assert_eq!(
        sh(&["--device", "/dev/loop-control:/dev/given:r"], "exec 3</dev/given && echo opened").ok().stdout,
        "opened\n"
    );
    assert!(sh(&[], "mknod /tmp/x c 10 237 && exec 3</tmp/x").code != 0);
    podman.assert_clean();
}

#[test]
fn a_container_in_the_background_lives_and_ends_as_it_is_told() {
    let podman = Podman::new();
    let script = "trap 'echo asked; exit 3' TERM; echo began; while :; do sleep 0.1; done";
    let id = podman.detached(&["--name", "long"], &["sh", "-c", script]);
    podman.eventually("its output is in the log", || (podman.run(&["logs", "long"]).stdout == "began\n").then_some(()));
    assert_eq!(podman.inspect(&id, "{{.State.Status}}"), "running");

    assert_eq!(podman.run(&["exec", "long", "sh", "-c", "echo inside; exit 5"]).fails(5, "").stdout, "inside\n");
    assert_eq!(
        podman.run(&["exec", "-t", "long", "sh", "-c", "test -t 1 && echo terminal"]).ok().stdout,
        "terminal\r\n"
    );
    assert_eq!(
        podman
            .run(&["exec", "-u", "7:8", "-w", "/etc", "-e", "A=b", "long", "sh", "-c", "id -u; pwd; echo $A"])
            .ok()
            .stdout,
        "7\n/etc\nb\n"
    );
    assert_eq!(podman.run_with(&["exec", "-i", "long", "cat"], b"fed").ok().stdout, "fed");
    assert_eq!(podman.run(&["exec", "long", "/no/such/program"]).code, 127);
    let top = podman.run(&["top", "long", "pid", "comm"]).ok().stdout;
    assert!(top.contains("sh"), "{top}");

    let pid = podman.pid("long");
    podman.run(&["pause", "long"]).ok();
    assert_eq!(podman.inspect("long", "{{.State.Status}}"), "paused");
    let frozen = podman.cgroup_file(pid, "cgroup.freeze").map(|text| text == "1");
    let frozen_v1 = podman.cgroup_file(pid, "freezer.state").map(|text| text == "FROZEN");
    assert!(frozen == Some(true) || frozen_v1 == Some(true));
    assert_ne!(podman.run(&["exec", "long", "true"]).code, 0, "nothing runs in a paused one");
    podman.run(&["unpause", "long"]).ok();
    assert_eq!(podman.run(&["exec", "long", "echo", "on"]).ok().stdout, "on\n");

    podman.run(&["stop", "-t", "20", "long"]).ok();
    assert_eq!(podman.inspect("long", "{{.State.ExitCode}}"), "3");
    assert_eq!(podman.run(&["logs", "long"]).ok().stdout, "began\nasked\n");
    podman.run(&["start", "long"]).ok();
    podman.eventually("it began again", || {
        (podman.run(&["logs", "long"]).stdout == "began\nasked\nbegan\n").then_some(())
    });
    podman.run(&["kill", "long"]).ok();
    podman.eventually("it has ended", || (podman.inspect("long", "{{.State.Status}}") == "exited").then_some(()));
    assert_eq!(podman.inspect("long", "{{.State.ExitCode}}"), "137");
    assert_eq!(podman.run(&["wait", "long"]).line(), "137");
    podman.run(&["rm", "long"]).ok();

    // Made first, started later; and thrown away while it runs.
    podman
        .run(&[
            "create",
            "--network=none",
            "--cgroup-parent",
            &podman.parent,
            "--name",
            "later",
            cc_tests::podman::IMAGE,
            "sleep",
            "600",
        ])
        .ok();
    podman.run(&["start", "later"]).ok();
    podman.remove("later");
    podman.assert_clean();
}

#[test]
fn limits_are_those_of_its_cgroup() {
    let podman = Podman::new();
    let options =
        ["--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "33", "--cpu-shares", "512"];
    let id = podman.detached(&options, &["sleep", "600"]);
    let pid = podman.pid(&id);
    let file = |v2: &str, v1: &str| podman.cgroup_file(pid, v2).or_else(|| podman.cgroup_file(pid, v1)).unwrap();
    assert_eq!(file("memory.max", "memory.limit_in_bytes"), (64 << 20).to_string());
    assert!(["50000", "50000 100000"].contains(&file("cpu.max", "cpu.cfs_quota_us").as_str()));
    assert!(["512", "20"].contains(&file("cpu.weight", "cpu.shares").as_str()));
    assert_eq!(file("pids.max", "pids.max"), "33");
    let stats = podman.run(&["stats", "--no-stream", "--format", "{{.PIDs}}", &id]);
    assert_eq!(stats.line(), "1");
    podman.remove(&id);

    let full =
        podman.once(&["--pids-limit", "5"], &["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 9 & done; echo started"]);
    assert!(full.stderr.contains("can't fork"), "{}", full.stderr);
    let greedy =
        podman.once(&["--memory", "16m", "--memory-swap", "16m"], &["sh", "-c", "x=x; while true; do x=$x$x; done"]);
    assert_eq!(greedy.code, 137, "{}", greedy.stderr);
    podman.assert_clean();
}

#[test]
fn users_are_mapped_and_calls_are_filtered() {
    let podman = Podman::new();
    let sh = |options: &[&str], script: &str| podman.once(options, &["sh", "-c", script]);
    let mapped = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];
    let map =
        sh(&mapped, "cat /proc/self/uid_map /proc/self/gid_map; id -u; touch /made && stat -c %u /made").ok().stdout;
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", "100000", "65536", "0", "200000", "65536", "0", "0"]);
    let id = podman.detached(&mapped, &["sleep", "600"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", podman.pid(&id))).unwrap();
    assert!(status.contains("Uid:\t100000\t"), "{status}");
    assert_eq!(podman.run(&["exec", &id, "id", "-u"]).ok().stdout, "0\n");
    podman.remove(&id);

    let mode = |options: &[&str]| {
        sh(options, "grep Seccomp: /proc/self/status").ok().stdout.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!((mode(&[]).as_str(), mode(&["--security-opt", "seccomp=unconfined"]).as_str()), ("2", "0"));
    let profile = podman.path("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#;
    std::fs::write(&profile, text).unwrap();
    let option = format!("seccomp={}", profile.display());
    sh(&["--security-opt", &option], "mkdir /made").fails(1, "not supported");
    assert_eq!(
        sh(&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status").ok().stdout,
        "NoNewPrivs:\t1\n"
    );
    assert_eq!(sh(&["--security-opt", "mask=/etc"], "ls /etc | wc -l").ok().stdout, "0\n");
    podman.assert_clean();
}

#[test]
fn containers_of_a_bridge_and_of_a_pod_hear_each_other() {
    let podman = Podman::new();
    let id = podman.detached(&["--network", "podman"], &["sh", "-c", "while :; do echo answer | nc -l -p 80; done"]);
    let address = podman.inspect(&id, "{{.NetworkSettings.IPAddress}}");
    podman.eventually("it answers on the bridge", || {
        let asked = podman.once(&["--network", "podman"], &["nc", "-w", "2", &address, "80"]);
        (asked.stdout == "answer\n").then_some(())
    });
    // In another's namespaces.
    let with = format!("container:{id}");
    let shared = podman
        .once(&["--network", &with, "--pid", &with], &["sh", "-c", "ip -o -4 addr show eth0; ps | grep -c 'nc -l'"])
        .ok()
        .stdout;
    assert!(shared.contains(&address) && !shared.ends_with("\n0\n"), "{shared}");
    podman.remove(&id);
    podman.assert_clean();
}

#[test]
fn a_health_check_is_an_exec() {
    let podman = Podman::new();
    let id = podman.detached(&["--health-cmd", "test -f /healthy", "--health-interval", "disable"], &["sleep", "600"]);
    let healthy = || podman.run(&["healthcheck", "run", &id]).code == 0;
    assert!(!healthy());
    podman.run(&["exec", &id, "touch", "/healthy"]).ok();
    cc_tests::eventually("it is healthy", Duration::from_secs(20), || healthy().then_some(()));
    podman.remove(&id);
    podman.assert_clean();
}
