//! Streams a local image to the daemon. Refuses to hold more of it in memory than a few chunks, and to send one that the
//! daemon already has.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cc_common::api::fault::Fault;
use cc_common::api::v1::image_service_client::ImageServiceClient;
use cc_common::api::v1::{GetImageRequest, Image, LoadHeader, LoadInput, load_input::Input};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::layout::{Layout, LayoutError};
use super::{Source, local_name};
use crate::client::Connection;
use crate::error::{chain, usage};

/// Well under gRPC's default message limit of 4 MiB.
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS_IN_FLIGHT: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("cannot use the layout {}", dir.display())]
    Layout { dir: PathBuf, source: LayoutError },
    #[error("cannot read {}", file.display())]
    Archive { file: PathBuf, source: io::Error },
}

impl From<UploadError> for Fault {
    fn from(error: UploadError) -> Fault {
        let next = match &error {
            UploadError::Layout { .. } => "give a directory that holds oci-layout and index.json: oci:DIR[:TAG]",
            UploadError::Archive { .. } => "give a file that `docker save` made: docker-archive:FILE[:REF]",
        };
        Fault::new(Code::InvalidArgument, "cli.image_source", "cannot load the image", chain(&error)).next(next)
    }
}

/// Loads a local source, under `name` if one is given.
pub async fn load(connection: Connection, source: &Source, name: Option<String>) -> Result<Image, Fault> {
    let client = ImageServiceClient::new(connection);
    match source {
        Source::Registry(reference) => {
            Err(usage("cannot load the image", format!("{reference:?} is not a local image"))
                .next(format!("use oci:DIR[:TAG] or docker-archive:FILE, or: cc image pull {reference}")))
        }
        Source::OciLayout { dir, tag } => load_layout(client, dir, tag.as_deref(), name).await,
        Source::DockerArchive { file, tag } => {
            let refuse = |source| UploadError::Archive { file: file.clone(), source };
            let opened = File::open(file).map_err(refuse)?;
            if !opened.metadata().map_err(refuse)?.is_file() {
                return Err(refuse(io::Error::other("it is not a regular file")).into());
            }
            let header = LoadHeader {
                reference: name.unwrap_or_default(),
                format: "docker-archive".to_owned(),
                tag: tag.clone().unwrap_or_default(),
            };
            let file = file.clone();
            send(client, header, move |out| copy(opened, out).map_err(|source| UploadError::Archive { file, source }))
                .await
        }
    }
}

async fn load_layout(
    mut client: ImageServiceClient<Connection>,
    dir: &Path,
    tag: Option<&str>,
    name: Option<String>,
) -> Result<Image, Fault> {
    let refuse = |dir: &Path, source| UploadError::Layout { dir: dir.to_owned(), source };
    let layout = Layout::open(dir, tag).map_err(|source| refuse(dir, source))?;
    let reference = name.unwrap_or_else(|| local_name(dir, tag));
    // Known under this very name and with these very contents: nothing to send.
    let known = client.get(GetImageRequest { reference: layout.digest().to_owned() }).await;
    match known.map(tonic::Response::into_inner) {
        Ok(image) if image.reference == reference && image.digest == layout.digest() => return Ok(image),
        Ok(_) => {}
        Err(status) if status.code() == Code::NotFound => {}
        Err(status) => return Err(status.into()),
    }
    let header = LoadHeader { reference, format: "oci".to_owned(), tag: tag.unwrap_or_default().to_owned() };
    let dir = dir.to_owned();
    send(client, header, move |out| layout.write_tar(out).map_err(|source| refuse(&dir, source))).await
}

/// Runs `produce` on a blocking thread. Its failure ends the call at once and is the one reported; a failure of the daemon
/// shows to `produce` as a closed pipe.
async fn send(
    mut client: ImageServiceClient<Connection>,
    header: LoadHeader,
    produce: impl FnOnce(&mut Chunks) -> Result<(), UploadError> + Send + 'static,
) -> Result<Image, Fault> {
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let (failed, mut failure) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let header = LoadInput { input: Some(Input::Header(header)) };
        let mut out = Chunks { sender, pending: Vec::with_capacity(CHUNK_BYTES) };
        if out.sender.blocking_send(header).is_err() {
            return;
        }
        if let Err(error) = produce(&mut out)
            && !out.sender.is_closed()
        {
            let _ = failed.send(error);
            // The stream stays open until the call was given up: its end would look like the end of the archive.
            let Chunks { sender, .. } = out;
            tokio::runtime::Handle::current().block_on(sender.closed());
        }
    });
    let call = client.load(ReceiverStream::new(receiver));
    tokio::pin!(call);
    tokio::select! {
        answer = &mut call => Ok(answer?.into_inner()),
        Ok(error) = &mut failure => Err(error.into()),
    }
}

fn copy(mut from: impl Read, to: &mut impl Write) -> io::Result<()> {
    io::copy(&mut from, to)?;
    to.flush()
}

/// A writer whose chunks become messages; it blocks while the daemon is slower.
struct Chunks {
    sender: mpsc::Sender<LoadInput>,
    pending: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.pending.len();
        let taken = bytes.len().min(room);
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK_BYTES));
        let data = LoadInput { input: Some(Input::Data(Bytes::from(full).into())) };
        self.sender.blocking_send(data).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
