//! The supervisor's side of its clients: accepting, answering, hanging up. Refuses to touch init except through it.

use super::{CLIENTS_MAX, Init, LAST_WORDS, Phase, Supervisor};
use crate::shim::client::Client;
use crate::shim::launch;
use crate::shim::log::Log;
use crate::shim::protocol::{
    FailureKind, Frame, Kind, PROTOCOL_OLDEST, PROTOCOL_VERSION, Report, Request, StartFailure, State,
};
use crate::shim::spec::{SPEC_FILE, Spec};

impl Supervisor<'_> {
    pub(super) fn accept(&mut self) {
        while self.clients.len() < CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { return };
            self.clients_ever += 1;
            let Ok(mut client) = Client::new(self.clients_ever, stream) else { continue };
            client.message(&Report::Hello { version: PROTOCOL_VERSION });
            if let Some(init) = &self.init {
                client.message(&Report::Created { pid: init.pid });
            }
            if self.settled && self.is_parked() {
                client.message(&Report::Parked);
            }
            client.flush();
            self.had_client = true;
            self.clients.push(client);
        }
    }

    pub(super) fn obey(&mut self, index: usize) {
        // Only who feeds the input waits for the program to read it: a signal must reach one that does not.
        while self.takes_input(&self.clients[index]) {
            let Some(frame) = self.clients[index].next_frame() else { return };
            if self.answer(index, &frame).is_none() {
                self.clients[index].gone = true;
                return;
            }
        }
    }

    /// Whether what it sends has a place; always, unless it feeds a program that does not read.
    pub(super) fn takes_input(&self, client: &Client) -> bool {
        if client.has_exec {
            return self.exec_of(client.id).is_none_or(|exec| exec.streams.has_room());
        }
        !client.feeds_stdin || self.init.as_ref().is_none_or(|init| init.streams.has_room())
    }

    /// A client that says nothing more ends the input it fed.
    pub(super) fn after_last_word(&mut self, index: usize) {
        let client = &self.clients[index];
        // Frames still in its inbox wait for room in the queue.
        if !client.silent || !self.takes_input(client) {
            return;
        }
        if client.has_exec {
            let id = client.id;
            if let Some(exec) = self.exec_of_mut(id) {
                exec.streams.end_input();
            }
        } else if client.feeds_stdin {
            self.end_input();
        }
    }

    /// `None` where the client breaks the protocol.
    pub(super) fn answer(&mut self, index: usize, frame: &Frame) -> Option<()> {
        let is_parked = self.is_parked();
        let client = &mut self.clients[index];
        if frame.kind == Kind::Stdin {
            let (greeted, feeds, has_exec, id) = (client.greeted, client.feeds_stdin, client.has_exec, client.id);
            if has_exec && let Some(exec) = self.exec_of_mut(id) {
                exec.streams.push(&frame.body);
            } else if feeds && let Some(init) = &mut self.init {
                init.streams.push(&frame.body);
            }
            return client_ok(greeted);
        }
        if frame.kind != Kind::Json {
            return None;
        }
        let request: Request = frame.parse().ok()?;
        match request {
            Request::Hello { version } => {
                client.greeted = (PROTOCOL_OLDEST..=PROTOCOL_VERSION).contains(&version);
                return client_ok(client.greeted);
            }
            _ if !client.greeted => return None,
            Request::Take => return self.take(),
            // There is nothing to run yet, and nobody is to hear what comes of it but who says what that is.
            Request::Exec { .. }
            | Request::Attach { .. }
            | Request::Start
            | Request::Resize { .. }
            | Request::StdinEof
                if is_parked =>
            {
                return None;
            }
            _ if client.has_exec => return self.answer_of_exec(index, &request),
            Request::Exec { .. } if client.attached => return None,
            Request::Exec { file } => self.exec(index, &file),
            Request::Resize { size } => {
                if let Some(init) = &self.init {
                    init.streams.resize(size);
                }
            }
            Request::Attach { stdin } => {
                client.attached = true;
                client.feeds_stdin = stdin && self.spec.as_ref().is_some_and(|spec| spec.stdin);
                client.message(&Report::Attached);
                if let Some(record) = self.record.clone().filter(|_| self.finished) {
                    client.message(&Report::Exited { record });
                }
            }
            Request::StdinEof => {
                if client.feeds_stdin {
                    self.end_input();
                }
            }
            Request::State => {
                let state = match self.phase {
                    Phase::Created { .. } => State::Created,
                    Phase::Starting { .. } | Phase::Running => State::Running,
                    Phase::Failed(_) | Phase::Exited => State::Exited,
                };
                client.message(&Report::State { state });
            }
            Request::Signal { signal } => {
                self.asked = true;
                let delivered = self.signal(signal);
                self.clients[index].message(&Report::Signalled { delivered });
            }
            Request::Start => self.start(index),
        }
        Some(())
    }

    pub(super) fn start(&mut self, index: usize) {
        self.asked = true;
        match &mut self.phase {
            Phase::Created { wanted, .. } => *wanted = true,
            Phase::Starting { .. } => {}
            Phase::Running | Phase::Exited => self.clients[index].message(&Report::Started),
            // `conclude` tells everybody.
            Phase::Failed(_) => {}
        }
        self.go_if_ready();
    }

    /// It has failed otherwise, which whoever asks it to start is told.
    pub(super) fn is_parked(&self) -> bool {
        self.spec.is_none() && matches!(self.phase, Phase::Created { .. })
    }

    /// From parked to what has a container, once. What fails is told to whoever starts it.
    fn take(&mut self) -> Option<()> {
        if self.spec.is_some() {
            return None;
        }
        match self.begin_container() {
            Ok(spec) => self.spec = Some(spec),
            Err(failure) => self.fail(failure),
        }
        Some(())
    }

    fn begin_container(&mut self) -> Result<Spec, StartFailure> {
        let Some(Init { pid, channel: Some(channel), .. }) = &self.init else {
            return Err(StartFailure::new(FailureKind::Other, "the process that waited for a container is gone"));
        };
        let path = self.dir.join(SPEC_FILE);
        // First, so that both read it at a time.
        launch::tell(&path, channel)?;
        let spec = Spec::load(&path).map_err(|error| StartFailure::new(FailureKind::Other, error.to_string()))?;
        if spec.place() != self.place {
            return Err(StartFailure::new(
                FailureKind::Other,
                "the container's place is not the one that waits for it",
            ));
        }
        launch::furnish(&spec, *pid, channel)?;
        self.log = spec.log.clone().map(Log::open);
        if let Some(init) = self.init.as_mut().filter(|_| !spec.stdin) {
            init.streams.without_input();
        }
        Ok(spec)
    }

    pub(super) fn tell_all(&mut self, report: &Report) {
        for client in &mut self.clients {
            client.message(report);
        }
    }

    pub(super) fn bury_clients(&mut self) {
        let ending = self.ending();
        let mut fed = false;
        let mut lost = Vec::new();
        self.clients.retain(|client| {
            let stuck = ending && client.has_output() && client.progress.elapsed() > LAST_WORDS;
            let stays = !client.gone && !stuck;
            fed |= !stays && client.feeds_stdin;
            if !stays && client.has_exec {
                lost.push(client.id);
            }
            stays
        });
        if fed {
            // Nobody else will say that the input ends.
            self.end_input();
        }
        for client in lost {
            self.lose_client_of_exec(client);
        }
    }
}

fn client_ok(ok: bool) -> Option<()> {
    ok.then_some(())
}
