//! `cc run`: a specification from flags, an image from wherever it is, and then either an id or the container's own output
//! and exit code. Refuses to judge what the daemon judges.

mod security;
mod spec;

pub use spec::environment;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::api::v1::run_output::Output;
use cc_common::api::v1::{PullPolicy, RunInput, RunOutput, RunStart, run_input::Input};
use clap::{Args, ValueEnum};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::Context;
use super::foreground::{self, How, What};
use crate::credentials;
use crate::error::Failure;
use crate::pull::PullDisplay;
use crate::render::container::Created;
use crate::size;
use crate::source::{self, Source, upload};
use crate::terminal;
use crate::time::parse_duration;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc run --rm --image debian:12 cat /etc/os-release\n  \
    cc run -d --name web --vpc blue --memory 512MiB --cpu 512 --image oci:./nginx:v1\n  \
    echo hello | cc run --rm -i --image debian:12 --env A=1 --user nobody --dir /tmp cat\n\n\
    Flags come before the command; all after its first word is the command's.\n\n\
    Exit codes: 125 cc or the daemon failed, 126 the command cannot be executed,\n\
    127 it was not found, 128+n signal n ended it, else the command's own.")]
pub struct RunArgs {
    /// A registry reference, oci:DIR[:TAG], or docker-archive:FILE[:REF]
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// The VPC, by name or id; without one there is only loopback
    #[arg(long, value_name = "VPC", default_value = "", hide_default_value = true)]
    vpc: String,
    /// A security group, by name or id; more than once (default: the VPC's)
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Memory limit: 512MiB, 1g, or bytes
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// CPU shares against other containers (default 1024)
    #[arg(long, value_name = "SHARES", value_parser = clap::value_parser!(u32).range(2..=262_144))]
    cpu: Option<u32>,
    /// A name, uid, uid:gid or name:group, by the image's own passwd and group
    #[arg(short, long, value_name = "USER", default_value = "", hide_default_value = true)]
    user: String,
    /// KEY=VALUE, or KEY to pass on our own; more than once
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// A file with a KEY=VALUE, or a KEY, on each line; more than once
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// A program instead of the image's entrypoint; \"\" for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// The working directory
    #[arg(short = 'w', long, value_name = "DIR", default_value = "", hide_default_value = true)]
    dir: String,
    /// A name, unique in the project
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Print the id and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Remove the container when it ends
    #[arg(long = "rm")]
    remove: bool,
    /// Pass standard input on; with -d, keep it open for cc attach
    #[arg(short, long)]
    interactive: bool,
    /// The container's host name (default: its name)
    #[arg(long, default_value = "", hide_default_value = true)]
    hostname: String,
    /// A name server to ask instead of the VPC's own; more than once
    #[arg(long, value_name = "ADDR")]
    dns: Vec<IpAddr>,
    /// KEY=VALUE; more than once
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// The interface's MTU
    #[arg(long, value_parser = clap::value_parser!(u32).range(576..=65_535))]
    mtu: Option<u32>,
    /// What it may send in a second: 10MiB, or bytes; needs --vpc
    #[arg(long, value_name = "RATE", value_parser = size::parse)]
    egress_bandwidth: Option<u64>,
    /// What it may send at once after a pause (default: by the rate)
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "egress_bandwidth")]
    egress_burst: Option<u64>,
    /// What it may receive in a second; needs --vpc
    #[arg(long, value_name = "RATE", value_parser = size::parse)]
    ingress_bandwidth: Option<u64>,
    /// What it may receive at once after a pause
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "ingress_bandwidth")]
    ingress_burst: Option<u64>,
    /// Publish a port at the host, may be repeated; rules of its groups that deny still do
    #[arg(short, long, value_name = "[IP:]HOSTPORT:PORT[/udp]")]
    publish: Vec<super::publish::Port>,
    /// Size at which a file of its log is followed by the next: 64KiB to 10GiB (default 10MiB)
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    log_max_size: Option<u64>,
    /// How many files of its log are kept, 1 to 10 (default 3)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    log_max_files: Option<u32>,
    /// Whether it waits for a slow disk or loses output; for a full one it never waits
    #[arg(long, value_enum, default_value = "block")]
    log_mode: LogMode,
    /// When to pull the image
    #[arg(long, value_enum, default_value = "missing")]
    pull: Pull,
    /// CPUs that it may use at most, such as 1.5
    #[arg(long, value_name = "N", value_parser = cpus)]
    cpus: Option<u32>,
    /// Which CPUs it may use, such as 0-1,3
    #[arg(long, value_name = "CPUS", alias = "cpuset-cpus", default_value = "", hide_default_value = true)]
    cpuset: String,
    /// When to start it again: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no", hide_default_value = true)]
    restart: String,
    /// What cc stop sends first (default: the image's, or TERM)
    #[arg(long, value_name = "SIGNAL", default_value = "", hide_default_value = true)]
    stop_signal: String,
    /// Seconds from the stop signal to SIGKILL (default 10)
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<u32>,
    /// Make its root read-only
    #[arg(long)]
    read_only: bool,
    /// A file system in memory; more than once
    #[arg(long, value_name = "PATH[:size=64m,mode=1777]")]
    tmpfs: Vec<String>,
    /// A capability beyond the usual ones, or ALL; for admins, or by a grant; more than once
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// A capability that it shall not have, or ALL; more than once
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// host: its users are the host's, and its root is root; for admins, or by a grant
    #[arg(long, value_name = "host", value_parser = ["host"])]
    userns: Option<String>,
    /// seccomp=FILE or seccomp=unconfined, for admins, or by a grant; no-new-privileges is always so
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// A resource limit: core, cpu, data, fsize, memlock, nofile, nproc, stack; more than once
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// How many processes there may be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pids_limit: Option<u32>,
    /// A line for the image's shell that asks whether it is well: 0 means yes (default: as the image has it)
    #[arg(long, value_name = "LINE", default_value = "", hide_default_value = true)]
    health_cmd: String,
    /// From one probe to the next (default 30s)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    health_interval: Option<Duration>,
    /// What a probe may take (default 30s)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    health_timeout: Option<Duration>,
    /// How many failures in a row make it unhealthy (default 3)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    health_retries: Option<u32>,
    /// For so long failures do not count, until it was healthy once
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    health_start_period: Option<Duration>,
    /// From one probe to the next during that (default 5s)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    health_start_interval: Option<Duration>,
    /// Never ask it, whatever the image says
    #[arg(long)]
    no_healthcheck: bool,
    /// A first process that reaps orphans and passes signals on
    #[arg(long)]
    init: bool,
    /// A device of the host's; for admins, or by a grant; more than once
    #[arg(long, value_name = "HOST[:CONTAINER[:rwm]]")]
    device: Vec<String>,
    /// Speak http to the registry; loopback needs no flag
    #[arg(long)]
    plain_http: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Keys that leave it running, with -it
    #[arg(long, value_name = "KEYS", default_value = terminal::DETACH_KEYS)]
    detach_keys: String,
    /// What its writable layer may take of the disk: 1GiB, or bytes; 16MiB at least
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    disk: Option<u64>,
    /// A volume, by name or id, and where it is to be; more than once
    #[arg(short, long, value_name = "VOLUME:PATH[:ro]")]
    volume: Vec<super::volume::Mount>,
    /// The command and its arguments; without one, the image's own
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogMode {
    Block,
    Drop,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Pull {
    Missing,
    Always,
    Never,
}

pub async fn run(context: &Context, args: RunArgs) -> Result<i32, Failure> {
    let mut spec = spec::from_args(&args, |key| std::env::var(key).ok())?;
    if args.interactive && !args.detach {
        context.claim_stdin("-i")?;
    }
    let detach_keys = foreground::keys(&args.detach_keys)?;
    foreground::at_a_terminal(args.tty && args.interactive && !args.detach)?;
    let mut pull = match args.pull {
        Pull::Missing => PullPolicy::Missing,
        Pull::Always => PullPolicy::Always,
        Pull::Never => PullPolicy::Never,
    };
    let mut auth = None;
    match source::parse(&args.image) {
        Source::Registry(reference) if matches!(args.pull, Pull::Never) => spec.image = reference,
        Source::Registry(reference) => {
            let path = credentials::default_path().map_err(Fault::from);
            // Without a home there are no credentials, and most images need none.
            auth =
                path.ok().map(|path| credentials::for_reference(&path, &reference)).transpose().map_err(Fault::from)?;
            spec.image = reference;
        }
        local => {
            let image = upload::load(context.connection().await?, &local, None).await?;
            spec.image = if image.reference.is_empty() { image.digest } else { image.reference };
            pull = PullPolicy::Never;
        }
    }
    let start = RunStart {
        spec: Some(spec),
        detach: args.detach,
        attach_stdin: args.interactive,
        pull: pull.into(),
        auth: auth.flatten(),
        plain_http: args.plain_http,
        terminal: args.tty.then(terminal::size),
    };
    let (inputs, receiver) = mpsc::channel(foreground::INPUTS_IN_FLIGHT);
    let first = RunInput { input: Some(Input::Start(start)) };
    inputs.try_send(first).expect("the channel is new and has room");
    // Signals are caught before the call: one that comes in between must not be lost.
    let signals = foreground::Signals::catch()?;
    let call = async { context.containers().await?.run(ReceiverStream::new(receiver)).await.map_err(Fault::from) };
    let Some(outputs) = signals.unless_interrupted(call).await else { return Ok(signals.interrupted_code()) };
    let mut outputs = outputs?.into_inner();
    let mut display = PullDisplay::new(context.ui.progress());
    let created = signals.unless_interrupted(created(&mut outputs, &mut display)).await;
    display.finish();
    let Some(id) = created else { return Ok(signals.interrupted_code()) };
    let id = id?;
    if args.detach {
        let code = detached(outputs, &id).await?;
        context.ui.show(&Created { id })?;
        return Ok(code);
    }
    let how = How {
        stdin: args.interactive,
        terminal: args.tty,
        detach_keys,
        signals: true,
        json: context.ui.json,
        what: What::Container,
    };
    foreground::attend(outputs, &id, inputs, signals, how).await
}

/// As thousandths: `1.5` is 1500.
pub fn cpus(text: &str) -> Result<u32, String> {
    let cpus: f64 = text.parse().map_err(|_| "it is no number of CPUs; try 1.5".to_owned())?;
    let milli = (cpus * 1000.0).round();
    if (10.0..=1_024_000.0).contains(&milli) { Ok(milli as u32) } else { Err("CPUs go from 0.01 to 1024".to_owned()) }
}

/// Shows the pull, and returns at the container's id.
async fn created(outputs: &mut Streaming<RunOutput>, display: &mut PullDisplay) -> Result<String, Fault> {
    use cc_common::api::v1::pull_progress::Progress;
    while let Some(message) = outputs.message().await? {
        match message.output {
            Some(Output::Pull(progress)) => {
                if let Some(Progress::Layer(layer)) = progress.progress {
                    display.update(&layer);
                }
            }
            Some(Output::Created(id)) => return Ok(id),
            _ => {}
        }
    }
    Err(ended("before the container was created"))
}

/// Detached is done when it runs; a container that cannot start is a failure of this command.
async fn detached(mut outputs: Streaming<RunOutput>, id: &str) -> Result<i32, Fault> {
    while let Some(message) = outputs.message().await.map_err(|status| foreground::lost(id, status, What::Container))? {
        match message.output {
            Some(Output::Started(_)) => return Ok(0),
            Some(Output::Exit(exit)) => {
                foreground::explain_exit(&exit);
                return Ok(exit.code);
            }
            _ => {}
        }
    }
    Err(foreground::lost(id, Status::unavailable("it ended the call"), What::Container))
}

fn ended(when: &str) -> Fault {
    Fault::new(Code::Unavailable, "transport", "the daemon ended the call", when)
        .next("see cc ps, cc events and cc-host's log")
}
