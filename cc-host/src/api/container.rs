//! `cc.v1.ContainerService`. Refuses to know how a container is made.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::container_service_server::ContainerService;
use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::convert::{change, port_mappings};
use super::follow::until_left;
use super::health::health_view;
use super::view::{container_view, exit_view, metrics_view};
use super::{copy, session};
use crate::auth::{Caller, Role};
use crate::container::logs::LogQuery;
use crate::container::{ContainerRecord, Containers, Process, RunSpec, options};
use crate::image::Images;
use crate::outside::PortMapping;
use crate::seccomp::Seccomp;

pub struct ContainerApi {
    pub containers: Arc<Containers>,
    pub images: Images,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ContainerApi {
    pub(super) fn view(&self, record: &ContainerRecord) -> v1::Container {
        let health = record.health.as_ref().zip(self.containers.health(record));
        let health = health.map(|(check, health)| health_view(check, health));
        v1::Container { groups: self.containers.group_names(record), health, ..container_view(record) }
    }

    /// All of `ids`, or the first that is not found: nothing is done to any before all are known.
    fn find_all(&self, caller: &Caller, ids: &[String]) -> Result<Vec<ContainerRecord>, Status> {
        let found = ids.iter().map(|id| self.containers.find(&caller.project, id));
        Ok(found.collect::<Result<_, _>>().map_err(Fault::from)?)
    }

    /// Whose ports are meant, and which.
    fn ports(&self, request: &Request<v1::PublishRequest>) -> Result<(ContainerRecord, Vec<PortMapping>), Status> {
        let caller = Caller::of(request)?;
        may_publish(&caller, &self.containers)?;
        let v1::PublishRequest { container, ports } = request.get_ref();
        let ports = port_mappings(ports).map_err(Fault::from)?;
        Ok((self.containers.find(&caller.project, container).map_err(Fault::from)?, ports))
    }
}

/// Admins, and operators of projects that the configuration names.
pub(super) fn may_publish(caller: &Caller, containers: &Containers) -> Result<(), Status> {
    let granted = containers.may_publish(&caller.project);
    caller.require(if granted { Role::Operator } else { Role::Admin })
}

/// What it was run with may need more than an operator has, also when it is started again.
fn may_run(caller: &Caller, containers: &Containers, record: &ContainerRecord) -> Result<(), Status> {
    if !record.spec.publish.is_empty() {
        may_publish(caller, containers)?;
    }
    may_be_privileged(caller, containers, &record.spec)
}

/// Admins, and operators of projects that the configuration names.
pub(super) fn may_be_privileged(caller: &Caller, containers: &Containers, spec: &RunSpec) -> Result<(), Status> {
    let asks = [
        ("--cap-add", spec.capabilities.asks_for_more()),
        ("--device", !spec.devices.is_empty()),
        ("--security-opt seccomp", spec.seccomp.asks_for_more()),
        ("--userns host", spec.host_users),
    ];
    let Some((flag, _)) = asks.into_iter().find(|(_, asks)| *asks) else { return Ok(()) };
    if containers.may_be_privileged(&caller.project) {
        return Ok(());
    }
    caller.require(Role::Admin).map_err(|_| Status::from(options::not_granted(flag)))
}

fn process_view(process: Process) -> v1::Process {
    let Process { pid, own_pid, uid, state, cpu_ms, resident_bytes, command } = process;
    v1::Process { pid: own_pid, host_pid: pid, uid, state, cpu_ms, resident_bytes, command }
}

fn ids(records: &[ContainerRecord]) -> Response<v1::ContainerIds> {
    Response::new(v1::ContainerIds { ids: records.iter().map(|r| r.id.to_string()).collect() })
}

/// Runs `act` on all at once and returns the first failure after all have been tried.
async fn on_all<F, Fut>(records: &[ContainerRecord], act: F) -> Result<(), Status>
where
    F: Fn(ContainerRecord) -> Fut,
    Fut: Future<Output = Result<(), crate::container::ContainerError>>,
{
    let results = futures::future::join_all(records.iter().cloned().map(act)).await;
    Ok(results.into_iter().collect::<Result<(), _>>().map_err(Fault::from)?)
}

/// Also when the caller goes away: a start that stops half-way leaves what it was waiting for to be done behind its back.
async fn to_its_end(work: impl Future<Output = Result<(), Status>> + Send + 'static) -> Result<(), Status> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(_) => Err(Fault::new(
            Code::Internal,
            "container.internal",
            "cannot work on the containers",
            "the work on them ended before it was done; boot puts right what it left",
        )
        .into()),
    }
}

#[tonic::async_trait]
impl ContainerService for ContainerApi {
    type RunStream = BoxStream<v1::RunOutput>;
    type LogsStream = BoxStream<v1::LogRecord>;
    type WaitStream = BoxStream<v1::Exit>;
    type TunnelStream = BoxStream<v1::TunnelData>;
    type ExecStream = BoxStream<v1::RunOutput>;
    type AttachStream = BoxStream<v1::RunOutput>;
    type CopyFromStream = BoxStream<v1::CopyOutput>;

    async fn run(&self, request: Request<Streaming<v1::RunInput>>) -> Result<Response<Self::RunStream>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let output = super::run::run(&self.containers, &self.images, caller, request.into_inner());
        Ok(Response::new(Box::pin(output)))
    }

    async fn exec(&self, request: Request<Streaming<v1::RunInput>>) -> Result<Response<Self::ExecStream>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        Ok(Response::new(Box::pin(session::exec(&self.containers, caller, request.into_inner()))))
    }

    async fn attach(&self, request: Request<Streaming<v1::RunInput>>) -> Result<Response<Self::AttachStream>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        Ok(Response::new(Box::pin(session::attach(&self.containers, caller, request.into_inner()))))
    }

    async fn copy_to(&self, request: Request<Streaming<v1::CopyInput>>) -> Result<Response<v1::CopyDone>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        copy::into_container(&self.containers, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn copy_from(&self, request: Request<v1::CopyFromRequest>) -> Result<Response<Self::CopyFromStream>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        Ok(Response::new(Box::pin(copy::out_of_container(&self.containers, caller, request.into_inner()))))
    }

    async fn list(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let all = request.into_inner().all;
        let mut records = self.containers.list(&caller.project);
        records.retain(|r| all || r.state.name() == "running");
        records.sort_by_key(|r| r.created_ms);
        let brief = |record| {
            let mut view = self.view(record);
            // A profile may be longer than all the rest, and a message has its limit.
            if matches!(record.spec.seccomp, Seccomp::Profile(_))
                && let Some(spec) = &mut view.spec
            {
                spec.seccomp.clear();
            }
            view
        };
        Ok(Response::new(v1::ListContainersResponse { containers: records.iter().map(brief).collect() }))
    }

    async fn get(&self, request: Request<v1::ContainerIds>) -> Result<Response<v1::ListContainersResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let records = self.find_all(&caller, &request.into_inner().ids)?;
        Ok(Response::new(v1::ListContainersResponse { containers: records.iter().map(|r| self.view(r)).collect() }))
    }

    async fn metrics(&self, request: Request<v1::ContainerIds>) -> Result<Response<v1::MetricsResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let records = self.find_all(&caller, &request.into_inner().ids)?;
        let figures = self.containers.metrics_of_running(records).await.map_err(Fault::from)?;
        let metrics = figures.into_iter().map(|(record, figures)| metrics_view(&record, figures)).collect();
        Ok(Response::new(v1::MetricsResponse { metrics }))
    }

    async fn top(&self, request: Request<v1::ContainerIds>) -> Result<Response<v1::TopResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let mut containers = Vec::new();
        for record in self.find_all(&caller, &request.into_inner().ids)? {
            let processes = self.containers.processes(&record).await.map_err(Fault::from)?;
            let processes = processes.into_iter().map(process_view).collect();
            containers.push(v1::ContainerProcesses {
                id: record.id.to_string(),
                name: record.name.to_string(),
                processes,
            });
        }
        Ok(Response::new(v1::TopResponse { containers }))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let v1::LogsRequest { id, follow, tail, since_ms } = request.into_inner();
        let record = self.containers.find(&caller.project, &id).map_err(Fault::from)?;
        let lines = self.containers.logs(&record, LogQuery { follow, tail: usize::try_from(tail).ok(), since_ms });
        let records = ReceiverStream::new(lines).map(|line| {
            let line = line.map_err(Fault::from)?;
            let stream = if line.stderr { "stderr" } else { "stdout" }.to_owned();
            Ok(v1::LogRecord { at_ns: line.at_ns, stream, data: line.data })
        });
        // Without `follow` it ends by itself, and soon.
        let records: Self::LogsStream =
            if follow { Box::pin(until_left(&self.containers, records)) } else { Box::pin(records) };
        Ok(Response::new(records))
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::ContainerIds>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let v1::StopRequest { ids: wanted, timeout_s } = request.into_inner();
        let records = self.find_all(&caller, &wanted)?;
        let grace = timeout_s.map(|seconds| Duration::from_secs(seconds.into()));
        on_all(&records, |r| async move { self.containers.stop(&r, grace).await }).await?;
        Ok(ids(&records))
    }

    async fn start(&self, request: Request<v1::ContainerIds>) -> Result<Response<v1::ContainerIds>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let records = self.find_all(&caller, &request.into_inner().ids)?;
        for record in &records {
            may_run(&caller, &self.containers, record)?;
        }
        let (room, all) = (Arc::clone(&self.containers), records.clone());
        to_its_end(async move { on_all(&all, |r| async { room.start(&{ r }).await }).await }).await?;
        Ok(ids(&records))
    }

    async fn restart(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::ContainerIds>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let v1::StopRequest { ids: wanted, timeout_s } = request.into_inner();
        let records = self.find_all(&caller, &wanted)?;
        for record in &records {
            may_run(&caller, &self.containers, record)?;
        }
        let grace = timeout_s.map(|seconds| Duration::from_secs(seconds.into()));
        let (room, all) = (Arc::clone(&self.containers), records.clone());
        to_its_end(async move { on_all(&all, |r| async { room.restart(&{ r }, grace).await }).await }).await?;
        Ok(ids(&records))
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Result<Response<v1::ContainerIds>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let wanted = request.into_inner();
        let change = change(&wanted).map_err(Fault::from)?;
        let records = self.find_all(&caller, &wanted.ids)?;
        for record in &records {
            self.containers.change(record, &change).await.map_err(Fault::from)?;
        }
        Ok(ids(&records))
    }

    async fn kill(&self, request: Request<v1::KillRequest>) -> Result<Response<v1::ContainerIds>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let v1::KillRequest { ids: wanted, signal } = request.into_inner();
        if !(1..=64).contains(&signal) {
            let why = format!("signal {signal} does not exist; they go from 1 to 64");
            return Err(Fault::new(tonic::Code::InvalidArgument, "container.bad_signal", "cannot kill", why).into());
        }
        let records = self.find_all(&caller, &wanted)?;
        on_all(&records, |r| async move { self.containers.signal(&r, signal).await }).await?;
        Ok(ids(&records))
    }

    async fn remove(&self, request: Request<v1::RemoveRequest>) -> Result<Response<v1::ContainerIds>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let v1::RemoveRequest { ids: wanted, force, unless_it_pauses } = request.into_inner();
        let records = self.find_all(&caller, &wanted)?;
        if unless_it_pauses {
            on_all(&records, |r| async move { self.containers.remove_unless_it_pauses(&r).await }).await?;
            return Ok(ids(&records));
        }
        on_all(&records, |r| async move { self.containers.remove(&r, force).await }).await?;
        Ok(ids(&records))
    }

    async fn set_groups(&self, request: Request<v1::SetGroupsRequest>) -> Result<Response<v1::Container>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let v1::SetGroupsRequest { id, attach, detach } = request.into_inner();
        let record = self.containers.find(&caller.project, &id).map_err(Fault::from)?;
        let record = self.containers.set_groups(&record, &attach, &detach).await.map_err(Fault::from)?;
        Ok(Response::new(self.view(&record)))
    }

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::Container>, Status> {
        let (record, ports) = self.ports(&request)?;
        let record = self.containers.publish_ports(&record, &ports).await.map_err(Fault::from)?;
        Ok(Response::new(self.view(&record)))
    }

    async fn unpublish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::Container>, Status> {
        let (record, ports) = self.ports(&request)?;
        let record = self.containers.unpublish_ports(&record, &ports).await.map_err(Fault::from)?;
        Ok(Response::new(self.view(&record)))
    }

    async fn wait(&self, request: Request<v1::ContainerIds>) -> Result<Response<Self::WaitStream>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let records = self.find_all(&caller, &request.into_inner().ids)?;
        let containers = &self.containers;
        let waits = records.into_iter().map(|record| {
            let containers = Arc::clone(containers);
            async move {
                let exit = containers.wait(&record).await.ok_or_else(|| {
                    let what = format!("cannot wait for container {}", record.name);
                    Fault::new(tonic::Code::NotFound, "container.gone", what, "it was removed meanwhile")
                })?;
                Ok(exit_view(record.id.as_str(), &exit))
            }
        });
        let exits: futures::stream::FuturesUnordered<_> = waits.collect();
        Ok(Response::new(Box::pin(until_left(containers, exits))))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<v1::TunnelData>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let bytes = super::tunnel::open(&self.containers, &caller, request.into_inner()).await?;
        Ok(Response::new(Box::pin(until_left(&self.containers, bytes))))
    }
}
