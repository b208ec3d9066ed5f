//! Asking containers whether they are well: by a program in them, as `cc exec` runs one. One at a time for each, and so many at a time
//! for each project. Refuses to judge the answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::health::{Health, HealthCheck, OUTPUT_BYTES_MAX, Probe, Status, text};
use super::launch::{LaunchError, OutputReceiver, StdinSender};
use super::record::{ContainerRecord, State};
use super::room::{Containers, Live};
use crate::error_chain;
use crate::ids::{Project, now_ms};
use crate::shim::exec_spec::ExecSpec;
use crate::shim::record;

/// What is known of a container's health, beside its shim's files: the next daemon goes on from there.
const HEALTH_FILE: &str = "health.json";
/// At a time: a container whose probes hang keeps its own project's others waiting, and nobody else's.
const RUNNING_MAX: usize = 64;
/// Being started at a time, of all projects.
const STARTING_MAX: usize = 16;
/// Nobody reads so much of a probe.
const HEARD_BYTES_MAX: usize = 1 << 20;
/// For what was killed to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Turns {
    starting: Semaphore,
    running: Mutex<HashMap<Project, Arc<Semaphore>>>,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { starting: Semaphore::new(STARTING_MAX), running: Mutex::default() }
    }
}

impl Turns {
    async fn of(&self, project: &Project) -> OwnedSemaphorePermit {
        let turns = {
            let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody has a turn of or waits for are as good as new ones.
            all.retain(|_, turns| Arc::strong_count(turns) > 1);
            Arc::clone(all.entry(project.clone()).or_insert_with(|| Arc::new(Semaphore::new(RUNNING_MAX))))
        };
        turns.acquire_owned().await.expect("nobody closes it")
    }
}

/// What a probe wrote, and its code if it ended by itself.
struct Heard {
    output: Vec<u8>,
    code: Option<i32>,
    flooded: bool,
}

/// One that was killed and is not gone yet.
type Rest = Pin<Box<dyn Future<Output = Heard> + Send>>;

impl Containers {
    /// Of one that runs and is asked.
    pub fn health(&self, record: &ContainerRecord) -> Option<Health> {
        let live = self.live(&record.id)?;
        let health = live.health.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(health)
    }

    /// What was known of it before, where an earlier daemon has asked.
    pub(super) fn health_so_far(&self, record: &ContainerRecord) -> Option<Mutex<Health>> {
        record.health.as_ref()?;
        let known = record::read(&self.run_dir(record), HEALTH_FILE).unwrap_or_else(|error| {
            tracing::warn!(container = %record.id, %error, "cannot read what its probes said");
            None
        });
        Some(Mutex::new(known.unwrap_or_default()))
    }

    /// For as long as the container runs: whoever calls this stops it then.
    pub(super) async fn keep_probing(&self, record: &ContainerRecord, live: &Live) -> Infallible {
        let (Some(check), Some(health)) = (&record.health, &live.health) else { return pending().await };
        let since_ms = match record.state {
            State::Running { since_ms, .. } => since_ms,
            _ => now_ms(),
        };
        let mut closing = self.closing.subscribe();
        loop {
            let pause = health.lock().unwrap_or_else(PoisonError::into_inner).pause(check, since_ms, now_ms());
            // Where the daemon stops, the next one asks.
            if timeout(pause, closing.wait_for(|closing| *closing)).await.is_ok() {
                return pending().await;
            }
            let turn = self.turns.of(&record.project).await;
            let (probe, rest) = self.probe(check, live).await;
            if let Some(probe) = probe {
                self.take_probe(record, check, since_ms, health, probe).await;
            }
            if let Some(rest) = rest {
                rest.await;
            }
            drop(turn);
        }
    }

    /// `None` where the container ended meanwhile, or its shim.
    async fn probe(&self, check: &HealthCheck, live: &Live) -> (Option<Probe>, Option<Rest>) {
        let wanted = ExecSpec {
            args: check.program.clone(),
            env: Vec::new(),
            cwd: String::new(),
            user: String::new(),
            stdin: false,
            terminal: None,
            detach: false,
            bound: true,
        };
        let starting = self.turns.starting.acquire().await.expect("nobody closes it");
        let (started_ms, ends) = (now_ms(), Instant::now() + check.timeout());
        let over = |code, output| Some(Probe { started_ms, ended_ms: now_ms(), code, output });
        let late = |output: &[u8]| {
            let why = format!("it did not end within {} ms\n", check.timeout_ms);
            over(-1, text(&[why.as_bytes(), output].concat()))
        };
        let begun = tokio::time::timeout_at(ends, live.shim.exec(&wanted)).await;
        drop(starting);
        let (mut stdin, output): (StdinSender, OutputReceiver) = match begun {
            Ok(Ok(streams)) => streams,
            // What was begun goes with its connection.
            Err(_) => return (late(&[]), None),
            Ok(Err(LaunchError::Exec(failure))) => {
                return (over(failure.exit_code(), text(failure.message.as_bytes())), None);
            }
            Ok(Err(error)) => return (over(-1, text(error_chain(&error).as_bytes())), None),
        };
        let mut listening: Rest = Box::pin(listen(output));
        if let Ok(heard) = tokio::time::timeout_at(ends, &mut listening).await {
            let output = text(&heard.output);
            let probe = match heard.code {
                Some(code) => over(code, output),
                None if heard.flooded => over(-1, text(format!("it wrote more than 1 MiB\n{output}").as_bytes())),
                None => None,
            };
            return (probe, None);
        }
        let killed = stdin.signal(libc::SIGKILL).await;
        match timeout(KILLED_WITHIN, &mut listening).await {
            Ok(heard) => (late(&heard.output), None),
            Err(_) if killed.is_ok() => (late(&[]), Some(listening)),
            Err(_) => (late(&[]), None),
        }
    }

    async fn take_probe(
        &self,
        record: &ContainerRecord,
        check: &HealthCheck,
        since_ms: u64,
        health: &Mutex<Health>,
        probe: Probe,
    ) {
        let code = probe.code;
        let (changed, now) = {
            let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
            (health.take(check, since_ms, probe), health.clone())
        };
        if let Err(error) = record::write(&self.run_dir(record), HEALTH_FILE, &now, false) {
            tracing::warn!(container = %record.id, %error, "cannot write what its probes said");
        }
        let (kind, text) = match changed {
            Some(Status::Healthy) => ("container.healthy", format!("{} is healthy", record.name)),
            Some(Status::Unhealthy) => {
                let (name, count) = (&record.name, now.failing_streak);
                let last = if code == -1 { "was not done".to_owned() } else { format!("ended with code {code}") };
                let text = format!("{name} is unhealthy: {count} probes failed one after the other, the last {last}");
                ("container.unhealthy", text)
            }
            Some(Status::Starting) | None => return,
        };
        self.rooms.events.add_for(Some(&record.project), kind, record.id.as_str(), &text).await;
    }
}

/// To its end, or until it has written more than anybody wants: then whoever drops its connection ends it.
async fn listen(mut output: OutputReceiver) -> Heard {
    let (mut kept, mut heard_bytes) = (Vec::new(), 0);
    while let Some(piece) = output.recv().await {
        heard_bytes += piece.bytes.len();
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&piece.bytes[..piece.bytes.len().min(room)]);
        if heard_bytes > HEARD_BYTES_MAX {
            return Heard { output: kept, code: None, flooded: true };
        }
    }
    Heard { output: kept, code: output.end().map(|end| end.code), flooded: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_project_waits_for_its_own_turns_only() {
        let turns = Turns::default();
        let project = |name: &str| Project::parse(name).unwrap();
        let mut held = Vec::new();
        for _ in 0..RUNNING_MAX {
            held.push(turns.of(&project("blue")).await);
        }
        let waits = timeout(Duration::from_millis(20), turns.of(&project("blue"))).await;
        assert!(waits.is_err());
        drop(turns.of(&project("red")).await);
        held.pop();
        held.push(turns.of(&project("blue")).await);
        drop(held);
        drop(turns.of(&project("red")).await);
        assert_eq!(turns.running.lock().unwrap().len(), 1, "nothing is kept of those that are gone");
    }
}
