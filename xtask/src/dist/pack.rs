//! From the stage to a package, by cargo-deb and what cc-host/Cargo.toml says. Refuses to build anything.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::stage::Stage;
use crate::process::run as run_command;
use crate::tools;

pub fn run(root: &Path, _stage: &Stage, out: &Path, fast: bool) -> Result<PathBuf> {
    let tool = tools::install_cargo_deb(root)?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    let package = out.join(format!("ccloud_{version}-1_{}.deb", super::architecture()));
    let mut command = Command::new(tool);
    // By xz's own program, which is as fast as it was built; of one thread the bytes are always the same.
    command.current_dir(root).args(["--package", "cc-host", "--no-build", "--no-strip", "--locked", "--quiet"]);
    command.args(fast.then_some("--fast")).args(["--compress-system", "--output"]).arg(&package);
    command.env("SOURCE_DATE_EPOCH", super::source_date_epoch(root)?).env("XZ_DEFAULTS", "--threads=1");
    run_command(&mut command)?;
    Ok(package)
}
