//! The container's first process, from its clone to its program. It is a copy of the process that creates the container, with one thread, and
//! cannot be looked into. Refuses to return.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;
use rustix::net::{SocketFlags, accept_with};

use super::config::Config;
use super::describe::Description;
use super::lsm::{Labels, Opened};
use super::mounts::{self, Own, Prepared};
use super::namespaces::IntoRustix;
use super::process::Plan;
use super::talk::{FromInside, ToInside, ask};
use super::{devices, hooks, inside, paths, sysctl};
use crate::shim::channel::Channel;
use crate::shim::init::{enter_cgroups, lost, other};
use crate::shim::protocol::{FailureKind, StartFailure};
use crate::shim::sys::Attributes;
use crate::shim::{exec, privileges, rootfs, sys};

/// All that it is told, made before there is a container.
pub struct Launch<'a> {
    pub config: &'a Config,
    pub description: &'a Description,
    pub prepared: Prepared,
    /// Of device nodes, where it cannot make its own.
    pub nodes: Option<OwnedFd>,
    pub tasks: Vec<OwnedFd>,
    pub channel: Channel,
    pub listener: OwnedFd,
    pub proc: OwnedFd,
    pub console: Option<OwnedFd>,
    pub keyring: Option<CString>,
    pub preserved: u32,
    pub pivot: bool,
}

const HOOKS_UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// What is left when it waits.
struct Waiting {
    env: Vec<String>,
    labels: Opened,
}

/// Never returns: the program runs, or the reason was told to whoever waited for it.
pub fn run(launch: &mut Launch<'_>) -> ! {
    let prepared = guarded(|| prepare(launch));
    let waiting = match prepared {
        Ok(waiting) => waiting,
        Err(failure) => fail(&launch.channel, failure),
    };
    let starter = match wait(launch) {
        Ok(starter) => starter,
        Err(_) => sys::exit_now(125),
    };
    if let Err(failure) = guarded(|| run_hooks(launch, &launch.config.hooks.start_container, "created")) {
        // As of any other failure.
        let _ = starter.send(&FromInside::Refused(failure), &[]);
        sys::exit_now(125);
    }
    let Err(failure) = guarded(|| execute(launch, &waiting, &starter));
    fail(&starter, failure)
}

fn guarded<T>(step: impl FnOnce() -> Result<T, StartFailure>) -> Result<T, StartFailure> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(step))
        .unwrap_or_else(|_| Err(StartFailure::new(FailureKind::Other, "the container's first process panicked")))
}

pub fn fail(channel: &Channel, failure: StartFailure) -> ! {
    let code = failure.exit_code();
    // If nobody listens, nobody needs to know.
    let _ = channel.send(&FromInside::Failed(failure), &[]);
    sys::exit_now(code)
}

fn prepare(launch: &mut Launch<'_>) -> Result<Waiting, StartFailure> {
    let config = launch.config;
    enter_cgroups(std::mem::take(&mut launch.tasks))?;
    if config.namespaces.needs_two_steps() {
        step_in_between(launch)?;
    } else {
        config.namespaces.join()?;
        map_ids(launch)?;
    }
    if config.namespaces.new_cgroup {
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|e| other("make a cgroup namespace", e.into_rustix()))?;
    }
    // A shell that has the caller's terminal is in another session.
    rustix::process::setsid().map_err(|e| other("start a session", e))?;
    if let Some(name) = &launch.keyring {
        join_keyring(name)?;
    }
    rustix::process::umask(Mode::empty());
    let labels = config.process.as_ref().map_or(&Labels::default(), |plan| &plan.labels).open(&launch.proc)?;
    name_host(config)?;
    let own = mounts::attach(config, &launch.prepared)?;
    let root = &launch.prepared.root;
    // What it is now, whatever its path was called: in somebody else's directory nothing is made nor taken away.
    let has_dev = !config.foreign_dev && own.has_dev(root)?;
    if has_dev {
        match &launch.nodes {
            Some(nodes) => devices::mount(root, nodes, &config.devices, &own)?,
            None => devices::make(root, &config.devices, &own)?,
        }
        devices::links(root)?;
    }
    // Hooks are programs like others.
    rustix::process::umask(HOOKS_UMASK);
    ask(&launch.channel, &FromInside::Mounted)?;
    // After the hooks of the runtime's side, which may have brought a network along.
    sysctl::apply(&config.settings)?;
    run_hooks(launch, &config.hooks.create_container, "creating")?;
    paths::make_read_only(root, &config.read_only_paths)?;
    paths::mask(root, &config.masked)?;
    match launch.pivot {
        true => rootfs::pivot(root)?,
        false => move_root(root)?,
    }
    let propagation = config.propagation.flag;
    if propagation != libc::MS_PRIVATE {
        set_root(root, Attributes { propagation, ..Attributes::default() }, config.propagation.recursive)?;
    }
    match &config.process {
        Some(plan) => ready(launch, plan, labels, own, has_dev),
        None => {
            own.seal()?;
            let read_only = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
            if config.read_only {
                set_root(root, read_only, false)?;
            }
            leave(launch, &labels)?;
            tell_ready(launch)?;
            Ok(Waiting { env: Vec::new(), labels })
        }
    }
}

fn ready(
    launch: &Launch<'_>,
    plan: &Plan,
    labels: Opened,
    own: Own,
    as_console: bool,
) -> Result<Waiting, StartFailure> {
    let (config, root) = (launch.config, &launch.prepared.root);
    let user = inside::user(plan);
    let env = inside::environment(plan, &user);
    exec::enter_directory(root, &plan.cwd, &user)?;
    if plan.terminal {
        inside::open_terminal(root, plan, &user, launch.console.as_ref(), &launch.channel, as_console)?;
    } else {
        inside::give_streams(&user);
    }
    own.seal()?;
    if config.read_only {
        set_root(root, Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() }, false)?;
    }
    leave(launch, &labels)?;
    inside::settle(plan, &env, config.personality, config.seccomp.as_ref(), &launch.channel)?;
    tell_ready(launch)?;
    Ok(Waiting { env, labels })
}

/// Nothing of the host's stays open while the program is looked for, nor while it waits, perhaps for days.
fn leave(launch: &Launch<'_>, labels: &Opened) -> Result<(), StartFailure> {
    let kept = labels.descriptors().map(AsRawFd::as_raw_fd);
    let kept: Vec<i32> = kept.chain([launch.listener.as_raw_fd(), launch.channel.as_fd().as_raw_fd()]).collect();
    // SAFETY: every other owner is a local of a caller that is never returned to, or part of `launch`, of which nothing is used from
    // here on but what is kept.
    unsafe { sys::close_all_but(3 + launch.preserved as i32, &kept) }
        .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot close descriptors: {e}")))
}

fn tell_ready(launch: &Launch<'_>) -> Result<(), StartFailure> {
    sys::end_on_request().map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot take signals: {e}")))?;
    launch.channel.send(&FromInside::Ready, &[]).map_err(lost)
}

/// Until somebody who connects says so; one who goes away again does not count.
fn wait(launch: &mut Launch<'_>) -> std::io::Result<Channel> {
    // Its other end is how the creator sees that this has died.
    let (_, unused) = Channel::pair()?;
    drop(std::mem::replace(&mut launch.channel, unused));
    loop {
        let connection = match accept_with(&launch.listener, SocketFlags::CLOEXEC) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
            other => Channel::from_fd(other?),
        };
        if let Ok(Some((ToInside::Go, _))) = connection.receive() {
            return Ok(connection);
        }
    }
}

fn execute(launch: &Launch<'_>, waiting: &Waiting, starter: &Channel) -> Result<Infallible, StartFailure> {
    let config = launch.config;
    let none = || StartFailure::new(FailureKind::NotFound, "config.json has no process");
    let plan = config.process.as_ref().ok_or_else(none)?;
    inside::execute(plan, &waiting.env, &waiting.labels, config.seccomp.as_ref(), launch.preserved, starter)
}

/// The pid is the one that hooks in the container see.
fn run_hooks(launch: &Launch<'_>, list: &[hooks::Hook], status: &str) -> Result<(), StartFailure> {
    if list.is_empty() {
        return Ok(());
    }
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    hooks::run(list, &launch.description.state(status, pid))
        .map_err(|error| StartFailure::new(FailureKind::Other, error.chain()))
}

fn map_ids(launch: &Launch<'_>) -> Result<(), StartFailure> {
    if launch.config.namespaces.mappings.is_some() {
        ask(&launch.channel, &FromInside::Ids)?;
        privileges::become_root()?;
    }
    Ok(())
}

/// Enters and makes what is only for the processes that come after, and goes on as one of them: a sibling, so that whoever creates the
/// container is its parent.
fn step_in_between(launch: &Launch<'_>) -> Result<(), StartFailure> {
    let namespaces = &launch.config.namespaces;
    namespaces.join()?;
    let (user, others) = (namespaces.new & CloneFlags::CLONE_NEWUSER, namespaces.new - CloneFlags::CLONE_NEWUSER);
    unshare(user).map_err(|e| other("make a user namespace", e.into_rustix()))?;
    map_ids(launch)?;
    if namespaces.joined.iter().any(|joined| joined.kind == CloneFlags::CLONE_NEWUSER) {
        privileges::become_root()?;
    }
    unshare(others).map_err(|e| other("make the namespaces", e.into_rustix()))?;
    if !namespaces.time_offsets.is_empty() {
        ask(&launch.channel, &FromInside::Clocks)?;
    }
    // SAFETY: this process is a copy of the creator's one thread.
    let side = unsafe { sys::clone3_sibling() }.map_err(|e| {
        StartFailure::new(FailureKind::Other, format!("cannot clone the container's first process: {e}"))
    })?;
    if let sys::Side::Parent(cloned) = side {
        let told = launch.channel.send(&FromInside::Cloned { pid: cloned.pid }, &[cloned.pidfd.as_fd()]);
        sys::exit_now(if told.is_ok() { 0 } else { 125 });
    }
    super::talk::expect_go(&launch.channel)
}

pub fn join_keyring(name: &CString) -> Result<(), StartFailure> {
    match sys::join_session_keyring(name) {
        // A kernel without keyrings has none to keep from the container.
        Err(e) if e.raw_os_error() != Some(libc::ENOSYS) => {
            let why = format!("cannot make a session keyring (--no-new-keyring goes without): {e}");
            Err(StartFailure::new(FailureKind::Other, why))
        }
        _ => Ok(()),
    }
}

fn name_host(config: &Config) -> Result<(), StartFailure> {
    if let Some(name) = &config.hostname {
        rustix::system::sethostname(name.as_bytes()).map_err(|e| other("set the host name", e))?;
    }
    if let Some(name) = &config.domainname {
        rustix::system::setdomainname(name.as_bytes()).map_err(|e| other("set the domain name", e))?;
    }
    if config.namespaces.new.contains(CloneFlags::CLONE_NEWNET) {
        sys::loopback_up()
            .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot bring loopback up: {e}")))?;
    }
    Ok(())
}

/// `--no-pivot`, for hosts whose root is a ramfs.
fn move_root(root: &OwnedFd) -> Result<(), StartFailure> {
    let moved = || {
        rustix::process::fchdir(root)?;
        rustix::mount::mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")
    };
    moved().map_err(|e| other("move the root into place", e))
}

fn set_root(root: &OwnedFd, attributes: Attributes, recursive: bool) -> Result<(), StartFailure> {
    sys::change_mount(root.as_fd(), attributes, None, recursive)
        .map_err(|e| StartFailure::new(FailureKind::Mount, format!("cannot set what the root is mounted as: {e}")))
}
