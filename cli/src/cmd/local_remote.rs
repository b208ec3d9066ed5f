//! `cc local-remote serve`: each TCP connection to a local address becomes one stream to a container's port, through the
//! daemon. Refuses to hold bytes: each direction moves one chunk at a time.

use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1::container_service_client::ContainerServiceClient;
use cc_common::api::v1::{TunnelData, TunnelOpen, tunnel_data::Data};
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::Context;
use crate::client::Connection;
use crate::error::{self, Failure, chain};

const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS_IN_FLIGHT: usize = 2;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  cc local-remote serve --container-id web --container-port 80 --bind 127.0.0.1:8080"
)]
pub struct LocalRemoteArgs {
    #[command(subcommand)]
    command: LocalRemoteCommand,
}

#[derive(Debug, Subcommand)]
enum LocalRemoteCommand {
    /// Listen here; each connection goes to the container's port
    #[command(after_help = "Examples:\n  \
        cc local-remote serve --container-id web --container-port 80 --bind 127.0.0.1:8080\n  \
        cc local-remote serve --container-id db --container-port 6379 --bind 127.0.0.1:0 --json")]
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The container, by name or id
    #[arg(long, value_name = "ID")]
    container_id: String,
    /// Its TCP port
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    container_port: u16,
    /// Where to listen: HOST:PORT; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    bind: String,
    /// How many connections at once; more wait
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections_max: u16,
}

#[derive(Serialize)]
struct Listening {
    listening: String,
}

pub async fn run(context: &Context, args: LocalRemoteArgs) -> Result<i32, Failure> {
    let LocalRemoteCommand::Serve(args) = args.command;
    let connection = context.connection().await?;
    let bind = async |address: &str| {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = bind(&args.bind).await.map_err(|source| {
        let what = format!("cannot listen on {}", args.bind);
        Fault::new(Code::Unavailable, "cli.bind", what, chain(&source))
            .next("give a free --bind HOST:PORT; port 0 takes any")
    })?;
    context.ui.line(&Listening { listening: address.to_string() }, &format!("listening on {address}"))?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let served = serve(listener, connection, args, Arc::new(Reporter::new(context.ui.json)));
    tokio::select! {
        _ = interrupt.recv() => Ok(0),
        _ = terminate.recv() => Ok(0),
        failure = served => failure,
    }
}

async fn serve(
    listener: TcpListener,
    connection: Connection,
    args: ServeArgs,
    reporter: Arc<Reporter>,
) -> Result<i32, Failure> {
    let room = Arc::new(Semaphore::new(args.connections_max.into()));
    loop {
        let permit = room.clone().acquire_owned().await.expect("nobody closes this semaphore");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(source) => {
                // Out of descriptors, or a connection that died in the queue: the others must go on.
                let what = "cannot accept a connection";
                reporter.report(Fault::new(Code::Unavailable, "cli.accept", what, source.to_string())).await;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let open = TunnelOpen { container: args.container_id.clone(), port: args.container_port.into() };
        let client = ContainerServiceClient::new(connection.clone());
        let reporter = reporter.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(status) = tunnel(stream, client, open).await {
                reporter.report(status.into()).await;
            }
        });
    }
}

/// A status is the daemon's; what happens to the local connection ends the tunnel without a word.
async fn tunnel(
    stream: TcpStream,
    mut client: ContainerServiceClient<Connection>,
    open: TunnelOpen,
) -> Result<(), Status> {
    let _ = stream.set_nodelay(true);
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let first = TunnelData { data: Some(Data::Open(open)) };
    sender.try_send(first).expect("the channel is new and has room");
    let inbound = match client.tunnel(ReceiverStream::new(receiver)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            reset(&stream);
            return Err(status);
        }
    };
    let (reader, mut writer) = stream.into_split();
    let ended = tokio::try_join!(to_container(reader, sender), from_container(inbound, &mut writer));
    match ended {
        Ok(_) | Err(End::Local) => Ok(()),
        Err(End::Remote(status)) => {
            reset(writer.as_ref());
            Err(*status)
        }
    }
}

/// The peer sees a reset, as from a port where nobody listens, not an empty answer.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

enum End {
    Local,
    Remote(Box<Status>),
}

async fn to_container(mut reader: OwnedReadHalf, sender: mpsc::Sender<TunnelData>) -> Result<(), End> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        // Room first, then read: a slow container must fill the peer's window, not our memory. A closed channel is the
        // daemon's doing, and the other direction knows why.
        let Ok(permit) = sender.reserve().await else { return Ok(()) };
        match reader.read(&mut buffer).await {
            Ok(0) => {
                permit.send(TunnelData { data: Some(Data::Eof(true)) });
                return Ok(());
            }
            Ok(read) => permit.send(TunnelData { data: Some(Data::Bytes(buffer[..read].to_vec())) }),
            Err(_) => return Err(End::Local),
        }
    }
}

async fn from_container(mut inbound: Streaming<TunnelData>, writer: &mut OwnedWriteHalf) -> Result<(), End> {
    loop {
        let message = inbound.message().await.map_err(|status| End::Remote(Box::new(status)))?;
        match message.map(|message| message.data) {
            Some(Some(Data::Bytes(bytes))) => writer.write_all(&bytes).await.map_err(|_| End::Local)?,
            Some(Some(Data::Eof(_))) => {
                writer.shutdown().await.map_err(|_| End::Local)?;
            }
            Some(_) => {}
            None => {
                // The daemon is done with both directions: a peer that only writes would otherwise stay for ever.
                let _ = writer.shutdown().await;
                return Err(End::Local);
            }
        }
    }
}

/// The same refusal for every connection of a busy client is worth one line.
struct Reporter {
    json: bool,
    last: Mutex<Option<Fault>>,
}

impl Reporter {
    fn new(json: bool) -> Self {
        Reporter { json, last: Mutex::new(None) }
    }

    async fn report(&self, fault: Fault) {
        let mut last = self.last.lock().await;
        if last.as_ref() != Some(&fault) {
            let _ = error::print_into(&mut std::io::stderr().lock(), &fault, self.json);
            *last = Some(fault);
        }
    }
}
