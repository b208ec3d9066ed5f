//! Comparisons with others on this machine.
pub mod traffic;
#[derive(clap::Subcommand)]
pub enum Bench {
    Net,
    Start,
}
pub fn run(_: &std::path::Path, _: Bench) -> anyhow::Result<()> {
    Ok(())
}
