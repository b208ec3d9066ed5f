//! References: what a user types, its one normal form, and its key in the store. Refuses to reach a registry.

use std::net::IpAddr;

use oci_client::Reference;

use super::error::ImageError;
use super::limits::REFERENCE_BYTES_MAX;
use crate::ids::Project;

/// Hosts that may be spoken to without TLS although nobody asked for it: they never leave this machine.
pub fn is_loopback(registry: &str) -> bool {
    let host = host_of(registry);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether someone may have this host fetch from there. Who may not already act as this host (`trusted`) must not speak
/// through it to services that only it can reach and that ask nobody who they are.
pub fn check_reach(text: &str, plain_http: bool, trusted: bool) -> Result<(), ImageError> {
    let from = parse(text)?;
    let registry = from.resolve_registry();
    match !trusted && (plain_http || is_this_link(registry)) {
        true => Err(ImageError::PrivateRegistry { registry: registry.to_owned() }),
        false => Ok(()),
    }
}

/// This machine or its link, however it is written. A name that resolves to it still meets TLS.
fn is_this_link(registry: &str) -> bool {
    let host = host_of(registry).trim_end_matches('.').to_ascii_lowercase();
    let own = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    };
    match host.parse::<IpAddr>() {
        Ok(ip) => own(ip),
        Err(_) => {
            // 127.1 and 2130706433 are addresses too, and no registry's name ends in a number.
            let last = host.rsplit('.').next().unwrap_or_default();
            last == "localhost" || last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit())
        }
    }
}

fn host_of(registry: &str) -> &str {
    registry
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map_or_else(|| registry.rsplit_once(':').map_or(registry, |(host, _)| host), |(host, _)| host)
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
    fn strangers_do_not_speak_through_this_host() {
        let cases = [
            ("nginx", false, true),
            ("registry.example:5000/a", false, true),
            ("10.0.0.1:5000/a", false, true),
            ("registry.example:5000/a", true, false),
            ("localhost:5000/a", false, false),
            ("127.0.0.1:5000/a", false, false),
            ("127.1:5000/a", false, false),
            ("0.0.0.0:5000/a", false, false),
            ("169.254.169.254/a", false, false),
            ("a.localhost:5000/a", false, false),
        ];
        for (reference, plain_http, allowed) in cases {
            assert_eq!(check_reach(reference, plain_http, false).is_ok(), allowed, "{reference} {plain_http}");
            assert!(check_reach(reference, plain_http, true).is_ok(), "{reference} {plain_http}");
        }
        for registry in ["[::1]:5000", "[::ffff:127.0.0.1]:5000", "[fe80::1]:5000", "[::]:5000", "LOCALHOST:1"] {
            assert!(is_this_link(registry), "{registry}");
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
