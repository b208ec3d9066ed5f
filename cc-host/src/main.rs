//! The daemon's command line: serve, check the host, manage access keys. Refuses to do any of it here.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::api::signing::KeyId;
use cc_host::auth::{Role, keys};
use cc_host::config::Config;
use cc_host::daemon::{self, LogFormat};
use cc_host::ids::Name;
use cc_host::kernel::check;
use clap::{Parser, Subcommand, ValueEnum};
use tonic::Code;

/// The daemon of a Container cloud host.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM.
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        #[arg(long, env = "CC_LOG_FORMAT", value_enum, default_value = "text")]
        log_format: LogFormat,
    },
    /// Name what this host lacks, and what each lack costs.
    Check {
        #[command(flatten)]
        config: ConfigFile,
        #[arg(long)]
        json: bool,
    },
    /// Make, list and revoke access keys.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(clap::Args)]
struct ConfigFile {
    /// TOML; without it, the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Prints the token and the secret, once.
    Create {
        #[arg(long, value_enum)]
        role: RoleArgument,
        #[arg(long)]
        project: String,
        #[command(flatten)]
        config: ConfigFile,
        #[arg(long)]
        json: bool,
    },
    /// Lists the keys; their secrets are nowhere.
    List {
        #[command(flatten)]
        config: ConfigFile,
        #[arg(long)]
        json: bool,
    },
    /// Takes effect at the key's next call.
    Revoke {
        #[arg(value_name = "TOKEN", required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleArgument {
    Admin,
    Operator,
    Viewer,
}

impl From<RoleArgument> for Role {
    fn from(role: RoleArgument) -> Role {
        match role {
            RoleArgument::Admin => Role::Admin,
            RoleArgument::Operator => Role::Operator,
            RoleArgument::Viewer => Role::Viewer,
        }
    }
}

/// What still runs when the daemon has stopped in order is cut after this.
const CUT_AFTER: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    // The confined unpacker is a command of its own, before any thread exists.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "unpack-layer") {
        return cc_host::image::unpack::child_main(std::env::args_os().skip(2));
    }
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("cc-host: {}: {} [{}]", fault.what, fault.why, fault.code);
            if !fault.next.is_empty() {
                eprintln!("  next: {}", fault.next);
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Fault> {
    match command {
        Command::Serve { config, log_format } => {
            daemon::init_logging(log_format);
            let config = Config::load(config.config.as_deref())?;
            let runtime = runtime()?;
            let result = runtime.block_on(daemon::serve(config));
            runtime.shutdown_timeout(CUT_AFTER);
            result.map(|()| ExitCode::SUCCESS)
        }
        Command::Check { config, json } => {
            let checks = check::all(&Config::load(config.config.as_deref())?);
            if json {
                print_json(&checks)?;
            } else {
                check::print_into(&mut std::io::stdout().lock(), &checks).map_err(cannot_print)?;
            }
            let fit = checks.iter().all(|check| check.ok || !check.required);
            Ok(if fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Key(command) => runtime()?.block_on(key(command)).map(|()| ExitCode::SUCCESS),
    }
}

async fn key(command: KeyCommand) -> Result<(), Fault> {
    match command {
        KeyCommand::Create { role, project, config, json } => {
            let project = Name::parse(&project).map_err(|error| {
                Fault::new(
                    Code::InvalidArgument,
                    "key.project",
                    format!("{project:?} cannot be a project"),
                    error.to_string(),
                )
            })?;
            let store = daemon::open_store(&Config::load(config.config.as_deref())?)?;
            let key = keys::create(&*store, project.clone(), role.into()).await?;
            if json {
                return print_json(&serde_json::json!({
                    "access_token": key.id.as_str(), "secret_key": key.secret.as_str(),
                    "project": project, "role": Role::from(role),
                }));
            }
            print(&format!("CC_ACCESS_TOKEN={}\nCC_SECRET_KEY={}\n", key.id, *key.secret))
        }
        KeyCommand::List { config, json } => {
            let store = daemon::open_store(&Config::load(config.config.as_deref())?)?;
            let keys = keys::list(&*store).await?;
            if json {
                let rows = keys.iter().map(|(id, key)| {
                    serde_json::json!({
                        "access_token": id, "project": key.project, "role": key.role, "created_ms": key.created_ms,
                    })
                });
                return print_json(&rows.collect::<Vec<_>>());
            }
            let rows = keys
                .iter()
                .map(|(id, key)| format!("{id}  {:<10} {}\n", format!("{:?}", key.role).to_lowercase(), key.project));
            print(&rows.collect::<String>())
        }
        KeyCommand::Revoke { keys: ids, config } => {
            let parse = |id: &String| {
                KeyId::parse(id).map_err(|error| {
                    Fault::new(
                        Code::InvalidArgument,
                        "key.token",
                        format!("{id:?} is no access token"),
                        error.to_string(),
                    )
                })
            };
            let ids = ids.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
            let store = daemon::open_store(&Config::load(config.config.as_deref())?)?;
            for id in &ids {
                keys::revoke(&*store, id).await?;
            }
            Ok(())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Fault> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::new(Code::Internal, "server.runtime", "cannot start", error.to_string()))
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Fault> {
    let text = serde_json::to_string_pretty(value).expect("these values have text keys and no failing parts");
    print(&format!("{text}\n"))
}

fn print(text: &str) -> Result<(), Fault> {
    std::io::stdout().write_all(text.as_bytes()).map_err(cannot_print)
}

fn cannot_print(error: std::io::Error) -> Fault {
    Fault::new(Code::Internal, "output", "cannot print", error.to_string())
}
