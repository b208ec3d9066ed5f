//! The compiled eBPF object: loads it over the pinned maps, after checking that they are what this build expects, and pins
//! maps and programs. Refuses to put anything into a map.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapInfo};
use aya::programs::{CgroupSkb, CgroupSockAddr, CgroupSockAddrAttachType, Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_log::EbpfLogger;
use cc_common::blocks;
use cc_common::counters::{Counters, DropCount, DropKey, SocketKey};
use cc_common::event::{Told, Watch};
use cc_common::firewall::{Prefix4Key, Prefix6Key, PrefixEntry, RuleEntry, RuleKey, RuleSet};
use cc_common::flow::{Flow, FlowKey, NatEntry};
use cc_common::fragment::{Early, EarlyFrame, EarlyKey, FragmentEntry, FragmentPlace};
use cc_common::guard::{GUARDED_ROWS, Guard};
use cc_common::limits::{
    BEGUN_MAX, DROPS_MAX, EARLY_ALL_FRAGMENTS, EARLY_MAX, ENDPOINTS_MAX, EVENTS_BYTES, FLOWS_MAX, FORWARDS_MAX,
    FRAGMENTS_MAX, MEANT_MAX, NAT_BLOCKS_MAX, NAT_MAX, PORTS_MAX, PREFIXES_MAX, ROUTES_MAX, RULE_SETS_MAX, RULES_MAX,
    SOCKETS_MAX, UPLINKS_MAX,
};
use cc_common::names::{self, GLOBAL_CGROUP_LEVEL, PIN_GUARD_DIR, PIN_LINKS_DIR, PIN_PROGRAMS_DIR};
use cc_common::nat::{Block, Forward, ForwardKey, MeantKey, Uplink};
use cc_common::net::Ip;
use cc_common::port::{Port, PortKey};
use cc_common::quota::{BegunKey, Quota};
use cc_common::rate::Rate;
use cc_common::route::{EndpointEntry, Route, RouteKey};
use cc_common::settings::Settings;

use super::DatapathConfig;
use super::error::DatapathError;
use super::{guard, replace};
use crate::bpf;
use crate::kernel::bpffs;

pub(super) static OBJECT: &[u8] = include_bytes_aligned!(env!("CC_EBPF_OBJECT"));

/// The target under which the programs' records appear in the log.
const LOG_TARGET: &str = "cc_ebpf";

const LOG_NOTHING: u8 = 0;

pub type Logger = EbpfLogger<&'static dyn ::log::Log>;

/// Loaded and pinned.
pub struct Object {
    pub programs: Programs,
    pub ebpf: Ebpf,
    /// Present when the programs were loaded with logs on.
    pub logger: Option<Logger>,
}

pub struct Programs {
    pub from_endpoint: SchedClassifier,
    pub to_endpoint: SchedClassifier,
    pub cgroup_ingress: CgroupSkb,
    pub cgroup_egress: CgroupSkb,
    pub from_uplink: SchedClassifier,
    pub from_host: SchedClassifier,
    /// On all sockets, for the host's; in the order of `names::SOCKET_PROGRAMS`.
    pub sockets: Vec<(&'static str, CgroupSockAddr)>,
    /// On no interface: it is run by hand.
    pub sweep: SchedClassifier,
    /// On uplinks.
    pub guard: OwnedFd,
}

/// The hooks of `names::SOCKET_PROGRAMS`.
const SOCKET_HOOKS: [CgroupSockAddrAttachType; names::SOCKET_PROGRAMS.len()] = [
    CgroupSockAddrAttachType::Connect4,
    CgroupSockAddrAttachType::Connect6,
    CgroupSockAddrAttachType::UDPSendMsg4,
    CgroupSockAddrAttachType::UDPSendMsg6,
    CgroupSockAddrAttachType::UDPRecvMsg4,
    CgroupSockAddrAttachType::UDPRecvMsg6,
    CgroupSockAddrAttachType::GetPeerName4,
    CgroupSockAddrAttachType::GetPeerName6,
];

impl Programs {
    /// Those that another daemon has pinned.
    pub fn pinned(dir: &Path) -> Result<Self, DatapathError> {
        use aya::programs::CgroupSkbAttachType::{Egress, Ingress};
        let failed = |name| move |source| DatapathError::Program { name, source };
        let classifier = |name| SchedClassifier::from_pin(dir.join(name)).map_err(failed(name));
        let cgroup = |name, hook| CgroupSkb::from_pin(dir.join(name), hook).map_err(failed(name));
        let socket = |(name, hook)| {
            let program = CgroupSockAddr::from_pin(dir.join(name), hook).map_err(failed(name))?;
            Ok((name, program))
        };
        let path = dir.join(names::PROGRAM_GUARD);
        Ok(Programs {
            from_endpoint: classifier(names::PROGRAM_FROM_ENDPOINT)?,
            to_endpoint: classifier(names::PROGRAM_TO_ENDPOINT)?,
            cgroup_ingress: cgroup(names::PROGRAM_CGROUP_INGRESS, Ingress)?,
            cgroup_egress: cgroup(names::PROGRAM_CGROUP_EGRESS, Egress)?,
            from_uplink: classifier(names::PROGRAM_FROM_UPLINK)?,
            from_host: classifier(names::PROGRAM_FROM_HOST)?,
            sockets: names::SOCKET_PROGRAMS.into_iter().zip(SOCKET_HOOKS).map(socket).collect::<Result<_, _>>()?,
            sweep: classifier(names::PROGRAM_SWEEP)?,
            guard: replace::open(&path).map_err(|source| DatapathError::ReplacePin { path, source })?,
        })
    }

    /// Pins those whose pin is gone; returns their names.
    pub fn pin_missing(&mut self, dir: &Path) -> Result<Vec<&'static str>, DatapathError> {
        let classifiers = [
            (names::PROGRAM_SWEEP, &mut self.sweep),
            (names::PROGRAM_FROM_UPLINK, &mut self.from_uplink),
            (names::PROGRAM_FROM_HOST, &mut self.from_host),
            (names::PROGRAM_FROM_ENDPOINT, &mut self.from_endpoint),
            (names::PROGRAM_TO_ENDPOINT, &mut self.to_endpoint),
        ];
        let cgroups = [
            (names::PROGRAM_CGROUP_INGRESS, &mut self.cgroup_ingress),
            (names::PROGRAM_CGROUP_EGRESS, &mut self.cgroup_egress),
        ];
        let mut pinned = Vec::new();
        let mut missing = |name: &'static str| {
            let path = dir.join(name);
            let is_missing = !path.exists();
            if is_missing {
                pinned.push(name);
            }
            is_missing.then_some(path)
        };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DatapathError::Pin { path, source }
        };
        for (name, program) in classifiers {
            if let Some(path) = missing(name) {
                program.pin(&path).map_err(failed(&path))?;
            }
        }
        for (name, program) in cgroups {
            if let Some(path) = missing(name) {
                program.pin(&path).map_err(failed(&path))?;
            }
        }
        for (name, program) in &mut self.sockets {
            if let Some(path) = missing(name) {
                program.pin(&path).map_err(failed(&path))?;
            }
        }
        Ok(pinned)
    }
}

/// Key bytes, value bytes and rows of every map, as this build has them.
fn shapes() -> [(&'static str, [u32; 3]); names::MAPS.len()] {
    fn shape<K, V>(rows: u32) -> [u32; 3] {
        [size_of::<K>() as u32, size_of::<V>() as u32, rows]
    }
    [
        (names::MAP_PORTS, shape::<PortKey, Port>(PORTS_MAX)),
        // The kernel's prefix length leads a trie's key.
        (names::MAP_ROUTES, shape::<(u32, RouteKey), Route>(ROUTES_MAX)),
        (names::MAP_ENDPOINTS, shape::<u32, EndpointEntry>(ENDPOINTS_MAX)),
        (names::MAP_COUNTERS, shape::<u32, Counters>(ENDPOINTS_MAX)),
        (names::MAP_DROPS, shape::<DropKey, DropCount>(DROPS_MAX)),
        (names::MAP_SOCKETS, shape::<SocketKey, Counters>(SOCKETS_MAX)),
        (names::MAP_SETTINGS, shape::<u32, Settings>(1)),
        (names::MAP_RULE_SETS, shape::<u32, RuleSet>(RULE_SETS_MAX)),
        (names::MAP_RULES, shape::<(u32, RuleKey), RuleEntry>(RULES_MAX)),
        (names::MAP_PREFIXES_V4, shape::<(u32, Prefix4Key), PrefixEntry>(PREFIXES_MAX)),
        (names::MAP_PREFIXES_V6, shape::<(u32, Prefix6Key), PrefixEntry>(PREFIXES_MAX)),
        (names::MAP_FLOWS, shape::<FlowKey, Flow>(FLOWS_MAX)),
        (names::MAP_QUOTAS, shape::<u32, Quota>(ENDPOINTS_MAX + 1)),
        (names::MAP_FRAGMENTS, shape::<FragmentPlace, FragmentEntry>(FRAGMENTS_MAX)),
        (names::MAP_NAT, shape::<FlowKey, NatEntry>(NAT_MAX)),
        (names::MAP_BLOCKS, shape::<u32, Block>(NAT_BLOCKS_MAX)),
        (names::MAP_FORWARDS, shape::<ForwardKey, Forward>(FORWARDS_MAX)),
        (names::MAP_UPLINKS, shape::<PortKey, Uplink>(UPLINKS_MAX)),
        (names::MAP_RATES, shape::<u32, Rate>(ENDPOINTS_MAX)),
        // A ring has neither keys nor values, and its rows are bytes.
        (names::MAP_EVENTS, [0, 0, EVENTS_BYTES]),
        (names::MAP_TOLD, shape::<u32, Told>(ENDPOINTS_MAX + 1)),
        (names::MAP_LOGGED, shape::<u32, Told>(ENDPOINTS_MAX)),
        (names::MAP_WATCH, shape::<u32, Watch>(1)),
        (names::MAP_GUARD, shape::<u32, Guard>(1)),
        (names::MAP_GUARDED, shape::<u32, DropCount>(GUARDED_ROWS)),
        (names::MAP_BLOCKED, shape::<u32, u64>(blocks::WORDS)),
        (names::MAP_MEANT, shape::<MeantKey, Ip>(MEANT_MAX)),
        (names::MAP_BEGUN, shape::<BegunKey, FlowKey>(BEGUN_MAX)),
        (names::MAP_EARLY, shape::<FragmentPlace, Early>(EARLY_MAX)),
        (names::MAP_EARLY_BYTES, shape::<EarlyKey, EarlyFrame>(EARLY_ALL_FRAGMENTS)),
    ]
}

/// Where this version's pins live.
pub fn pin_dir(config: &DatapathConfig) -> PathBuf {
    config.bpffs_dir.join(format!("v{}", names::ABI))
}

/// Takes the maps that are pinned in `dir`, after a look at them, and pins those that are not. Without logs.
pub(super) fn loader<'a>(config: &'a DatapathConfig, dir: &Path) -> Result<EbpfLoader<'a>, DatapathError> {
    let mut loader = EbpfLoader::new();
    for (name, expected) in shapes() {
        let path = dir.join(name);
        check_pinned(&path, expected)?;
        loader.map_pin_path(name, path);
    }
    loader.override_global(GLOBAL_CGROUP_LEVEL, &config.cgroup_level, true);
    loader.override_global(aya_log::LEVEL, &LOG_NOTHING, true);
    Ok(loader)
}

/// The directories for pins, below a file system of their kind.
pub fn make_dirs(config: &DatapathConfig, dir: &Path) -> Result<(), DatapathError> {
    let bpffs = |source| DatapathError::Bpffs { source };
    bpffs::ensure(&config.bpffs_dir).map_err(bpffs)?;
    for name in [PIN_LINKS_DIR, PIN_GUARD_DIR, PIN_PROGRAMS_DIR] {
        bpffs::make_dir(&dir.join(name)).map_err(bpffs)?;
    }
    Ok(())
}

/// Over the maps that are pinned in `dir`; what is missing there is made and pinned.
pub fn open(config: &DatapathConfig, dir: &Path) -> Result<Object, DatapathError> {
    make_dirs(config, dir)?;
    // Constant once loaded, so that the verifier removes what is switched off: logs cost nothing unless somebody listens.
    let logging = tracing::enabled!(target: LOG_TARGET, tracing::Level::DEBUG);
    let log_level: u8 = if logging { aya_log::Level::Debug as u8 } else { LOG_NOTHING };
    let mut loader = loader(config, dir)?;
    loader.override_global(aya_log::LEVEL, &log_level, true);
    // aya tries by programs of its own what the kernel can.
    let mut ebpf = bpf::undisturbed(|| loader.load(OBJECT)).map_err(|source| DatapathError::Load { source })?;

    let logger =
        if logging { Some(EbpfLogger::init(&mut ebpf).map_err(|source| DatapathError::Log { source })?) } else { None };
    let programs = load_programs(&mut ebpf, &dir.join(PIN_PROGRAMS_DIR))?;
    Ok(Object { programs, ebpf, logger })
}

/// aya would take whatever is pinned there for ours, and then read and write past its values.
pub(super) fn check_pinned(path: &Path, expected: [u32; 3]) -> Result<(), DatapathError> {
    if !path.exists() {
        return Ok(());
    }
    let info = MapInfo::from_pin(path).map_err(|source| DatapathError::OpenMap { path: path.to_owned(), source })?;
    let found = [info.key_size(), info.value_size(), info.max_entries()];
    if found == expected {
        return Ok(());
    }
    let words = |[key, value, rows]: [u32; 3]| format!("keys of {key} bytes, values of {value} and {rows} rows");
    Err(DatapathError::MapShape { path: path.to_owned(), found: words(found), expected: words(expected) })
}

pub fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, DatapathError> {
    ebpf.take_map(name).ok_or(DatapathError::Missing { what: "map", name })
}

/// Each on a thread of its own: that the verifier looks at every path of a program is what a start takes, and it looks at each program by itself.
fn verify(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let load = |program: &mut Program| match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    std::thread::scope(|scope| {
        let begin = |(name, program): (&str, _)| {
            let name = names::PROGRAMS.into_iter().find(|known| *known == name)?;
            Some(scope.spawn(move || load(program).map_err(|source| DatapathError::Program { name, source })))
        };
        let all: Vec<_> = ebpf.programs_mut().filter_map(begin).collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn load_programs(ebpf: &mut Ebpf, dir: &Path) -> Result<Programs, DatapathError> {
    // Threads have the mask of signals of whoever makes them.
    bpf::undisturbed(|| verify(ebpf))?;
    Ok(Programs {
        guard: guard::pin_program(ebpf, &replaceable(dir, names::PROGRAM_GUARD)?)?,
        sweep: classifier(ebpf, dir, names::PROGRAM_SWEEP)?,
        sockets: socket_programs(ebpf, dir)?,
        from_uplink: classifier(ebpf, dir, names::PROGRAM_FROM_UPLINK)?,
        from_host: classifier(ebpf, dir, names::PROGRAM_FROM_HOST)?,
        from_endpoint: classifier(ebpf, dir, names::PROGRAM_FROM_ENDPOINT)?,
        to_endpoint: classifier(ebpf, dir, names::PROGRAM_TO_ENDPOINT)?,
        cgroup_ingress: cgroup(ebpf, dir, names::PROGRAM_CGROUP_INGRESS, aya::programs::CgroupSkbAttachType::Ingress)?,
        cgroup_egress: cgroup(ebpf, dir, names::PROGRAM_CGROUP_EGRESS, aya::programs::CgroupSkbAttachType::Egress)?,
    })
}

fn classifier(ebpf: &mut Ebpf, dir: &Path, name: &'static str) -> Result<SchedClassifier, DatapathError> {
    let failed = |source| DatapathError::Program { name, source };
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing { what: "program", name })?;
    let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
    let path = replaceable(dir, name)?;
    program.pin(&path).map_err(|source| DatapathError::Pin { path: path.clone(), source })?;
    SchedClassifier::from_pin(&path).map_err(failed)
}

fn cgroup(
    ebpf: &mut Ebpf,
    dir: &Path,
    name: &'static str,
    attach_type: aya::programs::CgroupSkbAttachType,
) -> Result<CgroupSkb, DatapathError> {
    let failed = |source| DatapathError::Program { name, source };
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing { what: "program", name })?;
    let program: &mut CgroupSkb = program.try_into().map_err(failed)?;
    let path = replaceable(dir, name)?;
    program.pin(&path).map_err(|source| DatapathError::Pin { path: path.clone(), source })?;
    CgroupSkb::from_pin(&path, attach_type).map_err(failed)
}

fn socket_programs(ebpf: &mut Ebpf, dir: &Path) -> Result<Vec<(&'static str, CgroupSockAddr)>, DatapathError> {
    let load = |(name, hook)| {
        let failed = |source| DatapathError::Program { name, source };
        let program = ebpf.program_mut(name).ok_or(DatapathError::Missing { what: "program", name })?;
        let program: &mut CgroupSockAddr = program.try_into().map_err(failed)?;
        let path = replaceable(dir, name)?;
        program.pin(&path).map_err(|source| DatapathError::Pin { path: path.clone(), source })?;
        Ok((name, CgroupSockAddr::from_pin(&path, hook).map_err(failed)?))
    };
    names::SOCKET_PROGRAMS.into_iter().zip(SOCKET_HOOKS).map(load).collect()
}

/// The path for a program's pin, freed of the one that an earlier daemon left: links hold their programs themselves.
fn replaceable(dir: &Path, name: &str) -> Result<PathBuf, DatapathError> {
    let path = dir.join(name);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(DatapathError::ReplacePin { path, source }),
        _ => Ok(path),
    }
}
