//! The registry credentials of this user, in `$XDG_CONFIG_HOME/cc/auth.json`. Refuses files that others can read, and to
//! give one registry another's password.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use cc_common::api::fault::Fault;
use cc_common::api::v1::RegistryAuth;
use serde::{Deserialize, Serialize};
use tonic::Code;

use crate::error::chain;
use crate::private_file;

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
    Ok(private_file::config_dir().ok_or(CredentialsError::NoHome)?.join("auth.json"))
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
    match private_file::read(path) {
        Ok(None) => Ok(Store::default()),
        Ok(Some(text)) => {
            serde_json::from_str(&text).map_err(|source| CredentialsError::Parse { path: path.to_owned(), source })
        }
        Err(private_file::Error::Exposed) => Err(CredentialsError::Exposed { path: path.to_owned() }),
        Err(private_file::Error::Io(source)) => Err(CredentialsError::Read { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, store: &Store) -> io::Result<()> {
    private_file::write(path, &serde_json::to_vec_pretty(store)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

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
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
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
