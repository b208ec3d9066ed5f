//! What `cc-oci features` says of itself, in the form of runtime-spec 1.2. Refuses to name what is not done.

use std::collections::HashMap;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    ApparmorBuilder, Arch, CgroupBuilder, Features, FeaturesBuilder, IDMapBuilder, IntelRdtBuilder, LinuxFeature,
    LinuxFeatureBuilder, LinuxNamespaceType, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    MountExtensionsBuilder, Seccomp, SeccompBuilder, SelinuxBuilder,
};
use rustix::thread::CapabilitySet;
use serde_json::Value;

/// The oldest and the newest config.json that is understood.
const VERSION_MIN: &str = "1.0.0";
const VERSION_MAX: &str = "1.2.0";

const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// With an r in front, of all below a mount too.
const ATTRIBUTES: [&str; 18] = [
    "atime",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "relatime",
    "ro",
    "rw",
    "strictatime",
    "suid",
    "symfollow",
];
const PROPAGATIONS: [&str; 4] = ["private", "shared", "slave", "unbindable"];
const OTHERS: [&str; 16] = [
    "async",
    "bind",
    "defaults",
    "dirsync",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "noiversion",
    "nolazytime",
    "nomand",
    "rbind",
    "ridmap",
    "silent",
    "sync",
    "tmpcopyup",
];

/// As JSON, with a new line at its end.
pub fn text() -> String {
    let made = features().map_err(|error| error.to_string()).and_then(|features| {
        let mut value = serde_json::to_value(&features).map_err(|error| error.to_string())?;
        prune(&mut value);
        serde_json::to_string_pretty(&value).map_err(|error| error.to_string())
    });
    made.expect("strings and numbers are JSON") + "\n"
}

/// What is not said is left out, as the specification has it.
fn prune(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(prune);
    }
}

fn features() -> Result<Features, OciSpecError> {
    let annotations = HashMap::from([("cc-oci.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    FeaturesBuilder::default()
        .oci_version_min(VERSION_MIN)
        .oci_version_max(VERSION_MAX)
        .hooks(HOOKS.map(str::to_owned))
        .mount_options(mount_options())
        .linux(linux()?)
        .annotations(annotations)
        .build()
}

fn mount_options() -> Vec<String> {
    let both = ATTRIBUTES.into_iter().chain(PROPAGATIONS);
    let mut all: Vec<String> = both.flat_map(|name| [name.to_owned(), format!("r{name}")]).collect();
    all.extend(OTHERS.map(str::to_owned));
    all.sort();
    all
}

fn linux() -> Result<LinuxFeature, OciSpecError> {
    use LinuxNamespaceType as Namespace;
    let namespaces = [
        Namespace::Cgroup,
        Namespace::Ipc,
        Namespace::Mount,
        Namespace::Network,
        Namespace::Pid,
        Namespace::Time,
        Namespace::User,
        Namespace::Uts,
    ];
    let capabilities: Vec<String> = CapabilitySet::all().iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    let cgroup = CgroupBuilder::default().v1(true).v2(true).systemd(false).systemd_user(false).rdma(true).build()?;
    let idmap = IDMapBuilder::default().enabled(true).build()?;
    LinuxFeatureBuilder::default()
        .namespaces(namespaces)
        .capabilities(capabilities)
        .cgroup(cgroup)
        .seccomp(seccomp()?)
        .apparmor(ApparmorBuilder::default().enabled(true).build()?)
        .selinux(SelinuxBuilder::default().enabled(true).build()?)
        .intel_rdt(IntelRdtBuilder::default().enabled(false).build()?)
        .mount_extensions(MountExtensionsBuilder::default().idmap(idmap).build()?)
        .build()
}

fn seccomp() -> Result<Seccomp, OciSpecError> {
    use LinuxSeccompAction as Does;
    use LinuxSeccompOperator as Op;
    let actions = [
        Does::ScmpActAllow,
        Does::ScmpActErrno,
        Does::ScmpActKill,
        Does::ScmpActKillProcess,
        Does::ScmpActKillThread,
        Does::ScmpActLog,
        Does::ScmpActTrap,
    ];
    let operators =
        [Op::ScmpCmpEq, Op::ScmpCmpGe, Op::ScmpCmpGt, Op::ScmpCmpLe, Op::ScmpCmpLt, Op::ScmpCmpMaskedEq, Op::ScmpCmpNe];
    use LinuxSeccompFilterFlag as Flag;
    let flags = [Flag::SeccompFilterFlagLog, Flag::SeccompFilterFlagSpecAllow, Flag::SeccompFilterFlagTsync];
    let known = flags.into_iter().chain([Flag::SeccompFilterFlagWaitKillableRecv]);
    let own = if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };
    SeccompBuilder::default()
        .enabled(true)
        .actions(actions)
        .operators(operators.map(|operator| operator.to_string()))
        .archs([own])
        .known_flags(known.map(|flag| flag.to_string()).collect::<Vec<_>>())
        .supported_flags(flags.map(|flag| flag.to_string()))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_of_a_mount_is_one() {
        let is_one = |word: &str, rest: &str| {
            let text = format!(r#"{{"destination":"/d",{rest},"options":["{word}"]}}"#);
            crate::oci::options::Plan::parse(&serde_json::from_str(&text).unwrap(), "mounts[0]")
        };
        for word in mount_options() {
            let bind = is_one(&word, r#""source":"/s","type":"bind""#);
            let plan = bind.or_else(|_| is_one(&word, r#""source":"tmpfs","type":"tmpfs""#)).unwrap();
            // What the file system is handed may be anything; these are the kernel's own words.
            let handed =
                plan.data.iter().all(|(key, _)| ["dirsync", "iversion", "lazytime", "sync"].contains(&key.as_str()));
            assert!(handed, "{word} is handed on");
        }
    }

    #[test]
    fn it_is_what_the_specification_has() {
        let read: Features = serde_json::from_str(&text()).unwrap();
        assert_eq!((read.oci_version_min().as_str(), read.oci_version_max().as_str()), ("1.0.0", "1.2.0"));
        let value: Value = serde_json::from_str(&text()).unwrap();
        let names =
            |pointer: &str| -> Vec<String> { serde_json::from_value(value.pointer(pointer).unwrap().clone()).unwrap() };
        for (pointer, wanted) in [
            ("/hooks", "createRuntime"),
            ("/mountOptions", "rprivate"),
            ("/mountOptions", "tmpcopyup"),
            ("/linux/namespaces", "cgroup"),
            ("/linux/capabilities", "CAP_CHECKPOINT_RESTORE"),
            ("/linux/seccomp/actions", "SCMP_ACT_ERRNO"),
            ("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ"),
            ("/linux/seccomp/supportedFlags", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
        ] {
            assert!(names(pointer).iter().any(|name| name == wanted), "{wanted} is not in {pointer}");
        }
        assert_eq!(names("/linux/capabilities").len(), 41);
        assert_eq!(value.pointer("/linux/cgroup/systemd"), Some(&Value::Bool(false)));
        assert_eq!(value.pointer("/linux/memoryPolicy"), None);
    }
}
