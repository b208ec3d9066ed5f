//! The flags of `cc run` as a container's specification. Refuses to guess what the daemon decides (0 and empty ask it to).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::api::v1::{ContainerSpec, HealthCheck, RateLimit};

use super::{LogMode, RunArgs, security};
use crate::error::usage;

/// The daemon takes 128 KiB of them.
const ENV_FILE_BYTES_MAX: u64 = 1 << 20;

/// `KEY` alone takes the value from our own environment, and is left out if there is none there, as elsewhere.
pub fn environment(given: &[String], ours: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, Fault> {
    let mut env = Vec::new();
    for text in given {
        match text.split_once('=') {
            Some(("", _)) => return Err(usage(format!("cannot use --env {text}"), "it has no name before the =")),
            Some(_) => env.push(text.clone()),
            None => env.extend(ours(text).map(|value| format!("{text}={value}"))),
        }
    }
    Ok(env)
}

/// Lines as `--env` takes them; empty ones and those that start with # are nothing.
fn env_file(path: &Path) -> Result<Vec<String>, Fault> {
    let failed = |why: String| usage(format!("cannot read --env-file {}", path.display()), why);
    let size = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if size > ENV_FILE_BYTES_MAX {
        return Err(failed(format!("it is larger than {ENV_FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let lines = text.lines().map(|line| line.strip_suffix('\r').unwrap_or(line).trim_start());
    Ok(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

pub fn from_args(args: &RunArgs, ours: impl Fn(&str) -> Option<String>) -> Result<ContainerSpec, Fault> {
    // What is said on the command line comes later, and so wins.
    let mut given = Vec::new();
    for path in &args.env_file {
        given.extend(env_file(path)?);
    }
    given.extend(args.env.iter().cloned());
    let env = environment(&given, ours)?;
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
        entrypoint: args.entrypoint.clone(),
        stop_signal: args.stop_signal.clone(),
        stop_timeout_s: args.stop_timeout,
        read_only: args.read_only,
        tmpfs: args.tmpfs.clone(),
        cap_add: args.cap_add.clone(),
        cap_drop: args.cap_drop.clone(),
        seccomp: security::seccomp(&args.security_opt)?,
        ulimits: args.ulimit.clone(),
        cpu_milli: args.cpus.unwrap_or(0),
        restart: args.restart.clone(),
        groups: args.group.clone(),
        publish: args.publish.iter().map(Into::into).collect(),
        egress_bandwidth: limit(args.egress_bandwidth, args.egress_burst),
        ingress_bandwidth: limit(args.ingress_bandwidth, args.ingress_burst),
        dns: args.dns.iter().map(ToString::to_string).collect(),
        log_max_bytes: args.log_max_size.unwrap_or(0),
        log_max_files: args.log_max_files.unwrap_or(0),
        log_mode: if args.log_mode == LogMode::Drop { "drop" } else { "block" }.to_owned(),
        health: health(args)?,
        init: args.init,
        devices: args.device.clone(),
        cpuset: args.cpuset.clone(),
        userns: args.userns.clone().unwrap_or_default(),
        volumes: args.volume.iter().map(Into::into).collect(),
        disk_bytes: disk(args.disk)?,
    })
}

/// As with times: 0 asks the daemon for no limit.
fn disk(bytes: Option<u64>) -> Result<u64, Fault> {
    match bytes {
        Some(0) => Err(usage("cannot use --disk 0", "it is no size; leave the flag out for no limit")),
        bytes => Ok(bytes.unwrap_or(0)),
    }
}

/// What is not said is asked of the daemon as 0, so nobody says that.
fn health(args: &RunArgs) -> Result<Option<HealthCheck>, Fault> {
    let ms = |flag: &str, time: Option<Duration>| match time.map(|time| time.as_millis() as u64) {
        Some(0) => Err(usage(format!("cannot use {flag} 0"), "it is no time; leave the flag out for the default")),
        time => Ok(time.unwrap_or(0)),
    };
    let check = HealthCheck {
        disabled: args.no_healthcheck,
        command: args.health_cmd.clone(),
        interval_ms: ms("--health-interval", args.health_interval)?,
        timeout_ms: ms("--health-timeout", args.health_timeout)?,
        start_period_ms: args.health_start_period.map_or(0, |time| time.as_millis() as u64),
        start_interval_ms: ms("--health-start-interval", args.health_start_interval)?,
        retries: args.health_retries.unwrap_or(0),
        program: Vec::new(),
    };
    Ok((check != HealthCheck::default()).then_some(check))
}

fn limit(bytes_per_s: Option<u64>, burst_bytes: Option<u64>) -> Option<RateLimit> {
    bytes_per_s.map(|bytes_per_s| RateLimit { bytes_per_s, burst_bytes: burst_bytes.unwrap_or(0) })
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
    fn an_env_file_is_lines_and_the_command_line_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, "# nothing\n\nA=1\r\n  B\nC\nD=a b\n").unwrap();
        let args = parsed(&["--env-file", path.to_str().unwrap(), "-e", "A=2"]).unwrap();
        let spec = from_args(&args, |key| (key == "B").then(|| "ours".to_owned())).unwrap();
        assert_eq!(spec.env, ["A=1", "B=ours", "D=a b", "A=2"]);
        let missing = parsed(&["--env-file", "/no/such/file"]).unwrap();
        assert!(from_args(&missing, |_| None).unwrap_err().what.contains("/no/such/file"));
    }

    #[test]
    fn a_bandwidth_is_a_rate_and_perhaps_a_burst() {
        let limits = |args: &[&str]| {
            let spec = from_args(&parsed(args).unwrap(), |_| None).unwrap();
            [spec.egress_bandwidth, spec.ingress_bandwidth].map(|l| l.map(|l| (l.bytes_per_s, l.burst_bytes)))
        };
        assert_eq!(limits(&[]), [None, None]);
        assert_eq!(limits(&["--egress-bandwidth", "10MiB"]), [Some((10 << 20, 0)), None]);
        let both = ["--ingress-bandwidth", "1250000", "--ingress-burst", "64KiB", "--egress-bandwidth", "1MB"];
        assert_eq!(limits(&both), [Some((1_000_000, 0)), Some((1_250_000, 64 << 10))]);
        assert!(parsed(&["--egress-burst", "64KiB"]).is_err(), "a burst of what?");
    }

    #[test]
    fn a_log_has_a_size_a_number_and_a_mode() {
        let log = |args: &[&str]| {
            let spec = from_args(&parsed(args).unwrap(), |_| None).unwrap();
            (spec.log_max_bytes, spec.log_max_files, spec.log_mode)
        };
        assert_eq!(log(&[]), (0, 0, "block".to_owned()));
        let all = ["--log-max-size", "1MiB", "--log-max-files", "10", "--log-mode", "drop"];
        assert_eq!(log(&all), (1 << 20, 10, "drop".to_owned()));
        assert!(parsed(&["--log-max-files", "0"]).is_err() && parsed(&["--log-mode", "wait"]).is_err());
    }

    #[test]
    fn health_is_said_or_left_to_the_image() {
        let health = |args: &[&str]| from_args(&parsed(args).unwrap(), |_| None).map(|spec| spec.health);
        assert_eq!(health(&[]).unwrap(), None);
        let said = health(&["--health-cmd", "test -e /up", "--health-interval", "1m30s", "--health-retries", "2"]);
        let said = said.unwrap().unwrap();
        assert_eq!(
            (said.command.as_str(), said.interval_ms, said.timeout_ms, said.retries),
            ("test -e /up", 90_000, 0, 2)
        );
        assert!(health(&["--no-healthcheck"]).unwrap().unwrap().disabled);
        assert!(health(&["--health-timeout", "0s"]).is_err() && parsed(&["--health-interval", "soon"]).is_err());
    }

    #[test]
    fn ports_go_along_as_they_are_given() {
        let spec =
            from_args(&parsed(&["-p", "8080:80", "--publish", "127.0.0.1:53:53/udp"]).unwrap(), |_| None).unwrap();
        let ports: Vec<String> = spec.publish.iter().map(crate::cmd::publish::text).collect();
        assert_eq!(ports, ["8080:80/tcp", "127.0.0.1:53:53/udp"]);
        assert!(parsed(&["-p", "80"]).is_err());
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
    fn a_disk_has_a_size_or_is_not_named() {
        let disk = |args: &[&str]| from_args(&parsed(args).unwrap(), |_| None).map(|spec| spec.disk_bytes);
        assert_eq!(disk(&[]).unwrap(), 0);
        assert_eq!(disk(&["--disk", "512MiB"]).unwrap(), 512 << 20);
        assert_eq!(disk(&["--disk", "16777216"]).unwrap(), 16 << 20);
        assert!(disk(&["--disk", "0"]).is_err() && parsed(&["--disk", "much"]).is_err());
    }
}
