//! `exec`: a further program in a container that runs. A process in between enters its namespaces and cgroup, and clones the program's there as its
//! sibling. Refuses to bring anything of the host's along, and to wait for a container that is paused.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::cgroup::Cgroup;
use super::create::{self, Process, check_console, hide, open_tasks, open_unified, write_pid};
use super::error::OciError;
use super::exec_plan::{self, Wanted};
use super::namespaces::IntoRustix;
use super::process::Plan;
use super::state::{Init, Record, Status, Store};
use super::talk::{self, FromInside};
use super::{init, inside, limits, lsm, relay};
use crate::shim::channel::Channel;
use crate::shim::filter::Filter;
use crate::shim::init::{enter_cgroups, lost, other};
use crate::shim::protocol::{FailureKind, StartFailure};
use crate::shim::{exec, privileges, sys};

#[derive(Debug)]
pub struct Options {
    pub id: String,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub preserved: u32,
    pub detach: bool,
}

/// What the program's process is told.
struct Entering {
    plan: Plan,
    filter: Option<Filter>,
    personality: Option<u64>,
    init: OwnedFd,
    namespaces: CloneFlags,
    tasks: Vec<OwnedFd>,
    proc: OwnedFd,
    console: Option<OwnedFd>,
    keyring: Option<CString>,
    preserved: u32,
    channel: Channel,
}

const NAMESPACES: [(&str, CloneFlags); 8] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("time", CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)),
];

pub fn exec(store: &Store, options: &Options, wanted: &Wanted) -> Result<Process, OciError> {
    let (dir, record) = store.read(&options.id)?;
    let status = record.status();
    if !matches!(status, Status::Created | Status::Running) {
        return Err(OciError::Status { operation: "exec in", id: options.id.clone(), status: status.name() });
    }
    let (mut plan, filter, personality) = exec_plan::plan(&dir, wanted)?;
    check_console(plan.terminal, options.console_socket.is_some(), !options.detach)?;
    if !options.detach {
        plan.size = plan.size.or_else(relay::size_here);
    }
    let init = record.alive()?;
    let mut place = record.cgroup.clone();
    if place.unified.as_ref().is_some_and(|dir| !place.made.contains(dir)) {
        place.unified = below(&record.cgroup, init.pid)?;
    }
    let (channel, own) = Channel::pair().map_err(|e| OciError::step("make the channel to a process", e))?;
    let mut entering = Entering {
        plan,
        filter,
        personality,
        init: open(init, &record)?,
        namespaces: others(init.pid)?,
        tasks: open_tasks(&place)?,
        proc: lsm::proc()?,
        console: options.console_socket.as_deref().map(talk::console).transpose()?,
        keyring: create::keyring(&record),
        preserved: options.preserved,
        channel: own,
    };
    if let Some(cpus) = &entering.plan.affinity.0 {
        sched_setaffinity(None, &set(cpus)).map_err(|e| OciError::step("set process.execCPUAffinity.initial", e))?;
    }
    let cgroup = open_unified(&place)?;
    hide()?;
    // SAFETY: cc-oci starts no thread, ever.
    let mut side = unsafe { sys::clone3(0, cgroup.as_ref().map(AsFd::as_fd)) };
    if matches!(&side, Err(e) if e.raw_os_error() == Some(libc::EBUSY)) {
        // The container has put its processes below, and given the controllers on.
        let found = below(&record.cgroup, init.pid)?;
        let made = found.iter().cloned().collect();
        let below = open_unified(&Cgroup { unified: found, legacy: Vec::new(), made })?;
        // SAFETY: as above.
        side = unsafe { sys::clone3(0, below.as_ref().map(AsFd::as_fd)) };
    }
    let cloned = match side.map_err(|e| OciError::step("clone a process into the container's cgroup", e))? {
        sys::Side::Child => {
            drop(channel);
            run(&mut entering)
        }
        sys::Side::Parent(cloned) => cloned,
    };
    let plan = entering.plan.clone();
    // With its end of the channel: how its silence is heard.
    drop(entering);
    let mut process = Process { pid: cloned.pid, pidfd: cloned.pidfd, terminal: None };
    let done = accompany(&channel, &plan, &mut process).and_then(|()| match &options.pid_file {
        Some(path) => write_pid(path, process.pid),
        None => Ok(()),
    });
    if let Err(error) = done {
        let _ = sys::pidfd_send_signal(process.pidfd.as_fd(), libc::SIGKILL);
        let _ = waitpid(Pid::from_raw(process.pid), WaitOptions::empty());
        return Err(error);
    }
    Ok(process)
}

/// Where in its v2 cgroup a container's first process is.
fn below(cgroup: &Cgroup, pid: i32) -> Result<Option<PathBuf>, OciError> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = std::fs::read_to_string(&path).map_err(|source| OciError::File { operation: "read", path, source })?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let (Some(own), Some(top)) = (own, &cgroup.unified) else { return Ok(None) };
    Ok(top.ancestors().map(|above| above.join(own)).find(|dir| dir.starts_with(top) && dir.is_dir()))
}

fn open(init: Init, record: &Record) -> Result<OwnedFd, OciError> {
    let pid = Pid::from_raw(init.pid);
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Asked once more now that its number cannot change hands.
    record.alive()?;
    pidfd.ok_or_else(|| OciError::NotRunning { id: record.id.clone(), status: Status::Stopped.name() })
}

/// Those of its namespaces that are not this process's: the kernel refuses to enter one's own user namespace again.
fn others(pid: i32) -> Result<CloneFlags, OciError> {
    let mut flags = CloneFlags::empty();
    for (name, flag) in NAMESPACES {
        let inode = |whose: &str| {
            let path = Path::new("/proc").join(whose).join("ns").join(name);
            std::fs::metadata(&path).map(|found| found.ino()).map_err(|source| OciError::File {
                operation: "look at",
                path,
                source,
            })
        };
        if inode("self")? != inode(&pid.to_string())? {
            flags |= flag;
        }
    }
    Ok(flags)
}

fn set(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    set
}

fn accompany(channel: &Channel, plan: &Plan, process: &mut Process) -> Result<(), OciError> {
    let mut executing = false;
    loop {
        let received = channel.receive().map_err(|e| OciError::step("hear of the program's process", e))?;
        let Some((message, mut descriptors)) = received else {
            return if executing { Ok(()) } else { Err(talk::silence("the program's process")) };
        };
        match message {
            FromInside::Cloned { pid } => {
                let Some(pidfd) = descriptors.pop() else { return Err(talk::silence("a process in between")) };
                let _ = waitpid(Pid::from_raw(process.pid), WaitOptions::empty());
                (process.pid, process.pidfd) = (pid, pidfd);
                if let Some(adj) = plan.oom_score_adj {
                    limits::set_oom_score(pid, adj)?;
                }
                talk::go(channel)?;
            }
            FromInside::Terminal => process.terminal = descriptors.pop(),
            FromInside::Limits => {
                limits::apply(plan, process.pid)?;
                talk::go(channel)?;
            }
            FromInside::Executing => executing = true,
            FromInside::Failed(failure) | FromInside::Refused(failure) => return Err(failure.into()),
            FromInside::Ids | FromInside::Clocks | FromInside::Mounted | FromInside::Ready => {}
        }
    }
}

/// Never returns, in either of the two processes that it is run by.
fn run(entering: &mut Entering) -> ! {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        enter_cgroups(std::mem::take(&mut entering.tasks))?;
        keep(entering, [&entering.init, &entering.proc])?;
        match join(entering)? {
            sys::Side::Parent(_) => sys::exit_now(0),
            sys::Side::Child => start(entering),
        }
    }));
    let failure = match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(failure)) => failure,
        Err(_) => StartFailure::new(FailureKind::Other, "the program's process panicked"),
    };
    init::fail(&entering.channel, failure)
}

/// Closes all but the channel, the console and these.
fn keep<'a>(entering: &'a Entering, others: impl IntoIterator<Item = &'a OwnedFd>) -> Result<(), StartFailure> {
    let kept = others.into_iter().chain(&entering.console).map(AsRawFd::as_raw_fd);
    let kept: Vec<i32> = kept.chain([entering.channel.as_fd().as_raw_fd()]).collect();
    // SAFETY: every other owner is part of `entering`, of which nothing is used any more but what is kept, or a local of a caller that is
    // never returned to.
    unsafe { sys::close_all_but(3 + entering.preserved as i32, &kept) }
        .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot close descriptors: {e}")))
}

fn join(entering: &Entering) -> Result<sys::Side, StartFailure> {
    setns(&entering.init, entering.namespaces)
        .map_err(|e| other("enter the container (has it ended?)", e.into_rustix()))?;
    // SAFETY: this process is a copy of cc-oci's one thread.
    let side = unsafe { sys::clone3_sibling() }
        .map_err(|e| StartFailure::new(FailureKind::Other, format!("cannot clone a process in the container: {e}")))?;
    if let sys::Side::Parent(cloned) = &side {
        entering.channel.send(&FromInside::Cloned { pid: cloned.pid }, &[cloned.pidfd.as_fd()]).map_err(lost)?;
    }
    Ok(side)
}

fn start(entering: &Entering) -> Result<Infallible, StartFailure> {
    let Entering { plan, channel, .. } = entering;
    // When its creator knows of it: it would be nobody's to reap.
    talk::expect_go(channel)?;
    if entering.namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        privileges::become_root()?;
    }
    rustix::process::setsid().map_err(|e| other("start a session", e))?;
    if let Some(name) = &entering.keyring {
        init::join_keyring(name)?;
    }
    rustix::process::umask(Mode::empty());
    let labels = plan.labels.open(&entering.proc)?;
    // A program is looked for by the container's own PATH, which may name descriptors: nothing is open by which the host could be reached.
    keep(entering, labels.descriptors())?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| other("open the container's root", e))?;
    let user = inside::user(plan);
    let env = inside::environment(plan, &user);
    exec::enter_existing(&root, &plan.cwd)?;
    if plan.terminal {
        inside::open_terminal(&root, plan, &user, entering.console.as_ref(), channel, false)?;
    } else {
        inside::give_streams(&user);
    }
    if let Some(cpus) = &plan.affinity.1 {
        sched_setaffinity(None, &set(cpus)).map_err(|e| other("set process.execCPUAffinity.final", e))?;
    }
    let filter = entering.filter.as_ref();
    inside::settle(plan, &env, entering.personality, filter, channel)?;
    inside::execute(plan, &env, &labels, filter, entering.preserved, channel)
}
