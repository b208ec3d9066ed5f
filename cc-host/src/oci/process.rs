//! `process` of a config.json as what is done for it: ids, capabilities, limits, scheduling. All is read and checked before anything of the
//! container is there. Refuses the fields that this host could not do.

use oci_spec::runtime::{
    Capabilities, IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType, Process, Scheduler,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;

use super::error::OciError;
use super::lsm::Labels;
use crate::shim::sys::Scheduling;
use crate::shim::terminal::Size;

/// What the kernel's header names: no capability has a higher number.
const CAPABILITY_MAX: u32 = 63;
const UMASK_DEFAULT: u32 = 0o022;
/// The kernel's own limit.
const GROUPS_MAX: usize = 65_536;

#[derive(Debug, Clone)]
pub struct Plan {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    pub capabilities: Sets,
    pub no_new_privileges: bool,
    pub rlimits: Vec<(Resource, Rlimit)>,
    pub oom_score_adj: Option<i32>,
    pub labels: Labels,
    pub scheduling: Option<Scheduling>,
    /// Class and priority.
    pub io_priority: Option<(u32, u32)>,
    /// Of a further program alone: before it enters the container's cgroup, and after.
    pub affinity: (Option<Vec<usize>>, Option<Vec<usize>>),
    pub terminal: bool,
    pub size: Option<Size>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sets {
    pub bounding: CapabilitySet,
    pub effective: CapabilitySet,
    pub permitted: CapabilitySet,
    pub inheritable: CapabilitySet,
    pub ambient: CapabilitySet,
}

impl Plan {
    /// Also of a program for `exec`, which may be without `args`: they may come from the command line.
    pub fn parse(process: &Process) -> Result<Plan, OciError> {
        let has_nul = |text: &str| text.contains('\0');
        let args = process.args().clone().unwrap_or_default();
        let env = process.env().clone().unwrap_or_default();
        if args.first().is_none_or(String::is_empty) {
            return Err(OciError::invalid("process.args", "it names no program"));
        }
        if args.iter().any(|arg| has_nul(arg)) {
            return Err(OciError::invalid("process.args", "an argument holds a NUL"));
        }
        if env.iter().any(|variable| has_nul(variable) || !variable.contains('=') || variable.starts_with('=')) {
            return Err(OciError::invalid("process.env", "each variable is NAME=VALUE, without a NUL"));
        }
        if process.command_line().is_some() {
            return Err(OciError::unsupported("process.commandLine", "it is for Windows"));
        }
        let cwd = process.cwd().to_str().filter(|cwd| cwd.starts_with('/') && !has_nul(cwd));
        let cwd = cwd.ok_or_else(|| OciError::invalid("process.cwd", "it has to be an absolute path"))?.to_owned();
        let user = process.user();
        if user.username().as_deref().is_some_and(|name| !name.is_empty()) {
            return Err(OciError::unsupported("process.user.username", "it is for Windows; uid and gid are read"));
        }
        let groups = user.additional_gids().clone().unwrap_or_default();
        if groups.len() > GROUPS_MAX {
            return Err(OciError::invalid("process.user.additionalGids", "the kernel takes at most 65536"));
        }
        for group in &groups {
            check_id(*group, "process.user.additionalGids")?;
        }
        let umask = user.umask().unwrap_or(UMASK_DEFAULT);
        if umask > 0o777 {
            return Err(OciError::invalid("process.user.umask", format!("{umask:o} is more than 777")));
        }
        let oom_score_adj = process.oom_score_adj();
        if oom_score_adj.is_some_and(|adj| !(-1000..=1000).contains(&adj)) {
            return Err(OciError::invalid("process.oomScoreAdj", "it is from -1000 to 1000"));
        }
        let size = match process.console_size() {
            Some(size) => Some(console_size(size.height(), size.width())?),
            None => None,
        };
        Ok(Plan {
            args,
            env,
            cwd,
            uid: check_id(user.uid(), "process.user.uid")?,
            gid: check_id(user.gid(), "process.user.gid")?,
            groups,
            umask,
            capabilities: capabilities(process)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            rlimits: rlimits(process)?,
            oom_score_adj,
            labels: Labels::parse(process)?,
            scheduling: process.scheduler().as_ref().map(scheduling).transpose()?,
            io_priority: io_priority(process)?,
            affinity: affinity(process)?,
            terminal: process.terminal().unwrap_or(false),
            size,
        })
    }
}

/// The highest number is nobody's: the kernel reads it as "leave it as it is", and a program would stay root.
pub fn check_id(id: u32, field: &str) -> Result<u32, OciError> {
    match id {
        u32::MAX => Err(OciError::invalid(field, format!("{id} is nobody's id: the highest is {}", id - 1))),
        id => Ok(id),
    }
}

fn console_size(height: u64, width: u64) -> Result<Size, OciError> {
    let side = |value: u64| {
        u16::try_from(value).map_err(|_| OciError::invalid("process.consoleSize", "a side has at most 65535"))
    };
    Ok(Size { rows: side(height)?, columns: side(width)? })
}

fn capabilities(process: &Process) -> Result<Sets, OciError> {
    let set = |given: Option<&Capabilities>| given.map_or(Ok(CapabilitySet::empty()), bits);
    let of = process.capabilities().as_ref();
    let mut sets = Sets {
        bounding: set(of.and_then(|of| of.bounding().as_ref()))?,
        effective: set(of.and_then(|of| of.effective().as_ref()))?,
        permitted: set(of.and_then(|of| of.permitted().as_ref()))?,
        inheritable: set(of.and_then(|of| of.inheritable().as_ref()))?,
        ambient: set(of.and_then(|of| of.ambient().as_ref()))?,
    };
    if !sets.permitted.contains(sets.effective) {
        return Err(OciError::invalid("process.capabilities.effective", "it holds what permitted does not"));
    }
    let ambient = sets.ambient & sets.permitted & sets.inheritable;
    if ambient != sets.ambient {
        super::report::warn("capabilities that are not both permitted and inheritable cannot be ambient");
    }
    sets.ambient = ambient;
    Ok(sets)
}

/// By their names, which the kernel's header has, too. One that this kernel does not have cannot be granted: whoever reads the log is told.
fn bits(given: &Capabilities) -> Result<CapabilitySet, OciError> {
    let mut set = CapabilitySet::empty();
    for capability in given {
        let name = capability.to_string();
        let one = CapabilitySet::from_name(&name)
            .ok_or_else(|| OciError::invalid("process.capabilities", format!("{name} is none that is known here")))?;
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) => set |= one,
            Ok(false) => super::report::warn(&format!("capability {name} cannot be granted: cc-oci does not have it")),
            Err(_) => super::report::warn(&format!("capability {name} cannot be granted: this kernel has none")),
        }
    }
    Ok(set)
}

/// One capability by its name, with or without CAP_ before it.
pub fn capability(text: &str) -> Result<CapabilitySet, OciError> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    CapabilitySet::from_name(name).ok_or_else(|| OciError::Usage(format!("--cap: {text} is no capability")))
}

/// All that there are, one by one.
pub fn each_capability() -> impl Iterator<Item = CapabilitySet> {
    (0..=CAPABILITY_MAX).map(|number| CapabilitySet::from_bits_retain(1 << number))
}

fn rlimits(process: &Process) -> Result<Vec<(Resource, Rlimit)>, OciError> {
    let mut limits: Vec<(Resource, Rlimit)> = Vec::new();
    for given in process.rlimits().iter().flatten() {
        let field = || format!("process.rlimits ({})", given.typ());
        let resource = resource(given.typ());
        if given.soft() > given.hard() {
            return Err(OciError::invalid(field(), "the soft limit is above the hard one"));
        }
        if limits.iter().any(|(other, _)| *other == resource) {
            return Err(OciError::invalid(field(), "it is there twice"));
        }
        let value = |limit: u64| (limit != u64::MAX).then_some(limit);
        limits.push((resource, Rlimit { current: value(given.soft()), maximum: value(given.hard()) }));
    }
    Ok(limits)
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// Numbers of the kernel's uapi/linux/sched.h.
fn scheduling(given: &Scheduler) -> Result<Scheduling, OciError> {
    let policy = match given.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => {
            return Err(OciError::unsupported("process.scheduler.policy", "SCHED_ISO is none of Linux's"));
        }
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let mut flags = 0;
    for flag in given.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin | LinuxSchedulerFlag::SchedFlagUtilClampMax => {
                let why = "config.json has no field for the clamp itself";
                return Err(OciError::unsupported("process.scheduler.flags", why));
            }
        };
    }
    let nice = given.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(OciError::invalid("process.scheduler.nice", "it is from -20 to 19"));
    }
    let priority = given.priority().unwrap_or(0);
    let priority =
        u32::try_from(priority).map_err(|_| OciError::invalid("process.scheduler.priority", "it is negative"))?;
    let deadline = [given.runtime(), given.deadline(), given.period()].map(|time| time.unwrap_or(0));
    if policy != 6 && deadline != [0; 3] {
        let why = "runtime, deadline and period are for SCHED_DEADLINE";
        return Err(OciError::invalid("process.scheduler", why));
    }
    let [runtime_ns, deadline_ns, period_ns] = deadline;
    Ok(Scheduling { policy, flags, nice, priority, runtime_ns, deadline_ns, period_ns })
}

/// Numbers of the kernel's uapi/linux/ioprio.h.
fn io_priority(process: &Process) -> Result<Option<(u32, u32)>, OciError> {
    let Some(given) = process.io_priority() else { return Ok(None) };
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(given.priority()) {
        Ok(priority @ 0..=7) => Ok(Some((class, priority))),
        _ => Err(OciError::invalid("process.ioPriority.priority", "it is from 0 to 7")),
    }
}

type Affinity = (Option<Vec<usize>>, Option<Vec<usize>>);

fn affinity(process: &Process) -> Result<Affinity, OciError> {
    let Some(given) = process.exec_cpu_affinity() else { return Ok((None, None)) };
    let parse = |text: &Option<String>, field: &str| {
        let text = text.as_deref().filter(|text| !text.is_empty());
        text.map(|text| cpus(text).ok_or_else(|| OciError::invalid(field, format!("{text} is no list of CPUs"))))
            .transpose()
    };
    let initial = parse(given.initial(), "process.execCPUAffinity.initial")?;
    Ok((initial, parse(given.cpu_affinity_final(), "process.execCPUAffinity.final")?))
}

/// `0-3,7`.
fn cpus(text: &str) -> Option<Vec<usize>> {
    const CPUS_MAX: usize = 1024;
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<Plan, OciError> {
        let text = format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["sh"]{extra}}}"#);
        Plan::parse(&serde_json::from_str(&text).map_err(|e| OciError::invalid("process", e.to_string()))?)
    }

    #[test]
    fn nothing_that_was_not_given_is_had() {
        let plan = parse("").unwrap();
        assert_eq!(plan.capabilities.bounding, CapabilitySet::empty());
        assert!(!plan.no_new_privileges && !plan.terminal);
        assert_eq!((plan.umask, plan.oom_score_adj), (0o022, None));
    }

    #[test]
    fn each_field_is_read() {
        let plan = parse(
            r#","env":["A=1"],"noNewPrivileges":true,"oomScoreAdj":-5,"terminal":true,"consoleSize":{"height":2,"width":3},
            "rlimits":[{"type":"RLIMIT_RTTIME","soft":1,"hard":2}],"ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":7},
            "scheduler":{"policy":"SCHED_BATCH","nice":5},"execCPUAffinity":{"initial":"0-1,3","final":"0"}"#,
        )
        .unwrap();
        assert_eq!(plan.rlimits, [(Resource::Rttime, Rlimit { current: Some(1), maximum: Some(2) })]);
        assert_eq!(plan.size, Some(Size { rows: 2, columns: 3 }));
        assert_eq!(plan.io_priority, Some((3, 7)));
        assert_eq!(plan.scheduling.map(|s| (s.policy, s.nice)), Some((3, 5)));
        assert_eq!(plan.affinity, (Some(vec![0, 1, 3]), Some(vec![0])));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        for (extra, field) in [
            (r#","oomScoreAdj":1001"#, "oomScoreAdj"),
            (r#","env":["x"]"#, "process.env"),
            (r#","commandLine":"x""#, "commandLine"),
            (r#","consoleSize":{"height":70000,"width":1}"#, "consoleSize"),
            (r#","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":8}"#, "ioPriority"),
            (r#","scheduler":{"policy":"SCHED_ISO"}"#, "scheduler"),
            (r#","scheduler":{"policy":"SCHED_OTHER","period":5}"#, "scheduler"),
            (r#","rlimits":[{"type":"RLIMIT_CORE","soft":3,"hard":2}]"#, "RLIMIT_CORE"),
            (r#","rlimits":[{"type":"RLIMIT_CORE"},{"type":"RLIMIT_CORE"}]"#, "RLIMIT_CORE"),
            (r#","capabilities":{"effective":["CAP_CHOWN"]}"#, "capabilities.effective"),
            (r#","capabilities":{"effective":["CAP_NONE"]}"#, "CAP_NONE"),
        ] {
            let error = parse(extra).unwrap_err().chain();
            assert!(error.contains(field), "{extra}: {error}");
        }
        for (user, field) in [
            (r#""uid":4294967295,"gid":0"#, "process.user.uid"),
            (r#""uid":0,"gid":4294967295"#, "process.user.gid"),
            (r#""uid":0,"gid":0,"additionalGids":[1,4294967295]"#, "process.user.additionalGids"),
        ] {
            let text = format!(r#"{{"user":{{{user}}},"cwd":"/","args":["sh"]}}"#);
            let error = Plan::parse(&serde_json::from_str(&text).unwrap()).unwrap_err().chain();
            assert!(error.contains(field) && error.contains("4294967295"), "{error}");
        }
    }
}
