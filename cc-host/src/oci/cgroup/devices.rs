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
/// Of all kinds, all devices, with all rights.
const ALL: &str = "a";

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
    match (program, legacy, legacy_list(&rules)) {
        // With the program in force, v1's list is there for who looks at it.
        (Some(Ok(())), Some(place), wanted) => show(&place, wanted.as_ref(), is_new),
        (Some(Ok(())), None, _) => Ok(()),
        // A kernel without such programs.
        (None | Some(Err(_)), Some(place), Some(wanted)) => {
            let now = if is_new { None } else { current(&place)? };
            write(&place, &changes(now.as_ref(), &wanted))
        }
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

/// Where the program decides, v1 must not deny more: neither for a moment, on the way to another list, nor because it cannot say what is wanted.
fn show(place: &Place, wanted: Option<&List>, is_new: bool) -> Result<(), OciError> {
    let now = if is_new { None } else { current(place)? };
    match (now, wanted) {
        (None, Some(wanted)) => write(place, &changes(None, wanted)),
        (None, None) => {
            // What is above may allow less: then it has what is above, and more it cannot have.
            let _ = place.try_set("devices.allow", ALL);
            Ok(())
        }
        (Some(now), Some(wanted)) if !now.allow_all && !wanted.allow_all => write(place, &changes(Some(&now), wanted)),
        // Its exceptions are not shown, and were only those of a list before.
        (Some(_), _) => place.set(FIELD, "devices.allow", ALL),
    }
}

/// As the kernel shows it: exceptions of who has everything it does not show.
fn current(place: &Place) -> Result<Option<List>, OciError> {
    let failed = |source| OciError::File { operation: "read", path: place.dir.join("devices.list"), source };
    let text = place.read("devices.list").map_err(failed)?;
    if text.starts_with(ALL) {
        return Ok(Some(List { allow_all: true, exceptions: Vec::new() }));
    }
    // One that cannot be read is written whole.
    let exceptions = text.lines().map(shown).collect::<Option<Vec<Rule>>>();
    Ok(exceptions.map(|exceptions| List { allow_all: false, exceptions }))
}

/// `c 1:3 rwm`.
fn shown(line: &str) -> Option<Rule> {
    let mut words = line.split(' ');
    let kind = match words.next()? {
        "b" => Kind::Block,
        "c" => Kind::Character,
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
    let access = words.next()?.chars().try_fold(Access::NONE, |all, letter| Some(all | right(letter)?))?;
    Some(Rule { allow: true, kind: Some(kind), major: number(major)?, minor: number(minor)?, access })
}

/// What is written, in its order, for a list to become another. A program that runs keeps at every moment what both have, where v1 can do that:
/// not where everything was allowed, or is to be.
fn changes(now: Option<&List>, wanted: &List) -> Vec<(bool, String)> {
    let Some(now) = now.filter(|now| !now.allow_all && !wanted.allow_all) else {
        let all = (wanted.allow_all, ALL.to_owned());
        let entry = |exception: &Rule| (!wanted.allow_all, written(exception));
        return std::iter::once(all).chain(wanted.exceptions.iter().map(entry)).collect();
    };
    let beyond = |allow: bool, one: &Rule, other: &List| {
        let same = other.exceptions.iter().find(|old| is_same(old, one));
        let access = one.access.without(same.map_or(Access::NONE, |same| same.access));
        (!access.is_none()).then(|| (allow, written(&Rule { access, ..*one })))
    };
    let more = wanted.exceptions.iter().filter_map(|one| beyond(true, one, now));
    more.chain(now.exceptions.iter().filter_map(|one| beyond(false, one, wanted))).collect()
}

fn write(place: &Place, changes: &[(bool, String)]) -> Result<(), OciError> {
    changes
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
        let unknown = || invalid(format!("access has {letter:?} in it; it is made of r, w and m"));
        access = access | right(letter).ok_or_else(unknown)?;
    }
    Ok(Rule { allow: one.allow(), kind, major: number(one.major())?, minor: number(one.minor())?, access })
}

fn right(letter: char) -> Option<Access> {
    match letter {
        'r' => Some(Access::READ),
        'w' => Some(Access::WRITE),
        'm' => Some(Access::MAKE),
        _ => None,
    }
}

/// What v1 keeps: everything or nothing, and exceptions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    allow_all: bool,
    exceptions: Vec<Rule>,
}

/// Nothing if v1 cannot say it.
fn legacy_list(rules: &[Rule]) -> Option<List> {
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
    Some(List { allow_all, exceptions })
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
        Some(signed(&changes(None, &legacy_list(&own)?)))
    }

    fn signed(changes: &[(bool, String)]) -> Vec<String> {
        changes.iter().map(|(allow, entry)| format!("{}{entry}", if *allow { '+' } else { '-' })).collect()
    }

    #[test]
    fn one_that_runs_keeps_what_both_lists_have() {
        let (_dir, place) = super::super::tests::place(false, &["devices.list"]);
        let shows = |text: &str| std::fs::write(place.dir.join("devices.list"), text).unwrap();
        let from = |now: &str, wanted: &str| {
            shows(now);
            let own: Vec<Rule> = list(wanted).iter().map(|one| rule(one).unwrap()).collect();
            signed(&changes(current(&place).unwrap().as_ref(), &legacy_list(&own).unwrap()))
        };
        let one = r#"{"allow":true,"type":"c","major":1,"minor":3},{"allow":true,"type":"b","major":8,"access":"rw"}"#;
        let same = "c 1:3 rwm\nb 8:* rw\n";
        assert_eq!(from(same, &format!("[{one}]")), [""; 0]);
        assert_eq!(from("c 1:3 r\nb 8:* rwm\nc *:* m\n", &format!("[{one}]")), ["+c 1:3 wm", "-b 8:* m", "-c *:* m"]);
        assert_eq!(from("", &format!("[{one}]")), ["+c 1:3 rwm", "+b 8:* rw"]);
        assert_eq!(from("a *:* rwm\n", &format!("[{one}]")), ["-a", "+c 1:3 rwm", "+b 8:* rw"]);
        assert_eq!(from(same, r#"[{"allow":true}]"#), ["+a"]);
    }

    #[test]
    fn where_the_program_decides_v1_denies_nothing_on_the_way() {
        let (_dir, place) = super::super::tests::place(false, &["devices.list", "devices.allow", "devices.deny"]);
        let wrote = |now: &str, wanted: Option<&List>| {
            ["devices.allow", "devices.deny"].iter().for_each(|file| std::fs::write(place.dir.join(file), "").unwrap());
            std::fs::write(place.dir.join("devices.list"), now).unwrap();
            show(&place, wanted, false).unwrap();
            ["devices.allow", "devices.deny"].map(|file| place.read(file).unwrap())
        };
        let none = List { allow_all: false, exceptions: Vec::new() };
        // What v1 cannot say, and what it could only say by denying everything first.
        assert_eq!(wrote("c 1:3 rwm\n", None), ["a", ""]);
        assert_eq!(wrote("a *:* rwm\n", Some(&none)), ["a", ""]);
        assert_eq!(wrote("c 1:3 rwm\n", Some(&none)), ["", "c 1:3 rwm"]);
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
