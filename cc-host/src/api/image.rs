//! `cc.v1.ImageService`. Refuses to know where images come from or how they are kept.

use std::pin::Pin;
use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::image_service_server::ImageService;
use cc_common::api::v1::load_input::Input;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::view::{image_view, progress_view};
use crate::auth::{Caller, Role};
use crate::container::Containers;
use crate::image::{Auth, Images, LoadFormat, check_reach};

pub struct ImageApi {
    pub images: Images,
    pub containers: Arc<Containers>,
}

#[tonic::async_trait]
impl ImageService for ImageApi {
    type PullStream = Pin<Box<dyn Stream<Item = Result<v1::PullProgress, Status>> + Send>>;

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let v1::PullRequest { reference, auth, plain_http } = request.into_inner();
        check_reach(&reference, plain_http, caller.acts_as_host()).map_err(Fault::from)?;
        let auth = auth.map(|a| Auth { username: a.username, password: a.password });
        let images = self.images.clone();
        let (send, receive) = mpsc::channel(16);
        tokio::spawn(async move {
            let (report, mut progress) = mpsc::channel(64);
            let pull = images.pull(&caller.project, &reference, auth, plain_http, report);
            let forward = async {
                while let Some(layer) = progress.recv().await {
                    // A client that went away does not undo a pull that another may share.
                    let _ = send.send(Ok(progress_view(layer))).await;
                }
            };
            let (pulled, ()) = tokio::join!(pull, forward);
            let last = pulled.map_err(|e| Status::from(Fault::from(e))).map(|image| v1::PullProgress {
                progress: Some(v1::pull_progress::Progress::Done(image_view(&image))),
            });
            let _ = send.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn load(&self, request: Request<Streaming<v1::LoadInput>>) -> Result<Response<v1::Image>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let mut input = request.into_inner();
        let bad = |why: String| Fault::new(Code::InvalidArgument, "image.bad_load", "cannot load an image", why);
        let Some(v1::LoadInput { input: Some(Input::Header(header)) }) = input.message().await? else {
            return Err(bad("the first message is no header".into()).into());
        };
        let format = match header.format.as_str() {
            "oci" => LoadFormat::Oci,
            "docker-archive" => LoadFormat::DockerArchive,
            other => return Err(bad(format!("format {other:?} is neither oci nor docker-archive")).into()),
        };
        let (send, receive) = mpsc::channel(8);
        let feed = async move {
            loop {
                match input.message().await {
                    Ok(Some(v1::LoadInput { input: Some(Input::Data(data)) })) => {
                        if send.send(Ok(bytes::Bytes::from(data))).await.is_err() {
                            return;
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(status) => {
                        // Half an archive must not pass for a whole one.
                        let _ = send.send(Err(std::io::Error::other(status.message().to_owned()))).await;
                        return;
                    }
                }
            }
        };
        let data = ReceiverStream::new(receive);
        let load = self.images.load(&caller.project, &header.reference, format, &header.tag, data);
        let (loaded, ()) = tokio::join!(load, feed);
        Ok(Response::new(image_view(&loaded.map_err(Fault::from)?)))
    }

    async fn get(&self, request: Request<v1::GetImageRequest>) -> Result<Response<v1::Image>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let reference = request.into_inner().reference;
        let image = self.images.get(&caller.project, &reference).await.map_err(Fault::from)?;
        Ok(Response::new(image_view(&image)))
    }

    async fn list(&self, request: Request<v1::ListImagesRequest>) -> Result<Response<v1::ListImagesResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let images = self.images.list(&caller.project).await.map_err(Fault::from)?;
        Ok(Response::new(v1::ListImagesResponse { images: images.iter().map(image_view).collect() }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveImagesRequest>,
    ) -> Result<Response<v1::RemoveImagesResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let v1::RemoveImagesRequest { references, force } = request.into_inner();
        let in_use = || self.containers.images_in_use();
        let removed = self.images.remove(&caller.project, &references, in_use, force).await.map_err(Fault::from)?;
        Ok(Response::new(v1::RemoveImagesResponse { removed: removed.removed }))
    }

    async fn prune(
        &self,
        request: Request<v1::PruneImagesRequest>,
    ) -> Result<Response<v1::PruneImagesResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let in_use = || self.containers.images_in_use();
        let pruned =
            self.images.prune(Some(&caller.project), request.into_inner().all, in_use).await.map_err(Fault::from)?;
        Ok(Response::new(v1::PruneImagesResponse { removed: pruned.removed, freed_bytes: pruned.freed_bytes }))
    }
}
