//! This host's TLS identity: made at the first start, kept under `<state_dir>/tls`, keys with mode 0600. Refuses to serve
//! gRPC over anything but HTTP/2, and to be reached by clients that skip verification: there is a pin to give them
//! instead.
//!
//! The pin in the endpoint URL is the SHA-256 of the *server's* public key (its SubjectPublicKeyInfo), not of the CA: it is
//! the very hash that every request signature covers, so a request signed for one host is worthless at another. The CA
//! exists for other HTTPS clients (`--cacert ca.pem`). The certificate is issued anew at each start, for the names that
//! the configuration has now, and never expires in practice; the keys, and so the pin, stay.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::signing::to_hex;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tonic::Code;

use super::listen::ALPN_GRPC;
use crate::config::{Config, METRICS_DEFAULT};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot make the directory {path}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot make a key")]
    MakeKey { source: rcgen::Error },
    #[error("{path} does not hold a private key")]
    BadKey { path: PathBuf, source: rcgen::Error },
    #[error("cannot issue the certificate for {names}")]
    Issue { names: String, source: rcgen::Error },
    #[error("the TLS library refuses the certificate")]
    Rustls { source: rustls::Error },
}

pub struct Identity {
    /// SHA-256 of the server's SubjectPublicKeyInfo.
    pub pin: [u8; 32],
    pub server_config: Arc<rustls::ServerConfig>,
}

impl Identity {
    /// Opens the identity, or makes what is missing of it.
    pub fn open(config: &Config) -> Result<Self, TlsError> {
        let dir = config.state_dir.join("tls");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| TlsError::Directory { path: dir.clone(), source })?;
        let ca_key = key_at(&dir.join("ca.key"))?;
        let server_key = key_at(&dir.join("server.key"))?;
        let pin = Sha256::digest(server_key.subject_public_key_info()).into();

        let names = certificate_names(config);
        let issue_error = |source| TlsError::Issue { names: names.join(", "), source };
        let ca = CertifiedIssuer::self_signed(ca_params(), ca_key).map_err(issue_error)?;
        let mut params = CertificateParams::new(names.clone()).map_err(issue_error)?;
        params.distinguished_name.push(DnType::CommonName, "Container cloud host");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&server_key, &ca).map_err(issue_error)?;
        write_atomically(&dir.join("ca.pem"), ca.pem().as_bytes(), 0o644)?;

        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server_config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone(), ca.der().clone()], key)
            })
            .map_err(|source| TlsError::Rustls { source })?;
        // A browser offers both, and is to take the first: WebSockets are of HTTP/1.1. A gRPC client offers the second alone.
        server_config.alpn_protocols = vec![b"http/1.1".to_vec(), ALPN_GRPC.to_vec()];
        Ok(Identity { pin, server_config: Arc::new(server_config) })
    }

    /// The same identity for the door of the metrics, which is plain HTTPS: one request a connection needs no HTTP/2.
    pub fn for_http1(&self) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::clone(&self.server_config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// What a client is given: it names the port and the only key that may answer there.
    pub fn endpoint_url(&self, config: &Config, bound: SocketAddr) -> String {
        let host = match config.tls_names.first() {
            Some(name) if name.contains(':') => format!("[{name}]"),
            Some(name) => name.clone(),
            None => match bound {
                SocketAddr::V6(address) => format!("[{}]", address.ip()),
                SocketAddr::V4(address) => address.ip().to_string(),
            },
        };
        format!("https://{host}:{}#sha256={}", bound.port(), to_hex(&self.pin))
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Container cloud CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn certificate_names(config: &Config) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let addresses = config.listen.into_iter().chain(config.metrics_listen.address(METRICS_DEFAULT));
    names.extend(addresses.filter(|a| !a.ip().is_unspecified()).map(|a| a.ip().to_string()));
    names.extend(config.tls_names.iter().cloned());
    names.sort_unstable();
    names.dedup();
    names
}

fn key_at(path: &Path) -> Result<KeyPair, TlsError> {
    match std::fs::read_to_string(path) {
        Ok(pem) => {
            let pem = zeroize::Zeroizing::new(pem);
            KeyPair::from_pem(&pem).map_err(|source| TlsError::BadKey { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(|source| TlsError::MakeKey { source })?;
            write_atomically(path, zeroize::Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
            Ok(key)
        }
        Err(source) => Err(TlsError::Read { path: path.to_owned(), source }),
    }
}

/// Whole or not at all, also after a power loss: half a key would be a host that cannot start.
fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
    };
    write().map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

impl From<TlsError> for Fault {
    fn from(error: TlsError) -> Fault {
        let mut why = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            why = format!("{why}: {source}");
        }
        let next = match error {
            TlsError::BadKey { .. } => "restore it, or move it away: another is made, and clients need the new pin",
            TlsError::Issue { .. } => "check tls_names in the configuration file",
            _ => "check the state directory's permissions and space",
        };
        Fault::new(Code::FailedPrecondition, "tls.identity", "cannot serve TLS", why).next(next)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_pin_stays_and_the_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { state_dir: dir.path().to_owned(), ..Config::default() };
        let first = Identity::open(&config).unwrap();
        config.tls_names = vec!["cc.example".to_owned()];
        let second = Identity::open(&config).unwrap();
        assert_eq!(first.pin, second.pin, "other names, same key");
        for key in ["ca.key", "server.key"] {
            let mode = std::fs::metadata(dir.path().join("tls").join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        let url = second.endpoint_url(&config, "0.0.0.0:7443".parse().unwrap());
        assert_eq!(url, format!("https://cc.example:7443#sha256={}", to_hex(&first.pin)));
    }

    #[test]
    fn half_a_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tls")).unwrap();
        std::fs::write(dir.path().join("tls/server.key"), "-----BEGIN").unwrap();
        let config = Config { state_dir: dir.path().to_owned(), ..Config::default() };
        let fault = Fault::from(Identity::open(&config).err().unwrap());
        assert!(fault.why.contains("server.key"), "{fault:?}");
    }
}
