//! The supervisor's side of init: starting, feeding, listening, signalling, reaping. Refuses to answer clients.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Instant, SystemTime};

use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::{Phase, Supervisor};
use crate::shim::channel::{FromInit, ToInit};
use crate::shim::log::{Log, Stream};
use crate::shim::protocol::{FailureKind, Kind, Report, StartFailure};
use crate::shim::record::{self, EXIT_FILE, ExitRecord};
use crate::shim::sys;

const ENDED_BEFORE: &str = "init ended before the program started; was its memory limit too small?";

impl Supervisor<'_> {
    pub(super) fn go_if_ready(&mut self) {
        let Phase::Created { ready: true, wanted: true } = self.phase else { return };
        let Some(channel) = self.init.as_ref().and_then(|init| init.channel.as_ref()) else { return };
        // Where init is gone, its end is seen by the pidfd.
        let _ = channel.send(&ToInit::Go, &[]);
        self.phase = Phase::Starting { executing: false };
    }

    pub(super) fn hear_init(&mut self) {
        let is_parked = self.is_parked();
        self.hear_one_word();
        // Nobody will ask to start what it never got.
        self.asked |= is_parked && matches!(self.phase, Phase::Failed(_));
        self.go_if_ready();
    }

    fn hear_one_word(&mut self) {
        let Some(channel) = self.init.as_ref().and_then(|init| init.channel.as_ref()) else { return };
        match (channel.receive(), &mut self.phase) {
            (Ok(Some((FromInit::Terminal, fds))), Phase::Created { .. }) => self.take_terminal(fds),
            (Ok(Some((FromInit::Parked, _))), Phase::Created { .. }) => {
                self.settled = true;
                if self.is_parked() {
                    self.tell_all(&Report::Parked);
                }
            }
            (Ok(Some((FromInit::Ready, _))), Phase::Created { ready, .. }) => *ready = true,
            (Ok(Some((FromInit::Executing, _))), Phase::Starting { executing }) => *executing = true,
            (Ok(Some((FromInit::Failed(failure), _))), _) => self.fail(failure),
            // It closed itself by executing the program.
            (Ok(None), Phase::Starting { executing: true }) => {
                self.phase = Phase::Running;
                self.tell_all(&Report::Started);
                self.close_channel();
            }
            (Ok(None), _) => {
                self.fail(StartFailure::new(FailureKind::Other, ENDED_BEFORE));
                self.close_channel();
            }
            (Ok(Some(_)), _) => {
                self.fail(StartFailure::new(FailureKind::Other, "init said something out of order"));
                self.close_channel();
            }
            (Err(error), _) => {
                self.fail(StartFailure::new(FailureKind::Other, format!("cannot understand init: {error}")));
                self.close_channel();
            }
        }
    }

    fn take_terminal(&mut self, mut fds: Vec<OwnedFd>) {
        if let (Some(master), Some(init)) = (fds.pop(), &mut self.init) {
            init.streams.set_terminal(master, self.spec.as_ref().and_then(|spec| spec.terminal).unwrap_or_default());
        }
    }

    fn close_channel(&mut self) {
        if let Some(init) = &mut self.init {
            init.channel = None;
        }
    }

    /// The program will never run. Init, if there is one, has no other purpose.
    pub(super) fn fail(&mut self, failure: StartFailure) {
        if matches!(self.phase, Phase::Failed(_) | Phase::Exited | Phase::Running) {
            return;
        }
        self.phase = Phase::Failed(failure);
        self.kill();
    }

    pub(super) fn signal(&self, signal: i32) -> bool {
        match &self.init {
            Some(init) if !init.reaped => sys::pidfd_send_signal(init.pidfd.as_fd(), signal).is_ok(),
            _ => false,
        }
    }

    pub(super) fn kill(&mut self) {
        self.signal(libc::SIGKILL);
    }

    pub(super) fn feed(&mut self) {
        if let Some(init) = &mut self.init {
            init.streams.feed();
        }
    }

    pub(super) fn end_input(&mut self) {
        if let Some(init) = &mut self.init {
            init.streams.end_input();
        }
    }

    pub(super) fn forward(&mut self, index: usize) {
        let Some(bytes) = self.init.as_mut().and_then(|init| init.streams.read(index)) else { return };
        let (stream, kind) = if index == 0 { (Stream::Stdout, Kind::Stdout) } else { (Stream::Stderr, Kind::Stderr) };
        if let Some(log) = &mut self.log {
            log.append(stream, &bytes, SystemTime::now());
        }
        for client in self.clients.iter_mut().filter(|client| client.attached) {
            client.output(kind, &bytes);
        }
    }

    pub(super) fn reap(&mut self) {
        let Some(init) = &mut self.init else { return };
        let Ok(Some(status)) = waitid(WaitId::PidFd(init.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
        else {
            return;
        };
        init.reaped = true;
        // While it ran, a client could be as slow as it liked.
        for client in &mut self.clients {
            client.progress = Instant::now();
        }
        let record = ended(&status);
        // What init still had to say about the start comes first.
        while self.init.as_ref().is_some_and(|init| init.channel.is_some()) {
            self.hear_init();
        }
        if matches!(self.phase, Phase::Created { .. } | Phase::Starting { .. }) {
            self.fail(StartFailure::new(FailureKind::Other, ENDED_BEFORE));
        }
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Exited;
            // Written before the output is drained: a client that does not read it must not hide how the container ended.
            self.write_exit(record);
        }
    }

    pub(super) fn write_exit(&mut self, mut record: ExitRecord) {
        record.log_dropped = self.log.as_ref().map_or(0, Log::dropped);
        // The directory may be gone, which means that nobody wants to know.
        let _ = record::write(self.dir, EXIT_FILE, &record, false);
        self.record = Some(record);
    }

    /// The last lines may have been dropped, after the end was written down.
    pub(super) fn close_log(&mut self) {
        let Some(log) = &mut self.log else { return };
        log.close(SystemTime::now());
        if let Some(record) = self.record.take_if(|record| record.log_dropped != log.dropped()) {
            self.write_exit(record);
        }
    }
}

pub(super) fn ended(status: &WaitIdStatus) -> ExitRecord {
    let raw = status.exit_status().map(|code| code << 8).or(status.terminating_signal()).unwrap_or(libc::SIGKILL);
    ExitRecord::from_wait_status(raw)
}
