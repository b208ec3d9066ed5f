//! The OCI runtime command line (runtime-spec 1.2) over the shim's launch code, for podman, containerd and whoever else has a bundle.
//! Refuses the daemon's rooms: it knows no image, no VPC and no store.
//!
//! Read in the order of a container: `cli`, `own` (its own file), `config` with what it reads (`process`, `options`, `namespaces`, `devices`,
//! `sysctl`, `hooks`, `lsm`, `seccomp`), `state` with `directory`, `create` with `cgroup`, `mounts`, `limits` and `userns`; inside of the container
//! `init` (with `paths`, `copy_up`, `cgroup_mount`, `inside`, `credentials`), both by `talk`; then `start`, `exec`, `relay`, `show`, `change` and
//! `delete`.

pub mod cgroup;
mod cgroup_mount;
mod change;
pub(crate) mod cli;
mod config;
mod copy_up;
mod create;
mod credentials;
mod delete;
mod describe;
mod devices;
mod directory;
pub mod error;
mod exec;
mod exec_plan;
pub mod features;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hooks;
mod init;
mod inside;
mod limits;
mod lsm;
mod mounts;
mod namespaces;
mod options;
mod paths;
mod process;
mod relay;
mod report;
pub mod seccomp;
mod show;
mod start;
mod state;
mod sysctl;
mod talk;
mod userns;

use std::process::ExitCode;

use clap::Parser as _;

use self::cli::{Cli, Command, Create, Exec, Format, LogFormat, Run};
use self::error::OciError;
use self::relay::Relay;
use self::state::Store;
use crate::shim::own;

/// What the binary does.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    report::begin(report::Log { file: cli.log.clone(), json: cli.log_format == LogFormat::Json, debug: cli.debug });
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::error(&error.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<u8, OciError> {
    report::debug(&format!("{:?}", cli.command));
    if cli.systemd_cgroup {
        let why = "cgroups are made by cgroupfs; configure the caller for that (podman: --cgroup-manager=cgroupfs)";
        return Err(OciError::unsupported("--systemd-cgroup", why));
    }
    if let Command::Features = cli.command {
        return show::print(&features::text()).map(|()| 0);
    }
    if !rustix::process::geteuid().is_root() || cli.rootless.as_deref() == Some("true") {
        return Err(OciError::NotRoot);
    }
    let store = Store::open(&cli.root)?;
    match cli.command {
        Command::Create(wanted) => {
            prepare(wanted.preserve_fds)?;
            create::create(&store, &to_create(wanted, false)).map(drop)
        }
        Command::Run(wanted) => return run_container(&store, wanted),
        Command::Exec(wanted) => return run_program(&store, *wanted),
        Command::Start { id } => start::start(&store, &id),
        Command::State { id } => show::state(&store, &id),
        Command::Kill { all, id, signal } => delete::kill(&store, &id, &signal, all),
        Command::Delete { force, id } => delete::delete(&store, &id, force),
        Command::List { format, quiet } => show::list(&store, format == Format::Json, quiet),
        Command::Ps { format, id, options } => show::ps(&store, &id, format == Format::Json, &options),
        Command::Pause { id } => change::pause(&store, &id),
        Command::Resume { id } => change::resume(&store, &id),
        Command::Update { resources, id } => change::update(&store, &id, &resources),
        Command::Features => Ok(()),
        Command::Checkpoint(_) | Command::Restore(_) => {
            Err(OciError::unsupported("checkpoint and restore", "containers are not saved"))
        }
        Command::Events(_) => Err(OciError::unsupported("events", "read the figures from the container's cgroup")),
        Command::Spec(_) => Err(OciError::unsupported("spec", "write config.json with the tool that makes the bundle")),
    }
    .map(|()| 0)
}

fn to_create(wanted: Create, foreground: bool) -> create::Wanted {
    create::Wanted {
        id: wanted.id,
        bundle: wanted.bundle,
        console_socket: wanted.console_socket,
        pid_file: wanted.pid_file,
        preserved: wanted.preserve_fds,
        pivot: !wanted.no_pivot,
        new_keyring: !wanted.no_new_keyring,
        foreground,
    }
}

/// Before anything is open that could be taken for what the caller wants preserved.
fn prepare(preserved: u32) -> Result<(), OciError> {
    create::check_preserved(preserved)?;
    own::protect(c"cc-oci").map_err(|e| OciError::step("protect the file of cc-oci", e))
}

fn run_container(store: &Store, wanted: Run) -> Result<u8, OciError> {
    prepare(wanted.create.preserve_fds)?;
    let relay = if wanted.detach { None } else { Some(Relay::begin()?) };
    let mut created = create::create(store, &to_create(wanted.create, !wanted.detach))?;
    if let Err(error) = start::start_entry(&mut created.entry) {
        if let Err(also) = delete::destroy(&mut created.entry) {
            report::warn(&also.chain());
        }
        return Err(error);
    }
    let Some(relay) = relay else { return Ok(0) };
    let create::Created { entry, process } = created;
    let (id, init) = (entry.record.id.clone(), entry.record.init);
    // Others pause, update and delete it while this waits.
    drop(entry);
    let code = relay.serve(&process);
    if !wanted.keep {
        match store.lock(&id) {
            Err(OciError::NoContainer(_)) => {}
            // Somebody has deleted it, and has made another of that id.
            Ok(entry) if entry.record.init != init => {}
            found => delete::destroy(&mut found?)?,
        }
    }
    code
}

fn run_program(store: &Store, wanted: Exec) -> Result<u8, OciError> {
    if wanted.ignore_paused {
        return Err(OciError::unsupported("--ignore-paused", "a program in a paused container would wait"));
    }
    prepare(wanted.preserve_fds)?;
    let relay = if wanted.detach { None } else { Some(Relay::begin()?) };
    let (options, plan) = to_exec(wanted)?;
    let process = exec::exec(store, &options, &plan)?;
    relay.map_or(Ok(0), |relay| relay.serve(&process))
}

fn to_exec(wanted: Exec) -> Result<(exec::Options, exec_plan::Wanted), OciError> {
    let options = exec::Options {
        id: wanted.id,
        console_socket: wanted.console_socket,
        pid_file: wanted.pid_file,
        preserved: wanted.preserve_fds,
        detach: wanted.detach,
    };
    let given = exec_plan::Options {
        command: wanted.command,
        terminal: wanted.tty,
        cwd: wanted.cwd,
        env: wanted.env,
        user: wanted.user,
        groups: wanted.additional_gids,
        capabilities: wanted.cap,
        no_new_privileges: wanted.no_new_privs,
        apparmor: wanted.apparmor,
        label: wanted.process_label,
    };
    Ok((options, exec_plan::Wanted::from(wanted.process, given)?))
}
