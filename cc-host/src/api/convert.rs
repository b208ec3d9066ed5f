//! Between the contract's messages and the rooms' types. Refuses to decide anything but whether a field is well formed.

use std::net::IpAddr;

use cc_common::api::v1;
use rustix::thread::CapabilitySet;

use super::health::health_options;
use crate::container::devices::{DEVICES_MAX, device};
use crate::container::options::{self, Capabilities};
use crate::container::ports::PORTS_MAX;
use crate::container::{
    BadLimit, BadLogOption, Bandwidth, Change, ContainerError, LogOptions, RateLimit, Restart, RunSpec, VOLUMES_MAX,
    VolumeMount, fit, parse_signal,
};
use crate::daemon::privileges;
use crate::datapath::PortProtocol;
use crate::disk;
use crate::kernel::cgroup::CpuSet;
use crate::outside::PortMapping;
use crate::resolver::NameServer;
use crate::seccomp::{PROFILE_BYTES_MAX, Seccomp};
use crate::shim::spec::TmpfsSpec;

/// Of all strings together. A container's record holds them as JSON, whose escapes take up to six bytes for one, and has to
/// fit into the store with what else it says. Linux would take more.
const STRINGS_BYTES_MAX: usize = 128 << 10;
/// A profile is JSON, of which quotes, backslashes and line ends take two.
const _: () = assert!(STRINGS_BYTES_MAX * 6 + PROFILE_BYTES_MAX * 2 < crate::store::VALUE_BYTES_MAX);
/// No profile at all.
pub(super) const UNCONFINED: &str = "unconfined";
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

/// Of each, 0 is no limit of its own.
fn check_limits(memory_bytes: u64, cpu_shares: u32, cpu_milli: u32) -> Result<(), ContainerError> {
    if memory_bytes != 0 && memory_bytes < MEMORY_BYTES_MIN {
        return Err(bad("--memory", memory_bytes, "a container needs at least 4 MiB"));
    }
    if cpu_shares != 0 && !CPU_SHARES_RANGE.contains(&cpu_shares) {
        return Err(bad("--cpu", cpu_shares, "shares go from 2 to 262144, and 1024 is the default"));
    }
    if cpu_milli != 0 && !CPU_MILLI_RANGE.contains(&cpu_milli) {
        return Err(bad("--cpus", f64::from(cpu_milli) / 1000.0, "CPUs go from 0.01 to 1024"));
    }
    Ok(())
}

fn restart_policy(text: &str) -> Result<Restart, ContainerError> {
    let why = "it is no, on-failure, on-failure:N, always or unless-stopped";
    Restart::parse(text).ok_or_else(|| bad("--restart", text, why))
}

pub(super) fn change(wanted: &v1::UpdateRequest) -> Result<Change, ContainerError> {
    let v1::UpdateRequest { memory_bytes, cpu_shares, cpu_milli, pids_max, .. } = *wanted;
    check_limits(memory_bytes.unwrap_or(0), cpu_shares.unwrap_or(0), cpu_milli.unwrap_or(0))?;
    let restart = (!wanted.restart.is_empty()).then(|| restart_policy(&wanted.restart)).transpose()?;
    let small = |number: Option<u32>| number.map(|number| (number != 0).then_some(number));
    Ok(Change {
        memory_bytes: memory_bytes.map(|bytes| (bytes != 0).then_some(bytes)),
        cpu_shares: small(cpu_shares),
        cpu_milli: small(cpu_milli),
        pids_max: small(pids_max),
        restart,
    })
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
    check_limits(spec.memory_bytes, spec.cpu_shares, spec.cpu_milli)?;
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
    let seccomp = seccomp(spec.seccomp, &capabilities)?;
    if spec.ulimits.len() > options::ULIMITS_MAX || spec.tmpfs.len() > options::TMPFS_MAX {
        return Err(bad("--ulimit or --tmpfs", "", "there are at most 16 and 32"));
    }
    let ulimits = spec.ulimits.iter().map(|text| options::ulimit(text)).collect::<Result<_, _>>();
    let ulimits = ulimits.map_err(said("--ulimit"))?;
    let tmpfs = spec.tmpfs.iter().map(|text| options::tmpfs(text)).collect::<Result<Vec<_>, _>>();
    let tmpfs = tmpfs.map_err(said("--tmpfs"))?;
    if spec.devices.len() > DEVICES_MAX {
        return Err(bad("--device", spec.devices.len(), "there are at most 32"));
    }
    let cpuset = non_empty(spec.cpuset).map(|text| CpuSet::parse(&text)).transpose();
    let cpuset = cpuset.map_err(|bad| bad.to_string()).map_err(said("--cpuset"))?;
    let host_users = match spec.userns.as_str() {
        "" => false,
        "host" => true,
        other => return Err(bad("--userns", other, "there is host; without it, a container has users of its own")),
    };
    let given_up = capabilities.set().intersection(privileges::NEVER);
    if host_users && let Some((name, _)) = given_up.iter_names().next() {
        let why = "with --userns host a capability is one of the host's, and the daemon has given this one up";
        return Err(bad("--cap-add", name, why));
    }
    // What hides them from the container is a capability of the host's namespace, which is then its own.
    if host_users && capabilities.set().contains(CapabilitySet::SYS_PTRACE) {
        let why = "with --userns host it reaches into further programs before they have given up the shim's rights";
        return Err(bad("--cap-add", "SYS_PTRACE", why));
    }
    let devices = spec.devices.iter().map(|text| device(text)).collect::<Result<_, _>>();
    let volumes = volumes(&spec.volumes, &tmpfs)?;
    let disk_bytes = Some(spec.disk_bytes).filter(|&bytes| bytes != 0).map(disk::size).transpose();
    let disk_bytes = disk_bytes.map_err(said("--disk"))?;
    let health = health_options(spec.health.unwrap_or_default())?;
    let stop_signal = non_empty(spec.stop_signal);
    if let Some(signal) = &stop_signal
        && parse_signal(signal).is_none()
    {
        return Err(bad("--stop-signal", signal, "it is no signal's name or number; try TERM, QUIT or 3"));
    }
    let restart = restart_policy(&spec.restart)?;
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
        seccomp,
        ulimits,
        cpu_milli: (spec.cpu_milli != 0).then_some(spec.cpu_milli),
        restart,
        health,
        init: spec.init,
        devices: devices.map_err(said("--device"))?,
        cpuset,
        host_users,
        disk_bytes,
        volumes,
        stdin,
        terminal: terminal.map(|size| super::session::window(&size)),
    })
}

fn volumes(wanted: &[v1::VolumeMount], tmpfs: &[TmpfsSpec]) -> Result<Vec<VolumeMount>, ContainerError> {
    let said = |why: String| ContainerError::BadOption { field: "--volume", why };
    if wanted.len() > VOLUMES_MAX {
        return Err(bad("--volume", wanted.len(), "a container has at most 64"));
    }
    let volumes: Vec<VolumeMount> = wanted.iter().map(volume_mount).collect::<Result<_, _>>()?;
    fit(&volumes, tmpfs.iter().map(|one| one.target.clone())).map_err(said)?;
    Ok(volumes)
}

pub(super) fn volume_mount(wanted: &v1::VolumeMount) -> Result<VolumeMount, ContainerError> {
    let mount = VolumeMount::new(&wanted.volume, &wanted.path, wanted.read_only);
    mount.map_err(|why| ContainerError::BadOption { field: "--volume", why })
}

/// Compiled already here, so that whoever wrote it hears of it.
fn seccomp(text: String, capabilities: &Capabilities) -> Result<Seccomp, ContainerError> {
    let seccomp = match text.as_str() {
        "" => Seccomp::Default,
        UNCONFINED => Seccomp::Unconfined,
        _ => Seccomp::Profile(text),
    };
    seccomp.filter(capabilities.set()).map_err(options::bad_profile)?;
    Ok(seccomp)
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
