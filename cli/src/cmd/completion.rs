//! `cc completion`: a shell's completion script. Refuses to install it.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::Failure;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  source <(cc completion bash)\n  cc completion fish > ~/.config/fish/completions/cc.fish"
)]
pub struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

pub fn run(args: CompletionArgs) -> Result<i32, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cc", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(0)
}
