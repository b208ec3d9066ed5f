//! `cc version`: the version of this command and of the contract it speaks. Refuses to call the daemon; `info` does.

use clap::Args;
use serde::Serialize;

use super::Context;
use crate::error::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cc version\n\nUnder the name cc, `cc --version` is the C compiler's.")]
pub struct VersionArgs {}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    contract: &'static str,
}

pub fn run(context: &Context, _: VersionArgs) -> Result<i32, Failure> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), contract: "cc.v1" };
    let text = format!("Container cloud {}, contract {}", version.version, version.contract);
    context.ui.line(&version, &text)?;
    Ok(0)
}
