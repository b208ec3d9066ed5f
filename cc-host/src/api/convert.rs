//! Between the contract's messages and the rooms' types. Refuses to decide anything but whether a field is well formed.

use std::net::IpAddr;

use cc_common::api::v1;

use super::health::{health_options, health_options_view};
use crate::container::devices::{DEVICES_MAX, device};
use crate::container::health::HealthOptions;
use crate::container::options::{self, Capabilities};
use crate::container::ports::PORTS_MAX;
use crate::container::{
    BadLimit, BadLogOption, Bandwidth, ContainerError, ContainerMetrics, ContainerRecord, Exit, LogOptions, Queue,
    RateLimit, Restart, RunSpec, State, parse_signal,
};
use crate::datapath::PortProtocol;
use crate::image::{ImageRecord, LayerProgress, LayerState};
use crate::kernel::cgroup::CpuSet;
use crate::outside::PortMapping;
use crate::resolver::NameServer;

/// Of all strings together. A container's record holds them as JSON, whose escapes take up to six bytes for one, and has to
/// fit into the store with what else it says. Linux would take more.
const STRINGS_BYTES_MAX: usize = 128 << 10;
const _: () = assert!(STRINGS_BYTES_MAX * 6 < crate::store::VALUE_BYTES_MAX);
const LABELS_MAX: usize = 256;
/// As the C library has it.
const NAME_SERVERS_MAX: usize = 3;
const HOSTNAME_LEN_MAX: usize = 63;
/// What Linux needs for IPv4, and what a veth takes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 576..=65_535;
/// The smallest memory limit under which a program can be started at all.
const MEMORY_BYTES_MIN: u64 = 4 << 20;
/// As cgroup v1 has them; v2's weights are computed from these.
const CPU_SHARES_RANGE: std::ops::RangeInclusive<u32> = 2..=262_144;
/// In thousandths. The kernel takes no quota below a millisecond of a period.
const CPU_MILLI_RANGE: std::ops::RangeInclusive<u32> = 10..=1_024_000;

pub(super) fn bad(field: &'static str, value: impl ToString, why: &'static str) -> ContainerError {
    ContainerError::BadField { field, value: value.to_string(), why }
}

pub(super) fn run_spec(
    spec: v1::ContainerSpec,
    stdin: bool,
    terminal: Option<v1::WindowSize>,
) -> Result<RunSpec, ContainerError> {
    let non_empty = |text: String| (!text.is_empty()).then_some(text);
    if spec.image.is_empty() {
        return Err(bad("--image", "", "an image is needed"));
    }
    if spec.memory_bytes != 0 && spec.memory_bytes < MEMORY_BYTES_MIN {
        return Err(bad("--memory", spec.memory_bytes, "a container needs at least 4 MiB"));
    }
    if spec.cpu_shares != 0 && !CPU_SHARES_RANGE.contains(&spec.cpu_shares) {
        return Err(bad("--cpu", spec.cpu_shares, "shares go from 2 to 262144, and 1024 is the default"));
    }
    if spec.mtu != 0 && !MTU_RANGE.contains(&spec.mtu) {
        return Err(bad("--mtu", spec.mtu, "an MTU goes from 576 to 65535"));
    }
    let labels = spec.labels.iter().flat_map(|(key, value)| [key, value]);
    let strings = spec.env.iter().chain(&spec.command).chain([&spec.dir, &spec.user, &spec.hostname]);
    let strings = strings.chain(spec.health.iter().map(|health| &health.command));
    check_strings(strings.chain(&spec.groups).chain(labels))?;
    check_env(&spec.env)?;
    check_dir(&spec.dir)?;
    if !is_hostname(&spec.hostname) {
        return Err(bad("--hostname", spec.hostname, "it is not a DNS label of at most 63 characters"));
    }
    if spec.labels.len() > LABELS_MAX {
        return Err(bad("--label", spec.labels.len(), "a container has at most 256 labels"));
    }
    if spec.publish.len() > PORTS_MAX {
        return Err(bad("--publish", spec.publish.len(), "a container publishes at most 256 ports"));
    }
    if !spec.publish.is_empty() && spec.vpc.is_empty() {
        return Err(bad(
            "--publish",
            spec.publish.len(),
            "there is no network that a port could lead to: name a --vpc",
        ));
    }
    let publish = port_mappings(&spec.publish)?;
    let bandwidth = Bandwidth {
        egress: rate_limit(["--egress-bandwidth", "--egress-burst"], spec.egress_bandwidth, &spec.vpc)?,
        ingress: rate_limit(["--ingress-bandwidth", "--ingress-burst"], spec.ingress_bandwidth, &spec.vpc)?,
    };
    let said = |field| move |why: String| ContainerError::BadOption { field, why };
    let capabilities = Capabilities { add: spec.cap_add, drop: spec.cap_drop };
    capabilities.check().map_err(said("--cap-add or --cap-drop"))?;
    if spec.ulimits.len() > options::ULIMITS_MAX || spec.tmpfs.len() > options::TMPFS_MAX {
        return Err(bad("--ulimit or --tmpfs", "", "there are at most 16 and 32"));
    }
    let ulimits = spec.ulimits.iter().map(|text| options::ulimit(text)).collect::<Result<_, _>>();
    let ulimits = ulimits.map_err(said("--ulimit"))?;
    let tmpfs = spec.tmpfs.iter().map(|text| options::tmpfs(text)).collect::<Result<_, _>>();
    let tmpfs = tmpfs.map_err(said("--tmpfs"))?;
    if spec.cpu_milli != 0 && !CPU_MILLI_RANGE.contains(&spec.cpu_milli) {
        return Err(bad("--cpus", f64::from(spec.cpu_milli) / 1000.0, "CPUs go from 0.01 to 1024"));
    }
    if spec.devices.len() > DEVICES_MAX {
        return Err(bad("--device", spec.devices.len(), "there are at most 32"));
    }
    let cpuset = non_empty(spec.cpuset).map(|text| CpuSet::parse(&text)).transpose();
    let cpuset = cpuset.map_err(|bad| bad.to_string()).map_err(said("--cpuset"))?;
    let devices = spec.devices.iter().map(|text| device(text)).collect::<Result<_, _>>();
    let health = health_options(spec.health.unwrap_or_default())?;
    let stop_signal = non_empty(spec.stop_signal);
    if let Some(signal) = &stop_signal
        && parse_signal(signal).is_none()
    {
        return Err(bad("--stop-signal", signal, "it is no signal's name or number; try TERM, QUIT or 3"));
    }
    let restart = Restart::parse(&spec.restart).ok_or_else(|| {
        bad("--restart", &spec.restart, "it is no, on-failure, on-failure:N, always or unless-stopped")
    })?;
    if restart != Restart::No && spec.auto_remove {
        return Err(bad("--restart", restart, "with --rm there is nothing left to start again"));
    }
    if spec.dns.len() > NAME_SERVERS_MAX {
        return Err(bad("--dns", spec.dns.join(" "), "programs ask three name servers at most"));
    }
    let dns = spec.dns.iter().map(|text| name_server(text)).collect::<Result<_, _>>()?;
    let log = LogOptions::new(spec.log_max_bytes, spec.log_max_files, &spec.log_mode).map_err(|wrong| match wrong {
        BadLogOption::Bytes => bad(wrong.flag(), spec.log_max_bytes, wrong.why()),
        BadLogOption::Files => bad(wrong.flag(), spec.log_max_files, wrong.why()),
        BadLogOption::Mode => bad(wrong.flag(), &spec.log_mode, wrong.why()),
    })?;
    Ok(RunSpec {
        image: spec.image,
        vpc: non_empty(spec.vpc),
        memory_bytes: (spec.memory_bytes != 0).then_some(spec.memory_bytes),
        cpu_shares: (spec.cpu_shares != 0).then_some(spec.cpu_shares),
        pids_max: (spec.pids_max != 0).then_some(spec.pids_max),
        user: non_empty(spec.user),
        env: spec.env,
        dir: non_empty(spec.dir),
        hostname: non_empty(spec.hostname),
        labels: spec.labels.into_iter().collect(),
        command: spec.command,
        groups: spec.groups,
        bandwidth,
        publish,
        dns,
        log: Some(log),
        mtu: u16::try_from(spec.mtu).ok().filter(|&mtu| mtu != 0),
        auto_remove: spec.auto_remove,
        entrypoint: spec.entrypoint.map(|program| if program.is_empty() { vec![] } else { vec![program] }),
        stop_signal,
        stop_timeout_s: spec.stop_timeout_s,
        read_only: spec.read_only,
        tmpfs,
        capabilities,
        ulimits,
        cpu_milli: (spec.cpu_milli != 0).then_some(spec.cpu_milli),
        restart,
        health,
        init: spec.init,
        devices: devices.map_err(said("--device"))?,
        cpuset,
        stdin,
        terminal: terminal.map(|size| super::session::window(&size)),
    })
}

pub(super) fn check_strings<'a>(strings: impl Iterator<Item = &'a String> + Clone) -> Result<(), ContainerError> {
    if strings.clone().map(|s| s.len() + 1).sum::<usize>() > STRINGS_BYTES_MAX {
        return Err(bad("--env", "", "arguments, variables and labels together exceed 128 KiB"));
    }
    match strings.into_iter().find(|s| s.contains('\0')) {
        Some(text) => Err(bad("text", text.replace('\0', "\\0"), "it holds a NUL byte")),
        None => Ok(()),
    }
}

pub(super) fn check_env(env: &[String]) -> Result<(), ContainerError> {
    match env.iter().find(|e| e.find('=').is_none_or(|at| at == 0)) {
        Some(entry) => Err(bad("--env", entry, "it is not KEY=VALUE")),
        None => Ok(()),
    }
}

pub(super) fn check_dir(dir: &str) -> Result<(), ContainerError> {
    if dir.is_empty() || dir.starts_with('/') { Ok(()) } else { Err(bad("--dir", dir, "it is not an absolute path")) }
}

pub(super) fn port_mappings(wanted: &[v1::PortMapping]) -> Result<Vec<PortMapping>, ContainerError> {
    let mut mappings: Vec<PortMapping> = wanted.iter().map(port_mapping).collect::<Result<_, _>>()?;
    mappings.sort_unstable();
    mappings.dedup();
    Ok(mappings)
}

fn port_mapping(wanted: &v1::PortMapping) -> Result<PortMapping, ContainerError> {
    let v1::PortMapping { address, host_port, port, protocol } = wanted;
    let wrong = |value: &dyn std::fmt::Display, why| bad("--publish", value, why);
    let number = |port: &u32| match u16::try_from(*port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(wrong(port, "a port is a number from 1 to 65535")),
    };
    let address = match address.as_str() {
        "" | "0.0.0.0" | "::" => None,
        text => Some(text.parse().map_err(|_| wrong(&text, "it is not an address of this host, as in 192.0.2.1"))?),
    };
    let protocol = match protocol.as_str() {
        "" | "tcp" => PortProtocol::Tcp,
        "udp" => PortProtocol::Udp,
        other => return Err(wrong(&other, "ports of tcp and udp can be published")),
    };
    Ok(PortMapping { address, host_port: number(host_port)?, port: number(port)?, protocol })
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

fn rate_limit(
    [rate, burst]: [&'static str; 2],
    limit: Option<v1::RateLimit>,
    vpc: &str,
) -> Result<Option<RateLimit>, ContainerError> {
    let Some(v1::RateLimit { bytes_per_s, burst_bytes }) = limit else { return Ok(None) };
    if vpc.is_empty() {
        return Err(bad(rate, bytes_per_s, "there is no network to limit: name a --vpc"));
    }
    RateLimit::new(bytes_per_s, (burst_bytes != 0).then_some(burst_bytes)).map(Some).map_err(|wrong| match wrong {
        BadLimit::Rate => bad(rate, bytes_per_s, wrong.why()),
        BadLimit::Burst => bad(burst, burst_bytes, wrong.why()),
    })
}

fn rate_limit_view(limit: Option<RateLimit>) -> Option<v1::RateLimit> {
    let view = |RateLimit { bytes_per_s, burst_bytes }| v1::RateLimit {
        bytes_per_s,
        burst_bytes: burst_bytes.unwrap_or_default(),
    };
    limit.map(view)
}

/// Without a port: a container's resolv.conf has no place for one.
fn name_server(text: &str) -> Result<IpAddr, ContainerError> {
    let ip = text.parse::<IpAddr>().map_err(|_| bad("--dns", text, "it is not an address, as in 192.0.2.53"))?;
    NameServer::parse(text).map_err(|_| bad("--dns", text, "it is no machine's address"))?;
    Ok(ip)
}

fn is_hostname(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    text.len() <= HOSTNAME_LEN_MAX && text.bytes().all(good) && !text.starts_with(['-', '.'])
}

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
        // The room knows.
        health: None,
        // Their names are the firewall's to know.
        groups: Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> v1::ContainerSpec {
        v1::ContainerSpec { image: "busybox".into(), vpc: "blue".into(), ..Default::default() }
    }

    #[test]
    fn malformed_fields_are_named() {
        type Spoil = (&'static str, fn(&mut v1::ContainerSpec));
        let cases: [Spoil; 22] = [
            ("--health-interval", |s| {
                s.health = Some(v1::HealthCheck { interval_ms: 1, command: "x".into(), ..Default::default() });
            }),
            ("--log-max-size", |s| s.log_max_bytes = 1),
            ("--log-max-files", |s| s.log_max_files = 11),
            ("--log-mode", |s| s.log_mode = "wait".into()),
            ("--image", |s| s.image.clear()),
            ("--memory", |s| s.memory_bytes = 1),
            ("--cpu", |s| s.cpu_shares = 1),
            ("--mtu", |s| s.mtu = 100),
            ("--publish", |s| s.publish = vec![v1::PortMapping::default()]),
            ("--publish", |s| {
                let protocol = "sctp".to_owned();
                s.publish = vec![v1::PortMapping { host_port: 1, port: 1, protocol, ..Default::default() }];
            }),
            ("--egress-bandwidth", |s| s.egress_bandwidth = Some(v1::RateLimit { bytes_per_s: 1, burst_bytes: 0 })),
            ("--ingress-burst", |s| s.ingress_bandwidth = Some(v1::RateLimit { bytes_per_s: 1 << 20, burst_bytes: 1 })),
            ("--vpc", |s| {
                s.vpc.clear();
                s.ingress_bandwidth = Some(v1::RateLimit { bytes_per_s: 1 << 20, burst_bytes: 0 });
            }),
            ("--env", |s| s.env.push("NOVALUE".into())),
            ("--dir", |s| s.dir = "tmp".into()),
            ("--hostname", |s| s.hostname = "a b".into()),
            ("--dns", |s| s.dns.push("dns.example".into())),
            ("--dns", |s| s.dns.push("0.0.0.0".into())),
            ("--dns", |s| s.dns = vec!["192.0.2.53".into(); 4]),
            ("text", |s| s.command.push("a\0b".into())),
            ("text", |s| drop(s.labels.insert("a".into(), "a\0b".into()))),
            ("128 KiB", |s| drop(s.labels.insert("a".into(), "b".repeat(STRINGS_BYTES_MAX)))),
        ];
        assert!(run_spec(spec(), false, None).is_ok());
        for (field, spoil) in cases {
            let mut bad = spec();
            spoil(&mut bad);
            let error = run_spec(bad, false, None).unwrap_err();
            let ContainerError::BadField { why, .. } = &error else { panic!("{error}") };
            assert!(format!("{error}: {why}").contains(field), "{error}");
        }
    }

    #[test]
    fn the_most_that_is_taken_fits_into_the_store() {
        let mut most = spec();
        most.labels.insert("a".into(), "\u{1}".repeat(STRINGS_BYTES_MAX - 6));
        let bytes = serde_json::to_vec(&run_spec(most, false, None).unwrap()).unwrap().len();
        assert!((STRINGS_BYTES_MAX * 5..crate::store::VALUE_BYTES_MAX - 64 * 1024).contains(&bytes), "{bytes}");
    }
}
