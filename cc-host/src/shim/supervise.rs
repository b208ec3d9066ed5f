//! The shim's poll loop: connections on one side, init and its streams on the other. Refuses threads, and to end before the
//! container has.

mod execs;
mod talk;
mod tend;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::apart::{self, Which};
use super::client::Client;
use super::launch::{self, Launched};
use super::log::Log;
use super::own;
use super::place::{PLACE_FILE, Place};
use super::protocol::{FailureKind, Report, StartFailure};
use super::record::{self, ExitRecord, Process, SOCKET_FILE, STATE_FILE, StateRecord};
use super::spec::{SPEC_FILE, Spec};
use super::streams::{OUTPUTS, Streams};
use super::sys;
use crate::mutation::{self, Control};
use execs::Exec;

/// What `ps` shows of it.
const NAME: &std::ffi::CStr = c"cc-shim";
/// Each further program whose output somebody hears has one of them.
const CLIENTS_MAX: usize = 64;
/// Whoever made a container and has not started it must stay connected; a new one has this long to connect.
const FIRST_CLIENT: Duration = Duration::from_secs(10);
/// After the end of init, a client that takes nothing for this long is left behind: nobody else must wait for it for ever.
const LAST_WORDS: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("cannot load the specification")]
    Spec(#[from] super::spec::SpecError),
    #[error("cannot {step} in {dir}")]
    Directory { step: &'static str, dir: PathBuf, source: io::Error },
    #[error("cannot {step}")]
    Process { step: &'static str, source: io::Error },
}

/// Runs the container that `dir` describes, from its creation to its end. Where it describes a place, waits there for the container.
pub fn run(dir: &Path) -> Result<(), ShimError> {
    let place = dir.join(PLACE_FILE);
    if place.exists() {
        return run_in(dir, Place::load(&place)?, None);
    }
    let spec = Spec::load(&dir.join(SPEC_FILE))?;
    run_in(dir, spec.place(), Some(spec))
}

fn run_in(dir: &Path, place: Place, spec: Option<Spec>) -> Result<(), ShimError> {
    let in_dir = |step| move |source| ShimError::Directory { step, dir: dir.to_owned(), source };
    if place.host_users && !mutation::off(Control::OwnFileReadOnly) {
        own::protect(NAME).map_err(|source| ShimError::Process { step: "protect its own file", source })?;
    }
    if let Some(cgroup) = &place.cgroup_shim {
        let cloned = apart::clone_into(cgroup);
        match cloned.map_err(|source| ShimError::Process { step: "enter the cgroup of shims", source })? {
            Which::Spawned => return Ok(()),
            Which::Apart => {}
        }
    }
    // A session of its own: a terminal's signals are for the command that was typed there. It fails where we lead one already.
    let _ = rustix::process::setsid();
    let signals = block_signals().map_err(|source| ShimError::Process { step: "block signals", source })?;
    write_state(dir, None).map_err(in_dir("write the state"))?;
    let listener = listen(dir).map_err(in_dir("listen"))?;
    announce();
    let mut shim = Supervisor::new(dir, place, spec, listener, signals);
    match launch::clone_init(&shim.place, shim.spec.as_ref()) {
        Ok(init) => {
            write_state(dir, Process::of(init.pid)).map_err(in_dir("write the state"))?;
            shim.adopt(init);
        }
        Err(failure) => shim.fail(failure),
    }
    shim.serve()
}

/// Tells whoever started this program that it listens; nobody may be there.
fn announce() {
    let _ = rustix::io::write(rustix::stdio::stdout(), b"ready\n");
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = sys::dup_to_standard(null.as_fd(), 1);
    }
}

fn block_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGHUP);
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

fn write_state(dir: &Path, init: Option<Process>) -> io::Result<()> {
    let shim = Process::of(std::process::id() as i32).ok_or(io::ErrorKind::NotFound)?;
    record::write(dir, STATE_FILE, &StateRecord { boot_id: record::boot_id()?, shim, init }, false)
}

fn listen(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(SOCKET_FILE);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Where the container is on its way. The program's failure to start is an end, too.
enum Phase {
    /// Init prepares or waits; `wanted` once somebody has said start.
    Created {
        ready: bool,
        wanted: bool,
    },
    /// Init was told to go.
    Starting {
        executing: bool,
    },
    Running,
    /// Told to those who ask to start.
    Failed(StartFailure),
    Exited,
}

struct Init {
    pid: i32,
    pidfd: OwnedFd,
    channel: Option<super::channel::Channel>,
    streams: Streams,
    reaped: bool,
}

struct Supervisor<'a> {
    dir: &'a Path,
    place: Place,
    /// None as long as it is parked.
    spec: Option<Spec>,
    /// Of one that is parked: init has done all that it can without one.
    settled: bool,
    listener: UnixListener,
    signals: SignalFd,
    clients: Vec<Client>,
    clients_ever: u64,
    init: Option<Init>,
    execs: Vec<Exec>,
    /// A child has ended: it may be one that nobody here knows of.
    strangers: bool,
    phase: Phase,
    log: Option<Log>,
    /// What exit.json says.
    record: Option<ExitRecord>,
    /// All was said to all clients.
    finished: bool,
    had_client: bool,
    /// Somebody wanted the container to start, or to end: whoever made it has got as far as hearing how that went.
    asked: bool,
    born: Instant,
}

/// What a polled descriptor is.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Pidfd,
    Channel,
    Stdin,
    Output(usize),
    /// The log's writer, where it is apart.
    Log,
    Client(usize),
    Exec(usize, execs::Source),
}

impl<'a> Supervisor<'a> {
    fn new(dir: &'a Path, place: Place, spec: Option<Spec>, listener: UnixListener, signals: SignalFd) -> Self {
        Supervisor {
            dir,
            place,
            settled: false,
            listener,
            signals,
            clients: Vec::new(),
            clients_ever: 0,
            init: None,
            execs: Vec::new(),
            strangers: false,
            phase: Phase::Created { ready: false, wanted: false },
            log: spec.as_ref().and_then(|spec| spec.log.clone()).map(Log::open),
            spec,
            record: None,
            finished: false,
            had_client: false,
            asked: false,
            born: Instant::now(),
        }
    }

    /// Takes charge of a cloned init and gives it what it waits for.
    fn adopt(&mut self, launched: Launched) {
        let mapped = launch::map_ids(&self.place, launched.pid);
        self.init = Some(Init {
            pid: launched.pid,
            pidfd: launched.pidfd,
            channel: None,
            streams: Streams::default(),
            reaped: false,
        });
        let furnished = mapped.and_then(|()| {
            // Whoever waits for the pid can go on from here, and make the network meanwhile: the namespaces belong to their ids.
            self.accept();
            match &self.spec {
                Some(spec) => launch::furnish(spec, launched.pid, &launched.channel),
                None => launch::park(&launched.channel),
            }
        });
        if let Some(init) = &mut self.init {
            init.channel = Some(launched.channel);
            init.streams = launched.streams;
        }
        if let Err(failure) = furnished {
            self.fail(failure);
        }
    }

    fn serve(mut self) -> Result<(), ShimError> {
        loop {
            self.conclude();
            if self.finished && self.clients.iter().all(|client| !client.has_output()) {
                return Ok(());
            }
            let events = self.wait().map_err(|source| ShimError::Process { step: "poll", source })?;
            for (source, flags) in events {
                self.handle(source, flags);
            }
            self.conclude_execs();
            self.reap_strangers();
            // Of all clients: frames may have waited for room that there is now.
            for index in 0..self.clients.len() {
                self.obey(index);
                self.after_last_word(index);
                self.clients[index].flush();
            }
            self.bury_clients();
            if let Some(log) = &mut self.log {
                log.tell(self.dir);
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut fds: Vec<(Source, PollFd<'_>)> = Vec::with_capacity(8 + self.clients.len());
        if self.clients.len() < CLIENTS_MAX {
            fds.push((Source::Listener, PollFd::new(&self.listener, PollFlags::IN)));
        }
        fds.push((Source::Signals, PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)));
        if let Some(init) = &self.init {
            if !init.reaped {
                fds.push((Source::Pidfd, PollFd::new(&init.pidfd, PollFlags::IN)));
            }
            if let Some(channel) = &init.channel {
                fds.push((Source::Channel, PollFd::new(channel, PollFlags::IN)));
            }
            if let Some(stdin) = init.streams.waiting_input() {
                fds.push((Source::Stdin, PollFd::new(stdin, PollFlags::OUT)));
            }
            // The slowest attached client sets the pace: nothing it was promised is lost. And whoever waits for the start hears of it first: a log
            // that blocks may keep this process.
            if !matches!(self.phase, Phase::Starting { .. })
                && self.clients.iter().all(|client| !client.attached || client.has_room())
            {
                for index in 0..OUTPUTS {
                    if let Some(output) = init.streams.output(index) {
                        fds.push((Source::Output(index), PollFd::new(output, PollFlags::IN)));
                    }
                }
            }
        }
        self.poll_execs(&mut fds);
        if let Some(news) = self.log.as_ref().and_then(Log::news) {
            fds.push((Source::Log, PollFd::from_borrowed_fd(news, PollFlags::IN)));
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if self.takes_input(client) && client.has_room() && !client.silent {
                flags |= PollFlags::IN;
            }
            if client.has_output() {
                flags |= PollFlags::OUT;
            }
            fds.push((Source::Client(index), PollFd::new(client, flags)));
        }
        let (sources, mut fds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
        match poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(sources.into_iter().zip(fds.iter().map(PollFd::revents)).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Only waits that must not last for ever have a limit, and that for the moment to note what the log has lost.
    fn timeout(&self) -> Option<Timespec> {
        let untold = self.log.as_ref().is_some_and(Log::has_untold);
        let waits = untold
            || self.ending()
            || (!self.had_client && matches!(self.phase, Phase::Created { .. } | Phase::Failed(_)));
        waits.then_some(Timespec { tv_sec: 1, tv_nsec: 0 })
    }

    /// Nothing new comes: what is left is to say what came.
    fn ending(&self) -> bool {
        self.finished || self.init.as_ref().is_some_and(|init| init.reaped)
    }

    fn handle(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => {
                while let Ok(Some(signal)) = self.signals.read_signal() {
                    match signal.ssi_signo == libc::SIGCHLD as u32 {
                        true => self.strangers = true,
                        false => self.kill(),
                    }
                }
            }
            Source::Pidfd => self.reap(),
            Source::Channel => self.hear_init(),
            Source::Stdin => self.feed(),
            Source::Output(index) => self.forward(index),
            Source::Exec(index, source) => self.handle_exec(index, source),
            Source::Log => self.log.iter_mut().for_each(Log::hear),
            Source::Client(index) => {
                if flags.contains(PollFlags::IN) {
                    self.clients[index].fill();
                }
                let over = flags.intersects(PollFlags::HUP | PollFlags::ERR) && !flags.contains(PollFlags::IN);
                self.clients[index].gone |= over;
            }
        }
    }

    /// Says the last words once everything that comes before them was said.
    fn conclude(&mut self) {
        self.give_up_if_forgotten();
        if self.finished
            || self.init.as_ref().is_some_and(|init| !init.reaped || !init.streams.are_silent())
            || !self.execs.is_empty()
        {
            return;
        }
        match &self.phase {
            Phase::Exited => {}
            Phase::Failed(failure) => {
                let failure = failure.clone();
                // Before that, its streams may still be attached to. Without an init there is nothing to attach to.
                if !(self.asked || self.init.is_none() && self.had_client) {
                    return;
                }
                if self.record.is_none() {
                    let mut record = ExitRecord::from_wait_status(0);
                    record.code = failure.exit_code();
                    record.failure = Some(failure.clone());
                    self.write_exit(record);
                }
                self.tell_all(&Report::StartFailed { failure });
            }
            _ => return,
        }
        self.close_log();
        self.finished = true;
        self.accept();
        let record = self.record.clone().expect("both ends write it");
        self.tell_all(&Report::Exited { record });
        self.clients.iter_mut().for_each(Client::flush);
    }

    /// A container that was made and not started belongs to whoever is connected.
    fn give_up_if_forgotten(&mut self) {
        let alone = self.clients.is_empty() && (self.had_client || self.born.elapsed() > FIRST_CLIENT);
        if alone && matches!(self.phase, Phase::Created { .. }) {
            self.fail(StartFailure::new(FailureKind::Other, "whoever created the container went away"));
        }
        if alone && matches!(self.phase, Phase::Failed(_)) {
            self.asked = true;
        }
    }
}
