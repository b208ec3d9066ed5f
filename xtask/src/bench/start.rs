//! stub
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
}
pub fn run(_: &std::path::Path, _: &Options) -> anyhow::Result<()> {
    Ok(())
}
