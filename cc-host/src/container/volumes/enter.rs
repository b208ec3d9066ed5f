//! A volume comes to a container that runs, or leaves it: by a child in the container's namespaces, which has little time. Refuses to believe
//! more of it than that it is done.

use std::process::Stdio;
use std::time::Duration;

use cc_common::api::fault::Fault;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tonic::Code;

use super::super::copy::process_of;
use super::super::error::ContainerError;
use super::super::record::{ContainerRecord, State};
use super::super::room::{Containers, Live};
use super::VolumeClaim;
use crate::volume::enter::{Report, Request, SUBCOMMAND, Wanted, targets_of};

/// It makes a few system calls.
const WITHIN: Duration = Duration::from_secs(10);
const REPORT_BYTES_MAX: u64 = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub enum MoveFailure {
    #[error("programs of the container have files open in it, or something is mounted in it")]
    Busy,
    #[error("{0}")]
    Failed(String),
    #[error("it took more than {} s", WITHIN.as_secs())]
    TooLong,
}

impl From<MoveFailure> for Fault {
    fn from(failure: MoveFailure) -> Fault {
        let (kind, code, next) = match &failure {
            MoveFailure::Busy => (
                Code::FailedPrecondition,
                "volume.busy_inside",
                "end what uses it: cc exec CONTAINER, or stop the container",
            ),
            MoveFailure::Failed(_) => {
                (Code::FailedPrecondition, "volume.not_moved", "see that the path can be made there")
            }
            MoveFailure::TooLong => (Code::DeadlineExceeded, "volume.not_moved", "try again"),
        };
        Fault::new(kind, code, "cannot attach or detach a volume", failure.to_string()).next(next)
    }
}

impl Containers {
    /// At its place in the container, unless it is there already.
    pub(super) async fn show_volume(
        &self,
        record: &ContainerRecord,
        live: &Live,
        claim: &VolumeClaim,
    ) -> Result<(), ContainerError> {
        let held = self.rooms.volumes.hold(&record.project, &claim.volume, &record.id).await?;
        let (target, read_only) = (claim.target.clone(), claim.read_only);
        let wanted = Wanted::Mount { source: held.source, target, read_only };
        self.enter(record, live, wanted, ["attach", "to"]).await
    }

    /// Held for it, and mounted somewhere in the container.
    pub(super) async fn sees_volume(&self, record: &ContainerRecord, claim: &VolumeClaim) -> bool {
        let held = self.rooms.volumes.hold(&record.project, &claim.volume, &record.id).await;
        let (Ok(held), State::Running { pid, .. }) = (held, &record.state) else { return false };
        let mounts = tokio::fs::read_to_string(format!("/proc/{pid}/mountinfo")).await.unwrap_or_default();
        !targets_of(&mounts, held.device).is_empty()
    }

    /// Nowhere in the container.
    pub(super) async fn hide_volume(
        &self,
        record: &ContainerRecord,
        live: &Live,
        claim: &VolumeClaim,
    ) -> Result<(), ContainerError> {
        let held = self.rooms.volumes.hold(&record.project, &claim.volume, &record.id).await?;
        self.enter(record, live, Wanted::Unmount { device: held.device }, ["detach", "from"]).await
    }

    async fn enter(
        &self,
        record: &ContainerRecord,
        live: &Live,
        wanted: Wanted,
        [operation, preposition]: [&'static str; 2],
    ) -> Result<(), ContainerError> {
        let name = record.name.to_string();
        // As it is now: what an earlier record says may be another's.
        let State::Running { pid, .. } = self.find(&record.project, record.id.as_str())?.state else {
            return Err(ContainerError::NotRunning { name });
        };
        let request = Request { host_users: record.spec.host_users, wanted };
        let failed = |source| ContainerError::MoveVolume { operation, preposition, name: name.clone(), source };
        let process =
            process_of(pid, &live.netns).map_err(|e| failed(MoveFailure::Failed(format!("reach it: {e}"))))?;
        match tokio::time::timeout(WITHIN, child(process, &request)).await {
            Ok(done) => done.map_err(failed),
            Err(_) => Err(failed(MoveFailure::TooLong)),
        }
    }
}

/// Dropped, it is killed.
async fn child(process: std::os::fd::OwnedFd, request: &Request) -> Result<(), MoveFailure> {
    let broken = |what: &str, error: std::io::Error| MoveFailure::Failed(format!("cannot {what}: {error}"));
    let request = serde_json::to_string(request).expect("a request of strings and numbers is JSON");
    let mut child = Command::new("/proc/self/exe")
        .arg0("cc-host")
        .arg(SUBCOMMAND)
        .arg(request)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(process))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| broken("start the process that mounts", e))?;
    let mut said = Vec::new();
    let stderr = child.stderr.take().expect("it was piped at spawn");
    stderr.take(REPORT_BYTES_MAX).read_to_end(&mut said).await.map_err(|e| broken("hear of it", e))?;
    let status = child.wait().await.map_err(|e| broken("wait for it", e))?;
    match serde_json::from_slice(&said) {
        Ok(Report::Done) if status.success() => Ok(()),
        Ok(Report::Busy) => Err(MoveFailure::Busy),
        Ok(Report::Failed(why)) => Err(MoveFailure::Failed(why)),
        _ => Err(MoveFailure::Failed(format!("the process that mounts ended with {status}"))),
    }
}
