//! `cc.v1.NetService`: what the datapath does, explained. Refuses to know how it is found out.

use std::pin::Pin;
use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::net_service_server::NetService;
use cc_common::net::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::follow::until_left;
use crate::auth::{Caller, Role};
use crate::container::Containers;
use crate::explain::{End, EndKind, Explain, FLOWS_DEFAULT, FlowChange, FlowChanged, FlowView};

/// Flows of one message of a listing: some 150 KiB.
const FLOWS_PER_MESSAGE: usize = 500;

pub struct NetApi {
    pub explain: Arc<Explain>,
    pub containers: Arc<Containers>,
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
