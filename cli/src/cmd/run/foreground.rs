//! A foreground container: its two outputs become ours, our input and signals become its own, its exit code is ours.
//! Refuses to buffer: what it wrote is written here before the next message is read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cc_common::api::v1::run_output::Output;
use cc_common::api::v1::{Exit, RunInput, RunOutput, run_input::Input};
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use tonic::{Status, Streaming};

use crate::error::{EXIT_PIPE, Failure};
use crate::render::clean;
use crate::signal::FORWARDED;

const STDIN_CHUNK_BYTES: usize = 32 * 1024;
/// Whoever asks so often wants this command to end, whatever the container does.
const INTERRUPTS_MAX: u32 = 3;
/// Between SIGTERM and SIGKILL when nobody reads the output any more.
const PIPE_GRACE: Duration = Duration::from_secs(3);

/// The forwarded signals, caught from here on.
#[derive(Debug, Clone)]
pub struct Signals {
    caught: Arc<Mutex<mpsc::Receiver<i32>>>,
    interrupted: Arc<std::sync::atomic::AtomicI32>,
}

impl Signals {
    pub fn catch() -> Result<Self, Failure> {
        let (sender, receiver) = mpsc::channel(16);
        for number in FORWARDED.map(|signal| signal as i32) {
            let mut stream = signal(SignalKind::from_raw(number))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if sender.send(number).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Signals { caught: Arc::new(Mutex::new(receiver)), interrupted: Arc::default() })
    }

    /// Before there is a container a signal is for this command: the call is dropped, and the daemon undoes its part.
    pub async fn unless_interrupted<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut caught = self.caught.lock().await;
        tokio::select! {
            done = work => Some(done),
            Some(number) = caught.recv() => {
                self.interrupted.store(number, std::sync::atomic::Ordering::Relaxed);
                None
            }
        }
    }

    pub fn interrupted_code(&self) -> i32 {
        128 + self.interrupted.load(std::sync::atomic::Ordering::Relaxed)
    }
}

pub async fn attend(
    mut outputs: Streaming<RunOutput>,
    id: &str,
    inputs: mpsc::Sender<RunInput>,
    signals: Signals,
    with_stdin: bool,
    json: bool,
) -> Result<i32, Failure> {
    let (give_up, mut given_up) = mpsc::channel(1);
    tokio::spawn(forward_signals(signals, inputs.clone(), give_up));
    if with_stdin {
        tokio::spawn(forward_stdin(tokio::io::stdin(), inputs.clone()));
    }
    let mut stdout = Sink::new(tokio::io::stdout());
    let mut stderr = Sink::new(tokio::io::stderr());
    loop {
        let message = tokio::select! {
            message = outputs.message() => message.map_err(|status| super::lost(id, status))?,
            Some(code) = given_up.recv() => return Ok(code),
        };
        let Some(message) = message else {
            return Err(super::lost(id, Status::unavailable("it ended the call")).into());
        };
        match message.output {
            Some(Output::Stdout(bytes)) => {
                let open = tokio::select! {
                    open = stdout.write(&bytes) => open?,
                    Some(code) = given_up.recv() => return Ok(code),
                };
                if !open {
                    tokio::spawn(end_unheard(inputs.clone()));
                }
            }
            // A closed standard error is no reason to end anything: the result is on standard output.
            Some(Output::Stderr(bytes)) => {
                stderr.write(&bytes).await?;
            }
            Some(Output::Exit(exit)) => {
                if !json {
                    explain_exit(&exit);
                }
                return Ok(if stdout.is_closed() { EXIT_PIPE } else { exit.code });
            }
            _ => {}
        }
    }
}

/// What an exit code cannot say: why the kernel or the daemon ended it.
pub fn explain_exit(exit: &Exit) {
    if exit.oom_killed {
        eprintln!("cc: the container was killed: it needed more memory than its limit (--memory)");
    } else if !exit.reason.is_empty() {
        eprintln!("cc: {}", clean(&exit.reason));
    }
}

async fn forward_signals(signals: Signals, inputs: mpsc::Sender<RunInput>, give_up: mpsc::Sender<i32>) {
    let mut caught = signals.caught.lock().await;
    let mut interrupts = 0;
    while let Some(number) = caught.recv().await {
        if number == Signal::SIGINT as i32 || number == Signal::SIGTERM as i32 {
            interrupts += 1;
        }
        if interrupts >= INTERRUPTS_MAX {
            eprintln!("cc: asked {INTERRUPTS_MAX} times to end; the container may still run (cc ps)");
            let _ = give_up.send(128 + number).await;
            return;
        }
        // Never waits behind a full stdin: with no room the signal gets a task of its own.
        let inputs = inputs.clone();
        tokio::spawn(async move { inputs.send(RunInput { input: Some(Input::Signal(number)) }).await });
    }
}

/// Reads no further than the daemon takes; the end is passed on as an end.
async fn forward_stdin(mut stdin: impl AsyncRead + Unpin, inputs: mpsc::Sender<RunInput>) {
    let mut buffer = vec![0; STDIN_CHUNK_BYTES];
    loop {
        let Ok(permit) = inputs.reserve().await else { return };
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                permit.send(RunInput { input: Some(Input::StdinEof(true)) });
                return;
            }
            Ok(read) => permit.send(RunInput { input: Some(Input::Stdin(buffer[..read].to_vec())) }),
        }
    }
}

/// A process here would get SIGPIPE; the first process of a pid namespace ignores it from outside, so it is asked, then
/// made to end.
async fn end_unheard(inputs: mpsc::Sender<RunInput>) {
    for (number, grace) in [(Signal::SIGTERM, PIPE_GRACE), (Signal::SIGKILL, Duration::ZERO)] {
        if inputs.send(RunInput { input: Some(Input::Signal(number as i32)) }).await.is_err() {
            return;
        }
        tokio::time::sleep(grace).await;
    }
}

/// One of our outputs; once its reader is gone, what comes is dropped so that the container is not held up.
struct Sink<W> {
    out: W,
    closed: bool,
}

impl<W: AsyncWrite + Unpin> Sink<W> {
    fn new(out: W) -> Self {
        Sink { out, closed: false }
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    /// False exactly once: when the reader turns out to be gone.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if self.closed {
            return Ok(true);
        }
        let result = async {
            self.out.write_all(bytes).await?;
            self.out.flush().await
        };
        match result.await {
            Ok(()) => Ok(true),
            Err(source) if source.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(false)
            }
            Err(source) => Err(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stdin_is_not_read_ahead_and_its_end_is_passed_on() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let (sender, mut inputs) = mpsc::channel(1);
        let pump = tokio::spawn(forward_stdin(theirs, sender));
        ours.write_all(b"one").await.unwrap();
        let first = inputs.recv().await.unwrap().input;
        assert_eq!(first, Some(Input::Stdin(b"one".to_vec())));
        drop(ours);
        assert_eq!(inputs.recv().await.unwrap().input, Some(Input::StdinEof(true)));
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_noticed_once() {
        let (out, reader) = tokio::io::duplex(64);
        drop(reader);
        let mut sink = Sink::new(out);
        assert!(!sink.write(b"x").await.unwrap());
        assert!(sink.write(b"x").await.unwrap() && sink.is_closed());
    }
}
