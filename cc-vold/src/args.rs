//! The command line, parsed at the door. Refuses credentials: those are the environment's.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::error::Refusal;
use crate::identity::Shape;
use crate::store::StoreUrl;

/// Serve a volume whose blocks are in an object store, as a file that a loop device can show. An experiment.
#[derive(Debug, Parser)]
#[command(name = "cc-vold", version)]
pub struct Cli {
    /// I know that this is an experiment, and that nothing that I cannot lose belongs here
    #[arg(long)]
    pub experimental: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one volume until it is unmounted; credentials are the environment's (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION)
    Serve(Serve),
    /// Remove one volume for good, with all that the store has of it; whoever serves it has lost it. One that is not there is no error
    Remove(Remove),
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Where volumes are: s3://BUCKET/PREFIX
    #[arg(long, value_parser = parse(StoreUrl::parse))]
    pub store: StoreUrl,
    /// Of an S3 that is not Amazon's, as in https://s3.example.org
    #[arg(long, env = "AWS_ENDPOINT_URL")]
    pub endpoint: Option<String>,
    #[arg(long, value_parser = parse(parse_name))]
    pub volume: String,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Where volumes are: s3://BUCKET/PREFIX
    #[arg(long, value_parser = parse(StoreUrl::parse))]
    pub store: StoreUrl,
    /// Of an S3 that is not Amazon's, as in https://s3.example.org
    #[arg(long, env = "AWS_ENDPOINT_URL")]
    pub endpoint: Option<String>,
    /// Its name: letters, digits and hyphens
    #[arg(long, value_parser = parse(parse_name))]
    pub volume: String,
    /// Make it if it is not there, with that many bytes, as in 10GiB. One that is there must have as many
    #[arg(long, value_parser = parse(parse_size))]
    pub size: Option<u64>,
    /// What is kept as one thing: 4096, 16384 or 65536. Of one that is there it is recorded
    #[arg(long, default_value_t = 4096, value_parser = parse(parse_block_size))]
    pub block_bytes: u32,
    /// An empty directory: the volume will be the file `image` in it
    #[arg(long)]
    pub mount: PathBuf,
    /// How long a flush or a read may take before it fails
    #[arg(long, default_value_t = 30)]
    pub patience_s: u64,
    /// Of blocks that were read, in memory
    #[arg(long, default_value_t = 64)]
    pub cache_mib: u64,
}

impl Serve {
    /// The volume to make, where none is.
    pub fn shape(&self) -> Option<Shape> {
        self.size.map(|size_bytes| Shape { size_bytes, block_bytes: self.block_bytes })
    }

    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.patience_s.max(1))
    }
}

/// clap wants what it keeps to be cloned, and says an error in one line.
fn parse<T>(by: fn(&str) -> Result<T, Refusal>) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| by(text).map_err(|refusal| refusal.to_string())
}

const NAME_BYTES_MAX: usize = 63;

fn parse_name(text: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fine = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('-');
    if fine { Ok(text.to_owned()) } else { Err(Refusal::Name(text.to_owned())) }
}

fn parse_size(text: &str) -> Result<u64, Refusal> {
    let refused = || Refusal::Size(text.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(refused()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(refused)?;
    if Shape::SIZES_BYTES.contains(&bytes) && bytes % 4096 == 0 { Ok(bytes) } else { Err(refused()) }
}

fn parse_block_size(text: &str) -> Result<u32, Refusal> {
    let bytes = text.parse().unwrap_or(0);
    if Shape::BLOCKS_BYTES.contains(&bytes) { Ok(bytes) } else { Err(Refusal::BlockSize(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_names_are_parsed_at_the_door() {
        assert_eq!(parse_size("1MiB").expect("a size"), 1 << 20);
        assert_eq!(parse_size("10GiB").expect("a size"), 10 << 30);
        for bad in ["", "0", "4096", "1GB", "1048577", "17TiB", "99999999999999999999", "1 GiB", "-1"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_name("db-1").expect("a name"), "db-1");
        for bad in ["", "-x", "A", "a/b", "..", &"a".repeat(64)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
        assert!(parse_block_size("4096").is_ok());
        assert!(parse_block_size("512").is_err());
    }
}
