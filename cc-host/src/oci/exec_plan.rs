//! What `exec` runs: a process of its own from a file, or the container's with what the command line changes. Refuses options beside a file that
//! would say the same.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};

use super::config;
use super::error::OciError;
use super::process::{Plan, capability, check_id};
use super::state::CONFIG_FILE;
use crate::shim::filter::Filter;

#[derive(Debug)]
pub enum Wanted {
    File(PathBuf),
    Options(Options),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub command: Vec<String>,
    pub terminal: bool,
    pub cwd: Option<PathBuf>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub groups: Vec<u32>,
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub apparmor: Option<String>,
    pub label: Option<String>,
}

impl Wanted {
    pub fn from(file: Option<PathBuf>, options: Options) -> Result<Wanted, OciError> {
        let Some(file) = file else { return Ok(Wanted::Options(options)) };
        // runc's callers say --tty again beside the file, which has it already.
        let only_terminal = Options { terminal: options.terminal, ..Options::default() };
        match options == only_terminal {
            true => Ok(Wanted::File(file)),
            false => Err(OciError::Usage("--process says all of the program: leave the other options out".to_owned())),
        }
    }
}

/// With the filter and the personality that the container's programs have.
pub fn plan(dir: &Path, wanted: &Wanted) -> Result<(Plan, Option<Filter>, Option<u64>), OciError> {
    let path = dir.join(CONFIG_FILE);
    let spec = config::parse(&config::read(&path)?, &path)?;
    let plan = match wanted {
        Wanted::File(path) => {
            let text = config::read(path)?;
            let given =
                serde_json::from_slice(&text).map_err(|source| OciError::Json { path: path.clone(), source })?;
            Plan::parse(&completed(given, &spec))?
        }
        Wanted::Options(options) => with_options(&spec, options)?,
    };
    let linux = spec.linux().as_ref();
    let filter = linux.and_then(|l| l.seccomp().as_ref()).map(super::seccomp::filter).transpose()?;
    Ok((plan, filter, config::personality(linux)?))
}

/// What it does not say is as the container has it.
fn completed(mut given: Process, spec: &Spec) -> Process {
    let Some(own) = spec.process() else { return given };
    if given.capabilities().is_none() {
        given.set_capabilities(own.capabilities().clone());
    }
    if given.rlimits().as_ref().is_none_or(Vec::is_empty) {
        given.set_rlimits(own.rlimits().clone());
    }
    if given.no_new_privileges().is_none() {
        given.set_no_new_privileges(own.no_new_privileges());
    }
    if given.apparmor_profile().is_none() {
        given.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if given.selinux_label().is_none() {
        given.set_selinux_label(own.selinux_label().clone());
    }
    if given.oom_score_adj().is_none() {
        given.set_oom_score_adj(own.oom_score_adj());
    }
    if given.scheduler().is_none() {
        given.set_scheduler(own.scheduler().clone());
    }
    if given.io_priority().is_none() {
        given.set_io_priority(*own.io_priority());
    }
    if given.exec_cpu_affinity().is_none() {
        given.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
    given
}

fn with_options(spec: &Spec, options: &Options) -> Result<Plan, OciError> {
    let none = || OciError::invalid("process", "config.json has none: name one with --process");
    let mut process = spec.process().clone().ok_or_else(none)?;
    if options.command.is_empty() {
        return Err(OciError::Usage("exec needs a program to run, or --process".to_owned()));
    }
    process.set_args(Some(options.command.clone())).set_terminal(Some(options.terminal)).set_console_size(None);
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.clone());
    }
    process.env_mut().get_or_insert_default().extend(options.env.iter().cloned());
    if options.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &options.label {
        process.set_selinux_label(Some(label.clone()));
    }
    let mut plan = Plan::parse(&process)?;
    if let Some(user) = &options.user {
        (plan.uid, plan.gid) = ids(user)?;
        // Those were the other user's.
        plan.groups.clear();
    }
    for group in &options.groups {
        plan.groups.push(check_id(*group, "--additional-gids")?);
    }
    for name in &options.capabilities {
        let one = capability(name)?;
        let sets = &mut plan.capabilities;
        sets.bounding |= one;
        sets.permitted |= one;
        sets.effective |= one;
    }
    Ok(plan)
}

fn ids(user: &str) -> Result<(u32, u32), OciError> {
    let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
    let number =
        |text: &str| text.parse().map_err(|_| OciError::Usage(format!("--user {user}: it is UID[:GID], in numbers")));
    Ok((check_id(number(uid)?, "--user")?, check_id(number(gid)?, "--user")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::CapabilitySet;

    fn spec() -> Spec {
        let text = r#"{"ociVersion":"1.2.0","process":{"user":{"uid":1,"gid":2,"additionalGids":[7]},"cwd":"/c","args":["a"],"env":["A=1"],
            "rlimits":[{"type":"RLIMIT_CORE","soft":1,"hard":1}],"oomScoreAdj":5}}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_command_line_changes_the_containers_own() {
        let options = Options {
            command: vec!["b".into()],
            env: vec!["B=2".into()],
            user: Some("3:4".into()),
            groups: vec![9],
            capabilities: vec!["cap_chown".into()],
            ..Options::default()
        };
        let plan = with_options(&spec(), &options).unwrap();
        assert_eq!(
            (plan.args, plan.env, plan.cwd.as_str()),
            (vec!["b".into()], vec!["A=1".into(), "B=2".into()], "/c")
        );
        assert_eq!((plan.uid, plan.gid, plan.groups), (3, 4, vec![9]));
        assert_eq!(plan.capabilities.effective, CapabilitySet::CHOWN);
        assert_eq!(plan.capabilities.inheritable, CapabilitySet::empty());
        assert!(with_options(&spec(), &Options::default()).is_err());
        assert!(ids("root").is_err() && ids("1:x").is_err());
        for high in ["4294967295", "0:4294967295"] {
            assert!(ids(high).unwrap_err().chain().contains("--user"), "{high}");
        }
        let options = Options { command: vec!["b".into()], groups: vec![u32::MAX], ..Options::default() };
        assert!(with_options(&spec(), &options).unwrap_err().chain().contains("--additional-gids"));
    }

    #[test]
    fn a_file_says_the_rest_as_the_container_has_it() {
        let given = serde_json::from_str(r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["x"]}"#).unwrap();
        let plan = Plan::parse(&completed(given, &spec())).unwrap();
        assert_eq!((plan.rlimits.len(), plan.oom_score_adj, plan.env.len()), (1, Some(5), 0));
    }
}
