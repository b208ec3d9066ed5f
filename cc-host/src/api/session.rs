//! What a foreground client and a program say to each other: output one way, input, signals and window sizes the other; and `cc exec` and
//! `cc attach`, which are nothing else. Refuses to end a program because its client went away.

use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::{run_input::Input as In, run_output::Output as Out};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::container::may_be_privileged;
use super::convert::{bad, check_dir, check_env, check_strings};
use super::follow::done_or_left;
use super::view::exit_view;
use crate::auth::Caller;
use crate::container::launch::{OutputReceiver, StdinSender, Stream as From};
use crate::container::{ContainerError, ContainerRecord, Containers, Exit, Stdio};
use crate::shim::exec_spec::ExecSpec;
use crate::shim::record::ExitRecord;
use crate::shim::terminal::Size;

/// Messages on their way to the client; what is more waits in the shim, and so in the program.
pub(super) const QUEUE_MESSAGES: usize = 16;

pub type Output = ReceiverStream<Result<v1::RunOutput, Status>>;
pub(super) type Sender = mpsc::Sender<Result<v1::RunOutput, Status>>;

/// Whom a client's signals are for.
pub(super) enum To {
    Container(Arc<Containers>, Box<ContainerRecord>),
    /// Whoever has the streams.
    Program,
}

/// What a client sends, whichever way it comes.
pub trait Input: Stream<Item = Result<v1::RunInput, Status>> + Send + Unpin + 'static {}
impl<T: Stream<Item = Result<v1::RunInput, Status>> + Send + Unpin + 'static> Input for T {}

pub fn exec(containers: &Arc<Containers>, caller: Caller, input: impl Input) -> Output {
    conduct(containers, input, async move |containers, input, send| {
        conduct_exec(&containers, &caller, input, &send).await
    })
}

pub fn attach(containers: &Arc<Containers>, caller: Caller, input: impl Input) -> Output {
    conduct(containers, input, async move |containers, input, send| {
        conduct_attach(&containers, &caller, input, &send).await
    })
}

/// In a task of its own, which goes on when the client does not.
fn conduct<I, F>(
    containers: &Arc<Containers>,
    input: I,
    conduct: impl FnOnce(Arc<Containers>, I, Sender) -> F,
) -> Output
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (send, receive) = mpsc::channel(QUEUE_MESSAGES);
    let conducted = conduct(Arc::clone(containers), input, send.clone());
    tokio::spawn(async move {
        if let Err(status) = conducted.await {
            let _ = send.send(Err(status)).await;
        }
    });
    ReceiverStream::new(receive)
}

async fn conduct_exec(
    containers: &Arc<Containers>,
    caller: &Caller,
    mut input: impl Input,
    send: &Sender,
) -> Result<(), Status> {
    let Some(v1::RunInput { input: Some(In::Exec(start)) }) = input.next().await.transpose()? else {
        return Err(bad_start("cannot run a program in a container"));
    };
    let record = containers.find(&caller.project, &start.container).map_err(Fault::from)?;
    // Whoever runs something there has what the container has.
    may_be_privileged(caller, containers, &record.spec)?;
    let wanted = exec_spec(&start).map_err(Fault::from)?;
    let Stdio { stdin, output } = containers.exec(&record, &wanted).await.map_err(Fault::from)?;
    tell(send, Out::Started(true)).await;
    if wanted.detach {
        return Ok(());
    }
    let feeder = feed(input, stdin, To::Program);
    let end = done_or_left(containers, carry(output, send)).await;
    feeder.abort();
    let exit = end?.as_ref().map_or_else(lost, ended);
    tell(send, Out::Exit(exit_view(record.id.as_str(), &exit))).await;
    Ok(())
}

async fn conduct_attach(
    containers: &Arc<Containers>,
    caller: &Caller,
    mut input: impl Input,
    send: &Sender,
) -> Result<(), Status> {
    let Some(v1::RunInput { input: Some(In::Attach(start)) }) = input.next().await.transpose()? else {
        return Err(bad_start("cannot attach to a container"));
    };
    let record = containers.find(&caller.project, &start.container).map_err(Fault::from)?;
    let with_stdin = start.stdin && record.spec.stdin;
    may_be_privileged(caller, containers, &record.spec)?;
    let (stdio, mut exit) = containers.attach(&record, with_stdin).await.map_err(Fault::from)?;
    let Stdio { mut stdin, output } = stdio;
    if let Some(size) = &start.terminal {
        stdin.resize(window(size)).await.map_err(Fault::from)?;
    }
    tell(send, Out::Attached(v1::Attached { terminal: record.spec.terminal.is_some(), stdin: with_stdin })).await;
    let feeder = feed(input, stdin, To::Container(Arc::clone(containers), Box::new(record.clone())));
    let to_its_end = async {
        let end = carry(output, send).await;
        let exit = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        exit.or_else(|| end.as_ref().map(ended)).unwrap_or_else(lost)
    };
    let exit = done_or_left(containers, to_its_end).await;
    feeder.abort();
    let exit = exit?;
    tell(send, Out::Exit(exit_view(record.id.as_str(), &exit))).await;
    Ok(())
}

pub(super) fn window(size: &v1::WindowSize) -> Size {
    let clamp = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    Size { rows: clamp(size.rows), columns: clamp(size.columns) }
}

fn exec_spec(start: &v1::ExecStart) -> Result<ExecSpec, ContainerError> {
    let v1::ExecStart { command, env, dir, user, attach_stdin, terminal, detach, .. } = start.clone();
    if command.first().is_none_or(String::is_empty) {
        return Err(bad("COMMAND", "", "it names no program"));
    }
    check_strings(env.iter().chain(&command).chain([&dir, &user]))?;
    check_env(&env)?;
    check_dir(&dir)?;
    let terminal = terminal.map(|size| window(&size));
    Ok(ExecSpec { args: command, env, cwd: dir, user, stdin: attach_stdin && !detach, terminal, detach, bound: false })
}

fn bad_start(what: &str) -> Status {
    Fault::new(Code::InvalidArgument, "container.bad_start", what, "the first message does not say of which").into()
}

fn ended(record: &ExitRecord) -> Exit {
    let ExitRecord { code, signal, finished_ms, .. } = *record;
    Exit { code, signal, oom_killed: false, finished_ms, reason: String::new() }
}

/// Its shim was killed, or has given us up.
fn lost() -> Exit {
    let reason = "the connection to it was lost: how it ended is not known".to_owned();
    Exit { code: 125, signal: None, oom_killed: false, finished_ms: crate::ids::now_ms(), reason }
}

/// False when the client is gone, which does not stop what it started.
pub(super) async fn tell(send: &Sender, output: Out) -> bool {
    send.send(Ok(v1::RunOutput { output: Some(output) })).await.is_ok()
}

/// Until the program's end, which it gives, or the client's. The receiver goes with it: the shim waits for nobody who listens no more.
pub(super) async fn carry(mut output: OutputReceiver, send: &Sender) -> Option<ExitRecord> {
    loop {
        let chunk = tokio::select! {
            // Half a frame may have been read: nothing of it is wanted any more.
            () = send.closed() => return None,
            chunk = output.recv() => chunk,
        };
        let Some(chunk) = chunk else { return output.end().cloned() };
        let chunk = match chunk.stream {
            From::Stdout => Out::Stdout(chunk.bytes.to_vec()),
            From::Stderr => Out::Stderr(chunk.bytes.to_vec()),
        };
        if send.send(Ok(v1::RunOutput { output: Some(chunk) })).await.is_err() {
            return None;
        }
    }
}

/// Input, signals and sizes, for as long as the client sends them.
pub(super) fn feed(mut input: impl Input, mut stdin: StdinSender, to: To) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ended = false;
        while let Some(Ok(message)) = input.next().await {
            let done = match message.input {
                Some(In::Stdin(bytes)) if !ended => stdin.send(&bytes).await,
                Some(In::StdinEof(_)) if !ended => {
                    ended = true;
                    stdin.end().await
                }
                Some(In::Resize(size)) => stdin.resize(window(&size)).await,
                Some(In::Signal(signal)) if (1..=64).contains(&signal) => match &to {
                    To::Program => stdin.signal(signal).await,
                    To::Container(containers, record) => {
                        if let Err(error) = containers.signal(record, signal).await {
                            tracing::debug!(container = %record.id, %error, "a signal came too late");
                        }
                        Ok(())
                    }
                },
                _ => Ok(()),
            };
            // A program that is gone takes no input, and its container may still be signalled.
            ended |= done.is_err();
        }
    })
}
