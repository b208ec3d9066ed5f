//! `cc.v1.VolumeService`. Refuses to know how a volume is kept.

use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::volume_service_server::VolumeService;
use tonic::{Code, Request, Response, Status};

use super::ContainerApi;
use super::convert::volume_mount;
use crate::auth::{Caller, Role};
use crate::ids::{Project, VolumeId};
use crate::volume::{Checked, NewVolume, VolumeRecord, VolumeState, Volumes};

pub struct VolumeApi {
    pub volumes: Arc<Volumes>,
    pub containers: Arc<ContainerApi>,
}

/// To its end, also when the caller goes away: what is half done would stay so until the next boot.
async fn finish<T: Send + 'static>(work: impl Future<Output = Result<T, Fault>> + Send + 'static) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(done) => Ok(done?),
        Err(_) => {
            let why = "the work on it ended before it was done; boot puts right what it left";
            Err(Fault::new(Code::Internal, "volume.internal", "cannot work on the volume", why).into())
        }
    }
}

#[tonic::async_trait]
impl VolumeService for VolumeApi {
    async fn create(&self, request: Request<v1::CreateVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        let project = operator(&request)?;
        let v1::CreateVolumeRequest { name, size_bytes, persistent, pool } = request.into_inner();
        let (volumes, wanted) = (Arc::clone(&self.volumes), NewVolume { name, size_bytes, persistent, pool });
        let record = finish(async move { Ok(volumes.create(&project, &wanted).await?) }).await?;
        Ok(Response::new(self.view(&record)))
    }

    async fn list(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let records = self.volumes.list(&caller.project).await.map_err(Fault::from)?;
        Ok(Response::new(v1::ListVolumesResponse { volumes: records.iter().map(|r| self.view(r)).collect() }))
    }

    async fn get(&self, request: Request<v1::VolumeIds>) -> Result<Response<v1::ListVolumesResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let mut volumes = Vec::new();
        for id in request.into_inner().ids {
            let (record, _) = self.volumes.find(&caller.project, &id).await.map_err(Fault::from)?;
            volumes.push(self.view(&record));
        }
        Ok(Response::new(v1::ListVolumesResponse { volumes }))
    }

    async fn delete(&self, request: Request<v1::VolumeIds>) -> Result<Response<v1::VolumeIds>, Status> {
        let project = operator(&request)?;
        let deleted = self.delete_all(project, request.into_inner().ids).await?;
        Ok(Response::new(v1::VolumeIds { ids: deleted.iter().map(|record| record.id.to_string()).collect() }))
    }

    async fn resize(&self, request: Request<v1::ResizeVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        let project = operator(&request)?;
        let v1::ResizeVolumeRequest { id, size_bytes } = request.into_inner();
        let (volumes, containers) = (Arc::clone(&self.volumes), Arc::clone(&self.containers.containers));
        let resized = finish(async move {
            Ok(volumes.resize(&project, &id, size_bytes, |record| containers.runs_with_volume(&record.id)).await?)
        });
        Ok(Response::new(self.view(&resized.await?)))
    }

    async fn snapshot(&self, request: Request<v1::SnapshotVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        let project = operator(&request)?;
        let v1::SnapshotVolumeRequest { id, name } = request.into_inner();
        let volumes = Arc::clone(&self.volumes);
        let record = finish(async move { Ok(volumes.snapshot(&project, &id, &name).await?) }).await?;
        Ok(Response::new(self.view(&record)))
    }

    async fn prune(
        &self,
        request: Request<v1::PruneVolumesRequest>,
    ) -> Result<Response<v1::PruneVolumesResponse>, Status> {
        let project = operator(&request)?;
        let mut pruned = v1::PruneVolumesResponse::default();
        for record in self.volumes.list(&project).await.map_err(Fault::from)? {
            if !self.containers.containers.users_of_volume(&record.id).is_empty() || record.state != VolumeState::Ready
            {
                continue;
            }
            match self.delete_all(project.clone(), vec![record.id.to_string()]).await {
                Ok(deleted) => {
                    pruned.freed_bytes += deleted.iter().map(|record| record.size_bytes).sum::<u64>();
                    pruned.removed.extend(deleted.iter().map(|record| record.id.to_string()));
                }
                // Somebody has begun to use it, or has not gone yet.
                Err(status) if status.code() == Code::FailedPrecondition => {}
                Err(status) => return Err(status),
            }
        }
        Ok(Response::new(pruned))
    }

    async fn check(&self, request: Request<v1::CheckVolumeRequest>) -> Result<Response<v1::VolumeCheck>, Status> {
        let project = operator(&request)?;
        let v1::CheckVolumeRequest { id, repair } = request.into_inner();
        let (volumes, containers) = (Arc::clone(&self.volumes), Arc::clone(&self.containers.containers));
        let checked = finish(async move {
            Ok(volumes.check(&project, &id, repair, |record| containers.runs_with_volume(&record.id)).await?)
        });
        let Checked { record, clean, repaired, report } = checked.await?;
        Ok(Response::new(v1::VolumeCheck { clean, repaired, report, volume: Some(self.view(&record)) }))
    }

    async fn attach(&self, request: Request<v1::AttachVolumeRequest>) -> Result<Response<v1::Container>, Status> {
        let project = operator(&request)?;
        let v1::AttachVolumeRequest { container, mount } = request.into_inner();
        let mount = volume_mount(&mount.unwrap_or_default()).map_err(Fault::from)?;
        let containers = Arc::clone(&self.containers.containers);
        let record = containers.find(&project, &container).map_err(Fault::from)?;
        let record = finish(async move { Ok(containers.attach_volume(&record, &mount).await?) }).await?;
        Ok(Response::new(self.containers.view(&record)))
    }

    async fn detach(&self, request: Request<v1::DetachVolumeRequest>) -> Result<Response<v1::Container>, Status> {
        let project = operator(&request)?;
        let v1::DetachVolumeRequest { container, volume } = request.into_inner();
        let containers = Arc::clone(&self.containers.containers);
        let record = containers.find(&project, &container).map_err(Fault::from)?;
        let record = finish(async move { Ok(containers.detach_volume(&record, &volume).await?) }).await?;
        Ok(Response::new(self.containers.view(&record)))
    }
}

fn operator<T>(request: &Request<T>) -> Result<Project, Status> {
    let caller = Caller::of(request)?;
    caller.require(Role::Operator)?;
    Ok(caller.project)
}

impl VolumeApi {
    async fn delete_all(&self, project: Project, ids: Vec<String>) -> Result<Vec<VolumeRecord>, Status> {
        let (volumes, containers) = (Arc::clone(&self.volumes), Arc::clone(&self.containers.containers));
        finish(async move {
            let users = |volume: &VolumeId| containers.users_of_volume(volume);
            let freed = volumes.become_free(&project, &ids, users).await?;
            let deleted = {
                // Nobody gets one meanwhile. It is nobody else's wait: what takes long is done, or follows.
                let _allocation = containers.allocation().await;
                volumes.delete(&project, &ids, users, &freed).await?
            };
            volumes.erase_all(&deleted, freed).await;
            Ok(deleted)
        })
        .await
    }

    fn view(&self, record: &VolumeRecord) -> v1::Volume {
        let usage = self.volumes.usage(record);
        let state = match &record.state {
            VolumeState::Ready if usage.is_some_and(|usage| usage.read_only) => "read-only",
            state => state.name(),
        };
        let why = match &record.state {
            VolumeState::NeedsRepair { why, .. } => why.clone(),
            _ => String::new(),
        };
        v1::Volume {
            id: record.id.to_string(),
            name: record.name.to_string(),
            pool: record.pool.clone(),
            size_bytes: record.size_bytes,
            state: state.to_owned(),
            why,
            uuid: record.uuid.to_string(),
            created_ms: record.created_ms,
            containers: self.containers.containers.users_of_volume(&record.id),
            mounted: usage.is_some(),
            used_bytes: usage.map_or(0, |usage| usage.used_bytes),
            free_bytes: usage.map_or(0, |usage| usage.free_bytes),
            errors: usage.map_or(0, |usage| usage.errors),
            backend: self.volumes.backend(record),
            project: record.project.to_string(),
        }
    }
}
