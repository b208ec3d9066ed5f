//! The child that copies files, seen from the daemon: what it is given, what comes of it, and when it is ended. Refuses to touch a file of a
//! container itself, and to believe what the child says beyond its own archive.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use cc_common::api::fault::Fault;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tonic::Code;

use super::claims::Claim;
use super::error::ContainerError;
use super::layer::HeldLayer;
use super::record::{ContainerRecord, Exit, State};
use super::room::Containers;
use super::start::ID_RANGE;
use crate::copy::{
    Copied, HEADER_BYTES_MAX, Header, REPORT_BYTES_MAX, Report, Request, SUBCOMMAND, Stopped, Wanted, body_bytes, frame,
};
use crate::disk::{Holder, Layer};
use crate::ids::{ContainerId, Project};
use crate::image::Hold;
use crate::shim::spec::Rootfs;

/// A copy that has not moved for so long is given up: it keeps a container from being started and removed.
const STANDS_STILL: Duration = Duration::from_secs(60);
/// A process that was killed is gone at once, unless the disk hangs.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// At once: each is a process of the daemon's.
const COPIES_MAX: usize = 64;
const PROJECT_COPIES_MAX: usize = 16;
/// Well under gRPC's default message limit of 4 MiB.
const CHUNK_BYTES: usize = 128 << 10;

#[derive(Debug, thiserror::Error)]
pub enum CopyFailure {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
    #[error("nothing was moved for {} s", STANDS_STILL.as_secs())]
    StoodStill,
    #[error("the container ended meanwhile")]
    Ended,
    #[error("{PROJECT_COPIES_MAX} copies of the project, or {COPIES_MAX} of the host, are at work already")]
    TooMany,
}

impl From<CopyFailure> for Fault {
    fn from(failure: CopyFailure) -> Fault {
        let (kind, code, next) = match &failure {
            CopyFailure::NotFound(_) => (Code::NotFound, "copy.not_found", "see what is there: cc exec ID ls -l"),
            CopyFailure::Refused(_) => (Code::FailedPrecondition, "copy.refused", "see cc cp --help"),
            CopyFailure::Failed(_) => (Code::Internal, "copy.failed", "see the daemon's log"),
            CopyFailure::StoodStill => (Code::DeadlineExceeded, "copy.stood_still", "try again"),
            CopyFailure::TooMany => (Code::ResourceExhausted, "copy.too_many", "wait until one of them has ended"),
            CopyFailure::Ended => {
                (Code::Aborted, "copy.ended", "try again: an ended container's files can be copied, too")
            }
        };
        Fault::new(kind, code, "cannot copy files", failure.to_string()).next(next)
    }
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> CopyFailure + '_ {
    move |source| CopyFailure::Failed(format!("cannot {what}: {source}"))
}

/// A copy that has begun. Dropped, it ends.
#[derive(Debug)]
pub struct Copying {
    name: String,
    child: Option<Child>,
    stream: UnixStream,
    exit: Option<watch::Receiver<Option<Exit>>>,
    held: Option<Held>,
}

/// What others wait for until the child is gone.
#[derive(Debug)]
struct Held {
    /// Of one that has ended: nobody starts or removes it, or what its files are made of.
    _claim: Option<(HeldLayer, Hold)>,
    _turn: Turn,
}

/// One of the copies that may be at once.
#[derive(Debug)]
struct Turn {
    copying: watch::Sender<HashMap<ContainerId, (Project, usize)>>,
    id: ContainerId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.copying.send_modify(|copying| {
            if let Some((_, count)) = copying.get_mut(&self.id) {
                *count -= 1;
            }
            copying.retain(|_, (_, count)| *count > 0);
        });
    }
}

impl Drop for Copying {
    /// Killed is not gone: what it holds is let go when it was reaped.
    fn drop(&mut self) {
        let (child, held) = (self.child.take(), self.held.take());
        tokio::spawn(async move {
            if let Some(mut child) = child {
                // It fails only for one that was reaped already.
                let _ = child.kill().await;
            }
            drop(held);
        });
    }
}

impl Containers {
    pub async fn copy(&self, record: &ContainerRecord, wanted: Wanted) -> Result<Copying, ContainerError> {
        let name = record.name.to_string();
        let copy = |source| ContainerError::Copy { name: name.clone(), source };
        let (stdin, stopped, exit, claim, turn) = match self.live(&record.id) {
            Some(live) => {
                let State::Running { pid, .. } = self.find(&record.project, record.id.as_str())?.state else {
                    return Err(ContainerError::Busy { name });
                };
                let process = process_of(pid, &live.netns).map_err(failed("reach the container")).map_err(copy)?;
                (Stdio::from(process), None, Some(live.exit.clone()), None, self.copy_turn(record)?)
            }
            None => {
                let claim = self.claims.of(&record.id).await;
                let (stopped, held) = self.stopped(record, &wanted, claim).await?;
                // Whoever has the claim may be waiting for the copies: not for one that waits for the claim.
                (Stdio::null(), Some(stopped), None, Some(held), self.copy_turn(record)?)
            }
        };
        let (ours, its) = std::os::unix::net::UnixStream::pair().map_err(failed("make a socket")).map_err(copy)?;
        ours.set_nonblocking(true).map_err(failed("prepare a socket")).map_err(copy)?;
        let stream = UnixStream::from_std(ours).map_err(failed("prepare a socket")).map_err(copy)?;
        let child = Command::new("/proc/self/exe")
            .arg0("cc-host")
            .arg(SUBCOMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(stdin)
            .stdout(Stdio::from(OwnedFd::from(its)))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed("start the copying process"))
            .map_err(copy)?;
        let held = Some(Held { _claim: claim, _turn: turn });
        let mut copying = Copying { name: name.clone(), child: Some(child), stream, exit, held };
        let host_users = record.spec.host_users;
        let request =
            frame(&Request { stopped, host_users, wanted }).map_err(failed("write the request")).map_err(copy)?;
        copying.write(&request).await?;
        Ok(copying)
    }

    fn copy_turn(&self, record: &ContainerRecord) -> Result<Turn, ContainerError> {
        let began = self.copying.send_if_modified(|copying| {
            let of = |wanted: Option<&Project>| -> usize {
                let counted = copying.values().filter(|(project, _)| wanted.is_none_or(|wanted| wanted == project));
                counted.map(|(_, count)| count).sum()
            };
            let has_room = of(None) < COPIES_MAX && of(Some(&record.project)) < PROJECT_COPIES_MAX;
            if has_room {
                copying.entry(record.id.clone()).or_insert_with(|| (record.project.clone(), 0)).1 += 1;
            }
            has_room
        });
        match began {
            true => Ok(Turn { copying: self.copying.clone(), id: record.id.clone() }),
            false => Err(ContainerError::Copy { name: record.name.to_string(), source: CopyFailure::TooMany }),
        }
    }

    /// Those of one that has ended are killed: nobody else writes to its files when they are gone.
    pub(super) async fn wait_for_copies_of(&self, id: &ContainerId) {
        let mut copying = self.copying.subscribe();
        let gone = copying.wait_for(|copying| !copying.contains_key(id));
        if tokio::time::timeout(GONE_WITHIN, gone).await.is_err() {
            tracing::warn!(container = %id, "a process that copies its files does not end");
        }
    }

    /// What the files of one that has ended are made of. It is not started meanwhile.
    async fn stopped(
        &self,
        record: &ContainerRecord,
        wanted: &Wanted,
        claim: Claim,
    ) -> Result<(Stopped, (HeldLayer, Hold)), ContainerError> {
        let name = record.name.to_string();
        self.wait_for_leaving_of(record.slot).await;
        let record = self.find(&record.project, record.id.as_str())?;
        if self.live(&record.id).is_some() || !matches!(record.state, State::Stopped { .. }) {
            return Err(ContainerError::Busy { name });
        }
        if record.spec.read_only && matches!(wanted, Wanted::In { .. }) {
            let source = CopyFailure::Refused("its root is read-only (--read-only)".to_owned());
            return Err(ContainerError::Copy { name, source });
        }
        let image = self.rooms.images.get(&record.project, &record.image_digest).await?;
        let hold = self.rooms.images.hold(&record.project, &image).await?;
        let held = self.hold_for_copy(&record, claim);
        let Layer { upper, work } = self.layer_anew(&record, Holder::Copy).await?;
        let rootfs = Rootfs { layers: self.rooms.images.layer_dirs(&image), upper, work, volatile: true };
        Ok((Stopped { rootfs, id_base: self.id_base(&record), id_count: ID_RANGE }, (held, hold)))
    }
}

/// Its pid may be another's by now: whoever has it must be in the container's network namespace, which is held open.
pub(super) fn process_of(pid: i32, netns: &OwnedFd) -> std::io::Result<OwnedFd> {
    let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let process = pidfd_open(Pid::from_raw(pid).ok_or_else(gone)?, PidfdFlags::empty())?;
    let its = rustix::fs::stat(format!("/proc/{pid}/ns/net"))?;
    let own = rustix::fs::fstat(netns.as_fd())?;
    // The descriptor was opened before the look: if the pid were given to another in between, it would not be in there.
    if (its.st_dev, its.st_ino) == (own.st_dev, own.st_ino) { Ok(process) } else { Err(gone()) }
}

impl Copying {
    fn error(&self, source: CopyFailure) -> ContainerError {
        ContainerError::Copy { name: self.name.clone(), source }
    }

    /// Not for longer than nothing happens, nor beyond the container's end.
    async fn unless_over<T>(
        exit: &mut Option<watch::Receiver<Option<Exit>>>,
        work: impl Future<Output = std::io::Result<T>>,
        what: &str,
    ) -> Result<T, CopyFailure> {
        let ended = async {
            match exit {
                Some(exit) => drop(exit.wait_for(Option::is_some).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = tokio::time::timeout(STANDS_STILL, work) => match done {
                Ok(done) => done.map_err(failed(what)),
                Err(_) => Err(CopyFailure::StoodStill),
            },
            () = ended => Err(CopyFailure::Ended),
        }
    }

    /// For somebody else, who is as bound to go on as the child is.
    pub async fn patiently<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ContainerError> {
        let work = async { Ok(work.await) };
        Self::unless_over(&mut self.exit, work, "wait")
            .await
            .map_err(|source| ContainerError::Copy { name: self.name.clone(), source })
    }

    /// A piece of the archive. A child that has given up says why in its report.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ContainerError> {
        let written = Self::unless_over(&mut self.exit, self.stream.write_all(bytes), "write to the copying process");
        match written.await {
            Ok(()) => Ok(()),
            Err(CopyFailure::Failed(_)) => Err(self.why_it_gave_up().await),
            Err(other) => Err(self.error(other)),
        }
    }

    async fn why_it_gave_up(&mut self) -> ContainerError {
        match self.report().await {
            Ok(_) => self.error(CopyFailure::Failed("the copying process stopped reading".to_owned())),
            Err(source) => self.error(source),
        }
    }

    /// What is to be copied out.
    pub async fn header(&mut self) -> Result<Header, ContainerError> {
        let mut length = [0; 4];
        let read =
            Self::unless_over(&mut self.exit, self.stream.read_exact(&mut length), "hear from the copying process");
        match read.await {
            Ok(_) => {}
            Err(CopyFailure::Failed(_)) => return Err(self.why_it_gave_up().await),
            Err(other) => return Err(self.error(other)),
        }
        let broken = failed("understand the copying process");
        let bytes = body_bytes(length, HEADER_BYTES_MAX).map_err(&broken).map_err(|e| self.error(e))?;
        let mut body = vec![0; bytes];
        let read =
            Self::unless_over(&mut self.exit, self.stream.read_exact(&mut body), "hear from the copying process");
        read.await.map_err(|e| ContainerError::Copy { name: self.name.clone(), source: e })?;
        serde_json::from_slice(&body).map_err(|e| self.error(broken(e.into())))
    }

    /// The next piece of the archive; `None` at its end.
    pub async fn read(&mut self) -> Result<Option<Bytes>, ContainerError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = Self::unless_over(&mut self.exit, self.stream.read(&mut chunk), "hear from the copying process");
        let count = read.await.map_err(|source| ContainerError::Copy { name: self.name.clone(), source })?;
        chunk.truncate(count);
        Ok((count > 0).then(|| chunk.into()))
    }

    /// After the archive's end, whichever way it went.
    pub async fn finish(mut self) -> Result<Copied, ContainerError> {
        // A child that is gone has left its report.
        let _ = self.stream.shutdown().await;
        match self.report().await {
            Ok(copied) => Ok(copied),
            Err(source) => Err(self.error(source)),
        }
    }

    async fn report(&mut self) -> Result<Copied, CopyFailure> {
        let mut bytes = Vec::new();
        let child = self.child.as_mut().expect("it is there until this is dropped");
        let mut stderr = child.stderr.take().expect("it is asked for once, and stderr was piped at spawn");
        let mut limited = (&mut stderr).take(REPORT_BYTES_MAX);
        Self::unless_over(&mut self.exit, limited.read_to_end(&mut bytes), "read the copying process's report").await?;
        let status = Self::unless_over(&mut self.exit, child.wait(), "wait for the copying process").await?;
        match serde_json::from_slice(&bytes) {
            Ok(Report::Done(copied)) if status.success() => Ok(copied),
            Ok(Report::NotFound(why)) => Err(CopyFailure::NotFound(why)),
            Ok(Report::Refused(why)) => Err(CopyFailure::Refused(why)),
            Ok(Report::Failed(why)) => Err(CopyFailure::Failed(why)),
            Ok(Report::Done(_)) | Err(_) => {
                Err(CopyFailure::Failed(format!("the copying process ended with {status}")))
            }
        }
    }
}
