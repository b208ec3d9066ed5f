//! `cc run`: a specification from flags, an image from wherever it is, and then either an id or the container's own output
//! and exit code. Refuses what later versions bring, in words that say so.

mod foreground;
mod spec;

use std::net::IpAddr;

use cc_common::api::fault::Fault;
use cc_common::api::v1::run_output::Output;
use cc_common::api::v1::{PullPolicy, RunInput, RunOutput, RunStart, run_input::Input};
use clap::{Args, ValueEnum};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::Context;
use crate::credentials;
use crate::error::{self, Failure, usage};
use crate::pull::PullDisplay;
use crate::render::container::Created;
use crate::size;
use crate::source::{self, Source, upload};

/// Few, so that a container that does not read holds back whoever writes to us.
const INPUTS_IN_FLIGHT: usize = 4;

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
    /// Pass standard input on
    #[arg(short, long, conflicts_with = "detach")]
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
    /// How many processes there may be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pids_limit: Option<u32>,
    /// Speak http to the registry; loopback needs no flag
    #[arg(long)]
    plain_http: bool,
    /// Not yet: a terminal
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Not yet: disk size
    #[arg(long, hide = true)]
    disk: Option<String>,
    /// Not yet: a volume
    #[arg(short, long, hide = true)]
    volume: Vec<String>,
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
    refuse_later(&args)?;
    let mut spec = spec::from_args(&args, |key| std::env::var(key).ok())?;
    if args.interactive {
        context.claim_stdin("-i")?;
    }
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
    };
    let (inputs, receiver) = mpsc::channel(INPUTS_IN_FLIGHT);
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
    foreground::attend(outputs, &id, inputs, signals, args.interactive, context.ui.json).await
}

fn refuse_later(args: &RunArgs) -> Result<(), Fault> {
    let later = |flag: &str, why: &str, next: &str| {
        Err(usage(format!("cannot run with {flag}"), format!("not yet: {why}")).next(next))
    };
    if args.tty {
        return later("-t", "terminals come later", "leave -t out; -i passes standard input on");
    }
    if args.disk.is_some() {
        return later("--disk", "disk sizes come with volumes", "leave --disk out");
    }
    if !args.volume.is_empty() {
        return later("--volume", "volumes come later", "leave --volume out");
    }
    Ok(())
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
    while let Some(message) = outputs.message().await.map_err(|status| lost(id, status))? {
        match message.output {
            Some(Output::Started(_)) => return Ok(0),
            Some(Output::Exit(exit)) => {
                foreground::explain_exit(&exit);
                return Ok(exit.code);
            }
            _ => {}
        }
    }
    Err(lost(id, Status::unavailable("it ended the call")))
}

fn ended(when: &str) -> Fault {
    Fault::new(Code::Unavailable, "transport", "the daemon ended the call", when)
        .next("see cc ps, cc events and cc-host's log")
}

/// A container that has started does not end with its daemon, nor with the connection to it.
fn lost(id: &str, status: Status) -> Fault {
    let fault = Fault::from(status);
    if !error::is_lost(&fault) {
        return fault;
    }
    // How a connection broke, in a library's words, helps nobody.
    let cause = if fault.code == error::STOPPING { fault.why.as_str() } else { "the connection to it broke" };
    let why = format!("container {id} goes on without it ({cause})");
    Fault::new(Code::Unavailable, "run.lost", "lost the daemon", why)
        .next(format!("follow it when the daemon is back: cc logs -f {id}"))
}
