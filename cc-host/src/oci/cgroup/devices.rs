//! `linux.resources.devices`: a program on the v2 directory, which does what the list says, and the lists of v1's controller where that is mounted.
//! Everything is denied that the list does not allow; behind the list are the devices that everybody has. Refuses a list that v1 alone would have
//! to do and cannot: it forgets an exception, but makes none within one.

use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::OciError;
use super::layout::Layout;
use super::resources::find;
use super::{Cgroup, place::Place};
use crate::devices::{self, Access, Kind, Rule};

const FIELD: &str = "linux.resources.devices";

/// May be made, though not opened: runc and crun let them, and a program that makes its own /dev expects it.
const MAKE_ANY: [Rule; 2] = [make_any(Kind::Character), make_any(Kind::Block)];

const fn make_any(kind: Kind) -> Rule {
    Rule { allow: true, kind: Some(kind), major: None, minor: None, access: Access::MAKE }
}

/// Of one that is new, or of one that runs.
pub fn apply(
    layout: &Layout,
    cgroup: &Cgroup,
    list: Option<&[LinuxDeviceCgroup]>,
    is_new: bool,
) -> Result<(), OciError> {
    let rules = rules(list.unwrap_or_default())?;
    let legacy = find_legacy(layout, cgroup);
    let program = cgroup.unified.as_deref().map(|dir| filter(dir, &rules, is_new));
    let lists = legacy_lists(&rules);
    match (program, legacy, lists) {
        // With the program in force, v1's lists are there for who looks at them.
        (Some(Ok(())), Some(place), Some(lists)) => write_lists(&place, &lists),
        (Some(Ok(())), _, _) => Ok(()),
        // A kernel without such programs.
        (None | Some(Err(_)), Some(place), Some(lists)) => write_lists(&place, &lists),
        (None | Some(Err(_)), Some(_), None) => Err(OciError::Unsupported {
            field: FIELD.to_owned(),
            why: "a rule denies a part of what a rule before it allows, which cgroup v1 cannot say",
        }),
        (Some(Err(source)), None, _) => Err(source),
        (None, None, _) if list.is_none_or(<[_]>::is_empty) => Ok(()),
        (None, None, _) => Err(OciError::Unsupported {
            field: FIELD.to_owned(),
            why: "neither cgroup v2 nor the devices controller of v1 is mounted here",
        }),
    }
}

fn find_legacy(layout: &Layout, cgroup: &Cgroup) -> Option<Place> {
    layout.legacy_of("devices").and_then(|_| find(layout, cgroup, "devices"))
}

fn filter(dir: &Path, rules: &[Rule], is_new: bool) -> Result<(), OciError> {
    let failed = |source| OciError::File { operation: "filter the devices of", path: dir.to_owned(), source };
    let cgroup = std::fs::File::open(dir).map_err(failed)?;
    let hang = if is_new { devices::attach } else { devices::replace };
    hang(&cgroup, rules).map_err(failed)
}

fn write_lists(place: &Place, lists: &[(bool, String)]) -> Result<(), OciError> {
    lists
        .iter()
        .try_for_each(|(allow, entry)| place.set(FIELD, if *allow { "devices.allow" } else { "devices.deny" }, entry))
}

fn rules(list: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, OciError> {
    let mut rules = list.iter().map(rule).collect::<Result<Vec<Rule>, OciError>>()?;
    rules.extend(MAKE_ANY);
    rules.extend(Rule::EVERYBODYS);
    Ok(rules)
}

fn rule(one: &LinuxDeviceCgroup) -> Result<Rule, OciError> {
    let invalid = |why: String| OciError::Invalid { field: FIELD.to_owned(), why };
    let kind = match one.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(Kind::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Character),
        LinuxDeviceType::P => return Err(invalid("a FIFO is no device; the types are a, b and c".to_owned())),
    };
    // Below zero is any too, as callers have it.
    let number = |value: Option<i64>| match value {
        None | Some(..0) => Ok(None),
        Some(value) => u32::try_from(value).map(Some).map_err(|_| invalid(format!("{value} is no device number"))),
    };
    let mut access = Access::NONE;
    for letter in one.access().as_deref().filter(|letters| !letters.is_empty()).unwrap_or("rwm").chars() {
        access = access
            | match letter {
                'r' => Access::READ,
                'w' => Access::WRITE,
                'm' => Access::MAKE,
                other => return Err(invalid(format!("access has {other:?} in it; it is made of r, w and m"))),
            };
    }
    Ok(Rule { allow: one.allow(), kind, major: number(one.major())?, minor: number(one.minor())?, access })
}

/// What v1 keeps: everything or nothing, and exceptions. In the order of writing; nothing if it cannot say it.
fn legacy_lists(rules: &[Rule]) -> Option<Vec<(bool, String)>> {
    let mut allow_all = false;
    let mut exceptions: Vec<Rule> = Vec::new();
    for rule in rules {
        let of_all = Rule { allow: rule.allow, ..Rule::all(rule.allow) };
        if *rule == of_all {
            allow_all = rule.allow;
            exceptions.clear();
            continue;
        }
        let kinds = rule.kind.map_or(vec![Kind::Block, Kind::Character], |kind| vec![kind]);
        for rule in kinds.into_iter().map(|kind| Rule { kind: Some(kind), ..*rule }) {
            if rule.allow == allow_all {
                for exception in &mut exceptions {
                    forget(exception, &rule)?;
                }
                exceptions.retain(|exception| !exception.access.is_none());
            } else if let Some(same) = exceptions.iter_mut().find(|old| is_same(old, &rule)) {
                same.access = same.access | rule.access;
            } else {
                exceptions.push(rule);
            }
        }
    }
    let mut lists = vec![(allow_all, "a".to_owned())];
    lists.extend(exceptions.iter().map(|exception| (!allow_all, written(exception))));
    Some(lists)
}

fn is_same(a: &Rule, b: &Rule) -> bool {
    (a.kind, a.major, a.minor) == (b.kind, b.major, b.minor)
}

/// Takes from an exception what a later rule takes back; nothing if that is only a part of its devices.
fn forget(exception: &mut Rule, rule: &Rule) -> Option<()> {
    let covers = |rule: Option<u32>, exception: Option<u32>| rule.is_none() || rule == exception;
    let meets = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    let is_met = exception.kind == rule.kind
        && meets(rule.major, exception.major)
        && meets(rule.minor, exception.minor)
        && !exception.access.and(rule.access).is_none();
    if !is_met {
        return Some(());
    }
    let is_covered = covers(rule.major, exception.major) && covers(rule.minor, exception.minor);
    exception.access = is_covered.then(|| exception.access.without(rule.access))?;
    Some(())
}

fn written(rule: &Rule) -> String {
    let kind = if rule.kind == Some(Kind::Block) { 'b' } else { 'c' };
    let number = |value: Option<u32>| value.map_or("*".to_owned(), |value| value.to_string());
    let rights = [('r', Access::READ), ('w', Access::WRITE), ('m', Access::MAKE)];
    let access: String =
        rights.into_iter().filter(|(_, right)| !rule.access.and(*right).is_none()).map(|(letter, _)| letter).collect();
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(text).unwrap()
    }

    fn lists(text: &str) -> Option<Vec<String>> {
        let own: Vec<Rule> = list(text).iter().map(|one| rule(one).unwrap()).collect();
        let shown = |(allow, entry): (bool, String)| format!("{}{entry}", if allow { '+' } else { '-' });
        Some(legacy_lists(&own)?.into_iter().map(shown).collect())
    }

    #[test]
    fn v1_gets_everything_or_nothing_and_exceptions() {
        let deny_all = r#"{"allow":false,"access":"rwm"}"#;
        assert_eq!(lists(&format!("[{deny_all}]")).unwrap(), ["-a"]);
        assert_eq!(lists("[]").unwrap(), ["-a"]);
        let given = r#"{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}"#;
        assert_eq!(lists(&format!("[{deny_all},{given}]")).unwrap(), ["-a", "+c 10:229 rw"]);
        let driver =
            r#"{"allow":true,"type":"b","major":8,"access":"r"},{"allow":true,"type":"b","major":8,"access":"w"}"#;
        assert_eq!(lists(&format!("[{driver}]")).unwrap(), ["-a", "+b 8:* rw"]);
        // What is taken back is gone, by a rule that is as wide or wider.
        let back = r#"{"allow":false,"type":"c","major":10,"access":"w"}"#;
        assert_eq!(lists(&format!("[{given},{back}]")).unwrap(), ["-a", "+c 10:229 r"]);
        // Not by one that is narrower, which v1 would not heed.
        let narrow = r#"{"allow":false,"type":"b","major":8,"minor":1,"access":"r"}"#;
        assert_eq!(lists(&format!("[{driver},{narrow}]")), None);
        let all = r#"{"allow":true}"#;
        assert_eq!(lists(&format!("[{all},{narrow}]")).unwrap(), ["+a", "-b 8:1 r"]);
        assert_eq!(lists(r#"[{"allow":true,"major":8,"access":"m"}]"#).unwrap(), ["-a", "+b 8:* m", "+c 8:* m"]);
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for (text, word) in [
            (r#"[{"allow":true,"access":"rx"}]"#, "'x'"),
            (r#"[{"allow":true,"type":"p"}]"#, "FIFO"),
            (r#"[{"allow":true,"type":"c","major":4294967296}]"#, "4294967296"),
        ] {
            let error = rules(&list(text)).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(FIELD), "{error}");
        }
        let any = rules(&list(r#"[{"allow":true,"type":"c","major":-1,"minor":-1}]"#)).unwrap()[0];
        assert_eq!((any.major, any.minor, any.access), (None, None, Access::ALL));
    }
}
