//! What the console is told, as JSON: less than the contract has, under the same names. Refuses to decide anything.

use cc_common::api::v1;
use serde::Serialize;

#[derive(Serialize)]
pub struct SessionView {
    pub session: String,
    pub expires_ms: u64,
    pub project: String,
    /// Whether it may do more than look.
    pub operator: bool,
}

#[derive(Serialize)]
pub struct TicketView {
    pub ticket: String,
    pub expires_ms: u64,
}

#[derive(Serialize)]
pub struct ContainersView {
    pub containers: Vec<ContainerView>,
}

#[derive(Serialize)]
pub struct ContainerView {
    id: String,
    name: String,
    image: String,
    state: String,
    /// Empty: its health is not checked.
    health: String,
    vpc: String,
    ipv4: String,
    ipv6: String,
    groups: Vec<String>,
    command: Vec<String>,
    created_ms: u64,
    /// 0: it does not run.
    started_ms: u64,
    /// Of one that has ended.
    exit_code: Option<i32>,
    exit_reason: String,
}

impl From<v1::Container> for ContainerView {
    fn from(container: v1::Container) -> Self {
        let address = |with_prefix: String| with_prefix.split('/').next().unwrap_or_default().to_owned();
        let (exit_code, exit_reason) = container.exit.map_or((None, String::new()), |e| (Some(e.code), e.reason));
        ContainerView {
            id: container.id,
            name: container.name,
            image: container.image,
            state: container.state,
            health: container.health.map(|health| health.status).unwrap_or_default(),
            vpc: container.vpc_name,
            ipv4: address(container.ipv4),
            ipv6: address(container.ipv6),
            groups: container.groups,
            command: container.spec.map(|spec| spec.command).unwrap_or_default(),
            created_ms: container.created_ms,
            started_ms: container.started_ms,
            exit_code,
            exit_reason,
        }
    }
}

/// Counters since the start, and what is so at this moment.
#[derive(Serialize)]
pub struct MetricsView {
    id: String,
    at_ms: u64,
    cpu_usage_us: u64,
    memory_bytes: u64,
    /// 0: no limit.
    memory_limit_bytes: u64,
    pids: u64,
    io_read_bytes: u64,
    io_write_bytes: u64,
    received: TrafficView,
    sent: TrafficView,
    drops: Vec<DropView>,
}

#[derive(Serialize)]
struct TrafficView {
    packets: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct DropView {
    direction: String,
    reason: String,
    packets: u64,
    bytes: u64,
}

impl From<v1::Metrics> for MetricsView {
    fn from(metrics: v1::Metrics) -> Self {
        let traffic = |traffic: Option<v1::Traffic>| {
            let v1::Traffic { packets, bytes } = traffic.unwrap_or_default();
            TrafficView { packets, bytes }
        };
        let drop = |drop: v1::Drop| {
            let v1::Drop { direction, reason, packets, bytes } = drop;
            DropView { direction, reason, packets, bytes }
        };
        MetricsView {
            id: metrics.id,
            at_ms: metrics.at_ms,
            cpu_usage_us: metrics.cpu_usage_us,
            memory_bytes: metrics.memory_bytes,
            memory_limit_bytes: metrics.memory_limit_bytes,
            pids: metrics.pids,
            io_read_bytes: metrics.io_read_bytes,
            io_write_bytes: metrics.io_write_bytes,
            received: traffic(metrics.received),
            sent: traffic(metrics.sent),
            drops: metrics.drops.into_iter().map(drop).collect(),
        }
    }
}
