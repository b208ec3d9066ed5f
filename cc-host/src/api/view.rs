//! The rooms' types as the contract's messages. Refuses to decide anything.

use cc_common::api::v1;

use super::convert::UNCONFINED;
use super::health::health_options_view;
use crate::container::health::HealthOptions;
use crate::container::{
    ContainerMetrics, ContainerRecord, Exit, Queue, RateLimit, RunSpec, State, VolumeClaim, VolumeMount,
};
use crate::datapath::PortProtocol;
use crate::image::{ImageRecord, LayerProgress, LayerState};
use crate::outside::PortMapping;
use crate::seccomp::Seccomp;

pub(super) fn spec_view(spec: &RunSpec) -> v1::ContainerSpec {
    let log = spec.log.unwrap_or_default();
    v1::ContainerSpec {
        image: spec.image.clone(),
        vpc: spec.vpc.clone().unwrap_or_default(),
        name: String::new(),
        memory_bytes: spec.memory_bytes.unwrap_or_default(),
        cpu_shares: spec.cpu_shares.unwrap_or_default(),
        user: spec.user.clone().unwrap_or_default(),
        env: spec.env.clone(),
        dir: spec.dir.clone().unwrap_or_default(),
        hostname: spec.hostname.clone().unwrap_or_default(),
        labels: spec.labels.clone().into_iter().collect(),
        command: spec.command.clone(),
        groups: spec.groups.clone(),
        dns: spec.dns.iter().map(ToString::to_string).collect(),
        mtu: spec.mtu.map(u32::from).unwrap_or_default(),
        auto_remove: spec.auto_remove,
        pids_max: spec.pids_max.unwrap_or_default(),
        entrypoint: spec.entrypoint.as_ref().map(|words| words.join(" ")),
        stop_signal: spec.stop_signal.clone().unwrap_or_default(),
        stop_timeout_s: spec.stop_timeout_s,
        read_only: spec.read_only,
        tmpfs: spec.tmpfs.iter().map(|t| format!("{}:size={},mode={:o}", t.target, t.size_bytes, t.mode)).collect(),
        cap_add: spec.capabilities.add.clone(),
        cap_drop: spec.capabilities.drop.clone(),
        seccomp: seccomp_view(&spec.seccomp),
        ulimits: spec.ulimits.iter().map(ToString::to_string).collect(),
        cpu_milli: spec.cpu_milli.unwrap_or_default(),
        restart: spec.restart.to_string(),
        publish: spec.publish.iter().map(port_mapping_view).collect(),
        egress_bandwidth: rate_limit_view(spec.bandwidth.egress),
        ingress_bandwidth: rate_limit_view(spec.bandwidth.ingress),
        log_max_bytes: log.bytes_max,
        log_max_files: log.files_max,
        log_mode: log.mode_name().to_owned(),
        health: (spec.health != HealthOptions::default()).then(|| health_options_view(&spec.health)),
        init: spec.init,
        devices: spec.devices.iter().map(ToString::to_string).collect(),
        cpuset: spec.cpuset.as_ref().map(ToString::to_string).unwrap_or_default(),
        userns: if spec.host_users { "host" } else { "" }.to_owned(),
        volumes: spec.volumes.iter().map(volume_mount_view).collect(),
        disk_bytes: spec.disk_bytes.unwrap_or_default(),
    }
}

pub(super) fn container_view(record: &ContainerRecord) -> v1::Container {
    let (mut pid, mut started_ms, mut exit) = (0, 0, None);
    match &record.state {
        State::Created => {}
        State::Running { pid: running, since_ms } => (pid, started_ms) = (*running, *since_ms),
        State::Stopped { started_ms: since, exit: how } => {
            started_ms = since.unwrap_or_default();
            exit = Some(exit_view(record.id.as_str(), how));
        }
    }
    let vpc = record.vpc.as_ref();
    v1::Container {
        id: record.id.to_string(),
        name: record.name.to_string(),
        image: record.image_reference.clone(),
        image_digest: record.image_digest.clone(),
        state: record.state.name().to_owned(),
        vpc: vpc.map(|a| a.vpc.to_string()).unwrap_or_default(),
        vpc_name: vpc.map(|a| a.vpc_name.to_string()).unwrap_or_default(),
        ipv4: vpc.map(|a| format!("{}/{}", a.ipv4, a.prefix_len)).unwrap_or_default(),
        ipv6: vpc.and_then(|a| a.ipv6).map(|ipv6| format!("{}/{}", ipv6.address, ipv6.prefix_len)).unwrap_or_default(),
        mac: vpc.map(|a| a.mac.map(|b| format!("{b:02x}")).join(":")).unwrap_or_default(),
        pid,
        created_ms: record.created_ms,
        started_ms,
        exit,
        spec: Some(spec_view(&record.spec)),
        endpoint: record.slot,
        interface: vpc.map(|_| record.interface()).unwrap_or_default(),
        project: record.project.to_string(),
        restarts: record.restarts,
        volumes: record.volumes.iter().map(volume_claim_view).collect(),
        seccomp: record.spec.seccomp.kind().to_owned(),
        // The room knows.
        health: None,
        // Their names are the firewall's to know.
        groups: Vec::new(),
    }
}

fn volume_mount_view(mount: &VolumeMount) -> v1::VolumeMount {
    let VolumeMount { volume, target, read_only } = mount.clone();
    v1::VolumeMount { volume, path: target, read_only, name: String::new() }
}

fn volume_claim_view(claim: &VolumeClaim) -> v1::VolumeMount {
    v1::VolumeMount {
        volume: claim.volume.to_string(),
        path: claim.target.clone(),
        read_only: claim.read_only,
        name: claim.name.to_string(),
    }
}

pub(super) fn exit_view(id: &str, exit: &Exit) -> v1::Exit {
    v1::Exit {
        id: id.to_owned(),
        code: exit.code,
        signal: exit.signal.unwrap_or_default(),
        oom_killed: exit.oom_killed,
        finished_ms: exit.finished_ms,
        reason: exit.reason.clone(),
    }
}

pub(super) fn image_view(image: &ImageRecord) -> v1::Image {
    v1::Image {
        reference: image.reference.clone(),
        digest: image.digest.clone(),
        size_bytes: image.size_bytes,
        created_ms: image.created_ms,
        os: image.os.clone(),
        architecture: image.architecture.clone(),
        entrypoint: image.config.entrypoint.clone(),
        cmd: image.config.cmd.clone(),
        env: image.config.env.clone(),
        user: image.config.user.clone(),
        working_dir: image.config.working_dir.clone(),
        layers: image.layers.clone(),
    }
}

pub(super) fn progress_view(progress: LayerProgress) -> v1::PullProgress {
    let state = match progress.state {
        LayerState::Waiting => "waiting",
        LayerState::Downloading => "downloading",
        LayerState::Unpacking => "unpacking",
        LayerState::Exists => "exists",
        LayerState::Done => "done",
    };
    let layer = v1::LayerProgress {
        digest: progress.digest,
        done_bytes: progress.done_bytes,
        total_bytes: progress.total_bytes,
        state: state.to_owned(),
    };
    v1::PullProgress { progress: Some(v1::pull_progress::Progress::Layer(layer)) }
}

pub(super) fn metrics_view(record: &ContainerRecord, metrics: ContainerMetrics) -> v1::Metrics {
    let ContainerMetrics { resources, traffic, queues, log_dropped, healthy: _ } = metrics;
    let count = |t: crate::datapath::Traffic| Some(v1::Traffic { packets: t.packets, bytes: t.bytes });
    v1::Metrics {
        id: record.id.to_string(),
        name: record.name.to_string(),
        cpu_usage_us: resources.cpu_usage_us,
        memory_bytes: resources.memory_bytes,
        memory_limit_bytes: record.spec.memory_bytes.unwrap_or_default(),
        memory_peak_bytes: resources.memory_peak,
        oom_kills: resources.oom_kills,
        io_read_bytes: resources.io_read,
        io_write_bytes: resources.io_write,
        pids: resources.pids,
        pids_limit: resources.pids_limit.unwrap_or_default(),
        received: count(traffic.received),
        sent: count(traffic.sent),
        socket_received: count(traffic.socket_received),
        socket_sent: count(traffic.socket_sent),
        drops: traffic
            .drops
            .into_iter()
            .map(|d| v1::Drop {
                direction: d.direction.to_string(),
                reason: d.reason.to_string(),
                packets: d.packets,
                bytes: d.bytes,
            })
            .collect(),
        at_ms: crate::ids::now_ms(),
        queues: queues.into_iter().map(queue_view).collect(),
        log_dropped_records: log_dropped,
    }
}

fn queue_view(Queue { direction, bytes_per_s, stats }: Queue) -> v1::Queue {
    v1::Queue {
        direction: direction.to_owned(),
        bytes_per_s,
        dropped_packets: stats.dropped_packets,
        waits: stats.waits,
        waiting_bytes: stats.waiting_bytes,
    }
}

fn port_mapping_view(mapping: &PortMapping) -> v1::PortMapping {
    v1::PortMapping {
        address: mapping.address.map(|address| address.to_string()).unwrap_or_default(),
        host_port: mapping.host_port.into(),
        port: mapping.port.into(),
        protocol: match mapping.protocol {
            PortProtocol::Tcp => "tcp".to_owned(),
            PortProtocol::Udp => "udp".to_owned(),
        },
    }
}

fn rate_limit_view(limit: Option<RateLimit>) -> Option<v1::RateLimit> {
    let view = |RateLimit { bytes_per_s, burst_bytes }| v1::RateLimit {
        bytes_per_s,
        burst_bytes: burst_bytes.unwrap_or_default(),
    };
    limit.map(view)
}

fn seccomp_view(seccomp: &Seccomp) -> String {
    match seccomp {
        Seccomp::Default => String::new(),
        Seccomp::Unconfined => UNCONFINED.to_owned(),
        Seccomp::Profile(text) => text.clone(),
    }
}
