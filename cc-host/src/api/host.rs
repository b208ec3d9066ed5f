//! `HostService`: what this host is, and what happened on it. Refuses to change anything.

use std::sync::Arc;

use async_trait::async_trait;
use cc_common::api::fault::Fault;
use cc_common::api::v1::host_service_server::HostService;
use cc_common::api::v1::{DiskUsage, DiskUsageReport, DiskUsageRequest};
use cc_common::api::v1::{Event, EventsRequest, EventsResponse, FlowLimits, HostInfo, InfoRequest};
use cc_common::api::v1::{Ticket, TicketRequest};
use tonic::{Request, Response, Status};

use super::server::Doors;
use crate::auth::tickets::For;
use crate::auth::{Caller, Role, Tickets};
use crate::config::Flows;
use crate::daemon::disk::{Part, Usage};
use crate::daemon::events::Events;
use crate::ids::Project;

/// What the other rooms know of the objects of a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub containers_running: u32,
    pub containers_total: u32,
    pub vpcs: u32,
}

#[async_trait]
pub trait CountObjects: Send + Sync {
    async fn count(&self, project: &Project) -> Result<Counts, Fault>;
    /// Of all projects, on the disk.
    async fn disk(&self) -> Result<Usage, Fault>;
}

/// Counts nothing: for a daemon without rooms, as in tests.
pub struct NoObjects;

#[async_trait]
impl CountObjects for NoObjects {
    async fn count(&self, _: &Project) -> Result<Counts, Fault> {
        Ok(Counts::default())
    }
    async fn disk(&self) -> Result<Usage, Fault> {
        Ok(Usage::default())
    }
}

pub struct HostApi {
    pub events: Events,
    pub host_id: String,
    pub abi: u32,
    pub objects: Arc<dyn CountObjects>,
    pub flows: Flows,
    pub tickets: Tickets,
    pub console: ConsoleUrls,
}

/// Where browsers find the console: on this host, and from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct ConsoleUrls {
    pub local: Option<String>,
    pub tls: Option<String>,
}

impl ConsoleUrls {
    pub fn of(doors: &Doors) -> Self {
        let local = doors.console_address.map(|address| format!("http://{address}"));
        let tls = doors.endpoint_url.as_deref().and_then(|url| url.split('#').next()).map(str::to_owned);
        ConsoleUrls { local, tls }
    }
}

#[async_trait]
impl HostService for HostApi {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<HostInfo>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let counts = self.objects.count(&caller.project).await?;
        Ok(Response::new(HostInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: self.abi,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            containers_running: counts.containers_running,
            containers_total: counts.containers_total,
            vpcs: counts.vpcs,
            host_id: self.host_id.clone(),
            flows: Some(flow_limits(&self.flows)),
        }))
    }

    async fn ticket(&self, request: Request<TicketRequest>) -> Result<Response<Ticket>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let issued = self.tickets.issue(&caller, For::Link);
        Ok(Response::new(Ticket {
            ticket: issued.text.to_string(),
            expires_ms: issued.expires_ms,
            local_url: self.console.local.clone().unwrap_or_default(),
            tls_url: self.console.tls.clone().unwrap_or_default(),
        }))
    }

    async fn disk_usage(&self, request: Request<DiskUsageRequest>) -> Result<Response<DiskUsageReport>, Status> {
        Caller::of(&request)?.require(Role::Admin)?;
        let usage = self.objects.disk().await?;
        let part = |(kind, part): (&str, Part)| DiskUsage {
            kind: kind.to_owned(),
            count: part.count,
            active: part.active,
            bytes: part.bytes,
            reclaimable_bytes: part.reclaimable_bytes,
        };
        let parts = usage.parts().map(part).into();
        Ok(Response::new(DiskUsageReport { parts, total_bytes: usage.total_bytes() }))
    }

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<EventsResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let visible = |project: &Option<Project>| match project {
            Some(project) => *project == caller.project,
            None => caller.role >= Role::Admin,
        };
        let events = self.events.list(request.get_ref().since_ms).await.map_err(Fault::from)?;
        let events = events.into_iter().filter(|event| visible(&event.project)).map(|event| Event {
            at_ms: event.at_ms,
            kind: event.kind,
            object: event.object,
            text: event.text,
        });
        Ok(Response::new(EventsResponse { events: events.collect() }))
    }
}

fn flow_limits(flows: &Flows) -> FlowLimits {
    let Flows {
        tcp_syn_s,
        tcp_established_s,
        tcp_fin_s,
        tcp_time_wait_s,
        udp_s,
        udp_stream_s,
        icmp_s,
        other_s,
        other_stream_s,
        per_container_max,
        half_open_per_container_max,
    } = *flows;
    FlowLimits {
        tcp_syn_s,
        tcp_established_s,
        tcp_fin_s,
        tcp_time_wait_s,
        udp_s,
        udp_stream_s,
        icmp_s,
        other_s,
        other_stream_s,
        per_container_max,
        half_open_per_container_max,
    }
}
