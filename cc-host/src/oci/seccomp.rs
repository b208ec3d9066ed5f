//! `linux.seccomp` of a config.json as a filter for the kernel. Refuses what could not be done as it is written.
//!
//! What libseccomp makes of a list, this does: an entry with the default action says nothing, and one without conditions wins over all others of
//! its call, wherever it stands. Of entries with conditions, the first that holds decides; there libseccomp has no order that one could rely on.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};

use super::error::OciError;
use crate::seccomp::parse::{Argument, RULES_MAX, action, conditions, flag};
use crate::seccomp::profile::{Action, Profile, Rule};
use crate::seccomp::{SeccompError, compile, names};
use crate::shim::filter::Filter;

const FIELD: &str = "linux.seccomp";

/// Compiled, in this process, before anything of the container is there.
pub fn filter(policy: &LinuxSeccomp) -> Result<Filter, OciError> {
    if policy.listener_path().is_some() || policy.listener_metadata().as_deref().is_some_and(|text| !text.is_empty()) {
        let field = if policy.listener_path().is_some() { "listenerPath" } else { "listenerMetadata" };
        return Err(OciError::Unsupported {
            field: format!("{FIELD}.{field}"),
            why: "nobody is asked about a call here",
        });
    }
    let profile = profile(policy).map_err(invalid)?;
    compile(&profile).map_err(invalid)
}

fn invalid(error: SeccompError) -> OciError {
    OciError::Invalid { field: FIELD.to_owned(), why: error.to_string() }
}

fn profile(policy: &LinuxSeccomp) -> Result<Profile, SeccompError> {
    let otherwise =
        read("defaultAction", policy.default_action(), policy.default_errno_ret(), || "all calls".to_owned())?;
    let mut profile = Profile::new(otherwise);
    for name in policy.flags().iter().flatten() {
        profile.flags |= flag(&name.to_string())?;
    }
    let mut rules: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    let mut room = RULES_MAX;
    for entry in policy.syscalls().iter().flatten() {
        add(&mut rules, entry, otherwise, &mut room)?;
    }
    for (number, rules) in rules {
        let decided = rules.iter().position(|rule| rule.conditions.is_empty());
        let kept = decided.map_or(&rules[..], |at| &rules[at..=at]);
        kept.iter().for_each(|rule| profile.add(number, rule.clone()));
    }
    Ok(profile)
}

fn add(
    rules: &mut BTreeMap<u32, Vec<Rule>>,
    entry: &LinuxSyscall,
    otherwise: Action,
    room: &mut usize,
) -> Result<(), SeccompError> {
    let few = || entry.names().iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if entry.names().is_empty() {
        return Err(SeccompError::Entry { names: "none".to_owned(), why: "it names no call" });
    }
    let action = read("syscalls.action", entry.action(), entry.errno_ret(), few)?;
    let argument = |given: &oci_spec::runtime::LinuxSeccompArg| Argument {
        index: u32::try_from(given.index()).unwrap_or(u32::MAX),
        value: given.value(),
        value_two: given.value_two(),
        op: given.op().to_string(),
    };
    let arguments: Vec<Argument> = entry.args().iter().flatten().map(argument).collect();
    let alternatives = conditions(&arguments, || entry.names().clone())?;
    if action == otherwise {
        return Ok(());
    }
    for number in entry.names().iter().filter_map(|name| names::number(name)) {
        for conditions in &alternatives {
            let full = || SeccompError::Entry { names: few(), why: "with it the profile has more than 16384 rules" };
            *room = room.checked_sub(1).ok_or_else(full)?;
            rules.entry(number).or_default().push(Rule { conditions: conditions.clone(), action });
        }
    }
    Ok(())
}

/// An errno for an action that has none is a mistake, by the specification.
fn read(
    field: &'static str,
    name: LinuxSeccompAction,
    errno: Option<u32>,
    calls: impl Fn() -> String,
) -> Result<Action, SeccompError> {
    let action = action(field, &name.to_string(), errno)?;
    if errno.is_some() && !matches!(action, Action::Errno(_)) {
        return Err(SeccompError::Entry { names: calls(), why: "an errno is for SCMP_ACT_ERRNO" });
    }
    Ok(action)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> LinuxSeccomp {
        serde_json::from_str(text).unwrap()
    }

    fn decide(text: &str, arguments: [u64; 6]) -> Action {
        profile(&policy(text)).unwrap().decide(names::number("personality").unwrap(), &arguments)
    }

    fn allowing(entries: &str) -> String {
        format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[{entries}]}}"#)
    }

    const SOME: &str =
        r#"{"names":["personality"],"action":"SCMP_ACT_TRAP","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}"#;
    const ALL: &str = r#"{"names":["personality","no_such_call"],"action":"SCMP_ACT_ALLOW"}"#;
    const LIKE_OTHERS: &str = r#"{"names":["personality"],"action":"SCMP_ACT_ERRNO","errnoRet":38}"#;

    #[test]
    fn an_entry_without_conditions_wins_wherever_it_stands() {
        for entries in [format!("{SOME},{ALL}"), format!("{ALL},{SOME}")] {
            assert_eq!(decide(&allowing(&entries), [8, 0, 0, 0, 0, 0]), Action::Allow);
        }
        // The first of two.
        let denied = r#"{"names":["personality"],"action":"SCMP_ACT_KILL_PROCESS"}"#;
        assert_eq!(decide(&allowing(&format!("{ALL},{denied}")), [0; 6]), Action::Allow);
        assert_eq!(decide(&allowing(&format!("{denied},{ALL}")), [0; 6]), Action::KillProcess);
    }

    #[test]
    fn an_entry_with_the_default_action_says_nothing() {
        let text = allowing(&format!("{LIKE_OTHERS},{SOME}"));
        assert_eq!(decide(&text, [8, 0, 0, 0, 0, 0]), Action::Trap);
        assert_eq!(decide(&text, [9, 0, 0, 0, 0, 0]), Action::Errno(38));
        // With another errno it does: without one, that is EPERM, whatever the default's.
        let other = r#"{"names":["personality"],"action":"SCMP_ACT_ERRNO"}"#;
        assert_eq!(decide(&allowing(&format!("{other},{SOME}")), [8, 0, 0, 0, 0, 0]), Action::NOT_PERMITTED);
    }

    #[test]
    fn a_filter_comes_of_it() {
        let text = allowing(&format!("{SOME},{ALL}")).replace(
            "\"syscalls\"",
            r#""flags":["SECCOMP_FILTER_FLAG_LOG"],"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"syscalls""#,
        );
        let made = filter(&policy(&text)).unwrap();
        assert_eq!(made.flags, libc::SECCOMP_FILTER_FLAG_LOG as u32);
        assert!(!made.program.is_empty());
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_its_name() {
        let entry = |rest: &str| allowing(&format!(r#"{{"names":["personality"],{rest}}}"#));
        for (text, word) in [
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.to_owned(), "SCMP_ACT_NOTIFY"),
            (entry(r#""action":"SCMP_ACT_TRACE""#), "SCMP_ACT_TRACE"),
            (entry(r#""action":"SCMP_ACT_ALLOW","errnoRet":5"#), "personality"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":5}"#.to_owned(), "errno"),
            (entry(r#""action":"SCMP_ACT_ERRNO","errnoRet":4096"#), "4096"),
            (entry(r#""action":"SCMP_ACT_TRAP","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]"#), "index"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#.to_owned(), "listenerPath"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#.to_owned(),
                "WAIT_KILLABLE",
            ),
        ] {
            let error = filter(&policy(&text)).unwrap_err().to_string();
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    }
}
