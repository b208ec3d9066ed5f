//! What happens inside the container between the clone and the program. It runs in a copy of the shim, with every privilege
//! inside its user namespace and none outside. Refuses to return.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Signal, Uid};
use rustix::thread::UnshareFlags;

use super::channel::{Channel, FromInit, ToInit};
use super::filter::Filter;
use super::mounts::DEVICES;
use super::protocol::{FailureKind, StartFailure};
use super::rootfs::{self, KernelMounts};
use super::spec::Spec;
use super::terminal::Size;
use super::user::{self, User, UserError};
use super::{exec, privileges, reaper, sys, terminal};
use crate::mutation::{self, Control};

/// Where what is kept lands, so that everything above it can be closed without knowing what it is.
const FIRST_KEPT: i32 = 3;
/// What programs expect, and docker gives.
const PROGRAM_UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// The pipes' ends that become the program's; without `stdin`, it reads the container's /dev/null.
pub struct Stdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Never returns: the program runs, or the reason went through the channel. Without a specification it waits for one.
pub fn run(spec: Option<&Spec>, stdio: Stdio, cgroups: Vec<OwnedFd>, channel: Channel) -> ! {
    let entered = enter_cgroups(cgroups);
    let Ok(channel) = keep_only(stdio, channel) else { sys::exit_now(125) };
    let outcome = std::panic::catch_unwind(|| entered.and_then(|()| start(spec, &channel)));
    let failure = match outcome {
        Ok(Err(failure)) => failure,
        Ok(Ok(never)) => match never {},
        Err(_) => StartFailure::new(FailureKind::Other, "init panicked; its last words are in the container's output"),
    };
    let code = failure.exit_code();
    // If nobody listens, nobody needs to know.
    let _ = channel.send(&FromInit::Failed(failure), &[]);
    sys::exit_now(code)
}

/// Those that it was not born in. A thread that moves itself alone is let through at once; for any other move, `cgroup.procs`
/// above all, the kernel first waits until no process forks or exits anywhere: 10 ms, with the cgroups locked.
pub fn enter_cgroups(tasks: Vec<OwnedFd>) -> Result<(), StartFailure> {
    for file in tasks {
        rustix::io::write(&file, b"0").map_err(|e| other("enter a cgroup", e))?;
    }
    Ok(())
}

/// Every descriptor of the shim but these four is closed before anything of the image is looked at.
fn keep_only(stdio: Stdio, channel: Channel) -> std::io::Result<Channel> {
    let [channel] = keep(stdio, [channel.into()])?;
    Ok(Channel::from_fd(channel))
}

/// The same with one more.
pub fn keep_only_with(stdio: Stdio, channel: Channel, other: OwnedFd) -> std::io::Result<(Channel, OwnedFd)> {
    let [channel, other] = keep(stdio, [channel.into(), other])?;
    Ok((Channel::from_fd(channel), other))
}

fn keep<const N: usize>(stdio: Stdio, kept: [OwnedFd; N]) -> std::io::Result<[OwnedFd; N]> {
    if let Some(stdin) = &stdio.stdin {
        sys::dup_to_standard(stdin.as_fd(), 0)?;
    }
    sys::dup_to_standard(stdio.stdout.as_fd(), 1)?;
    sys::dup_to_standard(stdio.stderr.as_fd(), 2)?;
    let mut high = Vec::with_capacity(N);
    for fd in &kept {
        // High enough that the copies below cannot hit it.
        high.push(rustix::io::fcntl_dupfd_cloexec(fd, 100)?);
    }
    std::mem::forget((stdio, kept));
    // SAFETY: the owners of everything in this range that this process still uses were forgotten just above, apart from
    // `high`, which is copied down first; the process never returns to the shim's code, which holds the others.
    unsafe {
        for (to, fd) in (FIRST_KEPT..).zip(&high) {
            if libc::dup3(fd.as_raw_fd(), to, libc::O_CLOEXEC) != to {
                return Err(std::io::Error::last_os_error());
            }
        }
        std::mem::forget(high);
        if !mutation::off(Control::DescriptorsClosed) {
            sys::close_from(FIRST_KEPT as u32 + N as u32)?;
        }
        Ok(std::array::from_fn(|index| OwnedFd::from_raw_fd(FIRST_KEPT + index as i32)))
    }
}

fn start(spec: Option<&Spec>, channel: &Channel) -> Result<std::convert::Infallible, StartFailure> {
    // Whatever the daemon was started with: modes are what this code says.
    rustix::process::umask(Mode::empty());
    match spec {
        Some(spec) => {
            let prepared = expect_mounts(channel, spec)?;
            become_container(spec, prepared, &settle()?, channel)
        }
        None => {
            let Some((ToInit::Park, _)) = channel.receive().map_err(lost)? else { sys::exit_now(125) };
            let kernel = settle()?;
            rootfs::leave_host()?;
            channel.send(&FromInit::Parked, &[]).map_err(lost)?;
            let spec = expect_spec(channel)?;
            let prepared = expect_mounts(channel, &spec)?;
            become_container(&spec, prepared, &kernel, channel)
        }
    }
}

/// What is the same for every container, once ids are mapped.
fn settle() -> Result<KernelMounts, StartFailure> {
    privileges::become_root()?;
    // Not by clone3: a namespace made there has the shim's cgroup for its root, because it is made before the child moves.
    if !mutation::off(Control::CgroupNamespace) {
        // SAFETY: the process has one thread, and the flag is none of those that split what threads share.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }
            .map_err(|e| other("make a cgroup namespace", e))?;
    }
    let kernel = KernelMounts::create()?;
    sysctls(&kernel);
    sys::loopback_up().map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot bring loopback up: {e}")))?;
    Ok(kernel)
}

fn become_container(
    spec: &Spec,
    prepared: Mounts,
    kernel: &KernelMounts,
    channel: &Channel,
) -> Result<std::convert::Infallible, StartFailure> {
    rootfs::enter(&prepared.root)?;
    let binds: Vec<_> = spec.binds.iter().cloned().zip(prepared.binds).collect();
    rootfs::furnish(&prepared.root, kernel, &prepared.devices, &binds)?;
    rootfs::temporary(&prepared.root, &spec.tmpfs)?;
    if let Some(nodes) = &prepared.nodes {
        rootfs::devices(&prepared.root, nodes, &spec.devices)?;
    }
    rustix::system::sethostname(spec.hostname.as_bytes()).map_err(|e| other("set the host name", e))?;
    let user = user::resolve_here(&spec.user, spec.id_count).map_err(bad_user)?;
    exec::enter_directory(&prepared.root, &spec.cwd, &user)?;
    if spec.read_only {
        rootfs::seal(&prepared.root)?;
    }
    rustix::process::setsid().map_err(|e| other("start a session", e))?;
    standard_streams(spec.stdin, &user)?;
    if let Some(size) = spec.terminal {
        terminal(&prepared.root, &user, size, channel)?;
    }
    privileges::limit(&spec.rlimits)?;
    if spec.host_users {
        privileges::own_keys(&spec.id)?;
    }
    channel.send(&FromInit::Ready, &[]).map_err(lost)?;
    privileges::drop_to(&user, privileges::capabilities(spec.capabilities))?;
    // After the change of ids, which clears it: whoever lost its shim has lost its output, too.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| other("tie init to its shim", e))?;
    expect_go(channel)?;
    let given = if spec.terminal.is_some() { with_term(&spec.env) } else { spec.env.clone() };
    let env = exec::environment(&given, &spec.hostname, &user.home);
    exec::check_inside().map_err(|why| StartFailure::new(FailureKind::BadDir, why))?;
    if spec.init {
        reaper::split(spec.terminal.is_some())?;
    }
    execute(&spec.args, &env, spec.seccomp.as_ref(), channel)
}

/// From the last that is of the shim's to the program.
pub fn execute(
    args: &[String],
    env: &[String],
    filter: Option<&Filter>,
    channel: &Channel,
) -> Result<std::convert::Infallible, StartFailure> {
    restore_signals()?;
    rustix::process::umask(PROGRAM_UMASK);
    if !mutation::off(Control::DescriptorsClosed) {
        sys::close_on_exec_from(3)
            .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot close descriptors: {e}")))?;
    }
    channel.send(&FromInit::Executing, &[]).map_err(lost)?;
    exec::execute(args, env, filter)
}

/// What is given later wins.
pub fn with_term(env: &[String]) -> Vec<String> {
    std::iter::once(terminal::TERM.to_owned()).chain(env.iter().cloned()).collect()
}

/// Its session's terminal, which has its size before anybody can ask for it; the other end goes to the shim.
pub fn terminal(root: &OwnedFd, user: &User, size: Size, channel: &Channel) -> Result<(), StartFailure> {
    let (master, slave) = terminal::open(root)?;
    terminal::resize(&master, size).map_err(|e| other("set the size of a terminal", e))?;
    channel.send(&FromInit::Terminal, &[master.as_fd()]).map_err(lost)?;
    terminal::take(slave, user)
}

struct Mounts {
    root: OwnedFd,
    devices: Vec<OwnedFd>,
    binds: Vec<OwnedFd>,
    nodes: Option<OwnedFd>,
}

/// What a parked init becomes.
fn expect_spec(channel: &Channel) -> Result<Spec, StartFailure> {
    let Some((ToInit::Spec, mut fds)) = channel.receive().map_err(lost)? else { sys::exit_now(125) };
    let file = fds.pop().ok_or_else(|| StartFailure::new(FailureKind::Other, "the specification did not arrive"))?;
    Spec::read(file.into()).map_err(|error| StartFailure::new(FailureKind::Other, error.to_string()))
}

/// Waits until the shim has written the id maps, and has the mounts.
fn expect_mounts(channel: &Channel, spec: &Spec) -> Result<Mounts, StartFailure> {
    let Some((ToInit::Mounts, mut fds)) = channel.receive().map_err(lost)? else { sys::exit_now(125) };
    let has_nodes = !spec.devices.is_empty();
    let shared = if spec.host_users { 0 } else { DEVICES.len() };
    if fds.len() != 1 + shared + spec.binds.len() + usize::from(has_nodes) {
        return Err(StartFailure::new(FailureKind::Mount, "the prepared mounts did not all arrive"));
    }
    let nodes = if has_nodes { fds.pop() } else { None };
    let binds = fds.split_off(1 + shared);
    let devices = fds.split_off(1);
    let root = fds.pop().expect("the length was checked just above");
    Ok(Mounts { root, devices, binds, nodes })
}

pub fn expect_go(channel: &Channel) -> Result<(), StartFailure> {
    match channel.receive().map_err(lost)? {
        Some((ToInit::Go, _)) => Ok(()),
        // The shim is gone, and with it everyone who could be told.
        _ => sys::exit_now(125),
    }
}

/// The program may reopen its streams by name, so they belong to it.
pub fn standard_streams(has_stdin: bool, user: &User) -> Result<(), StartFailure> {
    if !has_stdin {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| other("open the container's /dev/null", e))?;
        sys::dup_to_standard(null.as_fd(), 0)
            .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot connect stdin: {e}")))?;
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let streams = [has_stdin.then(rustix::stdio::stdin), Some(rustix::stdio::stdout()), Some(rustix::stdio::stderr())];
    for stream in streams.into_iter().flatten() {
        rustix::fs::fchown(stream, Some(uid), Some(gid)).map_err(|e| other("give a stream to the user", e))?;
    }
    Ok(())
}

/// As docker sets them, for this network namespace alone: an unprivileged server may have port 80, anyone may ping. Kernels
/// without one of them go without.
fn sysctls(kernel: &KernelMounts) {
    for (name, value) in [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 65535")] {
        let above = if mutation::off(Control::ProcByDescriptor) { "/proc/" } else { "" };
        let path = format!("{above}sys/net/ipv4/{name}");
        if let Ok(file) = rustix::fs::openat(&kernel.proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            let _ = rustix::io::write(&file, value.as_bytes());
        }
    }
}

/// The shim blocks what it reads from a descriptor, and it ignores what whoever started the daemon ignored; programs expect neither, and a
/// shell cannot even trap what was ignored before it.
pub fn restore_signals() -> Result<(), StartFailure> {
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
    let failed = |e: nix::errno::Errno| StartFailure::new(FailureKind::Other, format!("cannot restore signals: {e}"));
    for number in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of this program.
        unsafe { signal(number, SigHandler::SigDfl) }.map_err(failed)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(failed)
}

pub fn bad_user(error: UserError) -> StartFailure {
    StartFailure::new(FailureKind::BadUser, error.to_string())
}

pub fn lost(error: std::io::Error) -> StartFailure {
    StartFailure::new(FailureKind::Other, format!("the channel to the shim broke: {error}"))
}

pub fn other(step: &str, source: rustix::io::Errno) -> StartFailure {
    StartFailure::new(FailureKind::Other, format!("cannot {step}: {source}"))
}
