//! A foreground program: its two outputs become ours, our input, signals and window become its own, its exit code is ours.
//! Refuses to buffer: what it wrote is written here before the next message is read.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::api::v1::run_output::Output;
use cc_common::api::v1::{Exit, RunInput, RunOutput, run_input::Input};
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{Signal as Caught, SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use tonic::{Code, Status, Streaming};

use crate::error::{self, EXIT_PIPE, Failure};
use crate::render::clean;
use crate::signal::FORWARDED;
use crate::terminal::{self, Detach, Raw};

/// Few, so that a program that does not read holds back whoever writes to us.
pub const INPUTS_IN_FLIGHT: usize = 4;
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

/// How a program is attended to.
#[derive(Debug)]
pub struct How {
    pub stdin: bool,
    /// The program has one, which ours stands for.
    pub terminal: bool,
    /// Typed to leave it running; empty: no way to.
    pub detach_keys: Vec<u8>,
    /// Pass our signals on.
    pub signals: bool,
    pub json: bool,
    /// What goes on when it is lost or left.
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Container,
    /// A further program in one.
    Program,
}

pub fn keys(text: &str) -> Result<Vec<u8>, Fault> {
    terminal::parse_keys(text).map_err(|why| error::usage(format!("cannot use --detach-keys {text}"), why))
}

/// Whoever is to type must be able to.
pub fn at_a_terminal(needed: bool) -> Result<(), Fault> {
    if !needed || std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(error::usage("cannot use -t with -i here", "standard input is no terminal").next("leave -t out"))
}

/// Returns its exit code, or 0 once it was left.
pub async fn attend(
    mut outputs: Streaming<RunOutput>,
    id: &str,
    inputs: mpsc::Sender<RunInput>,
    signals: Signals,
    how: How,
) -> Result<i32, Failure> {
    let (give_up, mut given_up) = mpsc::channel(1);
    let raw = if how.terminal && how.stdin { Raw::enter()? } else { None };
    if how.terminal {
        tokio::spawn(forward_size(inputs.clone(), signal(SignalKind::window_change())?));
    }
    match how.signals {
        true => tokio::spawn(forward_signals(signals, inputs.clone(), give_up.clone(), how.what)),
        false => tokio::spawn(leave_on_signal(signals, give_up.clone())),
    };
    if how.stdin {
        let detach = if how.terminal { Detach::by(how.detach_keys.clone()) } else { Detach::default() };
        tokio::spawn(forward_stdin(tokio::io::stdin(), inputs.clone(), detach, give_up));
    }
    let code = until_its_end(&mut outputs, id, &inputs, &mut given_up, &how).await;
    drop(raw);
    code
}

async fn until_its_end(
    outputs: &mut Streaming<RunOutput>,
    id: &str,
    inputs: &mpsc::Sender<RunInput>,
    given_up: &mut mpsc::Receiver<i32>,
    how: &How,
) -> Result<i32, Failure> {
    let mut stdout = Sink::new(tokio::io::stdout());
    let mut stderr = Sink::new(tokio::io::stderr());
    loop {
        let message = tokio::select! {
            message = outputs.message() => message.map_err(|status| lost(id, status, how.what))?,
            Some(code) = given_up.recv() => return Ok(code),
        };
        let Some(message) = message else {
            return Err(lost(id, Status::unavailable("it ended the call"), how.what).into());
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
                if !how.json {
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

/// A container that has started does not end with its daemon, nor with the connection to it.
pub fn lost(id: &str, status: Status, what: What) -> Fault {
    let fault = Fault::from(status);
    if !error::is_lost(&fault) {
        return fault;
    }
    // How a connection broke, in a library's words, helps nobody.
    let cause = if fault.code == error::STOPPING { fault.why.as_str() } else { "the connection to it broke" };
    let (why, next) = match what {
        What::Container => (
            format!("container {id} goes on without it ({cause})"),
            format!("follow it when the daemon is back: cc logs -f {id}"),
        ),
        What::Program => (
            format!("what was run in container {id} goes on, or was hung up if it had a terminal ({cause})"),
            format!("look when the daemon is back: cc exec {id} ps"),
        ),
    };
    Fault::new(Code::Unavailable, "run.lost", "lost the daemon", why).next(next)
}

async fn forward_size(inputs: mpsc::Sender<RunInput>, mut changed: Caught) {
    while changed.recv().await.is_some() {
        if inputs.send(RunInput { input: Some(Input::Resize(terminal::size())) }).await.is_err() {
            return;
        }
    }
}

/// They are caught all the same, and are for this command alone.
async fn leave_on_signal(signals: Signals, give_up: mpsc::Sender<i32>) {
    if let Some(number) = signals.caught.lock().await.recv().await {
        let _ = give_up.send(128 + number).await;
    }
}

async fn forward_signals(signals: Signals, inputs: mpsc::Sender<RunInput>, give_up: mpsc::Sender<i32>, what: What) {
    let mut caught = signals.caught.lock().await;
    let mut interrupts = 0;
    while let Some(number) = caught.recv().await {
        if number == Signal::SIGINT as i32 || number == Signal::SIGTERM as i32 {
            interrupts += 1;
        }
        if interrupts >= INTERRUPTS_MAX {
            let (what, look) = match what {
                What::Container => ("container", "cc ps"),
                What::Program => ("program", "cc exec ID ps"),
            };
            eprintln!("cc: asked {INTERRUPTS_MAX} times to end; the {what} may still run ({look})");
            let _ = give_up.send(128 + number).await;
            return;
        }
        // Never waits behind a full stdin: with no room the signal gets a task of its own.
        let inputs = inputs.clone();
        tokio::spawn(async move { inputs.send(RunInput { input: Some(Input::Signal(number)) }).await });
    }
}

/// Reads no further than the daemon takes; the end is passed on as an end. The keys that leave end the session as a success.
async fn forward_stdin(
    mut stdin: impl AsyncRead + Unpin,
    inputs: mpsc::Sender<RunInput>,
    mut detach: Detach,
    left: mpsc::Sender<i32>,
) {
    let mut buffer = vec![0; STDIN_CHUNK_BYTES];
    loop {
        let Ok(permit) = inputs.reserve().await else { return };
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                permit.send(RunInput { input: Some(Input::StdinEof(true)) });
                return;
            }
            Ok(read) => {
                let (typed, leaves) = detach.filter(&buffer[..read]);
                if !typed.is_empty() {
                    permit.send(RunInput { input: Some(Input::Stdin(typed)) });
                }
                if leaves {
                    let _ = left.send(0).await;
                    return;
                }
            }
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
        let (left, _) = mpsc::channel(1);
        let pump = tokio::spawn(forward_stdin(theirs, sender, Detach::default(), left));
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
