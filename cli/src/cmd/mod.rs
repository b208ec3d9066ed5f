//! The commands, one file each, and what they share: parsing, the connection, the end. Refuses to do any command's work.

pub mod attach;
pub mod completion;
pub mod console;
pub mod context;
pub mod cp;
pub mod events;
pub mod exec;
mod foreground;
pub mod group;
pub mod guard;
pub mod image;
pub mod info;
pub mod inspect;
pub mod kill;
pub mod local_remote;
pub mod logs;
pub mod metrics;
pub mod net;
pub mod prefixes;
pub mod prune;
pub mod ps;
pub mod publish;
pub mod rm;
pub mod run;
pub mod start;
pub mod stats;
pub mod status;
pub mod stop;
pub mod system;
pub mod top;
pub mod update;
pub mod version;
pub mod volume;
pub mod vpc;
pub mod wait;

use std::ffi::OsString;
use std::io::Write;

use cc_common::api::fault::Fault;
use cc_common::api::v1::container_service_client::ContainerServiceClient;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use tonic::Code;

use crate::args::{Cli, Command, Globals};
use crate::client::{ConnectOptions, Connection, connect};
use crate::error::{self, EXIT_FAILED, EXIT_PIPE, EXIT_RUN_FAILED, Failure};
use crate::ui::Ui;
use crate::{argv, contexts, name, secret};

/// What a command gets: where to print, and how to reach the daemon.
#[derive(Debug)]
pub struct Context {
    pub ui: Ui,
    options: ConnectOptions,
    /// Standard input held the secret, so nothing else can be read from it.
    pub stdin_taken: bool,
}

impl Context {
    pub async fn connection(&self) -> Result<Connection, Fault> {
        connect(&self.options).await
    }

    pub async fn containers(&self) -> Result<ContainerServiceClient<Connection>, Fault> {
        Ok(ContainerServiceClient::new(self.connection().await?))
    }

    pub fn claim_stdin(&self, by: &str) -> Result<(), Fault> {
        if !self.stdin_taken {
            return Ok(());
        }
        Err(error::usage(format!("cannot use {by}"), "--cc-secret-key - already reads standard input")
            .next("keep the secret in a file: --cc-secret-key @FILE"))
    }
}

/// The first words that are ours under the name `cc`. Written down, and compared by a test: to have the command line made for
/// its names would take as long again as to read it.
pub const NAMES: &[&str] = &[
    "vpc",
    "volume",
    "group",
    "prefixes",
    "guard",
    "net",
    "doctor",
    "run",
    "exec",
    "attach",
    "cp",
    "publish",
    "unpublish",
    "ps",
    "status",
    "metrics",
    "top",
    "stats",
    "logs",
    "start",
    "restart",
    "update",
    "stop",
    "kill",
    "rm",
    "wait",
    "inspect",
    "local-remote",
    "image",
    "events",
    "prune",
    "system",
    "console",
    "context",
    "info",
    "completion",
    "version",
    "help",
];

/// The command line as it is told under a name: in the packages' all of its texts have that one.
pub fn command(name: &'static str) -> clap::Command {
    let command = Cli::command();
    if name == "cc" { command } else { renamed(command, name) }
}

fn renamed(mut command: clap::Command, name: &'static str) -> clap::Command {
    let spoken = |text: &clap::builder::StyledStr| name::spoken(&text.to_string(), name, NAMES);
    if let Some(text) = command.get_after_help().map(spoken) {
        command = command.after_help(text);
    }
    if let Some(text) = command.get_about().map(spoken) {
        command = command.about(text);
    }
    let command = command.mut_args(|arg| match arg.get_help().map(spoken) {
        Some(text) => arg.help(text),
        None => arg,
    });
    command.mut_subcommands(|sub| renamed(sub, name))
}

/// Runs one command line and returns the exit code.
pub fn main(args: Vec<OsString>) -> i32 {
    let name = name::called(&args);
    let matches = match command(name).try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return refuse(&error, &args),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &args),
    };
    let is_run = matches!(cli.command, Command::Run(_) | Command::Exec(_));
    let json = cli.globals.json;
    if let Command::Context(args) = &cli.command {
        let ui = Ui { json, quiet: cli.globals.quiet };
        return ended(context::run(ui, &cli.globals, args), None, false, json, name);
    }
    let by_flag = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let given = contexts::Given {
        context_by_flag: by_flag("cc_context"),
        daemon_by_flag: ["cc_endpoint_url", "cc_access_token", "cc_secret_key"].into_iter().any(by_flag),
    };
    let globals = match contexts::resolve(cli.globals, given) {
        Ok(globals) => globals,
        Err(error) => return ended(Err(Fault::from(error).into()), None, is_run, json, name),
    };
    let endpoint = globals.cc_endpoint_url.clone();
    let result = context(globals, &matches).map_err(Failure::from).and_then(|context| {
        // Started only now: the secret's argv bytes must be overwritten while there is one thread.
        let runtime = runtime_for(&cli.command).enable_all().build()?;
        let done = runtime.block_on(dispatch(context, cli.command, name));
        // A read of standard input that nobody waits for any more would keep it.
        runtime.shutdown_background();
        done
    });
    ended(result, endpoint.as_deref(), is_run, json, name)
}

/// One thread is up soonest, and hands nothing to another. What moves a lot, or prints for as long as somebody reads, has a second one for
/// the connection: the daemon hangs up on who does not answer it.
fn runtime_for(command: &Command) -> tokio::runtime::Builder {
    use Command::{Attach, Exec, Inspect, Kill, Ps, Restart, Rm, Run, Start, Status, Stop, Version, Wait};
    match command {
        Run(_) | Exec(_) | Attach(_) | Start(_) | Restart(_) | Stop(_) | Kill(_) | Rm(_) | Wait(_) | Ps(_)
        | Status(_) | Inspect(_) | Version(_) => tokio::runtime::Builder::new_current_thread(),
        _ => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(2);
            builder
        }
    }
}

/// Says what went wrong, and gives the exit code.
fn ended(result: Result<i32, Failure>, endpoint: Option<&str>, is_run: bool, json: bool, name: &str) -> i32 {
    match result {
        Ok(code) => code,
        Err(Failure::OutputClosed) => EXIT_PIPE,
        Err(Failure::Fault(fault)) => {
            let mut fault = error::explain(*fault, endpoint);
            if name != "cc" {
                fault.next = name::spoken(&fault.next, name, NAMES);
            }
            // Nobody left to tell when standard error is closed; the exit code still says it.
            let _ = error::print_into(&mut std::io::stderr().lock(), &fault, json);
            error::exit_code(&fault, is_run)
        }
    }
}

async fn dispatch(context: Context, command: Command, name: &'static str) -> Result<i32, Failure> {
    match command {
        Command::Vpc(args) => vpc::run(&context, args).await,
        Command::Volume(args) => volume::run(&context, args).await,
        Command::Group(args) => group::run(&context, args).await,
        Command::Prefixes(args) => prefixes::run(&context, args).await,
        Command::Guard(args) => guard::run(&context, args).await,
        Command::Net(args) => net::run(&context, args).await,
        Command::Doctor(args) => net::doctor::run(&context, args).await,
        Command::Run(args) => run::run(&context, *args).await,
        Command::Exec(args) => exec::run(&context, args).await,
        Command::Attach(args) => attach::run(&context, args).await,
        Command::Cp(args) => cp::run(&context, args).await,
        Command::Publish(args) => publish::run(&context, args).await,
        Command::Unpublish(args) => publish::take_back(&context, args).await,
        Command::Ps(args) => ps::run(&context, args).await,
        Command::Status(args) => status::run(&context, args).await,
        Command::Metrics(args) => metrics::run(&context, args).await,
        Command::Top(args) => top::run(&context, args).await,
        Command::Stats(args) => stats::run(&context, args).await,
        Command::Logs(args) => logs::run(&context, args).await,
        Command::Start(args) => start::run(&context, args).await,
        Command::Restart(args) => start::again(&context, args).await,
        Command::Update(args) => update::run(&context, args).await,
        Command::Stop(args) => stop::run(&context, args).await,
        Command::Kill(args) => kill::run(&context, args).await,
        Command::Rm(args) => rm::run(&context, args).await,
        Command::Wait(args) => wait::run(&context, args).await,
        Command::Inspect(args) => inspect::run(&context, args).await,
        Command::LocalRemote(args) => local_remote::run(&context, args).await,
        Command::Image(args) => image::run(&context, args).await,
        Command::Events(args) => events::run(&context, args).await,
        Command::Prune(args) => prune::run(&context, args).await,
        Command::System(args) => system::run(&context, args).await,
        Command::Context(_) => unreachable!("it was run without a daemon"),
        Command::Console(args) => console::run(&context, args).await,
        Command::Info(args) => info::run(&context, args).await,
        Command::Completion(args) => completion::run(args, name),
        Command::Version(args) => version::run(&context, args),
    }
}

fn context(globals: Globals, matches: &ArgMatches) -> Result<Context, Fault> {
    let mut stdin_taken = false;
    let mut secret = None;
    if let Some(text) = globals.cc_secret_key.map(zeroize::Zeroizing::new) {
        let origin = secret::origin(&text);
        stdin_taken = origin == secret::Origin::Stdin;
        let on_argv = matches.value_source("cc_secret_key") == Some(ValueSource::CommandLine);
        if on_argv && matches!(origin, secret::Origin::Literal(_)) {
            argv::overwrite(&text);
            let _ = writeln!(
                std::io::stderr(),
                "warning: a secret on the command line can be read by others and stays in your shell's history; \
                 use --cc-secret-key @FILE"
            );
        }
        secret = Some(secret::read(&origin).map_err(|source| {
            Fault::new(Code::InvalidArgument, "cli.secret", "cannot read the secret key", error::chain(&source))
                .next("give --cc-secret-key @FILE, or - and the secret on standard input")
        })?);
    }
    let ui = Ui { json: globals.json, quiet: globals.quiet };
    let options = ConnectOptions {
        endpoint: globals.cc_endpoint_url.unwrap_or_default(),
        token: globals.cc_access_token,
        secret,
        project: globals.cc_project,
    };
    Ok(Context { ui, options, stdin_taken })
}

/// Help and version are no failures; anything else is, and under `run` with run's own code.
fn refuse(error: &clap::Error, args: &[OsString]) -> i32 {
    let json = args.iter().any(|arg| arg == "--json");
    if json && error.use_stderr() {
        let text = error.render().to_string();
        let why = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let fault = error::usage("the command line was not understood", why).next("see cc --help");
        let _ = error::print_into(&mut std::io::stderr().lock(), &fault, true);
    } else {
        let _ = error.print();
    }
    let is_run = args
        .iter()
        .skip(1)
        .find(|arg| !arg.to_string_lossy().starts_with('-'))
        .is_some_and(|arg| arg == "run" || arg == "exec");
    match error.exit_code() {
        0 => 0,
        _ if is_run => EXIT_RUN_FAILED,
        EXIT_FAILED => EXIT_FAILED,
        code => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn our_names_are_those_of_all_commands_and_their_aliases() {
        let command = Cli::command();
        let own =
            command.get_subcommands().flat_map(|sub| std::iter::once(sub.get_name()).chain(sub.get_all_aliases()));
        assert_eq!(NAMES, own.chain(["help"]).collect::<Vec<_>>());
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("cc "), "{path} has no example");
            command.get_subcommands().for_each(|sub| walk(sub, &path));
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn under_the_packages_name_no_text_has_the_other() {
        fn walk(command: &clap::Command) {
            let about = command.get_about().into_iter().chain(command.get_after_help());
            for text in about.chain(command.get_arguments().filter_map(|arg| arg.get_help())) {
                let text = text.to_string();
                let left = NAMES.iter().find(|name| text.contains(&format!(" cc {name}")));
                assert_eq!(left, None, "{}: {text}", command.get_name());
            }
            command.get_subcommands().for_each(walk);
        }
        let command = command(name::PACKAGED);
        assert!(command.get_after_help().unwrap().to_string().contains("ccloud run --rm --image"));
        walk(&command);
    }

    #[test]
    fn a_secret_given_after_the_command_counts_as_given_on_the_command_line() {
        let matches = Cli::command().try_get_matches_from(["cc", "ps", "--cc-secret-key", "ccs_x"]).unwrap();
        assert_eq!(matches.value_source("cc_secret_key"), Some(ValueSource::CommandLine));
    }

    #[test]
    fn help_is_as_reviewed() {
        let mut command = Cli::command().term_width(100).mut_args(|arg| arg.hide_env(true));
        insta::assert_snapshot!("help", command.render_help());
        let run = command.find_subcommand_mut("run").unwrap();
        insta::assert_snapshot!("help_run", run.render_help());
    }
}
