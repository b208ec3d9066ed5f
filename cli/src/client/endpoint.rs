//! Endpoint URLs, read strictly. Refuses plain HTTP, and HTTPS without a pin.

use std::path::PathBuf;

use cc_common::api::signing::from_hex;

pub const DEFAULT_ENDPOINT: &str = "unix:///run/cc/cc.sock";
/// Where a daemon serves TLS unless the URL says otherwise.
const DEFAULT_PORT: u16 = 7443;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("plain http is not spoken: nobody could tell who answers")]
    PlainHttp,
    #[error("it has no pin, so nobody could tell who answers")]
    NoPin,
    #[error("its pin is not sha256= and 64 lower-case hexadecimal digits")]
    BadPin,
    #[error("it names no host")]
    NoHost,
    #[error("it names no valid port")]
    BadPort,
    #[error("a path or a query has no meaning in it")]
    Path,
    #[error("a socket's path must be absolute")]
    RelativePath,
    #[error("it is neither unix:// nor https://")]
    UnknownScheme,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    Tls {
        host: String,
        port: u16,
        /// SHA-256 of the server's public key.
        pin: [u8; 32],
    },
}

impl Endpoint {
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Endpoint::Unix(path.into()))
            } else {
                Err(EndpointError::RelativePath)
            };
        }
        if text.starts_with('/') {
            return Ok(Endpoint::Unix(text.into()));
        }
        if text.starts_with("http://") {
            return Err(EndpointError::PlainHttp);
        }
        let rest = text.strip_prefix("https://").ok_or(EndpointError::UnknownScheme)?;
        let (authority, fragment) = rest.split_once('#').ok_or(EndpointError::NoPin)?;
        let pin = fragment.strip_prefix("sha256=").and_then(from_hex).ok_or(EndpointError::BadPin)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '@']) {
            return Err(EndpointError::Path);
        }
        let (host, port) = split_port(authority)?;
        if host.is_empty() {
            return Err(EndpointError::NoHost);
        }
        Ok(Endpoint::Tls { host: host.to_owned(), port, pin })
    }
}

fn split_port(authority: &str) -> Result<(&str, u16), EndpointError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(EndpointError::NoHost)?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(EndpointError::BadPort),
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map(|port| port.parse().ok().filter(|&port| port != 0).ok_or(EndpointError::BadPort));
    Ok((host, port.transpose()?.unwrap_or(DEFAULT_PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_strictly() {
        let pin = format!("#sha256={}", "ab".repeat(32));
        let tls = |host: &str, port| Ok(Endpoint::Tls { host: host.to_owned(), port, pin: [0xab; 32] });
        for (text, expected) in [
            ("unix:///run/x".to_owned(), Ok(Endpoint::Unix("/run/x".into()))),
            ("/run/x".to_owned(), Ok(Endpoint::Unix("/run/x".into()))),
            ("unix://run/x".to_owned(), Err(EndpointError::RelativePath)),
            ("http://h:1".to_owned(), Err(EndpointError::PlainHttp)),
            ("h:1".to_owned(), Err(EndpointError::UnknownScheme)),
            ("https://h:1".to_owned(), Err(EndpointError::NoPin)),
            ("https://h:1#sha256=ab".to_owned(), Err(EndpointError::BadPin)),
            (format!("https://h:1#sha256={}", "AB".repeat(32)), Err(EndpointError::BadPin)),
            (format!("https://h{pin}"), tls("h", 7443)),
            (format!("https://h:1/{pin}"), tls("h", 1)),
            (format!("https://[::1]:1{pin}"), tls("::1", 1)),
            (format!("https://[::1]{pin}"), tls("::1", 7443)),
            (format!("https://:1{pin}"), Err(EndpointError::NoHost)),
            (format!("https://h:0{pin}"), Err(EndpointError::BadPort)),
            (format!("https://h:65536{pin}"), Err(EndpointError::BadPort)),
            (format!("https://u@h{pin}"), Err(EndpointError::Path)),
            (format!("https://h/a{pin}"), Err(EndpointError::Path)),
        ] {
            assert_eq!(Endpoint::parse(&text), expected, "{text}");
        }
    }
}
