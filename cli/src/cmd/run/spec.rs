//! The flags of `cc run` as a container's specification. Refuses to guess what the daemon decides (0 and empty ask it to).

use std::collections::HashMap;

use cc_common::api::fault::Fault;
use cc_common::api::v1::ContainerSpec;

use super::RunArgs;
use crate::error::usage;

/// `KEY` alone takes the value from our own environment, and is left out if there is none there, as elsewhere.
pub fn from_args(args: &RunArgs, ours: impl Fn(&str) -> Option<String>) -> Result<ContainerSpec, Fault> {
    let mut env = Vec::new();
    for text in &args.env {
        match text.split_once('=') {
            Some(("", _)) => return Err(usage(format!("cannot use --env {text}"), "it has no name before the =")),
            Some(_) => env.push(text.clone()),
            None => env.extend(ours(text).map(|value| format!("{text}={value}"))),
        }
    }
    let mut labels = HashMap::new();
    for text in &args.label {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(usage(format!("cannot use --label {text}"), "it has no name before the ="));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(ContainerSpec {
        image: args.image.clone(),
        vpc: args.vpc.clone(),
        name: args.name.clone(),
        memory_bytes: args.memory.unwrap_or(0),
        cpu_shares: args.cpu.unwrap_or(0),
        user: args.user.clone(),
        env,
        dir: args.dir.clone(),
        hostname: args.hostname.clone(),
        labels,
        command: args.command.clone(),
        mtu: args.mtu.unwrap_or(0),
        auto_remove: args.remove,
        pids_max: args.pids_limit.unwrap_or(0),
        groups: args.group.clone(),
        dns: args.dns.iter().map(ToString::to_string).collect(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(args: &[&str]) -> Result<RunArgs, clap::Error> {
        let all = ["cc", "run", "--image", "debian"].iter().chain(args);
        match Cli::try_parse_from(all)?.command {
            Command::Run(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_a_spec() {
        let args =
            parsed(&["--memory", "512MiB", "-e", "A=1=2", "-e", "B", "-e", "C", "--label", "l", "--rm", "ls", "-l"]);
        let spec = from_args(&args.unwrap(), |key| (key == "B").then(|| "ours".to_owned())).unwrap();
        assert_eq!(spec.memory_bytes, 512 << 20);
        assert_eq!(spec.env, ["A=1=2", "B=ours"]);
        assert_eq!(spec.command, ["ls", "-l"]);
        assert_eq!(spec.labels["l"], "");
        assert!(spec.auto_remove);
    }

    #[test]
    fn the_commands_flags_are_its_own() {
        let args = parsed(&["sh", "-c", "exit 3", "--json", "-d", "--", "--rm"]).unwrap();
        assert_eq!(args.command, ["sh", "-c", "exit 3", "--json", "-d", "--", "--rm"]);
        assert!(!args.detach && !args.remove);
        assert!(parsed(&["--no-such-flag"]).is_err());
        assert_eq!(parsed(&["--", "-x"]).unwrap().command, ["-x"]);
    }

    #[test]
    fn what_comes_later_says_so() {
        for flag in [&["-t"][..], &["--publish", "80:80"], &["--disk", "1g"], &["--volume", "a:/b"]] {
            let fault = super::super::refuse_later(&parsed(flag).unwrap()).unwrap_err();
            assert!(fault.why.contains("not yet") && !fault.next.is_empty(), "{flag:?}");
        }
    }
}
