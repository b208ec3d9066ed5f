//! `cc.v1.NetService`: what the datapath does, explained. Refuses to know how it is found out.

use std::pin::Pin;
use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::net_service_server::NetService;
use cc_common::api::v1::{drop_news, log_news};
use cc_common::net::{ETHERTYPE_ARP, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::follow::until_left;
use super::inspect::inspection_view;
use crate::auth::{Caller, Role};
use crate::config::Config;
use crate::container::Containers;
use crate::datapath::Drops;
use crate::explain::{
    DecisionView, DropView, End, EndKind, Explain, FLOWS_DEFAULT, Finding, FlowChange, FlowChanged, FlowView, Logged,
    News,
};

/// Flows of one message of a listing: some 150 KiB.
const FLOWS_PER_MESSAGE: usize = 500;

pub struct NetApi {
    pub explain: Arc<Explain>,
    pub containers: Arc<Containers>,
    pub config: Arc<Config>,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn viewer<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = Caller::of(request)?;
    caller.require(Role::Viewer)?;
    Ok(caller)
}

#[tonic::async_trait]
impl NetService for NetApi {
    type FlowsStream = BoxStream<v1::FlowsPart>;
    type WatchFlowsStream = BoxStream<v1::FlowChange>;
    type WatchDropsStream = BoxStream<v1::DropNews>;
    type WatchLogStream = BoxStream<v1::LogNews>;

    async fn flows(&self, request: Request<v1::FlowsRequest>) -> Result<Response<Self::FlowsStream>, Status> {
        let caller = viewer(&request)?;
        let v1::FlowsRequest { container, limit } = request.into_inner();
        let limit = if limit == 0 { FLOWS_DEFAULT } else { limit as usize };
        let listed = self.explain.flows(&caller.project, &container, limit).await.map_err(Fault::from)?;
        let mut parts: Vec<v1::FlowsPart> = listed
            .flows
            .chunks(FLOWS_PER_MESSAGE)
            .map(|flows| v1::FlowsPart { flows: flows.iter().map(flow_view).collect(), more: false })
            .collect();
        parts.push(v1::FlowsPart { flows: Vec::new(), more: listed.more });
        Ok(Response::new(futures::stream::iter(parts.into_iter().map(Ok)).boxed()))
    }

    async fn watch_flows(
        &self,
        request: Request<v1::FlowsRequest>,
    ) -> Result<Response<Self::WatchFlowsStream>, Status> {
        let caller = viewer(&request)?;
        let changes = self.explain.watch_flows(&caller.project, &request.get_ref().container).await;
        let changes = ReceiverStream::new(changes.map_err(Fault::from)?).map(|change| {
            let FlowChange { changed, flow, at_ms } = change.map_err(Fault::from)?;
            let change = match changed {
                FlowChanged::Began => "began",
                FlowChanged::Ended => "ended",
            };
            Ok(v1::FlowChange { change: change.to_owned(), flow: Some(flow_view(&flow)), at_ms })
        });
        Ok(Response::new(Box::pin(until_left(&self.containers, changes))))
    }

    async fn drops(&self, request: Request<v1::DropsRequest>) -> Result<Response<v1::DropsResponse>, Status> {
        let caller = viewer(&request)?;
        let (only, host) = (&request.get_ref().container, caller.role >= Role::Admin);
        let all = self.explain.drops(&caller.project, only, host).await.map_err(Fault::from)?;
        let containers = all.into_iter().map(|of| v1::ContainerDrops {
            id: of.id,
            name: of.name,
            drops: of.drops.iter().map(drop_view).collect(),
            lost_records: of.lost_records,
        });
        Ok(Response::new(v1::DropsResponse { containers: containers.collect() }))
    }

    async fn inspect(&self, request: Request<v1::InspectNetRequest>) -> Result<Response<v1::NetInspection>, Status> {
        let caller = viewer(&request)?;
        let inspected = self.explain.inspect(&caller.project, &request.get_ref().container).await;
        Ok(Response::new(inspection_view(inspected.map_err(Fault::from)?)))
    }

    async fn doctor(&self, request: Request<v1::DoctorRequest>) -> Result<Response<v1::DoctorReport>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Admin)?;
        let findings = self.explain.doctor(&self.config, request.get_ref().fix).await.map_err(Fault::from)?;
        let findings = findings.into_iter().map(|finding| {
            let Finding { subject, problem, next, grave, fixed } = finding;
            v1::DoctorFinding { subject, problem, next, grave, fixed }
        });
        Ok(Response::new(v1::DoctorReport { findings: findings.collect() }))
    }

    async fn watch_drops(
        &self,
        request: Request<v1::DropsRequest>,
    ) -> Result<Response<Self::WatchDropsStream>, Status> {
        let caller = viewer(&request)?;
        let (only, host) = (&request.get_ref().container, caller.role >= Role::Admin);
        let news = self.explain.watch_drops(&caller.project, only, host).await.map_err(Fault::from)?;
        let news = ReceiverStream::new(news).map(|news| {
            let news = match news {
                News::Told(view) => drop_news::News::Dropped(packet_view(view)),
                News::Lost { unwritten, missed } => drop_news::News::Lost(v1::LostRecords { unwritten, missed }),
            };
            Ok(v1::DropNews { news: Some(news) })
        });
        Ok(Response::new(Box::pin(until_left(&self.containers, news))))
    }

    async fn log(&self, request: Request<v1::LogRequest>) -> Result<Response<v1::LogResponse>, Status> {
        let caller = viewer(&request)?;
        let logged = self.explain.log(&caller.project, &request.get_ref().container).await;
        let Logged { decisions, lost } = logged.map_err(Fault::from)?;
        let decisions = decisions.into_iter().map(decision_view).collect();
        Ok(Response::new(v1::LogResponse { decisions, lost }))
    }

    async fn watch_log(&self, request: Request<v1::LogRequest>) -> Result<Response<Self::WatchLogStream>, Status> {
        let caller = viewer(&request)?;
        let news = self.explain.watch_log(&caller.project, &request.get_ref().container).await;
        let news = ReceiverStream::new(news.map_err(Fault::from)?).map(|news| {
            let news = match news {
                News::Told(view) => log_news::News::Decided(decision_view(view)),
                News::Lost { unwritten, missed } => log_news::News::Lost(v1::LostRecords { unwritten, missed }),
            };
            Ok(v1::LogNews { news: Some(news) })
        });
        Ok(Response::new(Box::pin(until_left(&self.containers, news))))
    }
}

pub(super) fn drop_view(drops: &Drops) -> v1::Drop {
    let Drops { direction, reason, packets, bytes } = *drops;
    v1::Drop { direction: direction.to_owned(), reason: reason.to_owned(), packets, bytes }
}

fn packet_view(view: DropView) -> v1::DroppedPacket {
    let text = |address: Option<std::net::IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    let protocol = match (view.protocol, view.ethertype) {
        (Some(protocol), _) => protocol_name(protocol),
        (None, ETHERTYPE_ARP) => "arp".to_owned(),
        (None, ethertype) => format!("{ethertype:#06x}"),
    };
    let (source_port, destination_port) = view.ports.unwrap_or_default();
    let (id, name) = view.container;
    v1::DroppedPacket {
        at_ms: view.at_ms,
        id,
        name,
        direction: view.direction.to_owned(),
        reason: view.reason.to_owned(),
        protocol,
        source: text(view.source),
        source_port: source_port.into(),
        destination: text(view.destination),
        destination_port: destination_port.into(),
        ifindex: view.ifindex,
        bytes: view.bytes,
    }
}

fn decision_view(view: DecisionView) -> v1::RuleDecision {
    let (id, name) = view.container;
    let (source_port, destination_port) = view.ports.unwrap_or_default();
    v1::RuleDecision {
        at_ms: view.at_ms,
        id,
        name,
        allowed: view.allowed,
        direction: view.direction.to_owned(),
        protocol: protocol_name(view.protocol),
        source: view.source.to_string(),
        source_port: source_port.into(),
        destination: view.destination.to_string(),
        destination_port: destination_port.into(),
        icmp_type: view.icmp.map(|(kind, _)| kind.into()),
        icmp_code: view.icmp.map(|(_, code)| code.into()),
        rule: view.rule,
    }
}

fn flow_view(flow: &FlowView) -> v1::NetFlow {
    let [from, to] = &flow.ends;
    let traffic = |side: usize| v1::Traffic { packets: flow.packets[side], bytes: flow.bytes[side] };
    v1::NetFlow {
        protocol: protocol_name(flow.protocol),
        from: Some(end_view(from)),
        to: Some(end_view(to)),
        state: flow.phase.to_owned(),
        age_ms: flow.age_ms,
        idle_ms: flow.idle_ms,
        sent: Some(traffic(0)),
        received: Some(traffic(1)),
        allowed_by: flow.allowed_by.clone(),
        published: flow.published,
    }
}

fn end_view(end: &End) -> v1::FlowEnd {
    let (kind, name, id) = match &end.kind {
        EndKind::Container { id, name } => ("container", name.clone(), id.clone()),
        EndKind::Resolver => ("resolver", String::new(), String::new()),
        EndKind::Internet => ("internet", String::new(), String::new()),
        EndKind::Host => ("host", String::new(), String::new()),
        EndKind::Elsewhere => ("elsewhere", String::new(), String::new()),
    };
    v1::FlowEnd {
        kind: kind.to_owned(),
        container: name,
        id,
        address: end.address.to_string(),
        port: end.port.into(),
        translated_address: end.translated.map(|outer| outer.address.to_string()).unwrap_or_default(),
        translated_port: end.translated.map_or(0, |outer| outer.port.into()),
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        PROTOCOL_TCP => "tcp".to_owned(),
        PROTOCOL_UDP => "udp".to_owned(),
        PROTOCOL_ICMP => "icmp".to_owned(),
        PROTOCOL_ICMPV6 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}
