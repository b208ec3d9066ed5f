//! Which files of tests run on another kernel, and which cannot. Refuses to leave one out without saying why.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::told::{Clean, Suite, With};
use crate::process::{cargo, output};
use crate::test::files;
use crate::{debian, dist};

/// What is asked of each supported kernel: programs, isolation, rules, NAT, restart, limits, rates, volumes that grow under who uses them, thin
/// volumes, and the unit.
const REQUIRED: [&str; 13] = [
    "limits_hold",
    "same_cidr_vpcs_never_hear_each_other",
    "containers_reach_out",
    "firewall_rules_are_in_force",
    "ports_are_published",
    "datapath_packets",
    "restart_keeps_containers",
    "kernel_qdisc",
    "bandwidth_is_held",
    "volumes_resize",
    "volume_lvm",
    "volumes_on_lvm",
    UNIT,
];

/// Those of them, and others, in which it matters what containers' interfaces are: once more on netkit pairs.
const ON_NETKIT: &[&str] = &[
    NETKIT_ALONE,
    "datapath_replace",
    "datapath_packets",
    "same_cidr_vpcs_never_hear_each_other",
    "containers_reach_out",
    "firewall_rules_are_in_force",
    "ports_are_published",
    "restart_keeps_containers",
    "what_is_taken_away_comes_back",
    "fragments_in_any_order",
    "bandwidth_is_held",
];

/// Those in which it matters where volumes are.
const ON_LVM: &[&str] = &["volumes_survive_crashes"];

/// Those in which it matters who makes nodes of devices.
const ON_UDEV: &[&str] = &["volume_lvm", "volumes_on_lvm"];

/// The files that are run once more so.
pub fn once_more(with: With) -> &'static [&'static str] {
    match with {
        With::Netkit => ON_NETKIT,
        With::Lvm => ON_LVM,
        With::Udev => ON_UDEV,
    }
}

/// It is about netkit pairs alone.
pub const NETKIT_ALONE: &str = "netkit_pairs";

/// It needs a clean Debian, and the package.
const UNIT: &str = "the_unit_runs";

/// What CI has time for: of each file that is required a test or two, but for the exact rates, which one thread does not keep. Of a file without
/// tests here, all.
pub const BRIEFLY: &[(&str, &[&str])] = &[
    ("limits_hold", &["a_container_over_its_memory_limit_is_killed_and_says_so", "the_number_of_processes_is_bounded"]),
    ("same_cidr_vpcs_never_hear_each_other", ISOLATION),
    ("containers_reach_out", &["tcp_udp_and_icmp_go_out_and_come_back"]),
    ("firewall_rules_are_in_force", &["a_denial_ends_what_lived_by_the_rule_before_and_nothing_else"]),
    ("ports_are_published", &["clients_from_outside_keep_their_address"]),
    ("datapath_packets", &[]),
    ("restart_keeps_containers", &["an_open_connection_loses_no_byte"]),
    ("kernel_qdisc", &[]),
    // Where the tests have the right to do that: CI's own machine, too, may have it, or not.
    ("volumes_resize", &["it_grows_under_who_uses_it_and_only_grows"]),
    ("volume_lvm", &[]),
];

const ISOLATION: &[&str] = &["tcp_udp_and_icmp_reach_the_own_vpc_only"];

/// Files that need what only these machines have: below `tests/vm` of their packages, and named in its Cargo.toml.
pub const ONLY_HERE: [&str; 4] = ["volume_lvm", "volumes_on_lvm", NETKIT_ALONE, UNIT];

/// Files that say nothing of a kernel, or that an emulated machine cannot run, and why.
const NOT_HERE: &[(&str, &str)] =
    &[("the_package_installs", "it makes a Debian root from the network, which the machine has not")];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    Required,
    All,
    One(String),
}

impl Choice {
    /// In the order in which they run.
    pub fn names(&self, root: &Path) -> Result<Vec<String>> {
        let there = there(root);
        match self {
            Choice::One(name) if there.contains(name) => Ok(vec![name.clone()]),
            Choice::One(name) => bail!("no test file is named {name}; there are {}", there.join(", ")),
            Choice::Required => Ok(REQUIRED.map(str::to_owned).to_vec()),
            Choice::All => {
                let usual = |name: &String| why_not(name).is_none() && name != NETKIT_ALONE;
                Ok(there.into_iter().filter(usual).collect())
            }
        }
    }
}

fn there(root: &Path) -> Vec<String> {
    let everywhere = ["cc-host", "tests"].into_iter().flat_map(|dir| files(root, dir));
    everywhere.chain(ONLY_HERE.map(str::to_owned)).collect()
}

pub fn why_not(name: &str) -> Option<&'static str> {
    NOT_HERE.iter().find(|(file, _)| *file == name).map(|(_, why)| *why)
}

/// Compiles them; the whole workspace, as the other tests do, so that nothing shared is compiled twice.
pub fn build(root: &Path, names: &[String]) -> Result<Vec<Suite>> {
    let mut command = cargo(root);
    command.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    crate::build::checked(&mut command);
    command.args(names.iter().flat_map(|name| ["--test", name]));
    command.stderr(std::process::Stdio::inherit());
    eprintln!("+ {}", crate::process::shown(&command));
    let said = output(&mut command)?;
    let built: Vec<Suite> = said.lines().filter_map(|line| suite(&serde_json::from_str(line).ok()?)).collect();
    let of = |name: &String| {
        let found = built.iter().find(|suite| suite.name == *name).cloned();
        found.with_context(|| format!("cargo does not say where {name} is"))
    };
    names.iter().map(of).collect()
}

/// For those of them that install the package: an emulated machine has no network to make either from.
pub fn clean(root: &Path, suites: &[Suite], bin_dir: &Path) -> Result<Option<Clean>> {
    if !suites.iter().any(|suite| suite.name == UNIT) {
        return Ok(None);
    }
    let package = dist::pack_programs(root, bin_dir, &root.join("target/vm"))?;
    Ok(Some(Clean { debian: debian::root(root)?, package }))
}

/// Some tests of some of these files, in that order.
pub fn chosen(built: &[Suite], wanted: &[(&str, &[&str])]) -> Result<Vec<Suite>> {
    let of = |(name, tests): &(&str, &[&str])| {
        let suite = built.iter().find(|suite| suite.name == *name);
        let suite = suite.with_context(|| format!("{name} was not built"))?.clone();
        Ok(Suite { tests: tests.iter().map(|&test| test.to_owned()).collect(), ..suite })
    };
    wanted.iter().map(of).collect()
}

/// Of a message of cargo's, if it is about a test.
fn suite(message: &Value) -> Option<Suite> {
    let target = &message["target"];
    if message["reason"] != "compiler-artifact" || target["kind"] != serde_json::json!(["test"]) {
        return None;
    }
    Some(Suite {
        name: target["name"].as_str()?.to_owned(),
        program: PathBuf::from(message["executable"].as_str()?),
        package_dir: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
        tests: Vec::new(),
        with: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let there = there(root);
        let named = REQUIRED
            .iter()
            .chain(NOT_HERE.iter().map(|(name, _)| name))
            .chain(With::ALL.into_iter().flat_map(once_more));
        let missing: Vec<_> = named.filter(|name| !there.iter().any(|file| file == *name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(REQUIRED.iter().all(|name| why_not(name).is_none()));
    }

    #[test]
    fn every_test_of_a_brief_run_is_in_its_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (name, tests) in BRIEFLY {
            assert!(REQUIRED.contains(name), "{name}");
            let text = std::fs::read_to_string(root.join(format!("tests/tests/{name}.rs"))).unwrap_or_default();
            let missing = tests.iter().find(|test| !text.contains(&format!("#[test]\nfn {test}()")));
            assert_eq!(missing, None, "{name}");
        }
        let built = suite(&message("limits_hold")).unwrap();
        let chosen_one = chosen(std::slice::from_ref(&built), &BRIEFLY[..1]).unwrap();
        assert_eq!(chosen_one[0].tests, BRIEFLY[0].1);
        assert!(chosen(&[built], BRIEFLY).is_err(), "one that was not built is not left out in silence");
    }

    fn message(name: &str) -> Value {
        serde_json::json!({
            "reason": "compiler-artifact", "manifest_path": "/src/tests/Cargo.toml", "executable": "/target/x-1",
            "target": { "kind": ["test"], "name": name },
        })
    }

    #[test]
    fn cargo_says_where_a_test_is() {
        let expected = Suite {
            name: "x".into(),
            program: "/target/x-1".into(),
            package_dir: "/src/tests".into(),
            tests: vec![],
            with: None,
        };
        assert_eq!(suite(&message("x")), Some(expected));
        assert_eq!(suite(&serde_json::json!({ "reason": "build-finished" })), None);
    }
}
