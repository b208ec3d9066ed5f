//! One TCP connection into a container as a gRPC stream. Half-close goes both ways, and back-pressure is the stream's own.
//! Refuses to open more than the one connection.

use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1::{TunnelData, TunnelOpen, tunnel_data::Data};
use futures::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::auth::Caller;
use crate::container::Containers;

const CHUNK_BYTES: usize = 64 << 10;
/// Chunks on their way out; what is more waits in the socket, and so in the container.
const QUEUE_CHUNKS: usize = 8;

pub(super) async fn open(
    containers: &Arc<Containers>,
    caller: &Caller,
    mut input: Streaming<TunnelData>,
) -> Result<impl Stream<Item = Result<TunnelData, Status>> + use<>, Status> {
    let bad =
        |why: &str| Status::from(Fault::new(Code::InvalidArgument, "tunnel.bad_open", "cannot open a tunnel", why));
    let Some(TunnelData { data: Some(Data::Open(TunnelOpen { container, port })) }) = input.message().await? else {
        return Err(bad("the first message does not say where to"));
    };
    let port = u16::try_from(port).ok().filter(|&p| p != 0).ok_or_else(|| bad("a port goes from 1 to 65535"))?;
    let record = containers.find(&caller.project, &container).map_err(Fault::from)?;
    let socket = containers.connect(&record, port).await.map_err(Fault::from)?;
    let (from_container, to_container) = socket.into_split();
    let (send, receive) = mpsc::channel(QUEUE_CHUNKS);
    tokio::spawn(pump_out(from_container, send.clone()));
    tokio::spawn(pump_in(input, to_container, send));
    Ok(ReceiverStream::new(receive))
}

type Sender = mpsc::Sender<Result<TunnelData, Status>>;

/// Container to client, until it half-closes.
async fn pump_out(mut from: OwnedReadHalf, send: Sender) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            // A container that says nothing more would keep the socket for a client that is gone.
            () = send.closed() => return,
        };
        let data = match read {
            Ok(0) => Ok(Data::Eof(true)),
            Ok(n) => Ok(Data::Bytes(buffer[..n].to_vec())),
            Err(error) => Err(Status::aborted(error.to_string())),
        };
        let last = !matches!(data, Ok(Data::Bytes(_)));
        let sent = send.send(data.map(|data| TunnelData { data: Some(data) })).await;
        if last || sent.is_err() {
            return;
        }
    }
}

/// Client to container. It holds a sender, so that the stream ends only when both directions have.
async fn pump_in(mut input: Streaming<TunnelData>, mut to: OwnedWriteHalf, send: Sender) {
    loop {
        let message = tokio::select! {
            message = input.message() => message,
            () = send.closed() => return,
        };
        match message {
            Ok(Some(TunnelData { data: Some(Data::Bytes(bytes)) })) => {
                let written = tokio::select! {
                    written = to.write_all(&bytes) => written,
                    // A container that reads nothing more would keep us here.
                    () = send.closed() => return,
                };
                if let Err(error) = written {
                    // The client may be gone too: then nobody needs to know.
                    let _ = send.send(Err(Status::aborted(error.to_string()))).await;
                    return;
                }
            }
            Ok(Some(TunnelData { data: Some(Data::Eof(_)) }) | None) => {
                // The other side may have closed already, which is as good.
                let _ = to.shutdown().await;
                return;
            }
            Ok(Some(_)) => {}
            Err(_) => return,
        }
    }
}
