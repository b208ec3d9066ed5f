//! What goes into the package, below target/dist/stage, where cc-host/Cargo.toml names it: the programs, and the pages and completions that
//! they make of themselves. Refuses to be shared: one packing at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::process::{output, run as run_command};

/// What is built, and what it is called in the package.
const PROGRAMS: [(&str, &str); 4] =
    [("cc", "ccloud"), ("cc-host", "cc-host"), ("cc-shim", "cc-shim"), ("cc-oci", "cc-oci")];
/// Shells, the ends of their scripts' names, and what a script of `NAME` is called where the shell looks for it.
const SHELLS: [(&str, &str); 3] = [("bash", ".bash"), ("zsh", ""), ("fish", ".fish")];

pub struct Stage {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Stage {
    pub fn make(root: &Path, programs: &Path) -> Result<Stage> {
        let dir = root.join("target/dist/stage");
        std::fs::create_dir_all(root.join("target/dist")).context("cannot make target/dist")?;
        let file = File::create(root.join("target/dist/lock")).context("cannot make target/dist/lock")?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("cannot lock")?;
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        for place in ["bin", "man", "bash", "zsh", "fish", "made"] {
            std::fs::create_dir_all(dir.join(place)).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let stage = Stage { dir, _lock: lock };
        for (built, packed) in PROGRAMS {
            let (from, to) = (programs.join(built), stage.dir.join("bin").join(packed));
            std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            run_command(Command::new("strip").args(["--strip-unneeded", "--remove-section=.comment"]).arg(&to))?;
        }
        stage.pages_and_completions()?;
        Ok(stage)
    }

    fn pages_and_completions(&self) -> Result<()> {
        let made = self.dir.join("made");
        let ccloud = self.dir.join("bin/ccloud");
        output(Command::new(&ccloud).args(["completion", "--manual"]).arg(&made))?;
        for (shell, end) in SHELLS {
            let script = output(Command::new(&ccloud).args(["completion", shell]))?;
            let name = if shell == "zsh" { "_ccloud".to_owned() } else { format!("ccloud{end}") };
            std::fs::write(made.join(name), script).context("cannot write a completion script")?;
        }
        output(Command::new(self.dir.join("bin/cc-host")).arg("manual").arg(&made))?;
        for entry in std::fs::read_dir(&made).context("cannot list what the programs made")? {
            let path = entry.context("cannot list what the programs made")?.path();
            let name = path.file_name().and_then(|name| name.to_str()).context("a page has a strange name")?;
            let place = match name.rsplit_once('.') {
                Some((_, "1")) => format!("man/{name}"),
                Some((of, "bash")) => format!("bash/{of}"),
                Some((_, "fish")) => format!("fish/{name}"),
                None if name.starts_with('_') => format!("zsh/{name}"),
                _ => bail!("nobody knows what {name} is"),
            };
            std::fs::rename(&path, self.dir.join(place)).with_context(|| format!("cannot move {name}"))?;
        }
        std::fs::remove_dir(&made).context("cannot remove a directory")
    }

    /// Fails where a program has one of these directories in it.
    pub fn names_nothing_of(&self, dirs: &[PathBuf]) -> Result<()> {
        for (_, program) in PROGRAMS {
            let bytes = std::fs::read(self.dir.join("bin").join(program)).context("cannot read a program")?;
            for dir in dirs {
                let needle = dir.as_os_str().as_encoded_bytes();
                if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                    let end = (at + 160).min(bytes.len());
                    bail!("{program} names a path of this machine: {}", String::from_utf8_lossy(&bytes[at..end]));
                }
            }
        }
        Ok(())
    }
}
