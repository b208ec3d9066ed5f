//! What is read of a config.json, without a bundle around it, for the fuzz targets. Refuses to be in the runtime.

use std::path::PathBuf;

use super::config::Config;
use super::error::OciError;

/// What would be done, as far as it can be held against the text.
#[derive(Debug)]
pub struct Taken {
    pub process: Option<Process>,
    pub hostname: Option<String>,
    pub targets: Vec<String>,
    /// Masked, and shown for reading alone.
    pub closed: Vec<String>,
    pub settings: usize,
}

#[derive(Debug)]
pub struct Process {
    pub arguments: Vec<String>,
    pub variables: Vec<String>,
    pub directory: String,
    pub user: u32,
    pub group: u32,
    pub groups: Vec<u32>,
}

pub fn read(text: &[u8]) -> Result<Taken, OciError> {
    let config = Config::check(PathBuf::from("/bundle"), text.to_vec(), |root| Ok(root.to_owned()))?;
    let process = config.process.map(|plan| Process {
        arguments: plan.args,
        variables: plan.env,
        directory: plan.cwd,
        user: plan.uid,
        group: plan.gid,
        groups: plan.groups,
    });
    Ok(Taken {
        process,
        hostname: config.hostname,
        targets: config.mounts.into_iter().map(|mount| mount.target).collect(),
        closed: [config.masked, config.read_only_paths].concat(),
        settings: config.settings.len(),
    })
}
