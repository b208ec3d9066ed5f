//! Daemons under names of this user's, in `$XDG_CONFIG_HOME/cc/contexts.json`. Refuses to keep a secret: only where one is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use cc_common::api::fault::Fault;
use serde::{Deserialize, Serialize};
use tonic::Code;

use crate::args::Globals;
use crate::client::{DEFAULT_ENDPOINT, Endpoint, EndpointError};
use crate::error::chain;
use crate::private_file;
use crate::secret::{self, Origin};

/// The daemon of this machine, which is there without being added.
pub const LOCAL: &str = "local";
const NAME_LEN_MAX: usize = 63;

#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("neither XDG_CONFIG_HOME nor HOME is set")]
    NoHome,
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} can be read by others", path.display())]
    Exposed { path: PathBuf },
    #[error("{} is not valid JSON of ours", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("there is no context {0:?}")]
    Unknown(String),
    #[error("there is a context {0:?} already")]
    Taken(String),
    #[error("{0:?} is no name of a context: letters, digits, -, _ and ., at most {NAME_LEN_MAX}")]
    BadName(String),
    #[error("{0:?} is no endpoint")]
    Endpoint(String, #[source] EndpointError),
    #[error("a context keeps no secret")]
    Secret,
    #[error("an access key's id and its secret belong together")]
    HalfAKey,
    #[error("a context is named, and a daemon or a key beside it")]
    Both,
}

impl From<ContextError> for Fault {
    fn from(error: ContextError) -> Fault {
        let next = match &error {
            ContextError::NoHome => "set HOME".to_owned(),
            ContextError::Exposed { path } => format!("chmod 600 {}", path.display()),
            ContextError::Parse { path, .. } => format!("remove {} and add its contexts again", path.display()),
            ContextError::Unknown(_) => "see cc context list".to_owned(),
            ContextError::Taken(name) => format!("cc context remove {name}"),
            ContextError::Secret => "name its file: --cc-secret-key @FILE".to_owned(),
            ContextError::Both => "give --cc-context, or the daemon and its key".to_owned(),
            ContextError::HalfAKey => "give --cc-access-token and --cc-secret-key @FILE".to_owned(),
            ContextError::Endpoint(..) => "give unix:///PATH or https://HOST:7443#sha256=FINGERPRINT".to_owned(),
            ContextError::Read { .. } | ContextError::Write { .. } | ContextError::BadName(_) => String::new(),
        };
        let code = match &error {
            ContextError::Unknown(_) => Code::NotFound,
            ContextError::Taken(_) => Code::AlreadyExists,
            ContextError::BadName(_)
            | ContextError::Endpoint(..)
            | ContextError::Secret
            | ContextError::HalfAKey
            | ContextError::Both => Code::InvalidArgument,
            _ => Code::FailedPrecondition,
        };
        Fault::new(code, "cli.context", "cannot use contexts", chain(&error)).next(next)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    pub endpoint: String,
    /// The id of an access key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Where its secret is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

impl Daemon {
    /// Of what the command line says, and the environment.
    pub fn of(globals: &Globals) -> Result<Daemon, ContextError> {
        let endpoint = globals.cc_endpoint_url.clone().unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Endpoint::parse(&endpoint).map_err(|source| ContextError::Endpoint(endpoint.clone(), source))?;
        let secret_file = match globals.cc_secret_key.as_deref().map(secret::origin) {
            None => None,
            Some(Origin::File(path)) => {
                let absolute = std::path::absolute(path);
                Some(absolute.map_err(|source| ContextError::Read { path: path.into(), source })?)
            }
            Some(Origin::Stdin | Origin::Literal(_)) => return Err(ContextError::Secret),
        };
        if globals.cc_access_token.is_some() != secret_file.is_some() {
            return Err(ContextError::HalfAKey);
        }
        let (access_token, project) = (globals.cc_access_token.clone(), globals.cc_project.clone());
        Ok(Daemon { endpoint, access_token, secret_file, project })
    }
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// None: this machine's daemon.
    pub current: Option<String>,
    pub contexts: BTreeMap<String, Daemon>,
}

pub fn default_path() -> Result<PathBuf, ContextError> {
    Ok(private_file::config_dir().ok_or(ContextError::NoHome)?.join("contexts.json"))
}

impl Contexts {
    pub fn read(path: &Path) -> Result<Contexts, ContextError> {
        let path = path.to_owned();
        match private_file::read(&path) {
            Ok(None) => Ok(Contexts::default()),
            Ok(Some(text)) => serde_json::from_str(&text).map_err(|source| ContextError::Parse { path, source }),
            Err(private_file::Error::Exposed) => Err(ContextError::Exposed { path }),
            Err(private_file::Error::Io(source)) => Err(ContextError::Read { path, source }),
        }
    }

    pub fn write(&self, path: &Path) -> Result<(), ContextError> {
        let text = serde_json::to_vec_pretty(self).expect("names and paths of ours can be written as JSON");
        private_file::write(path, &text).map_err(|source| ContextError::Write { path: path.to_owned(), source })
    }

    pub fn add(&mut self, name: &str, daemon: Daemon) -> Result<(), ContextError> {
        let is_word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if name.is_empty() || name.len() > NAME_LEN_MAX || !is_word {
            return Err(ContextError::BadName(name.to_owned()));
        }
        if name == LOCAL || self.contexts.contains_key(name) {
            return Err(ContextError::Taken(name.to_owned()));
        }
        self.contexts.insert(name.to_owned(), daemon);
        Ok(())
    }

    pub fn choose(&mut self, name: &str) -> Result<(), ContextError> {
        self.get(name)?;
        self.current = (name != LOCAL).then(|| name.to_owned());
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<(), ContextError> {
        self.contexts.remove(name).ok_or_else(|| ContextError::Unknown(name.to_owned()))?;
        self.current.take_if(|current| current == name);
        Ok(())
    }

    /// None: this machine's daemon.
    pub fn get(&self, name: &str) -> Result<Option<&Daemon>, ContextError> {
        if name == LOCAL {
            return Ok(None);
        }
        self.contexts.get(name).map(Some).ok_or_else(|| ContextError::Unknown(name.to_owned()))
    }
}

/// Where each part of what a command was given came from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given {
    /// The context, by a flag.
    pub context_by_flag: bool,
    /// The endpoint, the key or its secret, by a flag.
    pub daemon_by_flag: bool,
}

/// Whom a command is for: the daemon that its flags name; else its context's; else the environment's; else the chosen one; else this
/// machine's. Endpoint, key and secret belong together: never is one daemon spoken to with another's key.
pub fn resolve(globals: Globals, given: Given) -> Result<Globals, ContextError> {
    if given.context_by_flag && given.daemon_by_flag {
        return Err(ContextError::Both);
    }
    let names_one =
        globals.cc_endpoint_url.is_some() || globals.cc_access_token.is_some() || globals.cc_secret_key.is_some();
    if given.daemon_by_flag || (globals.cc_context.is_none() && names_one) {
        return Ok(globals);
    }
    let path = match (default_path(), &globals.cc_context) {
        (Ok(path), _) => path,
        // Nobody has chosen one.
        (Err(_), None) => return Ok(globals),
        (Err(error), Some(_)) => return Err(error),
    };
    fill(globals, &Contexts::read(&path)?)
}

fn fill(globals: Globals, contexts: &Contexts) -> Result<Globals, ContextError> {
    let Some(name) = globals.cc_context.clone().or_else(|| contexts.current.clone()) else { return Ok(globals) };
    let daemon = contexts.get(&name)?;
    let of = |part: fn(&Daemon) -> Option<String>| daemon.and_then(part);
    Ok(Globals {
        cc_endpoint_url: of(|daemon| Some(daemon.endpoint.clone())),
        cc_access_token: of(|daemon| daemon.access_token.clone()),
        cc_secret_key: of(|daemon| daemon.secret_file.as_ref().map(|path| format!("@{}", path.display()))),
        cc_project: globals.cc_project.or_else(|| daemon.and_then(|daemon| daemon.project.clone())),
        ..globals
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(endpoint: &str) -> Daemon {
        Daemon {
            endpoint: endpoint.to_owned(),
            access_token: Some("cca_1".to_owned()),
            secret_file: Some("/home/ann/key".into()),
            project: Some("blue".to_owned()),
        }
    }

    #[test]
    fn a_context_is_added_chosen_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cc/contexts.json");
        let mut contexts = Contexts::read(&path).unwrap();
        contexts.add("far", daemon("/far.sock")).unwrap();
        assert!(matches!(contexts.add("far", daemon("/x")), Err(ContextError::Taken(_))));
        assert!(matches!(contexts.add(LOCAL, daemon("/x")), Err(ContextError::Taken(_))));
        for name in ["", "a b", "a/b", &"x".repeat(64)] {
            assert!(matches!(contexts.add(name, daemon("/x")), Err(ContextError::BadName(_))), "{name:?}");
        }
        assert!(matches!(contexts.choose("near"), Err(ContextError::Unknown(_))));
        contexts.choose("far").unwrap();
        contexts.write(&path).unwrap();
        let mut again = Contexts::read(&path).unwrap();
        assert_eq!(again, contexts);
        again.choose(LOCAL).unwrap();
        assert_eq!(again.current, None);
        contexts.remove("far").unwrap();
        assert_eq!(contexts, Contexts::default(), "and it is chosen no more");
    }

    #[test]
    fn what_the_command_line_says_goes_first() {
        let mut contexts = Contexts::default();
        contexts.add("far", daemon("/far.sock")).unwrap();
        contexts.add("near", Daemon { project: None, ..daemon("/near.sock") }).unwrap();
        contexts.choose("far").unwrap();
        let filled = fill(Globals::default(), &contexts).unwrap();
        assert_eq!(filled.cc_endpoint_url.as_deref(), Some("/far.sock"));
        assert_eq!(filled.cc_secret_key.as_deref(), Some("@/home/ann/key"));
        assert_eq!(filled.cc_project.as_deref(), Some("blue"));
        let named = |context: &str| Globals {
            cc_context: Some(context.to_owned()),
            cc_project: Some("red".to_owned()),
            ..Globals::default()
        };
        let filled = fill(named("near"), &contexts).unwrap();
        assert_eq!(
            (filled.cc_endpoint_url.as_deref(), filled.cc_project.as_deref()),
            (Some("/near.sock"), Some("red"))
        );
        assert_eq!(fill(named(LOCAL), &contexts).unwrap().cc_endpoint_url, None);
        // Of the environment's daemon nothing is left beside a context, and a flag's is not mixed with one.
        let elsewhere = |globals: Globals| Globals {
            cc_endpoint_url: Some("/prod.sock".to_owned()),
            cc_access_token: Some("cck_prod".to_owned()),
            cc_secret_key: Some("@/prod".to_owned()),
            ..globals
        };
        let filled = fill(elsewhere(named("near")), &contexts).unwrap();
        let parts = [filled.cc_endpoint_url, filled.cc_access_token, filled.cc_secret_key];
        assert_eq!(parts.map(Option::unwrap), ["/near.sock", "cca_1", "@/home/ann/key"]);
        let filled = fill(elsewhere(named(LOCAL)), &contexts).unwrap();
        assert_eq!((filled.cc_endpoint_url, filled.cc_secret_key), (None, None));
        let both = Given { context_by_flag: true, daemon_by_flag: true };
        assert!(matches!(resolve(elsewhere(named("near")), both), Err(ContextError::Both)));
        let flag = Given { context_by_flag: false, daemon_by_flag: true };
        let kept = resolve(elsewhere(named("near")), flag).unwrap();
        assert_eq!(kept.cc_endpoint_url.as_deref(), Some("/prod.sock"));
        assert!(matches!(fill(named("gone"), &contexts), Err(ContextError::Unknown(_))));
    }

    #[test]
    fn no_secret_is_kept() {
        let with = |secret: Option<&str>, token: Option<&str>| {
            let (cc_secret_key, cc_access_token) = (secret.map(str::to_owned), token.map(str::to_owned));
            Daemon::of(&Globals { cc_secret_key, cc_access_token, ..Globals::default() })
        };
        assert!(matches!(with(Some("ccs_x"), Some("t")), Err(ContextError::Secret)));
        assert!(matches!(with(Some("-"), Some("t")), Err(ContextError::Secret)));
        assert!(matches!(with(None, Some("t")), Err(ContextError::HalfAKey)));
        assert_eq!(with(Some("@/k"), Some("t")).unwrap().secret_file, Some("/k".into()));
        let bad = Globals { cc_endpoint_url: Some("http://x".to_owned()), ..Globals::default() };
        assert!(matches!(Daemon::of(&bad), Err(ContextError::Endpoint(..))));
    }
}
