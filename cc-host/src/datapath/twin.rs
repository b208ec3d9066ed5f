//! The datapath's programs once more, attached to nothing, over the same live maps, with the constant that keeps them from changing any of
//! it: what would become of a packet, and by which steps. Loaded when somebody first asks. Refuses to say what a step means.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, Pod};
use cc_common::names::{self, GLOBAL_DRY_RUN, MAP_TRACE};
use cc_common::trace::{SEEN_END, Trace};
use cc_common::verdict::{DropReason, Verdict};

use super::error::DatapathError;
use super::object::{self, Programs};
use super::{Datapath, DatapathConfig};
use crate::bpf;

/// `struct __sk_buff`, and the words in it by which a program is told where a packet is from, and tells what it has decided.
const CONTEXT_BYTES: usize = 192;
const IFINDEX_AT: usize = 40;
const CONTROL_AT: usize = 48;
/// What a program may put before a packet, as an error that quotes it.
const GROWTH_BYTES: usize = 256;

/// Where a packet comes to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// By this endpoint's own interface.
    Endpoint(u32),
    /// From outside, by whichever interface leads out.
    Uplink,
    /// From the host's own sockets, by its end of the pair.
    Host,
}

/// What would become of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// To an endpoint of this host.
    Delivered,
    /// Out by an uplink.
    Out,
    /// To the host itself.
    Host,
    /// It is answered where it is.
    Answered,
    /// It is none of ours: the host's to decide.
    Passed,
    /// With the reason's number, if no reason of this version has it.
    Dropped(Result<DropReason, u16>),
}

/// What a dry run says.
#[derive(Debug, Clone, Copy)]
pub struct DryRun {
    pub fate: Fate,
    pub trace: Trace,
}

/// Loaded when it is first used.
pub(super) struct Lazy {
    config: DatapathConfig,
    twin: Mutex<Option<Twin>>,
}

struct Twin {
    ebpf: Ebpf,
    trace: PerCpuArray<MapData, Trace>,
    cpus: usize,
}

const PROGRAMS: [&str; 3] = [names::PROGRAM_FROM_ENDPOINT, names::PROGRAM_FROM_UPLINK, names::PROGRAM_FROM_HOST];

impl Lazy {
    pub(super) fn new(config: DatapathConfig) -> Self {
        Lazy { config, twin: Mutex::new(None) }
    }

    fn twin(&self) -> MutexGuard<'_, Option<Twin>> {
        // A run that panicked has left notes, which the next one clears.
        self.twin.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Datapath {
    /// What would become of this frame now. Nothing of the datapath changes: no flow, no counter, no port. One at a time; the first one
    /// loads the programs, which takes as long as at boot.
    pub fn dry_run(&self, entrance: Entrance, frame: &[u8]) -> Result<DryRun, DatapathError> {
        let (program, ifindex, tags) = {
            let inner = self.inner();
            let (program, ifindex) = match entrance {
                Entrance::Endpoint(id) => (names::PROGRAM_FROM_ENDPOINT, inner.tables.endpoint(id)?.ifindex),
                Entrance::Uplink => {
                    let first = inner.tables.uplinks()?.into_iter().min().ok_or(DatapathError::NoUplink)?;
                    (names::PROGRAM_FROM_UPLINK, first)
                }
                Entrance::Host => (names::PROGRAM_FROM_HOST, inner.tables.settings()?.host_ifindex),
            };
            (program, ifindex, tags(&inner.programs)?)
        };
        let mut slot = self.twin.twin();
        let twin = match &mut *slot {
            Some(twin) => twin,
            none => none.insert(Twin::open(&self.twin.config, tags)?),
        };
        twin.run(program, ifindex, frame)
    }
}

/// Of the programs that packets run, in the order of `PROGRAMS`.
fn tags(programs: &Programs) -> Result<[u64; 3], DatapathError> {
    let [endpoint, uplink, host] = PROGRAMS;
    Ok([tag(endpoint, &programs.from_endpoint)?, tag(uplink, &programs.from_uplink)?, tag(host, &programs.from_host)?])
}

fn tag(name: &'static str, program: &SchedClassifier) -> Result<u64, DatapathError> {
    program.info().map(|info| info.tag()).map_err(|source| DatapathError::Program { name, source })
}

impl Twin {
    fn open(config: &DatapathConfig, expected: [u64; 3]) -> Result<Twin, DatapathError> {
        // The live ones: where somebody has removed a pin, the loader would make an empty map, and pin that.
        let dir = object::pin_dir(config);
        if let Some(path) = names::MAPS.iter().map(|name| dir.join(name)).find(|path| !path.exists()) {
            return Err(DatapathError::NotPinned { path });
        }
        let dry_run = 1u32;
        let mut loader = object::loader(config, &dir)?;
        loader.override_global(GLOBAL_DRY_RUN, &dry_run, true);
        let mut ebpf = loader.load(object::OBJECT).map_err(|source| DatapathError::Load { source })?;
        for (name, expected) in PROGRAMS.into_iter().zip(expected) {
            let failed = |source| DatapathError::Program { name, source };
            let program = ebpf.program_mut(name).ok_or(DatapathError::Missing { what: "program", name })?;
            let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
            bpf::undisturbed(|| program.load()).map_err(failed)?;
            // The same instructions: only the constant differs, so that what it says is what the others do.
            if tag(name, program)? != expected {
                return Err(DatapathError::NotATwin { name });
            }
        }
        let trace = PerCpuArray::try_from(object::take_map(&mut ebpf, MAP_TRACE)?)
            .map_err(|source| DatapathError::Map { operation: "open", name: MAP_TRACE, source })?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| DatapathError::Cpus { source })?;
        Ok(Twin { ebpf, trace, cpus })
    }

    fn run(&mut self, name: &'static str, ifindex: u32, frame: &[u8]) -> Result<DryRun, DatapathError> {
        let failed = |operation| move |source| DatapathError::Map { operation, name: MAP_TRACE, source };
        self.trace.set(0, zeros(self.cpus), 0).map_err(failed("clear"))?;
        let failed_run = |source| DatapathError::Run { name, source };
        let program = self.ebpf.program(name).ok_or(DatapathError::Missing { what: "program", name })?;
        let program: &SchedClassifier = program.try_into().map_err(failed_run)?;
        let mut context = [0u8; CONTEXT_BYTES];
        context[IFINDEX_AT..][..4].copy_from_slice(&ifindex.to_ne_bytes());
        let (mut told, mut data) = ([0u8; CONTEXT_BYTES], vec![0u8; frame.len() + GROWTH_BYTES]);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut data),
            ctx_in: Some(&context),
            ctx_out: Some(&mut told),
            ..TestRunOptions::new()
        };
        program.test_run(options).map_err(failed_run)?;
        let word = |n: usize| {
            let at = CONTROL_AT + 4 * n;
            u32::from_ne_bytes([told[at], told[at + 1], told[at + 2], told[at + 3]])
        };
        let rows = self.trace.get(&0, 0).map_err(failed("read"))?;
        // Whichever CPU it ran on: the others' rows are as they were cleared.
        let trace = rows.iter().find(|trace| trace.seen & SEEN_END != 0).copied();
        let trace = trace.ok_or(DatapathError::NoTrace { name })?;
        Ok(DryRun { fate: fate(word(0), word(2))?, trace })
    }
}

/// As the programs write it into the control block.
fn fate(verdict: u32, reason: u32) -> Result<Fate, DatapathError> {
    let is = |one: Verdict| one.code() == verdict;
    let ifindex = 0;
    Ok(match verdict {
        _ if is(Verdict::Deliver { ifindex }) || is(Verdict::Queue { ifindex }) => Fate::Delivered,
        _ if is(Verdict::Out { ifindex }) => Fate::Out,
        _ if is(Verdict::Host { ifindex }) => Fate::Host,
        _ if is(Verdict::Answer) => Fate::Answered,
        _ if is(Verdict::Pass) => Fate::Passed,
        Verdict::DROP_CODE => {
            let number = reason as u16;
            Fate::Dropped(DropReason::from_number(number).ok_or(number))
        }
        verdict => return Err(DatapathError::NoVerdict { verdict }),
    })
}

fn zeros<T: Pod + Default>(cpus: usize) -> PerCpuValues<T> {
    PerCpuValues::try_from(vec![T::default(); cpus]).expect("one value per CPU, counted by the same function")
}
