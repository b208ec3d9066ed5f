//! References: what a user types, its one normal form, and its key in the store. Refuses to reach a registry.

use oci_client::Reference;

use super::error::ImageError;
use super::limits::REFERENCE_BYTES_MAX;
use crate::ids::Project;

/// Hosts that may be spoken to without TLS although nobody asked for it: they never leave this machine.
pub fn is_loopback(registry: &str) -> bool {
    let host = registry
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map_or_else(|| registry.rsplit_once(':').map_or(registry, |(host, _)| host), |(host, _)| host);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The full form of a registry reference: `nginx` becomes `docker.io/library/nginx:latest`.
pub fn parse(text: &str) -> Result<Reference, ImageError> {
    check(text)?;
    text.parse().map_err(|e| ImageError::Reference { reference: text.to_owned(), reason: format!("{e}") })
}

/// A name that `load` was told: anything printable.
pub fn check(text: &str) -> Result<(), ImageError> {
    let refuse = |reason: String| Err(ImageError::Reference { reference: text.chars().take(80).collect(), reason });
    if text.is_empty() {
        return refuse("it is empty".to_owned());
    }
    if text.len() > REFERENCE_BYTES_MAX {
        return refuse(format!("it has {} bytes, more than {REFERENCE_BYTES_MAX}", text.len()));
    }
    match text.chars().find(|c| c.is_control() || c.is_whitespace()) {
        Some(bad) => refuse(format!("it holds {bad:?}")),
        None => Ok(()),
    }
}

/// The form under which an image is kept: a registry reference in full, anything else as it is.
pub fn normal(text: &str) -> Result<String, ImageError> {
    check(text)?;
    if is_digest(text) {
        return Ok(text.to_owned());
    }
    Ok(text.parse::<Reference>().map_or_else(|_| text.to_owned(), |reference| reference.whole()))
}

/// `sha256:` and 64 lower-case hexadecimal digits: the only digests that we accept, so that one becomes a file name as it is.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

pub fn project_prefix(project: &Project) -> String {
    format!("images/{project}/")
}

/// `/` and everything unusual is percent-encoded: a reference is one segment of the key.
pub fn key(project: &Project, reference: &str) -> String {
    let mut key = project_prefix(project);
    for byte in reference.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b':' | b'@' => key.push(byte as char),
            _ => key.push_str(&format!("%{byte:02X}")),
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_full() {
        assert_eq!(normal("nginx").unwrap(), "docker.io/library/nginx:latest");
        assert_eq!(normal("team/app:1").unwrap(), "docker.io/team/app:1");
        assert_eq!(normal("127.0.0.1:5000/app").unwrap(), "127.0.0.1:5000/app:latest");
        assert_eq!(normal("oci:dir:tag:more").unwrap(), "oci:dir:tag:more");
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1:5000", "docker.io", "127.0.0.1.example:80", "[::2]:1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_reference_is_one_segment_of_the_key() {
        let project = crate::ids::default_project();
        assert_eq!(key(&project, "a.b/c:1"), "images/default/a.b%2Fc:1");
        assert_ne!(key(&project, "a%2Fb"), key(&project, "a/b"));
        assert!(check("a\nb").is_err() && check("").is_err() && check(&"a".repeat(1000)).is_err());
    }

    #[test]
    fn digests_are_strict() {
        let hex = "a".repeat(64);
        assert!(is_digest(&format!("sha256:{hex}")));
        for bad in
            ["sha256:../../etc/passwd".to_owned(), format!("sha256:{}", "A".repeat(64)), format!("sha512:{hex}"), hex]
        {
            assert!(!is_digest(&bad), "{bad}");
        }
    }
}
