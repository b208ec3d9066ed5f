//! `cc cp`: an archive from the client into a container, or the other way. Refuses to look into it.

use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::{copy_input::Input, copy_output::Output as Out};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::container::may_be_privileged;
use super::follow::done_or_left;
use super::session::QUEUE_MESSAGES;
use crate::auth::Caller;
use crate::container::{ContainerError, Containers};
use crate::copy::{Copied, Kind, Wanted, What};

fn done_view(copied: Copied) -> v1::CopyDone {
    let Copied { entries, bytes, skipped } = copied;
    v1::CopyDone { entries, bytes, skipped }
}

fn bad(why: &str) -> Status {
    Fault::new(Code::InvalidArgument, "copy.bad_start", "cannot copy files", why).into()
}

pub(super) async fn into_container(
    containers: &Arc<Containers>,
    caller: &Caller,
    mut input: Streaming<v1::CopyInput>,
) -> Result<v1::CopyDone, Status> {
    let Some(v1::CopyInput { input: Some(Input::Start(start)) }) = input.message().await? else {
        return Err(bad("the first message does not say where to"));
    };
    let record = containers.find(&caller.project, &start.container).map_err(Fault::from)?;
    // What is put there runs with what the container has.
    may_be_privileged(caller, containers, &record.spec)?;
    let what = match start.source() {
        v1::CopySource::File => What::File { name: start.name.clone() },
        v1::CopySource::Directory => What::Directory { name: start.name.clone(), contents: start.contents },
        v1::CopySource::Archive => What::Archive,
        v1::CopySource::Unspecified => return Err(bad("it is not said what is copied")),
    };
    let wanted = Wanted::In { path: start.path, what, keep_owner: start.keep_owner };
    let copy = async {
        let mut copying = containers.copy(&record, wanted).await.map_err(Fault::from)?;
        loop {
            // Dropped, it ends: half an archive must not pass for a whole one.
            match copying.patiently(input.message()).await.map_err(Fault::from)?? {
                Some(v1::CopyInput { input: Some(Input::Data(data)) }) => {
                    copying.write(&data).await.map_err(Fault::from)?;
                }
                Some(_) => return Err(bad("a message in the archive is none of it")),
                None => break,
            }
        }
        Ok(done_view(copying.finish().await.map_err(Fault::from)?))
    };
    done_or_left(containers, copy).await?
}

pub(super) fn out_of_container(
    containers: &Arc<Containers>,
    caller: Caller,
    request: v1::CopyFromRequest,
) -> ReceiverStream<Result<v1::CopyOutput, Status>> {
    let (send, receive) = mpsc::channel(QUEUE_MESSAGES);
    let containers = Arc::clone(containers);
    tokio::spawn(async move {
        let sent = async {
            let record = containers.find(&caller.project, &request.container).map_err(Fault::from)?;
            may_be_privileged(&caller, &containers, &record.spec)?;
            let wanted = Wanted::Out { path: request.path, follow: request.follow };
            let sent = done_or_left(&containers, send_all(&containers, &record, wanted, &send)).await?;
            Ok::<_, Status>(sent.map_err(Fault::from)?)
        };
        if let Err(status) = sent.await {
            let _ = send.send(Err(status)).await;
        }
    });
    ReceiverStream::new(receive)
}

async fn send_all(
    containers: &Containers,
    record: &crate::container::ContainerRecord,
    wanted: Wanted,
    send: &mpsc::Sender<Result<v1::CopyOutput, Status>>,
) -> Result<(), ContainerError> {
    let mut copying = containers.copy(record, wanted).await?;
    let header = copying.header().await?;
    let kind = match header.kind {
        Kind::File => v1::CopyKind::File,
        Kind::Directory => v1::CopyKind::Directory,
        Kind::Symlink => v1::CopyKind::Symlink,
        Kind::Other => v1::CopyKind::Other,
    };
    let mut next = Some(Out::Header(v1::CopyHeader { name: header.name, kind: kind.into() }));
    while let Some(output) = next {
        let sent = send.send(Ok(v1::CopyOutput { output: Some(output) }));
        if copying.patiently(sent).await?.is_err() {
            // Nobody listens any more.
            return Ok(());
        }
        next = copying.read().await?.map(|data| Out::Data(data.into()));
    }
    let copied = copying.finish().await?;
    let _ = send.send(Ok(v1::CopyOutput { output: Some(Out::Done(done_view(copied))) })).await;
    Ok(())
}
