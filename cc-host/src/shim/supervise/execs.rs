//! The supervisor's side of further programs in its container: each has a connection of its own, or has lost it. Refuses to keep one that
//! has ended, however long somebody it left behind holds its streams.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::wait::{self, WaitPidFlag, WaitStatus};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::tend::ended;
use super::{Phase, Supervisor};
use crate::mutation::{self, Control};
use crate::shim::channel::{Channel, FromInit, ToInit};
use crate::shim::enter::{self, Entering};
use crate::shim::exec_spec::ExecSpec;
use crate::shim::protocol::{FailureKind, Kind, Report, Request, StartFailure};
use crate::shim::record::ExitRecord;
use crate::shim::streams::{OUTPUTS, Streams};
use crate::shim::sys;
use crate::shim::terminal::Size;

/// At a time. The container's own limit of processes is another one, and may come first.
const EXECS_MAX: usize = 256;
/// What is still read of a program that has ended: more than a full pipe, and an end to what somebody else writes into it.
const LAST_CHUNKS_MAX: usize = 64;
/// Whoever is there in a millisecond.
const SIGNALS_WAITING_MAX: usize = 16;

/// What a polled descriptor of one is.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Helper,
    Process,
    Channel,
    Stdin,
    Output(usize),
}

pub(super) struct Exec {
    /// Absent once it was lost.
    client: Option<u64>,
    helper: Option<OwnedFd>,
    process: Option<OwnedFd>,
    pids: Vec<i32>,
    channel: Option<Channel>,
    pub(super) streams: Streams,
    size: Size,
    detached: bool,
    bound: bool,
    executing: bool,
    /// A signal came before there was anybody to get it.
    wanted_signals: Vec<i32>,
    failure: Option<StartFailure>,
    record: Option<ExitRecord>,
}

impl Supervisor<'_> {
    pub(super) fn exec_of(&self, client: u64) -> Option<&Exec> {
        self.execs.iter().find(|exec| exec.client == Some(client))
    }

    pub(super) fn exec_of_mut(&mut self, client: u64) -> Option<&mut Exec> {
        self.execs.iter_mut().find(|exec| exec.client == Some(client))
    }

    pub(super) fn exec(&mut self, index: usize, file: &str) {
        // In any case the file goes.
        let taken = ExecSpec::take(self.dir, file);
        let begun = taken.map_err(|error| StartFailure::new(FailureKind::Other, error.to_string()));
        let begun = begun.and_then(|wanted| {
            let entering = self.begin(&wanted)?;
            Ok((wanted, entering))
        });
        match begun {
            Ok((wanted, Entering { pid, helper, channel, streams })) => {
                let client = &mut self.clients[index];
                client.has_exec = true;
                self.execs.push(Exec {
                    client: Some(client.id),
                    helper: Some(helper),
                    process: None,
                    pids: vec![pid],
                    channel: Some(channel),
                    streams,
                    size: wanted.terminal.unwrap_or_default(),
                    detached: wanted.detach,
                    bound: wanted.bound,
                    executing: false,
                    wanted_signals: Vec::new(),
                    failure: None,
                    record: None,
                });
            }
            Err(failure) => self.clients[index].message(&Report::StartFailed { failure }),
        }
    }

    fn begin(&self, wanted: &ExecSpec) -> Result<Entering, StartFailure> {
        let refused = |why: &str| StartFailure::new(FailureKind::Other, why);
        let init = match (&self.phase, &self.init) {
            (Phase::Running, Some(init)) if !init.reaped => &init.pidfd,
            _ => return Err(refused("the container does not run")),
        };
        if self.execs.len() >= EXECS_MAX {
            return Err(refused("too many programs were started in this container and have not ended"));
        }
        let spec = self.spec.as_ref().ok_or_else(|| refused("the container does not run"))?;
        enter::clone_helper(spec, wanted, init)
    }

    /// Children that nobody here knows of: cloned by a helper that was killed before it said so. As long as one is not reaped, the kernel
    /// does not let the container's first process end.
    pub(super) fn reap_strangers(&mut self) {
        // Of those that are on their way it is not known yet who they are.
        if mutation::off(Control::ExecsReaped)
            || !self.strangers
            || self.execs.iter().any(|exec| exec.channel.is_some())
        {
            return;
        }
        self.strangers = false;
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) = wait::waitid(wait::Id::All, look) {
            let is_known = self.init.as_ref().is_some_and(|init| init.pid == pid.as_raw() && !init.reaped)
                || self.execs.iter().any(|exec| exec.pids.contains(&pid.as_raw()));
            if is_known {
                // Its own descriptor tells of it; who is behind it comes after.
                self.strangers = true;
                return;
            }
            let _ = wait::waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }

    /// What a client with a program of its own asks for.
    pub(super) fn answer_of_exec(&mut self, index: usize, request: &Request) -> Option<()> {
        let id = self.clients[index].id;
        let Some(exec) = self.exec_of_mut(id) else {
            // It has ended; its client has not heard yet.
            if matches!(request, Request::Signal { .. }) {
                self.clients[index].message(&Report::Signalled { delivered: false });
            }
            return Some(());
        };
        match request {
            Request::StdinEof => exec.streams.end_input(),
            Request::Resize { size } => {
                exec.size = *size;
                exec.streams.resize(*size);
            }
            Request::Signal { signal } => {
                let delivered = exec.signal(*signal);
                self.clients[index].message(&Report::Signalled { delivered });
            }
            _ => return None,
        }
        Some(())
    }

    pub(super) fn lose_client_of_exec(&mut self, client: u64) {
        if let Some(exec) = self.exec_of_mut(client) {
            exec.client = None;
            match exec.detached {
                true => exec.streams.end_input(),
                false => exec.streams.hang_up(),
            }
            if exec.bound {
                exec.signal(libc::SIGKILL);
            }
        }
    }

    pub(super) fn poll_execs<'s>(&'s self, fds: &mut Vec<(super::Source, PollFd<'s>)>) {
        for (index, exec) in self.execs.iter().enumerate() {
            let mut add = |source, fd: &'s OwnedFd, flags| {
                fds.push((super::Source::Exec(index, source), PollFd::new(fd, flags)));
            };
            if let Some(helper) = &exec.helper {
                add(Source::Helper, helper, PollFlags::IN);
            }
            if let Some(process) = exec.process.as_ref().filter(|_| exec.record.is_none()) {
                add(Source::Process, process, PollFlags::IN);
            }
            if let Some(stdin) = exec.streams.waiting_input() {
                add(Source::Stdin, stdin, PollFlags::OUT);
            }
            let client = exec.client.and_then(|id| self.clients.iter().find(|client| client.id == id));
            // Not before it is said that it runs: what it writes comes after that.
            if exec.channel.is_none() && client.is_none_or(|client| client.has_room()) {
                for output in 0..OUTPUTS {
                    if let Some(fd) = exec.streams.output(output) {
                        add(Source::Output(output), fd, PollFlags::IN);
                    }
                }
            }
            if let Some(channel) = &exec.channel {
                let channel = PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN);
                fds.push((super::Source::Exec(index, Source::Channel), channel));
            }
        }
    }

    pub(super) fn handle_exec(&mut self, index: usize, source: Source) {
        let exec = &mut self.execs[index];
        match source {
            Source::Helper => {
                if exec.helper.as_ref().is_some_and(|helper| reap(helper).is_some()) {
                    exec.helper = None;
                    exec.without_helper();
                }
            }
            Source::Process => exec.record = exec.process.as_ref().and_then(reap),
            Source::Channel => {
                if exec.hear() {
                    self.tell_exec(index, &Report::Started);
                }
            }
            Source::Stdin => exec.streams.feed(),
            Source::Output(output) => {
                self.forward_exec(index, output);
            }
        }
    }

    /// False if there was nothing.
    fn forward_exec(&mut self, index: usize, output: usize) -> bool {
        let exec = &mut self.execs[index];
        let Some(bytes) = exec.streams.read(output) else { return false };
        let kind = if output == 0 { Kind::Stdout } else { Kind::Stderr };
        // Without a client it is read all the same, so that the program need not wait for nobody.
        let id = exec.client;
        if let Some(client) = self.clients.iter_mut().find(|client| Some(client.id) == id) {
            client.output(kind, &bytes);
        }
        true
    }

    fn tell_exec(&mut self, index: usize, report: &Report) {
        let id = self.execs[index].client;
        if let Some(client) = self.clients.iter_mut().find(|client| Some(client.id) == id) {
            client.message(report);
        }
    }

    /// Says the last words of those that have ended: what they wrote, and how it was.
    pub(super) fn conclude_execs(&mut self) {
        for index in (0..self.execs.len()).rev() {
            if !self.execs[index].is_over() {
                continue;
            }
            let ran = self.execs[index].failure.is_none();
            for output in (0..OUTPUTS).filter(|_| ran) {
                for _ in 0..LAST_CHUNKS_MAX {
                    if !self.forward_exec(index, output) {
                        break;
                    }
                }
            }
            let report = match (&self.execs[index].failure, &self.execs[index].record) {
                (Some(failure), _) => Report::StartFailed { failure: failure.clone() },
                (None, Some(record)) => Report::Exited { record: record.clone() },
                (None, None) => {
                    let why =
                        "the program's process was lost before it ran; was the container's memory limit too small?";
                    Report::StartFailed { failure: StartFailure::new(FailureKind::Other, why) }
                }
            };
            self.tell_exec(index, &report);
            self.execs.swap_remove(index);
        }
    }
}

impl Exec {
    /// Every process of it is reaped, and nothing more is heard.
    fn is_over(&self) -> bool {
        self.helper.is_none() && self.channel.is_none() && (self.process.is_none() || self.record.is_some())
    }

    /// True at the moment from which on the program runs.
    fn hear(&mut self) -> bool {
        let Some(channel) = &self.channel else { return false };
        match channel.receive() {
            Ok(Some((FromInit::Joined { pid }, mut fds))) => {
                self.process = fds.pop();
                self.pids.push(pid);
                // Where it is gone, its end is seen by the pidfd.
                let _ = channel.send(&ToInit::Go, &[]);
                for signal in std::mem::take(&mut self.wanted_signals) {
                    self.signal(signal);
                }
            }
            Ok(Some((FromInit::Terminal, mut fds))) => {
                if let Some(master) = fds.pop() {
                    self.streams.set_terminal(master, self.size);
                    if self.client.is_none() && !self.detached {
                        self.streams.hang_up();
                    }
                }
            }
            Ok(Some((FromInit::Executing, _))) => self.executing = true,
            Ok(Some((FromInit::Failed(failure), _))) => self.failure = Some(failure),
            Ok(Some((FromInit::Ready | FromInit::Parked, _))) => {}
            // Both that had it are gone: the helper, and whoever has become the program.
            Ok(None) => {
                self.channel = None;
                return self.executing && self.failure.is_none() && self.process.is_some();
            }
            Err(error) => {
                let why = format!("cannot understand a helper: {error}");
                self.failure = Some(StartFailure::new(FailureKind::Other, why));
                self.signal(libc::SIGKILL);
                self.channel = None;
            }
        }
        false
    }

    /// The helper says last whom it has cloned. One that was killed before it said so has left somebody who waits for a word, and goes
    /// when none comes.
    fn without_helper(&mut self) {
        while self.process.is_none() && self.channel.as_ref().is_some_and(is_readable) {
            self.hear();
        }
        if self.process.is_none() {
            self.channel = None;
        }
    }

    fn signal(&mut self, signal: i32) -> bool {
        match &self.process {
            Some(process) if self.record.is_none() && self.bound => self.kill_group(process),
            Some(process) if self.record.is_none() => sys::pidfd_send_signal(process.as_fd(), signal).is_ok(),
            Some(_) => false,
            None if self.wanted_signals.len() < SIGNALS_WAITING_MAX => {
                self.wanted_signals.push(signal);
                true
            }
            None => false,
        }
    }

    /// A session of its own makes it the leader of a group of its number. Of a process that is not reaped yet the number is nobody else's.
    fn kill_group(&self, process: &OwnedFd) -> bool {
        let killed = sys::pidfd_send_signal(process.as_fd(), libc::SIGKILL).is_ok();
        if let Some(&pid) = self.pids.last().filter(|_| self.pids.len() > 1) {
            // Before it leads one, there is none.
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        killed
    }
}

fn is_readable(channel: &Channel) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready == 1)
}

fn reap(pidfd: &OwnedFd) -> Option<ExitRecord> {
    let left = if mutation::off(Control::ExecsReaped) { WaitIdOptions::NOWAIT } else { WaitIdOptions::empty() };
    match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | left) {
        Ok(Some(status)) => Some(ended(&status)),
        Ok(None) => None,
        // It is nobody's to reap: whatever it was, it is over.
        Err(_) => Some(ExitRecord::from_wait_status(libc::SIGKILL)),
    }
}
