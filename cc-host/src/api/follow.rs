//! Calls that last as long as a container does, and what their clients hear when the daemon goes first. Refuses to know what they
//! carry.

use std::pin::pin;
use std::task::Poll;

use cc_common::api::fault::Fault;
use futures::{Stream, StreamExt as _};
use tonic::{Code, Status};

use crate::container::Containers;

/// The stream, until it ends or the daemon leaves its containers.
pub(super) fn until_left<T>(
    containers: &Containers,
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    let (mut leaves, mut stream) = (Box::pin(containers.leaves()), Box::pin(stream));
    let mut over = false;
    futures::stream::poll_fn(move |context| {
        if over {
            return Poll::Ready(None);
        }
        if leaves.as_mut().poll(context).is_ready() {
            over = true;
            return Poll::Ready(Some(Err(left())));
        }
        stream.poll_next_unpin(context)
    })
}

/// What is done until it is done, or the reason why it is not.
pub(super) async fn done_or_left<T>(containers: &Containers, work: impl Future<Output = T>) -> Result<T, Status> {
    let (leaves, work) = (pin!(containers.leaves()), pin!(work));
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = leaves => Err(left()),
    }
}

fn left() -> Status {
    Fault::new(Code::Unavailable, "server.stopping", "the call was cut", "the daemon stops, and its containers go on")
        .next("try again when it is back")
        .into()
}
