//! Which requests a browser may have been tricked into: those whose page is another's (`Origin`), and those whose name only pretends to
//! be this host's (`Host`). Refuses both; programs that are no browser send no `Origin`, and are let through to show who they are.

use std::net::IpAddr;

use cc_common::api::fault::Fault;
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName};
use tonic::Code;

pub fn check(headers: &HeaderMap, tls: bool) -> Result<(), Fault> {
    let Some(host) = only(headers, &HOST)? else {
        return Err(refused("web.no_host", "it has no header Host".to_owned()));
    };
    if !tls && !is_loopback(without_port(host)) {
        return Err(refused("web.other_host", format!("it is for {host:?}, and this is localhost"))
            .next("open the link that `cc console` prints"));
    }
    let Some(origin) = only(headers, &ORIGIN)? else { return Ok(()) };
    let own = format!("{}://{host}", if tls { "https" } else { "http" });
    match origin.eq_ignore_ascii_case(&own) {
        true => Ok(()),
        false => Err(refused("web.other_origin", format!("a page of {origin:?} asks, and this is {own}"))),
    }
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Fault> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(refused("web.bad_header", format!("its header {name} is not text"))),
        },
        _ => Err(refused("web.bad_header", format!("its header {name} is there more than once"))),
    }
}

/// Without TLS only these lead here honestly: any other name is somebody's, whose address was changed to ours after its page had been loaded.
/// An address cannot be changed so.
fn is_loopback(host: &str) -> bool {
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn refused(code: &str, why: String) -> Fault {
    Fault::new(Code::PermissionDenied, code, "the request was refused", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(tls: bool, headers: &[(HeaderName, &str)]) -> Result<(), String> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        check(&headers, tls).map_err(|fault| fault.code)
    }

    #[test]
    fn pages_of_others_are_refused() {
        let host = (HOST, "cc.example:7443");
        assert_eq!(outcome(true, std::slice::from_ref(&host)), Ok(()), "no browser");
        assert_eq!(outcome(true, &[host.clone(), (ORIGIN, "https://cc.example:7443")]), Ok(()));
        for origin in ["https://evil.example", "http://cc.example:7443", "https://cc.example", "null", ""] {
            assert_eq!(outcome(true, &[host.clone(), (ORIGIN, origin)]), Err("web.other_origin".into()), "{origin}");
        }
    }

    #[test]
    fn on_loopback_only_its_own_names() {
        for host in ["localhost", "127.0.0.1:7480", "127.0.0.2", "[::1]:7480", "localhost:7480"] {
            assert_eq!(outcome(false, &[(HOST, host)]), Ok(()), "{host}");
        }
        for host in ["rebound.example:7480", "127.0.0.1.evil.example", "localhost.", "", "[::2]:7480", "localhost:x"] {
            assert_eq!(outcome(false, &[(HOST, host)]), Err("web.other_host".into()), "{host}");
        }
        assert_eq!(outcome(false, &[]), Err("web.no_host".into()));
    }

    #[test]
    fn twice_is_neither() {
        let mut headers = HeaderMap::new();
        headers.append(HOST, "localhost".parse().unwrap());
        headers.append(HOST, "evil.example".parse().unwrap());
        assert_eq!(check(&headers, true).unwrap_err().code, "web.bad_header");
    }
}
