//! A program that is to run in a container which runs already, as the daemon writes it into a file beside the container's own
//! specification. Refuses what the container's specification says already.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::spec::{SPEC_BYTES_MAX, SpecError};
use super::terminal::Size;

/// `exec-` before, `.json` behind; between them letters and digits.
const PREFIX: &str = "exec-";
const SUFFIX: &str = ".json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// Beside the container's own, and instead of those of the same name.
    pub env: Vec<String>,
    /// Empty means the container's.
    pub cwd: String,
    /// Empty means the container's.
    pub user: String,
    pub stdin: bool,
    /// In a terminal of this size, instead of pipes.
    pub terminal: Option<Size>,
    /// Whoever asked does not stay: a terminal is not hung up by that.
    pub detach: bool,
    /// Nobody but whoever asked wants it: with the connection it is killed, and what it started in its process group. Shims of earlier
    /// versions do not know the word, and are not told it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bound: bool,
}

impl ExecSpec {
    /// A name that `take` accepts.
    pub fn file_name(number: u64) -> String {
        format!("{PREFIX}{number}{SUFFIX}")
    }

    pub fn store(&self, path: &Path) -> Result<(), SpecError> {
        self.check()?;
        let write = || {
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            Ok(serde_json::to_writer(file, self)?)
        };
        write().map_err(|source| SpecError::Write { path: path.into(), source })
    }

    /// Reads it and removes it: it is for one program, and may hold what nobody else should see.
    pub fn take(dir: &Path, name: &str) -> Result<ExecSpec, SpecError> {
        if !is_file_name(name) {
            return Err(SpecError::Invalid("its file has another name than such files have"));
        }
        let path = dir.join(name);
        let failed = |source| SpecError::Read { path: path.clone(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&path).map_err(failed)?;
        file.take(SPEC_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        if bytes.len() as u64 > SPEC_BYTES_MAX {
            return Err(SpecError::TooLarge { path });
        }
        let spec: ExecSpec = serde_json::from_slice(&bytes).map_err(|source| SpecError::Parse { path, source })?;
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), SpecError> {
        let has_nul = |text: &String| text.contains('\0');
        if self.args.first().is_none_or(String::is_empty) {
            return Err(SpecError::Invalid("it names no program"));
        }
        if self.args.iter().chain(&self.env).chain([&self.cwd, &self.user]).any(has_nul) {
            return Err(SpecError::Invalid("an argument, a variable, the directory or the user holds a NUL"));
        }
        if !self.cwd.is_empty() && !self.cwd.starts_with('/') {
            return Err(SpecError::Invalid("the working directory is not absolute"));
        }
        Ok(())
    }
}

fn is_file_name(name: &str) -> bool {
    let middle = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    middle.is_some_and(|middle| !middle.is_empty() && middle.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ExecSpec {
        let args = vec!["sh".to_owned()];
        ExecSpec {
            args,
            env: vec![],
            cwd: String::new(),
            user: String::new(),
            stdin: true,
            terminal: None,
            detach: false,
            bound: false,
        }
    }

    #[test]
    fn it_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let name = ExecSpec::file_name(7);
        spec().store(&dir.path().join(&name)).unwrap();
        assert_eq!(ExecSpec::take(dir.path(), &name).unwrap(), spec());
        assert!(matches!(ExecSpec::take(dir.path(), &name), Err(SpecError::Read { .. })));
    }

    #[test]
    fn no_other_file_is_read_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["spec.json", "exec-.json", "exec-../x.json", "exec-1.json/", "", "exec-1"] {
            assert!(matches!(ExecSpec::take(dir.path(), name), Err(SpecError::Invalid(_))), "{name}");
        }
    }

    #[test]
    fn what_the_kernel_could_not_take_is_refused() {
        type Spoil = fn(&mut ExecSpec);
        let spoilers: [Spoil; 4] =
            [|s| s.args.clear(), |s| s.cwd = "tmp".into(), |s| s.env.push("A=\0".into()), |s| s.user = "\0".into()];
        for (index, spoil) in spoilers.iter().enumerate() {
            let mut bad = spec();
            spoil(&mut bad);
            assert!(matches!(bad.check(), Err(SpecError::Invalid(_))), "spoiler {index}");
        }
    }
}
