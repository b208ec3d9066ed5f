//! A container's programs make the system calls that its policy allows, and no others: asked of the kernel, call by call. Without the filter
//! the answers are others, so that it is the filter which gave them.

// Some of the calls are x86-64's alone, and so are their numbers here.
#![cfg(target_arch = "x86_64")]

use cc_tests::{Leave, World};

const EPERM: i32 = libc::EPERM;
const ENOSYS: i32 = libc::ENOSYS;
const ALL: u64 = u64::MAX;

/// A call with arguments that make the kernel itself answer otherwise, whatever capabilities there are.
type Asked = (&'static str, i64, &'static [u64], i32);

const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;

/// What the default policy answers.
const DENIED: [Asked; 26] = [
    ("keyctl", libc::SYS_keyctl, &[0, ALL, 0], EPERM),
    ("add_key", libc::SYS_add_key, &[], EPERM),
    ("request_key", libc::SYS_request_key, &[], EPERM),
    // Of an object, with attributes that are too large.
    ("bpf", libc::SYS_bpf, &[15, 0, 1 << 20], EPERM),
    ("clone of a user namespace", libc::SYS_clone, &[NEWUSER | libc::SIGCHLD as u64], EPERM),
    ("unshare of a user namespace", libc::SYS_unshare, &[NEWUSER], EPERM),
    ("setns", libc::SYS_setns, &[ALL, NEWUSER], EPERM),
    ("clone3", libc::SYS_clone3, &[], ENOSYS),
    ("io_uring_setup", libc::SYS_io_uring_setup, &[], EPERM),
    ("io_uring_enter", libc::SYS_io_uring_enter, &[ALL], EPERM),
    ("io_uring_register", libc::SYS_io_uring_register, &[ALL], EPERM),
    // By a user, with a flag that there is not.
    ("userfaultfd", libc::SYS_userfaultfd, &[0x101], EPERM),
    ("perf_event_open", libc::SYS_perf_event_open, &[0, 0, 0, ALL, ALL], EPERM),
    ("mount", libc::SYS_mount, &[], EPERM),
    ("umount2", libc::SYS_umount2, &[0, 0xffff], EPERM),
    ("open_tree", libc::SYS_open_tree, &[ALL, 0, ALL], EPERM),
    ("quotactl", libc::SYS_quotactl, &[0xffff_ffff], EPERM),
    ("settimeofday", libc::SYS_settimeofday, &[1], EPERM),
    ("clock_settime", libc::SYS_clock_settime, &[99], EPERM),
    ("socket to the host", libc::SYS_socket, &[libc::AF_VSOCK as u64, 1], EPERM),
    ("the same with more bits", libc::SYS_socket, &[1 << 32 | libc::AF_VSOCK as u64, 1], EPERM),
    ("personality READ_IMPLIES_EXEC", libc::SYS_personality, &[0x40_0000], EPERM),
    ("mbind", libc::SYS_mbind, &[0, 0, 99], EPERM),
    ("move_pages", libc::SYS_move_pages, &[0, 0, 0, 0, 0, ALL], EPERM),
    ("ustat", libc::SYS_ustat, &[], EPERM),
    ("sysfs", libc::SYS_sysfs, &[99], EPERM),
];

/// What the kernel, too, answers so in a user namespace: it is denied twice.
const DENIED_TWICE: [Asked; 12] = [
    ("pivot_root", libc::SYS_pivot_root, &[], EPERM),
    ("move_mount", libc::SYS_move_mount, &[], EPERM),
    ("fsopen", libc::SYS_fsopen, &[], EPERM),
    ("kexec_load", libc::SYS_kexec_load, &[], EPERM),
    ("init_module", libc::SYS_init_module, &[], EPERM),
    ("finit_module", libc::SYS_finit_module, &[], EPERM),
    ("delete_module", libc::SYS_delete_module, &[], EPERM),
    ("reboot", libc::SYS_reboot, &[], EPERM),
    ("swapon", libc::SYS_swapon, &[], EPERM),
    ("swapoff", libc::SYS_swapoff, &[], EPERM),
    ("acct", libc::SYS_acct, &[], EPERM),
    ("iopl", libc::SYS_iopl, &[3], EPERM),
];

/// What programs live by.
const ALLOWED: [Asked; 6] = [
    ("getppid", libc::SYS_getppid, &[], 0),
    ("unshare's neighbour", libc::SYS_clone, &[libc::SIGCHLD as u64], 0),
    ("socket", libc::SYS_socket, &[libc::AF_INET as u64, libc::SOCK_STREAM as u64], 0),
    ("personality", libc::SYS_personality, &[0xffff_ffff], 0),
    ("ptrace of oneself", libc::SYS_ptrace, &[], 0),
    ("seccomp's question", libc::SYS_seccomp, &[2, 0, 1], libc::EFAULT),
];

fn word((_, number, arguments, _): &Asked) -> String {
    arguments.iter().fold(number.to_string(), |text, argument| format!("{text},{argument:#x}"))
}

fn command(asked: &[Asked]) -> Vec<String> {
    std::iter::once("call".to_owned()).chain(asked.iter().map(word)).collect()
}

fn answers(said: &str) -> Vec<i32> {
    said.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?} is no answer"))).collect()
}

fn ask(world: &World, options: &[&str], asked: &[Asked]) -> Vec<i32> {
    let command = command(asked);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    answers(&world.run_rm("calls", options, &words).ok().stdout)
}

fn exec(world: &World, name: &str, options: &[&str], asked: &[Asked]) -> Vec<i32> {
    let command = command(asked);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    answers(&world.cc(&[&["exec"], options, &[name], words.as_slice()].concat()).ok().stdout)
}

#[track_caller]
fn are_as_said(asked: &[Asked], answers: &[i32]) {
    assert_eq!(asked.len(), answers.len());
    for ((name, .., wanted), answer) in asked.iter().zip(answers) {
        assert_eq!(answer, wanted, "{name}");
    }
}

#[test]
fn each_call_is_answered_by_the_policy_and_otherwise_without_it() {
    let world = World::new();
    are_as_said(&DENIED, &ask(&world, &[], &DENIED));
    are_as_said(&DENIED_TWICE, &ask(&world, &[], &DENIED_TWICE));
    are_as_said(&ALLOWED, &ask(&world, &[], &ALLOWED));
    let without = ask(&world, &["--security-opt", "seccomp=unconfined"], &DENIED);
    for ((name, .., filtered), answer) in DENIED.iter().zip(without) {
        assert_ne!(answer, *filtered, "{name}: the kernel itself says so, and nothing is tested");
    }
    // For other users than root as well.
    are_as_said(&DENIED, &ask(&world, &["--user", "app"], &DENIED));
    world.assert_clean();
}

#[test]
fn a_capability_brings_its_calls_and_a_dropped_one_takes_them() {
    let world = World::new();
    let setns = [("setns", libc::SYS_setns, &[ALL, NEWUSER][..], libc::EBADF)];
    are_as_said(&setns, &ask(&world, &["--cap-add", "SYS_ADMIN"], &setns));
    let keyctl = [("keyctl", libc::SYS_keyctl, &[0, ALL, 0][..], EPERM)];
    are_as_said(&keyctl, &ask(&world, &["--cap-add", "ALL"], &keyctl));
    let chroot = |wanted| [("chroot", libc::SYS_chroot, &[0][..], wanted)];
    are_as_said(&chroot(libc::EFAULT), &ask(&world, &[], &chroot(libc::EFAULT)));
    are_as_said(&chroot(EPERM), &ask(&world, &["--cap-drop", "SYS_CHROOT"], &chroot(EPERM)));
    world.assert_clean();
}

#[test]
fn other_ways_to_the_same_calls_are_closed() {
    let world = World::new();
    // Under x32's numbers, and as 32-bit programs make them.
    let words = ["call", "0x4000006e", "i386:64", "39"];
    let filtered = world.run_rm("calls", &[], &words).ok().stdout;
    let without = world.run_rm("calls", &["--security-opt", "seccomp=unconfined"], &words).ok().stdout;
    let lines: Vec<&str> = filtered.lines().collect();
    // A kernel without 32-bit programs ends them itself.
    let end = if without.contains("signal 11") { "signal 11" } else { "signal 31" };
    assert_eq!(lines, ["38", end, "0"]);
    world.assert_clean();
}

#[test]
fn further_programs_have_the_containers_filter_whoever_the_daemon_is() {
    let mut world = World::new();
    let unconfined = ["--name", "open", "--security-opt", "seccomp=unconfined"];
    world.run("calls", &["--name", "web"], &["sleep", "600"]);
    world.run("calls", &unconfined, &["sleep", "600"]);
    let filters =
        "grep -E '^(NoNewPrivs|Seccomp)' /proc/1/status /proc/self/status | cut -d: -f2- | tr -s '\\t\\n' ' '";
    let seen = |world: &World, name: &str| world.cc(&["exec", name, "sh", "-c", filters]).ok().stdout;
    let are = |world: &World| {
        are_as_said(&DENIED, &exec(world, "web", &[], &DENIED));
        are_as_said(&DENIED, &exec(world, "web", &["--user", "app"], &DENIED));
        assert_ne!(exec(world, "open", &[], &DENIED[..1]), [EPERM]);
        let one = "NoNewPrivs: 1 Seccomp: 2 Seccomp_filters: 1 ";
        assert_eq!(seen(world, "web"), one.repeat(2));
        assert_eq!(seen(world, "open"), one.replace(" 2", " 0").replace("filters: 1", "filters: 0").repeat(2));
        assert_eq!(
            (&world.inspect("web")["seccomp"], &world.inspect("open")["seccomp"]),
            (&"default".into(), &"unconfined".into())
        );
    };
    are(&world);
    for how in [Leave::Killed, Leave::Stopped] {
        world.leave(how);
        world.start();
        are(&world);
    }
    world.cc(&["restart", "-t", "0", "web", "open"]).ok();
    are(&world);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_profile_of_ones_own_is_in_force_and_kept() {
    let world = World::new();
    let file = world.path("profile.json");
    let option = format!("seccomp={}", file.display());
    let write = |text: &str| std::fs::write(&file, text).expect("it can be written");
    write(
        r#"{
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
                {"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS",
                 "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
                {"names": ["a_call_of_tomorrow"], "action": "SCMP_ACT_KILL"}
            ]
        }"#,
    );
    let asked = [
        ("mkdir", libc::SYS_mkdir, &[][..], libc::ENOSPC),
        ("keyctl", libc::SYS_keyctl, &[0, ALL, 0][..], libc::ENOKEY),
        ("personality", libc::SYS_personality, &[0xffff_ffff][..], 0),
    ];
    world.run("calls", &["--name", "web", "--security-opt", &option], &["sleep", "600"]);
    are_as_said(&asked, &exec(&world, "web", &[], &asked));
    assert_eq!(world.inspect("web")["seccomp"], "profile");
    let killed = world.cc(&["exec", "web", "call", &format!("{},8", libc::SYS_personality)]).ok();
    assert_eq!(killed.stdout, "signal 31\n");
    // The file was read once.
    std::fs::remove_file(&file).expect("it is there");
    world.cc(&["restart", "-t", "0", "web"]).ok();
    are_as_said(&asked, &exec(&world, "web", &[], &asked));
    for (text, word) in [
        ("no JSON", "JSON"),
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#, "execve"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#, "listenerPath"),
    ] {
        write(text);
        world.run_rm("calls", &["--security-opt", &option], &["true"]).fails(125, word);
    }
    world.run_rm("calls", &["--security-opt", "seccomp=/no/such/file"], &["true"]).fails(125, "/no/such/file");
    world.remove_all();
    world.assert_clean();
}

/// A shell, its children, threads, files, signals and sockets are what they were.
#[test]
fn programs_run_as_they_did() {
    let world = World::new();
    let script = "set -e; cd /tmp; mkdir d; seq 1 2000 | sort -rn | head -n 1 > d/f; cat d/f; ln -s f d/l; mv d e; tar c e | tar t | wc -l; \
        (sleep 60 & kill $!; wait $! || echo $?); chown 33:33 e/f; stat -c %u e/f; nc -l -p 9 -e cat & \
        for i in 1 2 3 4 5 6 7 8 9; do echo hi | nc -w 1 127.0.0.1 9 && break; sleep 0.1; done; sh -c 'ulimit -n'; date +%Y >/dev/null";
    let ran = world.run_rm("busybox", &[], &["sh", "-c", script]).ok();
    assert_eq!(ran.stdout, "2000\n3\n143\n33\nhi\n1024\n", "{}", ran.stderr);
    let version = world.run_rm("redis", &["--entrypoint", "/usr/bin/redis-server"], &["--", "--version"]).ok().stdout;
    assert!(version.starts_with("Redis server"), "{version}");
    let checked = world.run_rm("nginx", &[], &["--", "-t"]).ok().stderr;
    assert!(checked.contains("test is successful"), "{checked}");
    world.assert_clean();
}
