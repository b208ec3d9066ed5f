//! `cc cp`: files into a container or out of it, whether it runs or not. Refuses to copy between two containers, or two places here.

mod pack;
mod place;
mod unpack;

use std::io::{self, IsTerminal as _, Read, Write};
use std::path::PathBuf;

use cc_common::api::fault::Fault;
use cc_common::api::v1::copy_input::Input;
use cc_common::api::v1::copy_output::Output;
use cc_common::api::v1::{CopyDone, CopyFromRequest, CopyInput, CopySource, CopyStart};
use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use self::place::{Direction, Local};
use super::Context;
use crate::error::{Failure, chain};
use crate::size;

/// Well under gRPC's default message limit of 4 MiB.
const CHUNK_BYTES: usize = 128 << 10;
const CHUNKS_IN_FLIGHT: usize = 8;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc cp site.conf web:/etc/nginx/\n  cc cp web:/var/log/app ./logs\n  \
    cc cp ./public/. web:/srv\n  cc cp web:/data - | tar -t\n  tar -c public | cc cp - web:/srv\n\n\
    As with cp, a directory that is there has the file or directory put into it; with /. at its end, of a source directory what is in it\n\
    is copied. A local name with a colon is written as ./NAME. What is put into a container belongs to its root, but for -a.")]
pub struct CpArgs {
    /// Keep users and groups, by their numbers
    #[arg(short, long)]
    archive: bool,
    /// Of a source that is a symlink, copy what it leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// ID:PATH, a local path, or - for a tar archive on standard input
    #[arg(value_name = "SOURCE")]
    source: String,
    /// ID:PATH, a local path, or - for a tar archive on standard output
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

#[derive(Debug, thiserror::Error)]
enum CpError {
    #[error("cannot {operation} {}", path.display())]
    Disk { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{0}")]
    Refused(String),
    #[error("the archive from the container is broken")]
    Archive(#[source] io::Error),
}

impl From<CpError> for Fault {
    fn from(error: CpError) -> Fault {
        let code = match &error {
            CpError::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => Code::NotFound,
            CpError::Disk { .. } | CpError::Refused(_) => Code::FailedPrecondition,
            CpError::Archive(_) => Code::DataLoss,
        };
        Fault::new(code, "cli.copy", "cannot copy", chain(&error)).next("see cc cp --help")
    }
}

fn disk(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CpError {
    let path = path.into();
    move |source| CpError::Disk { operation, path, source }
}

#[derive(Serialize)]
struct Copied {
    entries: u64,
    bytes: u64,
    skipped: u64,
}

pub async fn run(context: &Context, args: CpArgs) -> Result<i32, Failure> {
    match Direction::parse(&args.source, &args.destination)? {
        Direction::In { from, container, path } => copy_in(context, &args, from, container, path).await,
        Direction::Out { container, path, to } => copy_out(context, &args, container, path, to).await,
    }
}

async fn copy_in(
    context: &Context,
    args: &CpArgs,
    from: Local,
    container: String,
    path: String,
) -> Result<i32, Failure> {
    let mut start = CopyStart { container, path, keep_owner: args.archive, ..CopyStart::default() };
    let source = match from {
        Local::Stream => {
            context.claim_stdin("- as the source")?;
            start.set_source(CopySource::Archive);
            start.keep_owner = true;
            None
        }
        Local::Path(path) => {
            let source = place::source(&path, args.follow_link).map_err(Fault::from)?;
            start.set_source(if source.is_directory { CopySource::Directory } else { CopySource::File });
            start.name.clone_from(&source.name);
            start.contents = source.contents;
            Some(source)
        }
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    sender.try_send(CopyInput { input: Some(Input::Start(start)) }).expect("the channel is new and has room");
    let mut client = context.containers().await?;
    let (failed, mut failure) = tokio::sync::oneshot::channel();
    let (skip, skipped) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let mut out = io::BufWriter::with_capacity(CHUNK_BYTES, Chunks(sender));
        let packed = match source {
            Some(source) => pack::pack(&source, &mut out),
            None => io::copy(&mut io::stdin().lock(), &mut out).map(|_| 0).map_err(disk("read", "standard input")),
        };
        match packed.and_then(|count| out.flush().map(|()| count).map_err(disk("send", "the archive"))) {
            Ok(count) => drop(skip.send(count)),
            Err(error) => {
                let open = !out.get_ref().0.is_closed();
                // The stream stays open until the call was given up: its end would look like the end of the archive.
                let (Chunks(sender), _) = out.into_parts();
                if open && failed.send(error).is_ok() {
                    runtime.block_on(sender.closed());
                }
            }
        }
    });
    let call = client.copy_to(ReceiverStream::new(receiver));
    tokio::pin!(call);
    let done = tokio::select! {
        answer = &mut call => answer?.into_inner(),
        Ok(error) = &mut failure => return Err(Fault::from(error).into()),
    };
    let own = skipped.await.unwrap_or(0);
    say(context, &CopyDone { skipped: done.skipped + own, ..done })?;
    Ok(0)
}

async fn copy_out(
    context: &Context,
    args: &CpArgs,
    container: String,
    path: String,
    to: Local,
) -> Result<i32, Failure> {
    let request = CopyFromRequest { container, path: path.clone(), follow: args.follow_link };
    if matches!(to, Local::Stream) && io::stdout().is_terminal() {
        let refused = CpError::Refused("a tar archive is nothing for a terminal".to_owned());
        return Err(Fault::from(refused).next("pipe it on: cc cp ID:PATH - | tar -t").into());
    }
    let mut outputs = context.containers().await?.copy_from(request).await?.into_inner();
    let Some(Output::Header(header)) = outputs.message().await?.and_then(|message| message.output) else {
        return Err(Status::data_loss("the daemon sent no header").into());
    };
    let to = match to {
        Local::Path(to) => to,
        Local::Stream => {
            let done = pour(&mut outputs).await?;
            if done.skipped > 0 && !context.ui.quiet {
                eprintln!("{} left out: sockets, devices, kernel file systems", done.skipped);
            }
            return Ok(0);
        }
    };
    let target = place::target(&to, &path, &header).map_err(Fault::from)?;
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let keep_owner = args.archive;
    let unpacking = tokio::task::spawn_blocking(move || {
        unpack::unpack(Pieces { receiver, rest: Vec::new(), at: 0 }, &target, keep_owner)
    });
    let forwarded = async {
        while let Some(message) = outputs.message().await? {
            match message.output {
                Some(Output::Data(data)) => {
                    let sent = sender.send(Ok(data)).await;
                    // One who has given up says why.
                    if sent.is_err() {
                        break;
                    }
                }
                Some(Output::Done(done)) => return Ok(Some(done)),
                _ => {}
            }
        }
        Ok::<_, Status>(None)
    }
    .await;
    if let Err(status) = &forwarded {
        let _ = sender.send(Err(io::Error::other(status.message().to_owned()))).await;
    }
    drop(sender);
    let unpacked = unpacking.await.expect("unpacking does not panic");
    let done = forwarded?;
    let skipped = unpacked.map_err(Fault::from)?;
    let done = done.ok_or_else(|| Status::data_loss("the daemon ended the call before the archive's end"))?;
    say(context, &CopyDone { skipped: done.skipped + skipped, ..done })?;
    Ok(0)
}

/// The archive as it is.
async fn pour(outputs: &mut Streaming<cc_common::api::v1::CopyOutput>) -> Result<CopyDone, Failure> {
    let mut out = io::stdout().lock();
    while let Some(message) = outputs.message().await? {
        match message.output {
            Some(Output::Data(data)) => out.write_all(&data)?,
            Some(Output::Done(done)) => {
                out.flush()?;
                return Ok(done);
            }
            _ => {}
        }
    }
    Err(Status::data_loss("the daemon ended the call before the archive's end").into())
}

fn say(context: &Context, done: &CopyDone) -> io::Result<()> {
    let CopyDone { entries, bytes, skipped } = *done;
    if context.ui.json {
        return context.ui.line(&Copied { entries, bytes, skipped }, "");
    }
    if context.ui.quiet {
        return Ok(());
    }
    let left_out = if skipped > 0 {
        format!(", {skipped} left out: sockets, devices, kernel file systems")
    } else {
        String::new()
    };
    writeln!(io::stderr().lock(), "copied {entries} files, {}{left_out}", size::human(bytes))
}

/// A writer whose pieces become messages; it blocks while the daemon is slower.
struct Chunks(mpsc::Sender<CopyInput>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(CHUNK_BYTES)];
        let message = CopyInput { input: Some(Input::Data(piece.to_vec())) };
        self.0.blocking_send(message).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What comes in messages, as a reader.
struct Pieces {
    receiver: mpsc::Receiver<io::Result<Vec<u8>>>,
    rest: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.rest.len() {
            match self.receiver.blocking_recv() {
                Some(piece) => (self.rest, self.at) = (piece?, 0),
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.rest.len() - self.at);
        into[..count].copy_from_slice(&self.rest[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
