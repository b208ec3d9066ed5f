//! From a specification to another program in a container that runs: a helper enters its namespaces and clones the program's process
//! as its own sibling there, so that the shim is the parent. Refuses to bring anything of the host's along.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};

use super::channel::{Channel, FromInit};
use super::exec_spec::ExecSpec;
use super::init::{self, Stdio, lost, other};
use super::launch::{self, failed};
use super::protocol::{FailureKind, StartFailure};
use super::spec::Spec;
use super::streams::Streams;
use super::{exec, privileges, sys, user};
use crate::mutation::{self, Control};

/// A helper that has been cloned, and what it will tell.
pub struct Entering {
    pub pid: i32,
    pub helper: OwnedFd,
    pub channel: Channel,
    pub streams: Streams,
}

/// Where everything of the container's is, but for its users.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWCGROUP);

pub fn clone_helper(spec: &Spec, wanted: &ExecSpec, init: &OwnedFd) -> Result<Entering, StartFailure> {
    let (channel, own_channel) = Channel::pair().map_err(|e| failed("make the channel to a helper", e))?;
    let (stdio, streams) = launch::pipes(spec.id_base, wanted.stdin)?;
    let (cgroup, tasks) = launch::open_cgroups(&spec.place())?;
    let init = init.try_clone().map_err(|e| failed("copy a descriptor", e))?;
    // SAFETY: the shim starts no thread, ever.
    match unsafe { sys::clone3(0, Some(cgroup.as_fd())) } {
        Ok(sys::Side::Child) => run(spec, wanted, stdio, tasks, init, own_channel),
        Ok(sys::Side::Parent(cloned)) => Ok(Entering { pid: cloned.pid, helper: cloned.pidfd, channel, streams }),
        Err(source) => Err(failed("clone a helper", source)),
    }
}

/// Never returns, in either of the two processes that it is run by.
fn run(spec: &Spec, wanted: &ExecSpec, stdio: Stdio, tasks: Vec<OwnedFd>, init: OwnedFd, channel: Channel) -> ! {
    // Before it is anywhere near the container: nobody there may look into a process that has seen the host.
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| other("hide from the container", e));
    let entered = hidden.and_then(|()| init::enter_cgroups(tasks));
    let has_stdin = stdio.stdin.is_some();
    let Ok((channel, init)) = init::keep_only_with(stdio, channel, init) else { sys::exit_now(125) };
    let outcome = std::panic::catch_unwind(|| {
        entered?;
        match join(spec, init, &channel)? {
            sys::Side::Parent(_) => Ok(None),
            sys::Side::Child => start(spec, wanted, has_stdin, &channel).map(Some),
        }
    });
    let failure = match outcome {
        Ok(Ok(None)) => sys::exit_now(0),
        Ok(Ok(Some(never))) => match never {},
        Ok(Err(failure)) => failure,
        Err(_) => StartFailure::new(FailureKind::Other, "a helper panicked; its last words are in the output"),
    };
    let code = failure.exit_code();
    // If nobody listens, nobody needs to know.
    let _ = channel.send(&FromInit::Failed(failure), &[]);
    sys::exit_now(code)
}

/// The helper stays in the host's process namespace: only what it clones is in the container's.
fn join(spec: &Spec, init: OwnedFd, channel: &Channel) -> Result<sys::Side, StartFailure> {
    // Nobody can enter the user namespace that he is in.
    let users = if spec.host_users { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    setns(init, NAMESPACES | users).map_err(|e| {
        let gone = "cannot enter the container; has it ended?";
        StartFailure::new(FailureKind::Other, format!("{gone} ({e})"))
    })?;
    // SAFETY: the helper is a copy of the shim's one thread.
    let side = unsafe { sys::clone3_sibling() }.map_err(|e| failed("clone a process in the container", e))?;
    if let sys::Side::Parent(cloned) = &side {
        channel.send(&FromInit::Joined { pid: cloned.pid }, &[cloned.pidfd.as_fd()]).map_err(lost)?;
    }
    Ok(side)
}

fn start(
    spec: &Spec,
    wanted: &ExecSpec,
    has_stdin: bool,
    channel: &Channel,
) -> Result<std::convert::Infallible, StartFailure> {
    // Whoever lost its shim has lost its output, too. Before and after the change of ids, which clears it.
    let tie = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|e| other("tie a process to its shim", e))
    };
    tie()?;
    // When the shim knows of this process: it would be nobody's to reap.
    init::expect_go(channel)?;
    rustix::process::umask(Mode::empty());
    privileges::become_root()?;
    if mutation::off(Control::Undumpable) {
        // With the change of user namespace the kernel has hidden it once more.
        set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(|e| other("show itself to the container", e))?;
    }
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| other("open the container's root", e))?;
    let user = if wanted.user.is_empty() { &spec.user } else { &wanted.user };
    let user = user::resolve_here(user, spec.id_count).map_err(init::bad_user)?;
    let cwd = if wanted.cwd.is_empty() { &spec.cwd } else { &wanted.cwd };
    exec::enter_existing(&root, cwd)?;
    rustix::process::setsid().map_err(|e| other("start a session", e))?;
    init::standard_streams(has_stdin, &user)?;
    if let Some(size) = wanted.terminal {
        init::terminal(&root, &user, size, channel)?;
    }
    privileges::limit(&spec.rlimits)?;
    if spec.host_users {
        privileges::own_keys(&spec.id)?;
    }
    privileges::drop_to(&user, privileges::capabilities(spec.capabilities))?;
    tie()?;
    let own = [&spec.env[..], &wanted.env[..]].concat();
    let given = if wanted.terminal.is_some() { init::with_term(&own) } else { own };
    let env = exec::environment(&given, &spec.hostname, &user.home);
    drop(root);
    exec::check_inside().map_err(|why| StartFailure::new(FailureKind::BadDir, why))?;
    init::execute(&wanted.args, &env, spec.seccomp.as_ref(), channel)
}
