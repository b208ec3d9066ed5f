//! A container's shim, seen from the daemon: spawned, parked or found again, started, signalled, attached to, waited for, and killed
//! when it was left behind. Refuses to prepare what the specification names: cgroups, directories and files exist by then.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use tokio::io::AsyncReadExt;
use tokio::sync::{Mutex, oneshot, watch};

use super::leftover::{self, open_process};
use super::shim_client::{self, ClientError, Reader, Writer};
use crate::mutation;
use crate::shim::exec_spec::ExecSpec;
use crate::shim::pidfd_exit_status;
use crate::shim::place::{PLACE_FILE, Place};
use crate::shim::protocol::{FailureKind, PROTOCOL_BOUND, PROTOCOL_EXEC, Report, Request, StartFailure};
use crate::shim::record::{self, EXIT_FILE, ExitRecord, STATE_FILE, STDERR_FILE, StateRecord};
use crate::shim::spec::{SPEC_FILE, Spec};

pub use super::launch_error::LaunchError;
pub use super::leftover::{kill_leftover, wait_for_shim_to_leave};
pub use super::streams::{Output, OutputReceiver, StdinSender, Stream};

/// A shim that works is ready in milliseconds.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// It answers a signal without waiting for anybody.
const SIGNALLED_WITHIN: Duration = Duration::from_secs(2);
/// A program is executed in milliseconds; a host with no memory left may take longer.
const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// A connection to a shim. Dropping it before `start` ends the container; afterwards the container goes on.
pub struct Shim {
    dir: PathBuf,
    pid: i32,
    writer: Mutex<Writer>,
    events: Arc<Events>,
    reader: tokio::task::JoinHandle<()>,
}

/// What the reading task has heard.
struct Events {
    parked: watch::Sender<bool>,
    started: watch::Sender<Option<Result<(), StartFailure>>>,
    exited: watch::Sender<Option<ExitRecord>>,
    signalled: Lock<VecDeque<oneshot::Sender<bool>>>,
}

impl Shim {
    /// Writes `spec` into `dir`, runs the shim there, and returns when the container's first process exists (its pid), in its
    /// namespaces, and waits for `start`.
    pub async fn spawn(shim_binary: &Path, dir: &Path, spec: &Spec) -> Result<(Shim, i32), LaunchError> {
        private_dir(dir)?;
        spec.store(&dir.join(SPEC_FILE))?;
        run(shim_binary, dir).await?;
        let shim = Shim::connect(dir).await?;
        let pid = shim.pid;
        Ok((shim, pid))
    }

    /// Runs a shim at a place in which nothing is to run yet, and returns when its first process has done all that it can without knowing
    /// what. It ends when it is dropped, until it was told by `take`.
    pub async fn park(shim_binary: &Path, dir: &Path, place: &Place) -> Result<Shim, LaunchError> {
        private_dir(dir)?;
        place.store(&dir.join(PLACE_FILE))?;
        run(shim_binary, dir).await?;
        let shim = Shim::connect(dir).await?;
        let (mut parked, mut failed) = (shim.events.parked.subscribe(), shim.events.started.subscribe());
        let answer = async {
            tokio::select! {
                _ = parked.wait_for(|parked| *parked) => Ok(()),
                // The sender lives as long as the shim.
                failure = failed.wait_for(Option::is_some) => match failure.map(|failure| failure.clone()) {
                    Ok(Some(Err(failure))) => Err(LaunchError::Failed(failure)),
                    _ => Err(ClientError::Unexpected.into()),
                },
            }
        };
        let answered = tokio::time::timeout(READY_WITHIN, answer).await;
        answered.map_err(|_| LaunchError::from(ClientError::Silent))??;
        Ok(shim)
    }

    /// Tells a parked shim what it is to run. What is wrong with it is told by `start`.
    pub async fn take(&self, spec: &Spec) -> Result<(), LaunchError> {
        spec.store(&self.dir.join(SPEC_FILE))?;
        Ok(self.writer.lock().await.request(&Request::Take).await?)
    }

    /// Whether its container has ended, or it is gone itself.
    pub fn is_over(&self) -> bool {
        self.events.exited.borrow().is_some()
    }

    /// Reaches the shim of a container that already exists.
    pub async fn connect(dir: &Path) -> Result<Shim, LaunchError> {
        let (mut reader, writer, _) = shim_client::connect(dir).await?;
        let pid = match reader.report().await? {
            Some(Report::Created { pid }) => pid,
            Some(Report::StartFailed { failure }) => return Err(LaunchError::Failed(failure)),
            _ => return Err(ClientError::Unexpected.into()),
        };
        let state: Option<StateRecord> = record::read(dir, STATE_FILE).map_err(|source| LaunchError::Directory {
            operation: "read the state in",
            path: dir.to_owned(),
            source,
        })?;
        // Gone already is fine: the shim tells how.
        let init = state.and_then(|state| state.init).filter(|init| init.pid == pid);
        let pidfd = init.map(open_process).transpose()?.flatten();
        let events = Arc::new(Events {
            parked: watch::Sender::new(false),
            started: watch::Sender::new(None),
            exited: watch::Sender::new(None),
            signalled: Lock::default(),
        });
        let reader = tokio::spawn(listen(reader, events.clone(), dir.to_owned(), pidfd));
        Ok(Shim { dir: dir.to_owned(), pid, writer: Mutex::new(writer), events, reader })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Hears nothing from here on: neither an end nor the loss of the connection is acted on any more.
    pub fn let_go(&self) {
        self.reader.abort();
    }

    /// Runs the program; returns when it runs, or why it does not.
    pub async fn start(&self) -> Result<(), StartFailure> {
        let started = tokio::time::timeout(STARTED_WITHIN, self.ask_to_start()).await;
        started.unwrap_or_else(|_| Err(StartFailure::new(FailureKind::Other, "the container's shim does not answer")))
    }

    async fn ask_to_start(&self) -> Result<(), StartFailure> {
        let lost = |why: String| StartFailure::new(FailureKind::Other, why);
        let mut started = self.events.started.subscribe();
        let asked = self.writer.lock().await.request(&Request::Start).await;
        // A shim that failed before it was asked has hung up after saying why: prefer its words.
        let answer = started.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        match (answer, asked) {
            (Some(answer), _) => answer,
            (None, Err(error)) => Err(lost(error.to_string())),
            (None, Ok(())) => Err(lost("the container's shim is gone".to_owned())),
        }
    }

    /// Sends a signal to the container's first process; false if it is gone.
    pub async fn signal(&self, signal: i32) -> Result<bool, LaunchError> {
        let answered = tokio::time::timeout(SIGNALLED_WITHIN, self.send_signal(signal)).await;
        answered.map_err(|_| ClientError::Silent.into())
    }

    async fn send_signal(&self, signal: i32) -> bool {
        let (answer, answered) = oneshot::channel();
        let mut writer = self.writer.lock().await;
        if self.events.exited.borrow().is_some() {
            return false;
        }
        // Under the writer's lock, so that answers come in the order of this queue.
        self.events.signalled.lock().unwrap_or_else(PoisonError::into_inner).push_back(answer);
        if writer.request(&Request::Signal { signal }).await.is_err() {
            return false;
        }
        drop(writer);
        answered.await.unwrap_or(false)
    }

    /// Connects to the container's streams. What it writes after this has returned arrives, however slowly it is taken: the
    /// container waits for the slowest.
    pub async fn attach(&self, stdin: bool) -> Result<(StdinSender, OutputReceiver), LaunchError> {
        let (mut reader, mut writer, version) = shim_client::connect(&self.dir).await?;
        writer.request(&Request::Attach { stdin }).await?;
        loop {
            match reader.report().await? {
                Some(Report::Created { .. } | Report::Parked | Report::Started) => {}
                Some(Report::Attached) => {
                    return Ok((StdinSender::new(writer, version), OutputReceiver::new(reader)));
                }
                _ => return Err(ClientError::Unexpected.into()),
            }
        }
    }

    /// Runs another program in the container; returns when it runs, or why it does not. Its streams are the caller's: while they are not
    /// taken it waits, and when they are dropped it goes on without.
    pub async fn exec(&self, wanted: &ExecSpec) -> Result<(StdinSender, OutputReceiver), LaunchError> {
        let (mut reader, mut writer, version) = shim_client::connect(&self.dir).await?;
        if version < PROTOCOL_EXEC {
            return Err(ClientError::TooOld.into());
        }
        let file = ExecSpec::file_name(rand::random());
        let path = self.dir.join(&file);
        match wanted.bound && version < PROTOCOL_BOUND {
            true => ExecSpec { bound: false, ..wanted.clone() }.store(&path)?,
            false => wanted.store(&path)?,
        }
        let answer = async {
            writer.request(&Request::Exec { file }).await?;
            loop {
                match reader.report().await? {
                    // What it says of the container, to everybody.
                    Some(Report::Created { .. }) => {}
                    Some(Report::Started) => return Ok(()),
                    Some(Report::StartFailed { failure }) => return Err(LaunchError::Exec(failure)),
                    None => return Err(LaunchError::Exec(gone())),
                    Some(_) => return Err(ClientError::Unexpected.into()),
                }
            }
        };
        let answered = tokio::time::timeout(STARTED_WITHIN, answer).await;
        // The shim removes it as soon as it has read it, which it may not have come to.
        let _ = std::fs::remove_file(&path);
        answered.map_err(|_| ClientError::Silent)??;
        Ok((StdinSender::new(writer, version), OutputReceiver::new(reader)))
    }

    /// How the container ended; at once if it has. Also where the shim was killed. A container that failed before it was
    /// started ends when it is started, signalled or dropped.
    pub async fn wait(&self) -> ExitRecord {
        let mut exited = self.events.exited.subscribe();
        let record = exited.wait_for(Option::is_some).await.ok().and_then(|record| record.clone());
        record.unwrap_or_else(|| leftover::unknown_exit("the connection to the shim was given up"))
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn private_dir(dir: &Path) -> Result<(), LaunchError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| LaunchError::Directory { operation: "create", path: dir.to_owned(), source })
}

/// Returns when the shim listens.
async fn run(shim_binary: &Path, dir: &Path) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::Directory { operation: "write to", path: dir.to_owned(), source };
    let stderr = std::fs::File::create(dir.join(STDERR_FILE)).map_err(failed)?;
    let mut command = tokio::process::Command::new(shim_binary);
    mutation::pass_on(command.as_std_mut().arg(dir).env_clear());
    let mut child = command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|source| LaunchError::Spawn { path: shim_binary.to_owned(), source })?;
    let mut said = [0; 6];
    let mut stdout = child.stdout.take().expect("it was asked for just above");
    let ready = tokio::time::timeout(READY_WITHIN, stdout.read_exact(&mut said)).await;
    if !matches!(ready, Ok(Ok(_))) {
        // It may hang rather than have ended. If it does so in its own cgroup, it is found by what it wrote down.
        let _ = child.kill().await;
        let stderr = std::fs::read_to_string(dir.join(STDERR_FILE)).unwrap_or_default();
        return Err(LaunchError::NotReady { path: shim_binary.to_owned(), stderr: stderr.trim().to_owned() });
    }
    // So that it does not stay a zombie while the daemon lives.
    tokio::spawn(async move { child.wait().await });
    Ok(())
}

/// Hears what the shim says until it hangs up. Every waiter has its answer afterwards.
async fn listen(mut reader: Reader, events: Arc<Events>, dir: PathBuf, pidfd: Option<OwnedFd>) {
    while let Ok(Some(report)) = reader.report().await {
        match report {
            Report::Parked => drop(events.parked.send_replace(true)),
            Report::Started => drop(events.started.send_replace(Some(Ok(())))),
            Report::StartFailed { failure } => drop(events.started.send_replace(Some(Err(failure)))),
            Report::Signalled { delivered } => {
                let waiter = events.signalled.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                // Whoever asked may have gone.
                let _ = waiter.map(|waiter| waiter.send(delivered));
            }
            Report::Exited { record } => {
                events.exited.send_replace(Some(record));
                break;
            }
            Report::Hello { .. } | Report::Created { .. } | Report::Attached | Report::State { .. } => {}
        }
    }
    if events.exited.borrow().is_none() {
        let record = exit_without_shim(&dir, pidfd).await;
        events.exited.send_replace(Some(record));
    }
    if events.started.borrow().is_none() {
        events.started.send_replace(Some(Err(gone())));
    }
    events.signalled.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn gone() -> StartFailure {
    StartFailure::new(FailureKind::Other, "the container's shim is gone")
}

/// The shim was killed, and init with it: the kernel still knows how init ended, if the shim did not write it down.
async fn exit_without_shim(dir: &Path, pidfd: Option<OwnedFd>) -> ExitRecord {
    let written = || record::read::<ExitRecord>(dir, EXIT_FILE).ok().flatten();
    let Some(pidfd) = pidfd else {
        return written().unwrap_or_else(|| leftover::unknown_exit("the container's shim was killed"));
    };
    // Before its last step init is not yet tied to the shim.
    let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    let waited = tokio::task::spawn_blocking(move || {
        // SIGKILL was sent: this ends. An interrupted wait leaves an answer that is as good as it gets.
        let _ = rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None);
        pidfd_exit_status(pidfd.as_fd())
    });
    let status = waited.await.ok().flatten();
    written().unwrap_or_else(|| match status {
        Some(status) => {
            ExitRecord { note: Some("its shim was killed".to_owned()), ..ExitRecord::from_wait_status(status) }
        }
        None => leftover::unknown_exit("the container's shim was killed"),
    })
}
