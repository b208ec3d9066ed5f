//! The command line, as runc has it, since its callers expect that. Refuses what would be passed over.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::state::ROOT_DEFAULT;

/// After the name of the program.
pub const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0");

/// An OCI runtime: containers from bundles, for podman, containerd and others.
#[derive(Debug, Parser)]
#[command(name = "cc-oci", version = VERSION, max_term_width = 100)]
pub struct Cli {
    /// Directory for the state of containers
    #[arg(long, global = true, default_value = ROOT_DEFAULT)]
    pub root: PathBuf,
    /// File to add errors to, beside standard error
    #[arg(long, global = true)]
    pub log: Option<PathBuf>,
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Log more
    #[arg(long, global = true)]
    pub debug: bool,
    /// Refused: cgroups are made without systemd
    #[arg(long, global = true)]
    pub systemd_cgroup: bool,
    /// Refused unless false or auto: containers are root's
    #[arg(long, global = true)]
    pub rootless: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a container whose program waits for `start`
    Create(Create),
    /// Execute the program of a container that was created
    Start { id: String },
    /// Show a container's state as JSON
    State { id: String },
    /// Send a signal to a container's first process
    Kill {
        /// To every process
        #[arg(long, short)]
        all: bool,
        id: String,
        #[arg(default_value = "TERM", allow_hyphen_values = true)]
        signal: String,
    },
    /// Remove a container that has ended
    Delete {
        /// Kill it first; one that does not exist is no error
        #[arg(long, short)]
        force: bool,
        id: String,
    },
    /// Create and start a container
    Run(Run),
    /// Run a further program in a container
    Exec(Box<Exec>),
    /// Show all containers
    List {
        #[arg(long, short, value_enum, default_value = "table")]
        format: Format,
        /// Only their ids
        #[arg(long, short)]
        quiet: bool,
    },
    /// Show a container's processes
    Ps {
        #[arg(long, short, value_enum, default_value = "table")]
        format: Format,
        id: String,
        /// Options of ps(1)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Stop all processes of a container where they are
    Pause { id: String },
    /// Let them go on
    Resume { id: String },
    /// Change a container's limits
    Update {
        /// `linux.resources` as JSON, or - for standard input
        #[arg(long, short)]
        resources: PathBuf,
        id: String,
    },
    /// Show what this runtime can do as JSON
    Features,
    /// Refused: containers are not saved
    #[command(hide = true)]
    Checkpoint(Anything),
    /// Refused: containers are not saved
    #[command(hide = true)]
    Restore(Anything),
    /// Refused: read the container's cgroup instead
    #[command(hide = true)]
    Events(Anything),
    /// Refused: write config.json with another tool
    #[command(hide = true)]
    Spec(Anything),
}

#[derive(Debug, Args)]
pub struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Create {
    /// Directory with config.json
    #[arg(long, short, default_value = ".")]
    pub bundle: PathBuf,
    /// Socket that the terminal is sent to
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// File for the number of the first process
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// Descriptors that the program gets beside the standard three
    #[arg(long, default_value_t = 0)]
    pub preserve_fds: u32,
    /// Go without pivot_root, for a host whose root is a ramfs
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Do not wait for its end
    #[arg(long, short)]
    pub detach: bool,
    /// Do not delete it at its end
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    pub create: Create,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// `process` of a config.json, instead of the options below
    #[arg(long, short)]
    pub process: Option<PathBuf>,
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    pub preserve_fds: u32,
    /// Do not wait for its end
    #[arg(long, short)]
    pub detach: bool,
    /// In a terminal
    #[arg(long, short)]
    pub tty: bool,
    #[arg(long)]
    pub cwd: Option<PathBuf>,
    #[arg(long, short)]
    pub env: Vec<String>,
    /// UID[:GID]
    #[arg(long, short)]
    pub user: Option<String>,
    #[arg(long, short = 'g')]
    pub additional_gids: Vec<u32>,
    #[arg(long, short)]
    pub cap: Vec<String>,
    #[arg(long)]
    pub no_new_privs: bool,
    #[arg(long)]
    pub apparmor: Option<String>,
    #[arg(long)]
    pub process_label: Option<String>,
    /// Also where it is paused; refused, as it would wait
    #[arg(long)]
    pub ignore_paused: bool,
    pub id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn callers_forms_are_taken() {
        for line in [
            "cc-oci --root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /c id",
            "cc-oci --systemd-cgroup --log-format=json start id",
            "cc-oci --root /r kill --all id 9",
            "cc-oci kill id SIGTERM",
            "cc-oci delete --force id",
            "cc-oci exec --pid-file /p --process /x --detach id",
            "cc-oci exec --tty --env A=1 -e B=2 --user 1:2 --cap CAP_CHOWN --cwd / id sh -c true",
            "cc-oci list --format json",
            "cc-oci ps --format json id",
            "cc-oci update --resources - id",
            "cc-oci run -d -b /b --no-pivot id",
            "cc-oci checkpoint --image-path /x id",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
