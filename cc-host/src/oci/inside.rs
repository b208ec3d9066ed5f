//! What a container's first process and a further program have in common: their terminal, their user, and the last steps before `execve`.
//! Refuses to return from there.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::credentials;
use super::limits;
use super::lsm::Opened;
use super::process::Plan;
use super::talk::{FromInside, ask, send_terminal};
use crate::shim::channel::Channel;
use crate::shim::filter::Filter;
use crate::shim::init::{lost, other, restore_signals};
use crate::shim::protocol::{FailureKind, StartFailure};
use crate::shim::rootfs::{attach_at, clone_of, directory, file};
use crate::shim::terminal;
use crate::shim::user::{self, User};
use crate::shim::{exec, sys};

/// The program's, with the home that the container's /etc/passwd names.
pub fn user(plan: &Plan) -> User {
    let home = user::resolve_here(&plan.uid.to_string(), u32::MAX).map_or_else(|_| "/".to_owned(), |found| found.home);
    User { uid: plan.uid, gid: plan.gid, groups: plan.groups.clone(), home }
}

/// As given; HOME is added where it is missing, as runc does it.
pub fn environment(plan: &Plan, user: &User) -> Vec<String> {
    let mut env = plan.env.clone();
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// Its session's, and /dev/console if that is wanted. The other end goes to the console socket, or to whoever started this.
pub fn open_terminal(
    root: &OwnedFd,
    plan: &Plan,
    user: &User,
    console: Option<&OwnedFd>,
    channel: &Channel,
    as_console: bool,
) -> Result<(), StartFailure> {
    let (master, slave) = terminal::open(root)?;
    terminal::resize(&master, plan.size.unwrap_or_default()).map_err(|e| other("set the size of a terminal", e))?;
    if as_console {
        // A link of the image's would have the terminal mounted over what it leads to, before that is masked.
        let dev = directory(root, "/dev")?;
        let is_link = rustix::fs::statat(&dev, "console", AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        if is_link {
            let removed = rustix::fs::unlinkat(&dev, "console", AtFlags::empty());
            removed.map_err(|e| other("remove the link at /dev/console", e))?;
        }
        attach_at(&clone_of(slave.as_fd(), false)?, &file(root, "/dev/console")?, "/dev/console")?;
    }
    let name = rustix::pty::ptsname(&master, Vec::new()).map_err(|e| other("name a terminal", e))?;
    match console {
        Some(console) => send_terminal(console, master.as_fd(), name.as_bytes())
            .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot send the terminal away: {e}")))?,
        None => channel.send(&FromInside::Terminal, &[master.as_fd()]).map_err(lost)?,
    }
    terminal::take(slave, user)
}

/// The program may reopen its streams by name, so they belong to it, where they can be given away.
pub fn give_streams(user: &User) {
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let Ok(stat) = rustix::fs::fstat(stream) else { continue };
        // Pipes and sockets alone: a file or a device is somebody's.
        if matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo | FileType::Socket) {
            let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(user.uid)), None::<Gid>);
        }
    }
}

/// What can be done before the program is waited for.
pub fn settle(
    plan: &Plan,
    env: &[String],
    personality: Option<u64>,
    filter: Option<&Filter>,
    channel: &Channel,
) -> Result<(), StartFailure> {
    ask(channel, &FromInside::Limits)?;
    limits::check(plan)?;
    if let Some(persona) = personality {
        sys::set_personality(persona)
            .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot set the personality: {e}")))?;
    }
    credentials::drop_to(plan, filter)?;
    // Where the host lets programs that changed their user be looked into, this one still may not be.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| other("hide from the container", e))?;
    exec::check_inside().map_err(|why| StartFailure::new(FailureKind::BadDir, why))?;
    exec::find(&plan.args, env)
}

/// From the last that is this program's to the other.
pub fn execute(
    plan: &Plan,
    env: &[String],
    labels: &Opened,
    filter: Option<&Filter>,
    preserved: u32,
    channel: &Channel,
) -> Result<Infallible, StartFailure> {
    restore_signals()?;
    rustix::process::umask(Mode::from_raw_mode(plan.umask));
    labels.write()?;
    sys::close_on_exec_from(3 + preserved)
        .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot close descriptors: {e}")))?;
    exec::check_inside().map_err(|why| StartFailure::new(FailureKind::BadDir, why))?;
    channel.send(&FromInside::Executing, &[]).map_err(lost)?;
    credentials::finish(plan, filter)?;
    exec::execute(&plan.args, env, filter.filter(|_| plan.no_new_privileges))
}
