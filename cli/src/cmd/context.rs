//! `cc context`: daemons under names, and which of them commands are for. Refuses to speak to any.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::args::Globals;
use crate::contexts::{self, Contexts, Daemon, LOCAL};
use crate::error::Failure;
use crate::render::{View, table};
use crate::ui::Ui;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cc context add far --cc-endpoint-url https://far.example:7443#sha256=… --cc-access-token ID --cc-secret-key @KEY\n  \
    cc context use far\n  cc --cc-context local ps")]
pub struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// Keep a daemon under a name: the one that the global options name
    #[command(after_help = "Example:\n  \
        cc context add far --cc-endpoint-url https://far.example:7443#sha256=… --cc-access-token ID --cc-secret-key @KEY")]
    Add {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Send the commands that name no daemon to this one; `local` is this machine's
    #[command(after_help = "Examples:\n  cc context use far\n  cc context use local")]
    Use {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List them; the chosen one has a star
    #[command(visible_alias = "ls", after_help = "Example:\n  cc context list")]
    List,
    /// Forget one
    #[command(visible_alias = "rm", after_help = "Example:\n  cc context remove far")]
    Remove {
        #[arg(value_name = "NAME")]
        name: String,
    },
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    current: bool,
    endpoint: String,
    access_token: String,
    project: String,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Rows(Vec<Row>);

impl View for Rows {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let row = |row: &Row| {
            let name = if row.current { format!("{} *", row.name) } else { row.name.clone() };
            vec![name, row.endpoint.clone(), row.access_token.clone(), row.project.clone()]
        };
        table::print_into(out, &["NAME", "ENDPOINT", "KEY", "PROJECT"], &self.0.iter().map(row).collect::<Vec<_>>())
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|row| row.name.as_str()).collect()
    }
}

fn rows(contexts: &Contexts) -> Rows {
    let local = Row {
        name: LOCAL.to_owned(),
        current: contexts.current.is_none(),
        endpoint: crate::client::DEFAULT_ENDPOINT.to_owned(),
        access_token: String::new(),
        project: String::new(),
    };
    let row = |(name, daemon): (&String, &Daemon)| Row {
        name: name.clone(),
        current: contexts.current.as_ref() == Some(name),
        endpoint: daemon.endpoint.clone(),
        access_token: daemon.access_token.clone().unwrap_or_default(),
        project: daemon.project.clone().unwrap_or_default(),
    };
    Rows(std::iter::once(local).chain(contexts.contexts.iter().map(row)).collect())
}

/// Before any context is resolved: one that is broken can be removed.
pub fn run(ui: Ui, globals: &Globals, args: &ContextArgs) -> Result<i32, Failure> {
    let path = contexts::default_path().map_err(cc_common::api::fault::Fault::from)?;
    changed(&path, globals, &args.command).map_err(cc_common::api::fault::Fault::from).map_err(Failure::from)?.map_or(
        Ok(0),
        |contexts| {
            ui.show(&rows(&contexts))?;
            Ok(0)
        },
    )
}

/// Gives what is to be shown.
fn changed(
    path: &std::path::Path,
    globals: &Globals,
    command: &ContextCommand,
) -> Result<Option<Contexts>, contexts::ContextError> {
    let mut contexts = Contexts::read(path)?;
    match command {
        ContextCommand::Add { name } => contexts.add(name, Daemon::of(globals)?)?,
        ContextCommand::Use { name } => contexts.choose(name)?,
        ContextCommand::Remove { name } => contexts.remove(name)?,
        ContextCommand::List => return Ok(Some(contexts)),
    }
    contexts.write(path)?;
    Ok(None)
}
