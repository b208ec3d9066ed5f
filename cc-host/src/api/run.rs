//! `cc run`: pull if needed, start, then carry output out and input in until the container ends. Refuses to end a container
//! because its client went away.

use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::{run_input::Input, run_output::Output as Out};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::container::{may_be_privileged, may_publish};
use super::convert::run_spec;
use super::follow::done_or_left;
use super::session::{self, Sender, To, carry, tell};
use super::view::{exit_view, progress_view};
use crate::auth::Caller;
use crate::container::{Containers, Started, Stdio};
use crate::image::{Auth, ImageError, ImageRecord, Images, check_reach};

pub(super) fn run(
    containers: &Arc<Containers>,
    images: &Images,
    caller: Caller,
    input: Streaming<v1::RunInput>,
) -> impl Stream<Item = Result<v1::RunOutput, Status>> + use<> {
    let (send, receive) = mpsc::channel(session::QUEUE_MESSAGES);
    let (containers, images) = (Arc::clone(containers), images.clone());
    // A task of its own: a client that goes away half way leaves a whole container or none.
    tokio::spawn(async move {
        if let Err(status) = conduct(&containers, &images, &caller, input, &send).await {
            let _ = send.send(Err(status)).await;
        }
    });
    ReceiverStream::new(receive)
}

async fn conduct(
    containers: &Arc<Containers>,
    images: &Images,
    caller: &Caller,
    mut input: Streaming<v1::RunInput>,
    send: &Sender,
) -> Result<(), Status> {
    let Some(v1::RunInput { input: Some(Input::Start(start)) }) = input.message().await? else {
        let fault =
            Fault::new(Code::InvalidArgument, "container.bad_start", "cannot run", "the first message is no start");
        return Err(fault.into());
    };
    let wanted = start.spec.clone().unwrap_or_default();
    let name = wanted.name.clone();
    if !wanted.publish.is_empty() {
        may_publish(caller, containers)?;
    }
    let spec = run_spec(wanted, start.attach_stdin, start.terminal).map_err(Fault::from)?;
    may_be_privileged(caller, containers, &spec)?;
    let image = image(images, caller, &start, &spec.image, send).await?;
    let hold = images.hold(&caller.project, &image).await.map_err(Fault::from)?;
    let started = containers.run(&caller.project, &name, spec, &image, !start.detach).await.map_err(Fault::from)?;
    // Its record names the image from here on.
    drop(hold);
    let Started { record, stdio, exit } = started;
    if !tell(send, Out::Created(record.id.to_string())).await {
        // It gave up before it knew the id: nobody would look for this container, nor read what it writes.
        drop(stdio);
        return Ok(containers.remove(&record, true).await.map_err(Fault::from)?);
    }
    tell(send, Out::Started(true)).await;
    let Some(Stdio { stdin, output }) = stdio else { return Ok(()) };
    let feeder = session::feed(input, stdin, To::Container(Arc::clone(containers), Box::new(record.clone())));
    let mut exit = exit;
    let to_its_end = async {
        carry(output, send).await;
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone())
    };
    let ended = done_or_left(containers, to_its_end).await;
    feeder.abort();
    if let Some(ended) = ended? {
        tell(send, Out::Exit(exit_view(record.id.as_str(), &ended))).await;
    }
    Ok(())
}

/// The image, pulled when the policy says so.
async fn image(
    images: &Images,
    caller: &Caller,
    start: &v1::RunStart,
    reference: &str,
    send: &Sender,
) -> Result<ImageRecord, Status> {
    let policy = start.pull();
    if policy != v1::PullPolicy::Always {
        match images.get(&caller.project, reference).await {
            Ok(image) => return Ok(image),
            Err(ImageError::NotFound { .. }) if policy == v1::PullPolicy::Missing => {}
            Err(error) => return Err(Fault::from(error).into()),
        }
    }
    check_reach(reference, start.plain_http, caller.acts_as_host()).map_err(Fault::from)?;
    let auth = start.auth.clone().map(|a| Auth { username: a.username, password: a.password });
    let (report, mut progress) = mpsc::channel(64);
    let pull = images.pull(&caller.project, reference, auth, start.plain_http, report);
    let forward = async {
        while let Some(layer) = progress.recv().await {
            tell(send, Out::Pull(progress_view(layer))).await;
        }
    };
    let (pulled, ()) = tokio::join!(pull, forward);
    Ok(pulled.map_err(Fault::from)?)
}
