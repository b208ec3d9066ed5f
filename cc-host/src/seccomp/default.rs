//! The policy of containers that name none: docker's. What programs need is allowed, some of it with the capability that it belongs to, and
//! the rest is answered with EPERM: keyrings, bpf, io_uring, userfaultfd, mounts, namespaces, modules, clocks, tracing of the kernel,
//! whatever is obsolete. Refuses to depend on anything but the container's capabilities.
//!
//! Where docker's differs by the kernel, this is what it says for 4.8 and later.

use rustix::thread::CapabilitySet;

use super::names;
use super::profile::{Action, Condition, Profile, Rule, Test};

/// Calls that every container has, by what they are about. A name that this machine does not have is passed over.
const ALLOWED: [&str; 12] = [
    FILES,
    NAMES_OF_FILES,
    ATTRIBUTES,
    POLLING,
    MEMORY,
    PROCESSES,
    IDENTITY,
    SIGNALS,
    TIME,
    SCHEDULING,
    MESSAGES,
    SYSTEM,
];

const FILES: &str = "open openat openat2 creat close close_range read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 \
    lseek sendfile copy_file_range splice tee vmsplice readahead fadvise64 fallocate truncate ftruncate sync syncfs fsync \
    fdatasync sync_file_range dup dup2 dup3 fcntl flock ioctl pipe pipe2 getdents getdents64 io_setup io_submit io_cancel \
    io_getevents io_pgetevents io_destroy cachestat";
const NAMES_OF_FILES: &str = "access faccessat faccessat2 chdir fchdir getcwd link linkat symlink symlinkat readlink readlinkat mkdir mkdirat mknod \
    mknodat rmdir unlink unlinkat rename renameat renameat2 name_to_handle_at inotify_init inotify_init1 inotify_add_watch \
    inotify_rm_watch fanotify_mark statfs fstatfs statmount listmount";
const ATTRIBUTES: &str = "stat lstat fstat newfstatat statx chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask utime utimes \
    utimensat futimesat getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr \
    llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat file_getattr file_setattr";
const POLLING: &str = "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait \
    epoll_pwait2 eventfd eventfd2 signalfd signalfd4";
const MEMORY: &str = "brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall mseal membarrier \
    remap_file_pages memfd_create memfd_secret pkey_alloc pkey_free pkey_mprotect map_shadow_stack shmget shmat shmdt \
    shmctl";
/// Tracing is of one's own processes only, and from 4.8 on no way past a filter.
const PROCESSES: &str = "fork vfork execve execveat exit exit_group wait4 waitid getpid getppid gettid getpgid setpgid getpgrp getsid setsid \
    set_tid_address set_robust_list get_robust_list rseq arch_prctl modify_ldt set_thread_area get_thread_area prctl \
    seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self pidfd_open process_mrelease ptrace \
    process_vm_readv process_vm_writev futex futex_waitv futex_wait futex_wake futex_requeue getrlimit setrlimit prlimit64 \
    getrusage getpriority setpriority ioprio_get ioprio_set restart_syscall";
const IDENTITY: &str = "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid setresgid \
    setfsuid setfsgid setgroups capget capset";
const SIGNALS: &str = "kill tkill tgkill pidfd_send_signal pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack";
/// The last two also read, and to set they need a capability of the host's.
const TIME: &str = "time times gettimeofday nanosleep alarm getitimer setitimer clock_getres clock_gettime clock_nanosleep timer_create \
    timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime adjtimex \
    clock_adjtime";
const SCHEDULING: &str = "sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam \
    sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval getcpu";
const MESSAGES: &str = "socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt sendto sendmsg \
    sendmmsg recvfrom recvmsg recvmmsg mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr msgget \
    msgsnd msgrcv msgctl semget semop semtimedop semctl";
const SYSTEM: &str = "uname sysinfo getrandom";

/// Calls that need a capability, and what they are allowed with.
const WITH: [(CapabilitySet, &str); 14] = [
    (CapabilitySet::SYS_ADMIN, FOR_ADMINS),
    (CapabilitySet::DAC_READ_SEARCH, "open_by_handle_at"),
    (CapabilitySet::SYS_BOOT, "reboot"),
    (CapabilitySet::SYS_CHROOT, "chroot"),
    (CapabilitySet::SYS_MODULE, "init_module finit_module delete_module"),
    (CapabilitySet::SYS_PACCT, "acct"),
    (CapabilitySet::SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (CapabilitySet::SYS_RAWIO, "iopl ioperm"),
    (CapabilitySet::SYS_TIME, "settimeofday clock_settime"),
    (CapabilitySet::SYS_TTY_CONFIG, "vhangup"),
    (CapabilitySet::SYS_NICE, "get_mempolicy set_mempolicy set_mempolicy_home_node mbind"),
    (CapabilitySet::SYSLOG, "syslog"),
    (CapabilitySet::BPF, "bpf"),
    (CapabilitySet::PERFMON, "perf_event_open"),
];
const FOR_ADMINS: &str = "clone clone3 unshare setns mount umount2 mount_setattr move_mount open_tree open_tree_attr fsopen fspick fsconfig \
    fsmount fanotify_init quotactl quotactl_fd sethostname setdomainname syslog bpf perf_event_open lookup_dcookie";

/// Of clone: every kind of namespace but that of time, whose bit is another thing there.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Linux, Linux with the 32-bit uname or the address space of before 2.6, both, and the question which it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

pub fn profile(capabilities: CapabilitySet) -> Profile {
    let mut profile = Profile::new(Action::NOT_PERMITTED);
    for name in ALLOWED.into_iter().flat_map(str::split_ascii_whitespace) {
        say(&mut profile, name, None, Action::Allow);
    }
    for (needed, names) in WITH {
        for name in names.split_ascii_whitespace().filter(|_| capabilities.contains(needed)) {
            say(&mut profile, name, None, Action::Allow);
        }
    }
    // The argument is an int: whatever is in its upper half, the kernel does not look there. Connections to the host.
    let vsock = Test::Masked { mask: u64::from(u32::MAX), value: libc::AF_VSOCK as u64 };
    say(&mut profile, "socket", Some(vsock), Action::NOT_PERMITTED);
    say(&mut profile, "socket", None, Action::Allow);
    for known in PERSONALITIES {
        say(&mut profile, "personality", Some(Test::Equal(known)), Action::Allow);
    }
    say(&mut profile, "clone", Some(Test::Masked { mask: NAMESPACES, value: 0 }), Action::Allow);
    // Its flags are in memory, where no filter can look. Whoever is told that there is no such call takes clone.
    say(&mut profile, "clone3", None, Action::NO_SUCH_CALL);
    profile
}

/// Behind what was said before, of the first argument or of none.
fn say(profile: &mut Profile, name: &str, first: Option<Test>, action: Action) {
    let conditions = first.map(|test| Condition { argument: 0, test }).into_iter().collect();
    if let Some(number) = names::number(name) {
        profile.add(number, Rule { conditions, action });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::privileges::DEFAULT_CAPABILITIES;

    const ENOSYS: Action = Action::NO_SUCH_CALL;
    const EPERM: Action = Action::NOT_PERMITTED;

    /// Some of these are x86-64's alone.
    fn exists(name: &str) -> bool {
        let exists = names::number(name).is_some();
        assert!(exists || cfg!(not(target_arch = "x86_64")), "{name} has no number");
        exists
    }

    fn decide(capabilities: CapabilitySet, name: &str, first: u64) -> Action {
        let number = names::number(name).unwrap_or_else(|| panic!("{name} has no number"));
        profile(capabilities).decide(number, &[first, 0, 0, 0, 0, 0])
    }

    #[track_caller]
    fn denied(names: &[&str]) {
        for name in names.iter().filter(|name| exists(name)) {
            assert_eq!(decide(DEFAULT_CAPABILITIES, name, 0), EPERM, "{name}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_name_in_the_table_is_one_and_stands_there_once() {
        // Three are there with either of two capabilities.
        let with = WITH.map(|(_, names)| names);
        let words = ALLOWED.into_iter().chain(with).flat_map(str::split_ascii_whitespace);
        let mut all: Vec<&str> = words.filter(|name| !matches!(*name, "bpf" | "syslog" | "perf_event_open")).collect();
        for name in &all {
            assert!(names::number(name).is_some(), "{name}");
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn keyrings_are_denied() {
        denied(&["keyctl", "add_key", "request_key"]);
    }

    #[test]
    fn bpf_and_looking_into_the_kernel_are_denied() {
        denied(&["bpf", "perf_event_open", "lookup_dcookie", "syslog", "kcmp"]);
    }

    #[test]
    fn io_uring_is_denied() {
        denied(&["io_uring_setup", "io_uring_enter", "io_uring_register"]);
    }

    #[test]
    fn userfaultfd_is_denied() {
        denied(&["userfaultfd"]);
    }

    #[test]
    fn new_namespaces_are_denied() {
        denied(&["unshare", "setns"]);
        let clone = |flags: i32| decide(DEFAULT_CAPABILITIES, "clone", flags as u32 as u64);
        for kind in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWCGROUP,
        ] {
            assert_eq!(clone(kind), EPERM, "{kind:#x}");
            assert_eq!(clone(kind | libc::CLONE_VM | libc::SIGCHLD), EPERM, "{kind:#x}");
        }
        assert_eq!(clone(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND), Action::Allow);
        assert_eq!(clone(libc::SIGCHLD), Action::Allow);
    }

    #[test]
    fn clone3_is_said_not_to_exist() {
        assert_eq!(decide(DEFAULT_CAPABILITIES, "clone3", 0), ENOSYS);
        assert_eq!(decide(DEFAULT_CAPABILITIES | CapabilitySet::SYS_ADMIN, "clone3", 0), Action::Allow);
    }

    #[test]
    fn mounts_are_denied() {
        denied(&["mount", "umount2", "pivot_root", "move_mount", "open_tree", "open_tree_attr", "mount_setattr"]);
        denied(&["fsopen", "fsconfig", "fsmount", "fspick", "quotactl", "fanotify_init", "open_by_handle_at"]);
    }

    #[test]
    fn the_machine_is_left_alone() {
        denied(&["reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"]);
        denied(&["swapon", "swapoff", "settimeofday", "clock_settime", "acct", "sethostname", "setdomainname"]);
        denied(&["iopl", "ioperm", "vhangup", "nfsservctl", "mbind", "set_mempolicy", "move_pages", "migrate_pages"]);
    }

    #[test]
    fn what_is_obsolete_is_denied() {
        denied(&["uselib", "ustat", "sysfs", "_sysctl", "create_module", "get_kernel_syms", "query_module"]);
    }

    #[test]
    fn sockets_to_the_host_are_denied_whatever_the_upper_half_holds() {
        let socket = |family: u64| decide(DEFAULT_CAPABILITIES, "socket", family);
        let vsock = libc::AF_VSOCK as u64;
        assert_eq!((socket(vsock), socket(vsock | 1 << 32)), (EPERM, EPERM));
        assert_eq!((socket(vsock - 1), socket(vsock + 1), socket(2)), (Action::Allow, Action::Allow, Action::Allow));
    }

    #[test]
    fn personalities_are_linuxs_own() {
        let personality = |value: u64| decide(DEFAULT_CAPABILITIES, "personality", value);
        for known in PERSONALITIES {
            assert_eq!(personality(known), Action::Allow, "{known:#x}");
        }
        // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, and the upper half.
        for other in [0x4_0000, 0x40_0000, 1, 1 << 32] {
            assert_eq!(personality(other), EPERM, "{other:#x}");
        }
    }

    #[test]
    fn a_capability_brings_its_calls() {
        for (needed, names) in WITH {
            for name in names.split_ascii_whitespace().filter(|name| exists(name)) {
                assert_eq!(decide(DEFAULT_CAPABILITIES | needed, name, 0), Action::Allow, "{name}");
            }
        }
        // docker's set has it, and who drops it loses the call.
        assert_eq!(decide(DEFAULT_CAPABILITIES, "chroot", 0), Action::Allow);
        assert_eq!(decide(CapabilitySet::empty(), "chroot", 0), EPERM);
        assert_eq!(decide(CapabilitySet::all(), "keyctl", 0), EPERM, "no capability brings these");
        assert_eq!(decide(CapabilitySet::all(), "io_uring_setup", 0), EPERM);
        assert_eq!(decide(CapabilitySet::all(), "kexec_load", 0), EPERM);
    }

    #[test]
    fn what_came_later_is_said_not_to_exist() {
        assert_eq!(profile(CapabilitySet::all()).decide(names::HIGHEST + 1, &[0; 6]), ENOSYS);
    }
}
