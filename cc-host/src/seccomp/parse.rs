//! docker's form of a policy, as JSON. What is not understood is refused by its name, for it may be what the policy is about; only calls
//! that this machine does not have are passed over, as elsewhere. Refuses files: the text comes from the client.
//!
//! Entries of one call are asked in their order, and the first that holds decides. libseccomp, which docker uses, lets an
//! entry without conditions win over all others of its call.

use rustix::thread::CapabilitySet;
use serde::Deserialize;

use super::error::SeccompError;
use super::profile::{ARGUMENTS, Action, Condition, ERRNO_MAX, Profile, Rule, Test};
use super::{PROFILE_BYTES_MAX, names};

/// Tests of an entry: six arguments, and then alternatives of one.
const TESTS_MAX: usize = 64;
/// Rules that a text may come to, whatever its names and entries multiply to; the kernel's limit is far below.
pub const RULES_MAX: usize = 1 << 14;

/// What entries may be bound to.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    pub capabilities: CapabilitySet,
    /// Major and minor.
    pub kernel: (u32, u32),
}

impl Host {
    pub fn of(capabilities: CapabilitySet) -> Host {
        let release = rustix::system::uname();
        let kernel = release.release().to_str().ok().and_then(version);
        // Whoever asks for a kernel asks for an older one than this daemon runs on.
        Host { capabilities, kernel: kernel.unwrap_or((6, 1)) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Text {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<Architecture>>,
    flags: Option<Vec<String>>,
    syscalls: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    /// From before there were several.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Bounds>,
    excludes: Option<Bounds>,
}

/// A test of an argument, as every form of a policy has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Argument {
    pub index: u32,
    pub value: u64,
    pub value_two: Option<u64>,
    pub op: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Bounds {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

pub fn parse(text: &str, host: &Host) -> Result<Profile, SeccompError> {
    if text.len() > PROFILE_BYTES_MAX {
        return Err(SeccompError::TooLarge { bytes: text.len() });
    }
    let text: Text = serde_json::from_str(text).map_err(SeccompError::Json)?;
    check_architectures(&text)?;
    let mut profile = Profile::new(action("defaultAction", &text.default_action, text.default_errno_ret)?);
    for flag in text.flags.iter().flatten() {
        profile.flags |= self::flag(flag)?;
    }
    let mut room = RULES_MAX;
    for entry in text.syscalls.iter().flatten() {
        add(&mut profile, entry, text.default_errno_ret, host, &mut room)?;
    }
    for needed in ["execve", "exit_group"] {
        if names::number(needed).is_some_and(|number| !profile.may_pass(number)) {
            return Err(SeccompError::Useless { name: needed });
        }
    }
    Ok(profile)
}

fn add(
    profile: &mut Profile,
    entry: &Entry,
    default_errno: Option<u32>,
    host: &Host,
    room: &mut usize,
) -> Result<(), SeccompError> {
    let all = || entry.name.iter().chain(entry.names.iter().flatten());
    let wrong = |why| SeccompError::Entry { names: all().take(3).cloned().collect::<Vec<_>>().join(", "), why };
    if all().next().is_none() {
        return Err(wrong("it names no call"));
    }
    let action = action("action", &entry.action, entry.errno_ret.or(default_errno))?;
    if entry.errno_ret.is_some() && !matches!(action, Action::Errno(_)) {
        return Err(wrong("errnoRet is for SCMP_ACT_ERRNO"));
    }
    let alternatives = conditions(entry.args.as_deref().unwrap_or_default(), || all().cloned().collect())?;
    if !applies(entry, host)? {
        return Ok(());
    }
    for number in all().filter_map(|name| names::number(name)) {
        for conditions in &alternatives {
            *room = room.checked_sub(1).ok_or_else(|| wrong("with it the profile has more than 16384 rules"))?;
            profile.add(number, Rule { conditions: conditions.clone(), action });
        }
    }
    Ok(())
}

/// All must hold, unless some argument has two tests: then each is an alternative of its own, as runc has it. `names` are of the calls that
/// they are for.
pub fn conditions(
    arguments: &[Argument],
    names: impl Fn() -> Vec<String>,
) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let wrong = || SeccompError::Entry {
        names: names().into_iter().take(3).collect::<Vec<_>>().join(", "),
        why: "an argument's index is 0 to 5, the bits of valueTwo are among value's, and there are at most 64",
    };
    if arguments.len() > TESTS_MAX {
        return Err(wrong());
    }
    let mut all = Vec::with_capacity(arguments.len());
    let mut seen = [false; ARGUMENTS];
    let mut twice = false;
    for Argument { index, value, value_two, op } in arguments {
        let index = usize::try_from(*index).ok().filter(|index| *index < ARGUMENTS).ok_or_else(wrong)?;
        twice |= std::mem::replace(&mut seen[index], true);
        let test = match op.as_str() {
            "SCMP_CMP_EQ" => Test::Equal(*value),
            "SCMP_CMP_NE" => Test::NotEqual(*value),
            "SCMP_CMP_LT" => Test::Less(*value),
            "SCMP_CMP_LE" => Test::LessOrEqual(*value),
            "SCMP_CMP_GT" => Test::Greater(*value),
            "SCMP_CMP_GE" => Test::GreaterOrEqual(*value),
            "SCMP_CMP_MASKED_EQ" => {
                let two = value_two.unwrap_or(0);
                // It would never hold, which nobody means.
                if two & !value != 0 {
                    return Err(wrong());
                }
                Test::Masked { mask: *value, value: two }
            }
            other => {
                let known = "there are SCMP_CMP_ EQ, NE, LT, LE, GT, GE and MASKED_EQ";
                return Err(SeccompError::Unknown { field: "op", value: quoted(other), known });
            }
        };
        all.push(Condition { argument: index as u8, test });
    }
    Ok(if twice { all.into_iter().map(|one| vec![one]).collect() } else { vec![all] })
}

/// Whether an entry is for this container, on this machine.
fn applies(entry: &Entry, host: &Host) -> Result<bool, SeccompError> {
    let (none, mut applies) = (Bounds::default(), true);
    let includes = entry.includes.as_ref().unwrap_or(&none);
    for name in includes.caps.iter().flatten() {
        applies &= host.capabilities.contains(capability(name)?);
    }
    if let Some(arches) = includes.arches.as_ref().filter(|arches| !arches.is_empty()) {
        applies &= arches.iter().any(|arch| arch == OWN_ARCH);
    }
    if let Some(least) = includes.min_kernel.as_deref().filter(|text| !text.is_empty()) {
        applies &= kernel(least)? <= host.kernel;
    }
    let excludes = entry.excludes.as_ref().unwrap_or(&none);
    for name in excludes.caps.iter().flatten() {
        applies &= !host.capabilities.contains(capability(name)?);
    }
    applies &= !excludes.arches.iter().flatten().any(|arch| arch == OWN_ARCH);
    if let Some(least) = excludes.min_kernel.as_deref().filter(|text| !text.is_empty()) {
        applies &= kernel(least)? > host.kernel;
    }
    Ok(applies)
}

/// As Go names this machine.
const OWN_ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Other machines' are of no matter, and 32-bit programs are killed in any case: they are read to see that they are meant so.
fn check_architectures(text: &Text) -> Result<(), SeccompError> {
    let mapped = text.arch_map.iter().flatten();
    let subordinate = mapped.clone().flat_map(|map| map.sub_architectures.iter().flatten());
    let all = text.architectures.iter().flatten().chain(mapped.map(|map| &map.architecture)).chain(subordinate);
    for name in all {
        let known = "architectures are named SCMP_ARCH_X86_64 and the like";
        if !name.starts_with("SCMP_ARCH_") {
            return Err(SeccompError::Unknown { field: "architectures", value: quoted(name), known });
        }
    }
    Ok(())
}

/// By its name; `errno` is for the one that has one.
pub fn action(field: &'static str, name: &str, errno: Option<u32>) -> Result<Action, SeccompError> {
    let unsupported = |why| Err(SeccompError::Unsupported { field, value: quoted(name), why });
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ERRNO" => match errno {
            None => Action::NOT_PERMITTED,
            Some(value) => {
                let errno = u16::try_from(value).ok().filter(|errno| *errno <= ERRNO_MAX);
                Action::Errno(errno.ok_or(SeccompError::Errno { value })?)
            }
        },
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRACE" => return unsupported("no tracer is there to be asked"),
        "SCMP_ACT_NOTIFY" => return unsupported("there is nobody to be asked"),
        _ => {
            let known = "there are SCMP_ACT_ ALLOW, LOG, ERRNO, TRAP, KILL, KILL_THREAD and KILL_PROCESS";
            return Err(SeccompError::Unknown { field, value: quoted(name), known });
        }
    })
}

/// Of seccomp(2).
pub fn flag(name: &str) -> Result<u32, SeccompError> {
    match name {
        // There is one thread when it is installed.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(0),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(libc::SECCOMP_FILTER_FLAG_LOG as u32),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
        _ => {
            let known = "there are SECCOMP_FILTER_FLAG_ TSYNC, LOG and SPEC_ALLOW";
            Err(SeccompError::Unknown { field: "flags", value: quoted(name), known })
        }
    }
}

fn capability(name: &str) -> Result<CapabilitySet, SeccompError> {
    let known = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name);
    known.ok_or_else(|| SeccompError::Unknown { field: "caps", value: quoted(name), known: "see man 7 capabilities" })
}

fn kernel(text: &str) -> Result<(u32, u32), SeccompError> {
    version(text).ok_or_else(|| SeccompError::Unknown {
        field: "minKernel",
        value: quoted(text),
        known: "a kernel's version is like 4.8",
    })
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What somebody wrote, as far as a line takes it.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(capabilities: CapabilitySet) -> Host {
        Host { capabilities, kernel: (6, 1) }
    }

    fn read(text: &str) -> Result<Profile, SeccompError> {
        parse(text, &host(CapabilitySet::empty()))
    }

    /// One that allows all but what `entries` say.
    fn entries(entries: &str) -> String {
        format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{entries}]}}"#)
    }

    fn decide(profile: &Profile, name: &str, arguments: [u64; 6]) -> Action {
        profile.decide(names::number(name).unwrap(), &arguments)
    }

    #[test]
    fn a_profile_says_what_it_says() {
        let profile = read(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":13,"architectures":["SCMP_ARCH_X86_64"],
            "flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[
            {"names":["execve","exit_group","no_such_call"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"c"},
            {"name":"mkdir","action":"SCMP_ACT_ERRNO","errnoRet":17},
            {"names":["kill"],"action":"SCMP_ACT_LOG","args":[{"index":1,"value":15,"op":"SCMP_CMP_NE"},
              {"index":0,"value":1,"valueTwo":0,"op":"SCMP_CMP_GT"}]},
            {"names":["kill"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
        )
        .unwrap();
        assert_eq!(profile.flags, libc::SECCOMP_FILTER_FLAG_LOG as u32);
        assert_eq!(decide(&profile, "execve", [0; 6]), Action::Allow);
        assert_eq!(decide(&profile, "mkdir", [0; 6]), Action::Errno(17));
        assert_eq!(decide(&profile, "rmdir", [0; 6]), Action::Errno(13));
        assert_eq!(decide(&profile, "kill", [2, 9, 0, 0, 0, 0]), Action::Log);
        assert_eq!(decide(&profile, "kill", [2, 15, 0, 0, 0, 0]), Action::KillProcess);
        assert_eq!(decide(&profile, "kill", [1, 9, 0, 0, 0, 0]), Action::KillProcess);
    }

    #[test]
    fn two_tests_of_one_argument_are_alternatives() {
        let entry = r#"{"names":["personality"],"action":"SCMP_ACT_TRAP","args":[
            {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":6,"valueTwo":2,"op":"SCMP_CMP_MASKED_EQ"}]}"#;
        let profile = read(&entries(entry)).unwrap();
        for (value, wanted) in [(1, Action::Trap), (2, Action::Trap), (10, Action::Trap), (6, Action::Allow)] {
            assert_eq!(decide(&profile, "personality", [value, 0, 0, 0, 0, 0]), wanted, "{value}");
        }
    }

    #[test]
    fn entries_are_bound_to_capabilities_machines_and_kernels() {
        let text = |bounds: &str| entries(&format!(r#"{{"names":["mount"],"action":"SCMP_ACT_TRAP",{bounds}}}"#));
        let has = |bounds: &str, capabilities| {
            let profile = parse(&text(bounds), &host(capabilities)).unwrap();
            decide(&profile, "mount", [0; 6]) == Action::Trap
        };
        let (none, admin) = (CapabilitySet::empty(), CapabilitySet::SYS_ADMIN);
        let included = r#""includes":{"caps":["CAP_SYS_ADMIN"]}"#;
        assert!(!has(included, none) && has(included, admin));
        let excluded = r#""excludes":{"caps":["CAP_SYS_ADMIN"]}"#;
        assert!(has(excluded, none) && !has(excluded, admin));
        assert!(has(&format!(r#""includes":{{"arches":["s390x","{OWN_ARCH}"]}}"#), none));
        assert!(!has(r#""includes":{"arches":["s390x"]}"#, none));
        assert!(!has(&format!(r#""excludes":{{"arches":["{OWN_ARCH}"]}}"#), none));
        assert!(has(r#""includes":{"minKernel":"4.8"},"excludes":{}"#, none));
        assert!(!has(r#""includes":{"minKernel":"6.2"}"#, none));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_name() {
        let entry = |rest: &str| entries(&format!(r#"{{"names":["mount"],{rest}}}"#));
        let argument = |rest: &str| entry(&format!(r#""action":"SCMP_ACT_TRAP","args":[{{{rest}}}]"#));
        for (text, word) in [
            (String::new(), "JSON"),
            ("{}".into(), "defaultAction"),
            (r#"{"defaultAction":"ALLOW"}"#.into(), "ALLOW"),
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.into(), "SCMP_ACT_NOTIFY"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#.into(), "listenerPath"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_NEW"]}"#.into(), "FLAG_NEW"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["amd64"]}"#.into(), "amd64"),
            (r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#.into(), "execve"),
            (entry(r#""action":"SCMP_ACT_TRACE""#), "SCMP_ACT_TRACE"),
            (entry(r#""action":"SCMP_ACT_ERRNO","errnoRet":4096"#), "4096"),
            (entry(r#""action":"SCMP_ACT_ALLOW","errnoRet":1"#), "mount"),
            (entry(r#""action":"SCMP_ACT_TRAP","when":1"#), "when"),
            (entry(r#""action":"SCMP_ACT_TRAP","includes":{"caps":["CAP_FLY"]}"#), "CAP_FLY"),
            (entry(r#""action":"SCMP_ACT_TRAP","includes":{"minKernel":"new"}"#), "new"),
            (entries(r#"{"action":"SCMP_ACT_TRAP"}"#), "no call"),
            (argument(r#""index":6,"value":1,"op":"SCMP_CMP_EQ""#), "index"),
            (argument(r#""index":0,"value":1,"op":"SCMP_CMP_IN""#), "SCMP_CMP_IN"),
            (argument(r#""index":0,"value":-1,"op":"SCMP_CMP_EQ""#), "-1"),
            (argument(r#""index":0,"value":1,"valueTwo":2,"op":"SCMP_CMP_MASKED_EQ""#), "valueTwo"),
            (" ".repeat(PROFILE_BYTES_MAX + 1), "bytes"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    }
}
