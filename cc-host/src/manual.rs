//! Manual pages and completion scripts of the programs on the daemon's side, made from their own command lines for whoever packs them.
//! Refuses to install them.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

/// Into a directory that exists.
pub fn write(daemon: Command, dir: &Path) -> io::Result<()> {
    one(daemon, dir)?;
    #[cfg(feature = "oci")]
    one(crate::oci::cli::Cli::command(), dir)?;
    Ok(())
}

fn one(mut command: Command, dir: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &name, dir)?;
    }
    clap_mangen::generate_to(command, dir)
}
