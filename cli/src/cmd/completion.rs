//! `cc completion`: a shell's completion script, and for packages the manual pages. Refuses to install either.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::command;
use crate::error::Failure;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  source <(cc completion bash)\n  cc completion fish > ~/.config/fish/completions/cc.fish"
)]
pub struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    #[arg(required_unless_present = "manual")]
    shell: Option<Shell>,
    /// Write the manual pages into this directory, which exists
    #[arg(long, value_name = "DIR", hide = true, conflicts_with = "shell")]
    manual: Option<PathBuf>,
}

/// Of the command by the name it was called by.
pub fn run(args: CompletionArgs, name: &'static str) -> Result<i32, Failure> {
    if let Some(dir) = args.manual {
        clap_mangen::generate_to(command(name).name(name), dir)?;
    } else if let Some(shell) = args.shell {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command(name), name, &mut script);
        std::io::stdout().write_all(&script)?;
    }
    Ok(0)
}
