//! Debian's kernels: found in its archive, downloaded and unpacked below target/vm/kernels. Refuses to install one: nothing of this machine
//! changes, and its apt keeps its own lists.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{output, run as run_command};

/// Where the series that are asked for come from: 6.1 from bookworm, 6.12 from trixie, the newest from trixie's backports.
const SOURCES: &str = "\
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm trixie trixie-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

const PREFIX: &str = "linux-image-";
const FLAVOUR: &str = "-cloud-amd64";

/// What is asked for: the last of a series, or the last of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Series {
    Newest,
    Of(String),
}

/// One that is here.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    pub image: PathBuf,
    /// With lib/modules/RELEASE in it.
    pub tree: PathBuf,
}

impl Kernel {
    /// Its first two numbers.
    pub fn series(&self) -> (u64, u64) {
        let numbers = version(&self.release);
        (numbers.first().copied().unwrap_or(0), numbers.get(1).copied().unwrap_or(0))
    }
}

impl Series {
    pub fn parse(text: &str) -> Result<Series> {
        if text == "newest" {
            return Ok(Series::Newest);
        }
        let numbers: Vec<&str> = text.split('.').collect();
        if numbers.len() != 2 || numbers.iter().any(|number| number.parse::<u32>().is_err()) {
            bail!("{text} names no series of kernels: those are such as 6.12, or newest");
        }
        Ok(Series::Of(text.to_owned()))
    }

    pub fn name(&self) -> &str {
        match self {
            Series::Newest => "newest",
            Series::Of(name) => name,
        }
    }

    fn has(&self, release: &str) -> bool {
        match self {
            Series::Newest => true,
            Series::Of(name) => release.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.')),
        }
    }
}

/// What is here already stays; `rm -r target/vm/kernels` makes the next run look for newer ones.
pub fn fetch(root: &Path, series: &Series) -> Result<Kernel> {
    let kept = root.join("target/vm/kernels").join(series.name());
    if let Some(kernel) = unpacked(&kept) {
        return Ok(kernel);
    }
    let apt = Apt::new(root)?;
    let release = apt.newest(series)?;
    let fresh = kept.with_file_name(format!("{}.new", series.name()));
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).with_context(|| format!("cannot remove {}", fresh.display()))?;
    }
    let debs = fresh.join("debs");
    std::fs::create_dir_all(&debs).with_context(|| format!("cannot make {}", debs.display()))?;
    let tree = fresh.join(&release);
    run_command(apt.command("apt-get").arg("download").args(apt.packages(&release)?).current_dir(&debs))?;
    for deb in std::fs::read_dir(&debs).context("cannot list what apt-get downloaded")? {
        let deb = deb.context("cannot list what apt-get downloaded")?.path();
        run_command(Command::new("dpkg").arg("-x").arg(&deb).arg(&tree))?;
    }
    std::fs::remove_dir_all(&debs).context("cannot remove the packages")?;
    // Where modprobe looks for them depends on who built it.
    let (old, new) = (tree.join("lib"), tree.join("usr/lib"));
    if old.exists() {
        std::fs::create_dir_all(tree.join("usr")).context("cannot make a directory")?;
        std::fs::rename(&old, &new).context("cannot move the modules")?;
    }
    std::os::unix::fs::symlink("usr/lib", &old).context("cannot make a symlink")?;
    run_command(Command::new("/sbin/depmod").arg("-b").arg(&tree).arg(&release))?;
    std::fs::rename(&fresh, &kept).with_context(|| format!("cannot rename {}", fresh.display()))?;
    unpacked(&kept).with_context(|| format!("the packages of {release} have no kernel"))
}

fn unpacked(dir: &Path) -> Option<Kernel> {
    let tree = std::fs::read_dir(dir).ok()?.flatten().next()?.path();
    let release = tree.file_name()?.to_str()?.to_owned();
    let places = [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
    let image = places.into_iter().map(|place| tree.join(place)).find(|image| image.exists())?;
    Some(Kernel { release, image, tree })
}

/// Lists of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(root: &Path) -> Result<Apt> {
        let dir = root.join("target/vm/apt");
        for place in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(place)).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let sources = dir.join("debian.sources");
        std::fs::write(&sources, SOURCES).with_context(|| format!("cannot write {}", sources.display()))?;
        let options = [
            ("Dir::Etc::sourcelist", sources.display().to_string()),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State::lists", dir.join("lists").display().to_string()),
            ("Dir::Cache", dir.join("cache").display().to_string()),
            ("Acquire::Languages", "none".to_owned()),
        ];
        let options =
            options.into_iter().flat_map(|(key, value)| ["-o".to_owned(), format!("{key}={value}")]).collect();
        let apt = Apt { options };
        run_command(apt.command("apt-get").args(["update", "-q"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    fn newest(&self, series: &Series) -> Result<String> {
        let names = output(self.command("apt-cache").args(["pkgnames", PREFIX]))?;
        let releases =
            names.lines().filter_map(|name| name.strip_prefix(PREFIX)).filter(|name| name.ends_with(FLAVOUR));
        let releases = releases.filter(|release| series.has(release) && version(release).len() >= 3);
        releases
            .max_by_key(|release| version(release))
            .map(str::to_owned)
            .with_context(|| format!("Debian's archive has no kernel {} for clouds", series.name()))
    }

    /// The image, and what it is split into in newer releases.
    fn packages(&self, release: &str) -> Result<Vec<String>> {
        let image = format!("{PREFIX}{release}");
        let shown = output(self.command("apt-cache").args(["show", "--no-all-versions", &image]))?;
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        let parts = depends.split([',', '|']).filter_map(|part| part.split_whitespace().next());
        let parts = parts.filter(|name| name.ends_with(release)).map(str::to_owned);
        Ok(std::iter::once(image.clone()).chain(parts).collect())
    }
}

/// `6.12.117+deb13-cloud-amd64` is [6, 12, 117, 13]; a name without a patch level, as of a meta-package, has two numbers.
fn version(release: &str) -> Vec<u64> {
    let numbers = release.strip_suffix(FLAVOUR).unwrap_or(release).split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        let newest = ["6.12.9+deb13-cloud-amd64", "6.12.117+deb13-cloud-amd64"];
        assert_eq!(newest.into_iter().max_by_key(|release| version(release)), Some(newest[1]));
        assert_eq!(version("6.12-cloud-amd64"), [6, 12]);
    }

    #[test]
    fn a_series_has_its_own_releases_alone() {
        let series = Series::parse("6.1").unwrap();
        assert!(series.has("6.1.0-50-cloud-amd64") && !series.has("6.12.117+deb13-cloud-amd64"));
        assert!(Series::parse("newest").unwrap().has("7.3.4+deb13-cloud-amd64"));
        assert!(Series::parse("six").is_err() && Series::parse("6.1.2").is_err());
    }
}
