//! `cargo xtask dist`: the Debian package of a release, in target/dist. Refuses to pack anything that names a path of the machine that
//! built it.

mod pack;
mod stage;
pub mod twice;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build;
use crate::process::{ask, output};
use crate::setup;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Pack the programs of this directory as they are, instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Where the package goes instead of target/dist
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Compress quickly, for tests
    #[arg(long, hide = true)]
    fast: bool,
    /// Build what is committed twice, in two directories, and compare the bytes of the packages
    #[arg(long, conflicts_with = "programs")]
    verify: bool,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    if options.verify {
        return twice::run(root).map(|told| println!("{told}"));
    }
    let out = options.out.clone().unwrap_or_else(|| root.join("target/dist"));
    let built = match &options.programs {
        Some(programs) => programs.clone(),
        None => {
            setup::run(root, setup::For::Demo)?;
            build::for_package(root, &root.join("target/dist/build"))?
        }
    };
    let stage = stage::Stage::make(root, &built)?;
    if options.programs.is_none() {
        stage.names_nothing_of(&[root.to_owned(), cargo_home()])?;
    }
    let package = pack::run(root, &stage, &out, options.fast)?;
    println!("{}", package.display());
    Ok(())
}

/// Programs as they are, quickly: for tests.
pub fn pack_programs(root: &Path, programs: &Path, out: &Path) -> Result<PathBuf> {
    let stage = stage::Stage::make(root, programs)?;
    pack::run(root, &stage, out, true)
}

/// Where cargo keeps the sources of crates.
pub fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// The time of everything in a package: that of the commit, so that whoever builds it has the same.
fn source_date_epoch(root: &Path) -> Result<String> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(given);
    }
    let said = output(Command::new("git").current_dir(root).args(["log", "-1", "--format=%ct"]));
    said.map(|text| text.trim().to_owned()).context("there is no commit to take the time from; set SOURCE_DATE_EPOCH")
}

/// As Debian names it.
fn architecture() -> String {
    ask("dpkg", &["--print-architecture"]).map_or_else(|| "amd64".to_owned(), |text| text.trim().to_owned())
}
