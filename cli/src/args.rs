//! The flags every command shares, and the list of commands. Refuses to read a secret: it only says where one is.

use clap::{Args, Parser, Subcommand};

use crate::cmd;

const AFTER: &str = "\
Examples:
  cc vpc create --cidr 10.0.0.0/24 --name blue
  cc run --rm --image debian:12 --vpc blue -- cat /etc/os-release
  cc ps --json

Exit codes:
  0    done
  1    the command failed; standard error says what, why and what next
  2    the command line was not understood
  125  cc run, cc exec: cc or the daemon failed (also when its command line was not understood)
  126  cc run, cc exec: the command cannot be executed
  127  cc run, cc exec: the command was not found
  128+n  cc run, cc exec, cc attach: signal n ended it; any other code is its own

Under the name cc, anything that is not one of these commands, --cc-*, --json or
--help goes to the next cc on PATH, the C compiler.";

#[derive(Debug, Parser)]
#[command(name = "cc", version, about = "Containers in isolated VPCs.", after_help = AFTER, max_term_width = 120)]
#[command(arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args, Clone, Default)]
pub struct Globals {
    /// The daemon: unix:///run/cc/cc.sock (default) or https://HOST:7443#sha256=FINGERPRINT
    #[arg(long, global = true, value_name = "URL", env = "CC_ENDPOINT_URL", help_heading = "Global options")]
    pub cc_endpoint_url: Option<String>,
    /// The daemon under a name: see cc context
    #[arg(long, global = true, value_name = "NAME", env = "CC_CONTEXT", help_heading = "Global options")]
    pub cc_context: Option<String>,
    /// The id of an access key
    #[arg(long, global = true, value_name = "ID", env = "CC_ACCESS_TOKEN", help_heading = "Global options")]
    pub cc_access_token: Option<String>,
    /// The key's secret: @FILE, or - for standard input. A literal works, but others can read it from the process list
    #[arg(long, global = true, value_name = "SECRET", env = "CC_SECRET_KEY", hide_env_values = true)]
    #[arg(help_heading = "Global options", allow_hyphen_values = true)]
    pub cc_secret_key: Option<String>,
    /// The project whose objects are meant; the default is the key's own
    #[arg(long, global = true, value_name = "PROJECT", env = "CC_PROJECT", help_heading = "Global options")]
    pub cc_project: Option<String>,
    /// Print JSON, errors included
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Print ids only
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Private subnets
    Vpc(cmd::vpc::VpcArgs),
    /// File systems that outlive containers
    Volume(cmd::volume::VolumeArgs),
    /// Security groups and their rules
    Group(cmd::group::GroupArgs),
    /// Named sets of CIDRs for rules
    Prefixes(cmd::prefixes::PrefixesArgs),
    /// Denied sources and malformed packets, at the host's uplinks; for admins
    Guard(cmd::guard::GuardArgs),
    /// Flows, drops, what is attached: what the datapath does with packets
    Net(cmd::net::NetArgs),
    /// Look for what is not as it should be on the host, as cc net doctor does; for admins
    Doctor(cmd::net::doctor::DoctorArgs),
    /// Run a container
    Run(Box<cmd::run::RunArgs>),
    /// Run another program in a container that runs
    Exec(cmd::exec::ExecArgs),
    /// Be at a running container's input and output
    Attach(cmd::attach::AttachArgs),
    /// Copy files into a container, or out of it
    Cp(cmd::cp::CpArgs),
    /// Publish ports of a container at the host
    Publish(cmd::publish::PublishArgs),
    /// Take published ports back
    Unpublish(cmd::publish::PublishArgs),
    /// List containers
    Ps(cmd::ps::PsArgs),
    /// Show the state of containers
    Status(cmd::status::StatusArgs),
    /// Show what containers use, and their traffic
    Metrics(cmd::metrics::MetricsArgs),
    /// Show the processes of containers
    Top(cmd::top::TopArgs),
    /// Watch what containers use
    Stats(cmd::stats::StatsArgs),
    /// Print what a container wrote
    Logs(cmd::logs::LogsArgs),
    /// Start containers that have ended
    Start(cmd::start::StartArgs),
    /// Stop containers and start them
    Restart(cmd::start::RestartArgs),
    /// Change limits and the restart policy of containers
    Update(cmd::update::UpdateArgs),
    /// Ask containers to end, then make them
    Stop(cmd::stop::StopArgs),
    /// Send a signal to containers
    Kill(cmd::kill::KillArgs),
    /// Remove containers
    Rm(cmd::rm::RmArgs),
    /// Wait until containers end
    Wait(cmd::wait::WaitArgs),
    /// Show everything about containers, as JSON
    Inspect(cmd::inspect::InspectArgs),
    /// Reach a container's port from this machine
    LocalRemote(cmd::local_remote::LocalRemoteArgs),
    /// Images: pull, load, list, remove, prune, login
    Image(cmd::image::ImageArgs),
    /// List what happened on the host
    Events(cmd::events::EventsArgs),
    /// Remove ended containers and unused images
    Prune(cmd::prune::PruneArgs),
    /// What the daemon's data takes on the disk
    System(cmd::system::SystemArgs),
    /// The link that opens the web console
    Console(cmd::console::ConsoleArgs),
    /// Daemons under names, and which one commands are for
    Context(cmd::context::ContextArgs),
    /// Show the daemon and its host
    Info(cmd::info::InfoArgs),
    /// Print a completion script for a shell
    Completion(cmd::completion::CompletionArgs),
    /// Print the version of this command
    Version(cmd::version::VersionArgs),
}
