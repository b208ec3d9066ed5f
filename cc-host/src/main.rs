//! The daemon's command line: serve, check the host, manage access keys. Refuses to do any of it here.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::api::signing::KeyId;
use cc_host::auth::tokens::{self, TokenId};
use cc_host::auth::{Role, Scope, keys};
use cc_host::config::Config;
use cc_host::daemon::{self, LogFormat};
use cc_host::ids::{Name, Project};
use cc_host::kernel::check;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
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
    /// Writes manual pages and completion scripts into a directory that exists.
    #[command(hide = true)]
    Manual { dir: PathBuf },
}

/// Read where none is named, if it is there: packages bring it.
const CONFIG_FILE: &str = "/etc/cc/config.toml";

#[derive(clap::Args)]
struct ConfigFile {
    /// TOML; without it, /etc/cc/config.toml if there is one, else the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, Fault> {
        // Of one that cannot be looked at, reading it says why.
        let packaged = Some(Path::new(CONFIG_FILE)).filter(|file| file.try_exists().unwrap_or(true));
        Ok(Config::load(self.config.as_deref().or(packaged))?)
    }
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Prints the token and the secret, once.
    Create {
        /// `metrics` makes a bearer token, which opens /metrics and nothing else
        #[arg(long, value_enum)]
        role: RoleArgument,
        /// Whose objects the key is for
        #[arg(long, required_unless_present = "all_projects")]
        project: Option<String>,
        /// Everything of the host; only with the role metrics
        #[arg(long, conflicts_with = "project")]
        all_projects: bool,
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
    Metrics,
}

/// As `--role` has it.
const ROLE_METRICS: &str = "metrics";
/// What still runs when the daemon has stopped in order is cut after this.
const CUT_AFTER: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    // The confined children are commands of their own, before any thread exists.
    match std::env::args_os().nth(1).as_ref().and_then(|argument| argument.to_str()) {
        Some(cc_host::image::unpack::SUBCOMMAND) => {
            return cc_host::image::unpack::child_main(std::env::args_os().skip(2));
        }
        Some(copy @ (cc_host::copy::SUBCOMMAND | cc_host::copy::HOLD_SUBCOMMAND)) => {
            return cc_host::copy::child_main(copy);
        }
        Some(cc_host::volume::enter::SUBCOMMAND) => {
            return cc_host::volume::enter::child_main(std::env::args_os().skip(2));
        }
        _ => {}
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
            // Before there is a second thread, which would keep them.
            daemon::privileges::give_up();
            let config = config.load()?;
            let runtime = runtime()?;
            let result = runtime.block_on(daemon::serve(config));
            runtime.shutdown_timeout(CUT_AFTER);
            result.map(|()| ExitCode::SUCCESS)
        }
        Command::Check { config, json } => {
            let checks = check::all(&config.load()?);
            if json {
                print_json(&checks)?;
            } else {
                check::print_into(&mut std::io::stdout().lock(), &checks).map_err(cannot_print)?;
            }
            let fit = checks.iter().all(|check| check.ok || !check.required);
            Ok(if fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Key(command) => runtime()?.block_on(key(command)).map(|()| ExitCode::SUCCESS),
        Command::Manual { dir } => {
            let written = cc_host::manual::write(Cli::command(), &dir).map(|()| ExitCode::SUCCESS);
            written.map_err(|e| Fault::new(Code::Internal, "output", "cannot write the pages", e.to_string()))
        }
    }
}

async fn key(command: KeyCommand) -> Result<(), Fault> {
    match command {
        KeyCommand::Create { role, project, all_projects: _, config, json } => {
            let project = project.as_deref().map(parse_project).transpose()?;
            let role = match role {
                RoleArgument::Metrics => return create_token(&config, project, json).await,
                RoleArgument::Admin => Role::Admin,
                RoleArgument::Operator => Role::Operator,
                RoleArgument::Viewer => Role::Viewer,
            };
            let Some(project) = project else {
                let why = "a key belongs to one project; only the role metrics can be given all of them";
                return Err(Fault::new(Code::InvalidArgument, "key.all_projects", "cannot make the key", why)
                    .next("give it a project: --project NAME"));
            };
            let store = daemon::open_store(&config.load()?)?;
            let key = keys::create(&*store, project.clone(), role).await?;
            if json {
                return print_json(&serde_json::json!({
                    "access_token": key.id.as_str(), "secret_key": key.secret.as_str(),
                    "project": project, "role": role,
                }));
            }
            print(&format!("CC_ACCESS_TOKEN={}\nCC_SECRET_KEY={}\n", key.id, *key.secret))
        }
        KeyCommand::List { config, json } => {
            let store = daemon::open_store(&config.load()?)?;
            let (keys, tokens) = (keys::list(&*store).await?, tokens::list(&*store).await?);
            if json {
                let keys = keys.iter().map(|(id, key)| {
                    serde_json::json!({
                        "access_token": id, "project": key.project, "role": key.role, "created_ms": key.created_ms,
                    })
                });
                let tokens = tokens.iter().map(|(id, token)| {
                    serde_json::json!({
                        "access_token": id, "project": token.project, "role": ROLE_METRICS,
                        "created_ms": token.created_ms,
                    })
                });
                return print_json(&keys.chain(tokens).collect::<Vec<_>>());
            }
            let keys =
                keys.iter().map(|(id, key)| (id, format!("{:?}", key.role).to_lowercase(), key.project.as_str()));
            let tokens = tokens.iter().map(|(id, token)| {
                (id, ROLE_METRICS.to_owned(), token.project.as_ref().map_or("(all projects)", Name::as_str))
            });
            print(&keys.chain(tokens).map(|(id, role, of)| format!("{id}  {role:<10} {of}\n")).collect::<String>())
        }
        KeyCommand::Revoke { keys: ids, config } => {
            let ids = ids.iter().map(|id| Revocable::parse(id)).collect::<Result<Vec<_>, _>>()?;
            let store = daemon::open_store(&config.load()?)?;
            for id in &ids {
                match id {
                    Revocable::Key(id) => keys::revoke(&*store, id).await?,
                    Revocable::Token(id) => tokens::revoke(&*store, id).await?,
                }
            }
            Ok(())
        }
    }
}

/// Whoever runs this is root on the host, and so may give away all of it.
async fn create_token(config: &ConfigFile, project: Option<Project>, json: bool) -> Result<(), Fault> {
    let store = daemon::open_store(&config.load()?)?;
    let scope = project.clone().map_or(Scope::Host, Scope::Project);
    let token = tokens::create(&*store, scope).await?;
    if json {
        return print_json(&serde_json::json!({
            "access_token": token.id.as_str(), "bearer_token": token.text.as_str(),
            "project": project, "role": ROLE_METRICS,
        }));
    }
    // Alone on its line, for the file that a scraper reads it from.
    print(&format!("{}\n", *token.text))
}

fn parse_project(text: &str) -> Result<Project, Fault> {
    Name::parse(text).map_err(|error| {
        Fault::new(Code::InvalidArgument, "key.project", format!("{text:?} cannot be a project"), error.to_string())
    })
}

enum Revocable {
    Key(KeyId),
    Token(TokenId),
}

impl Revocable {
    fn parse(text: &str) -> Result<Self, Fault> {
        if let Some(id) = TokenId::parse(text) {
            return Ok(Revocable::Token(id));
        }
        KeyId::parse(text).map(Revocable::Key).map_err(|error| {
            Fault::new(Code::InvalidArgument, "key.token", format!("{text:?} is no access token"), error.to_string())
        })
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
