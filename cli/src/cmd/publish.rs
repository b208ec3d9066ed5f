//! `cc publish` and `cc unpublish`: ports of the host that lead to a container. Refuses to know which are free: the daemon does.

use std::net::IpAddr;
use std::str::FromStr;

use cc_common::api::v1::{PortMapping, PublishRequest};
use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::render::Ids;

/// `[IP:]HOSTPORT:PORT[/udp]`, as `--publish` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port(PortMapping);

impl FromStr for Port {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "it is not [IP:]HOSTPORT:PORT[/udp], as in 8080:80 or 127.0.0.1:5353:53/udp".to_owned();
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, protocol @ ("tcp" | "udp"))) => (rest, protocol),
            Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
            None => (text, "tcp"),
        };
        let (before, port) = rest.rsplit_once(':').ok_or_else(form)?;
        let (address, host_port) = match before.rsplit_once(':') {
            Some((address, host_port)) => (address, host_port),
            None => ("", before),
        };
        let number = |text: &str| match text.parse::<u16>() {
            Ok(port) if port != 0 => Ok(port.into()),
            _ => Err(format!("{text:?} is no port: a number from 1 to 65535")),
        };
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
            return Err(format!("{bare:?} is no address"));
        }
        Ok(Port(PortMapping {
            address: bare.to_owned(),
            host_port: number(host_port)?,
            port: number(port)?,
            protocol: protocol.to_owned(),
        }))
    }
}

impl From<&Port> for PortMapping {
    fn from(port: &Port) -> Self {
        port.0.clone()
    }
}

/// As it is written.
pub fn text(mapping: &PortMapping) -> String {
    let address = match mapping.address.as_str() {
        "" => String::new(),
        v6 if v6.contains(':') => format!("[{v6}]:"),
        v4 => format!("{v4}:"),
    };
    let PortMapping { host_port, port, protocol, .. } = mapping;
    format!("{address}{host_port}:{port}/{protocol}")
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc publish web 8080:80\n  cc publish dns 127.0.0.1:5353:53/udp\n  \
    cc unpublish web 8080:80\n\n\
    What is published is open to everybody whom no rule of the container's groups denies.\n\
    Clients from outside keep their address; the host's own programs and other containers come from the host.")]
pub struct PublishArgs {
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Ports of the host, and of the container
    #[arg(required = true, value_name = "[IP:]HOSTPORT:PORT[/udp]")]
    ports: Vec<Port>,
}

impl PublishArgs {
    fn request(self) -> PublishRequest {
        PublishRequest { container: self.container, ports: self.ports.iter().map(Into::into).collect() }
    }
}

pub async fn run(context: &Context, args: PublishArgs) -> Result<i32, Failure> {
    let container = context.containers().await?.publish(args.request()).await?.into_inner();
    context.ui.show(&Ids(vec![container.id]))?;
    Ok(0)
}

pub async fn take_back(context: &Context, args: PublishArgs) -> Result<i32, Failure> {
    let container = context.containers().await?.unpublish(args.request()).await?.into_inner();
    context.ui.show(&Ids(vec![container.id]))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_written() {
        for (given, written) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("127.0.0.1:8080:80/tcp", "127.0.0.1:8080:80/tcp"),
            ("[::1]:53:5353/udp", "[::1]:53:5353/udp"),
        ] {
            assert_eq!(text(&given.parse::<Port>().unwrap().0), written);
        }
        for bad in ["", "80", "0:80", "80:65536", "80:80/sctp", "localhost:80:80", "a:b", "1.2.3.4.5:1:1", "-1:80"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }
}
