//! The registry credentials of this user, in `$XDG_CONFIG_HOME/cc/auth.json`. Refuses files that others can read, and to
//! give one registry another's password.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cc_common::api::fault::Fault;
use cc_common::api::v1::RegistryAuth;
use serde::{Deserialize, Serialize};
use tonic::Code;

use crate::error::chain;

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("neither XDG_CONFIG_HOME nor HOME is set")]
    NoHome,
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} can be read by others")]
    Exposed { path: PathBuf },
    #[error("{path} is not valid JSON of ours")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

impl From<CredentialsError> for Fault {
    fn from(error: CredentialsError) -> Fault {
        let next = match &error {
            CredentialsError::Exposed { path } => format!("chmod 600 {}", path.display()),
            CredentialsError::Parse { path, .. } => format!("remove {} and log in again", path.display()),
            CredentialsError::NoHome => "set HOME".to_owned(),
            CredentialsError::Read { .. } | CredentialsError::Write { .. } => String::new(),
        };
        Fault::new(Code::FailedPrecondition, "cli.credentials", "cannot use the registry credentials", chain(&error))
            .next(next)
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Store {
    registries: BTreeMap<String, Login>,
}

#[derive(Serialize, Deserialize)]
struct Login {
    username: String,
    password: String,
}

pub fn default_path() -> Result<PathBuf, CredentialsError> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| home.join(".config")));
    Ok(config.ok_or(CredentialsError::NoHome)?.join("cc/auth.json"))
}

/// What belongs to the registry that the reference names; None is an anonymous pull.
pub fn for_reference(path: &Path, reference: &str) -> Result<Option<RegistryAuth>, CredentialsError> {
    let mut store = read(path)?;
    let login = store.registries.remove(&registry_of(reference));
    Ok(login.map(|login| RegistryAuth { username: login.username, password: login.password }))
}

pub fn remember(path: &Path, registry: &str, username: &str, password: &str) -> Result<(), CredentialsError> {
    let mut store = read(path)?;
    let login = Login { username: username.to_owned(), password: password.to_owned() };
    store.registries.insert(canonical(registry), login);
    write(path, &store).map_err(|source| CredentialsError::Write { path: path.to_owned(), source })
}

/// The first component is a host if it looks like one; docker.io otherwise, as for every other tool.
pub fn registry_of(reference: &str) -> String {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => canonical(host),
        _ => "docker.io".to_owned(),
    }
}

fn canonical(registry: &str) -> String {
    let host = registry.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host).to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

fn read(path: &Path) -> Result<Store, CredentialsError> {
    let read_error = |source| CredentialsError::Read { path: path.to_owned(), source };
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Store::default()),
        Err(source) => return Err(read_error(source)),
    };
    if file.metadata().map_err(read_error)?.permissions().mode() & 0o077 != 0 {
        return Err(CredentialsError::Exposed { path: path.to_owned() });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(read_error)?;
    serde_json::from_str(&text).map_err(|source| CredentialsError::Parse { path: path.to_owned(), source })
}

/// By rename, so that a reader never sees half a file; the name is this process's own.
fn write(path: &Path, store: &Store) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let temporary = dir.join(format!(".auth.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(store)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_for_its_registry_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cc/auth.json");
        remember(&path, "https://registry.example:5000/v2/", "ann", "secret").unwrap();
        let found = |reference| for_reference(&path, reference).unwrap().map(|auth| auth.username);
        assert_eq!(found("registry.example:5000/a/b:1").as_deref(), Some("ann"));
        assert_eq!(found("registry.example/a/b:1"), None);
        assert_eq!(found("debian:12"), None);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn an_exposed_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        remember(&path, "docker.io", "ann", "secret").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(for_reference(&path, "debian"), Err(CredentialsError::Exposed { .. })));
    }

    #[test]
    fn docker_hub_has_many_names() {
        for reference in ["debian", "library/debian:12", "docker.io/library/debian", "index.docker.io/library/debian"] {
            assert_eq!(registry_of(reference), "docker.io", "{reference}");
        }
        assert_eq!(registry_of("localhost/x"), "localhost");
    }
}
