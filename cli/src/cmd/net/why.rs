//! `cc net why`: what would become of a packet, and by which steps. Refuses to judge: the daemon asks the programs that packets run.

use std::net::IpAddr;
use std::str::FromStr;

use cc_common::api::v1::ExplainRequest;
use cc_common::api::v1::why_service_client::WhyServiceClient;
use clap::Args;

use crate::cmd::Context;
use crate::error::Failure;
use crate::render::why::WhyView;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc net why web db:5432\n  cc net why web internet:443\n  \
    cc net why web 10.0.0.7:53/udp\n  cc net why web db/icmp\n  cc net why internet web:80\n  \
    cc net why web '[fd00:1::7]:80' --json\n\n\
    Asks the programs that packets run, on the tables as they are now; nothing changes by asking: no flow,\n\
    no counter, no port. The packet is the first of a conversation: a SYN, a datagram, an echo request.\n\
    `internet` is 203.0.113.1, or with -6 2001:db8::1. From outside, DST is reached by a port of the host\n\
    that it publishes: PORT is the container's or the host's. The exit code is 0, allowed or denied.")]
pub struct WhyArgs {
    /// Who sends: a container's name or id, an address, internet, or host for its own programs
    #[arg(value_name = "SRC")]
    source: String,
    /// For whom: likewise, with a port of tcp (default) or udp; or /icmp for a ping
    #[arg(value_name = "DST:PORT[/PROTO]")]
    destination: Destination,
    /// IPv6, where neither end is an address
    #[arg(short = '6', long)]
    ipv6: bool,
    /// The sender's port, to ask of a conversation that there is (default: 40000)
    #[arg(long, value_name = "PORT")]
    from_port: Option<u16>,
    /// As if SRC said that it has this address
    #[arg(long, value_name = "ADDRESS")]
    claim: Option<IpAddr>,
}

/// `DST:PORT[/PROTO]`, or `DST/icmp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    host: String,
    port: u16,
    protocol: String,
}

impl FromStr for Destination {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            || "it is not DST:PORT[/tcp|/udp] or DST/icmp, as in web:80, [fd00::7]:53/udp or web/icmp".to_owned();
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, protocol @ ("tcp" | "udp" | "icmp"))) => (rest, protocol),
            Some((_, other)) => return Err(format!("{other:?} is neither tcp, udp nor icmp")),
            None => (text, "tcp"),
        };
        let bare =
            |host: &str| host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let (host, port) = if protocol == "icmp" {
            (bare(rest), 0)
        } else {
            let (host, port) = rest.rsplit_once(':').ok_or_else(form)?;
            if host.contains(':') && !host.starts_with('[') {
                return Err(format!("write an IPv6 address in brackets: [{host}]:{port}"));
            }
            match port.parse::<u16>() {
                Ok(port) if port != 0 => (bare(host), port),
                _ => return Err(format!("{port:?} is no port: a number from 1 to 65535")),
            }
        };
        if host.is_empty() {
            return Err(form());
        }
        Ok(Destination { host, port, protocol: protocol.to_owned() })
    }
}

pub async fn run(context: &Context, args: WhyArgs) -> Result<i32, Failure> {
    let WhyArgs { source, destination: Destination { host, port, protocol }, ipv6, from_port, claim } = args;
    let request = ExplainRequest {
        source,
        destination: host,
        port: port.into(),
        protocol,
        ipv6,
        source_port: from_port.unwrap_or(0).into(),
        claim: claim.map(|claim| claim.to_string()).unwrap_or_default(),
    };
    let mut client = WhyServiceClient::new(context.connection().await?);
    let explanation = client.explain(request).await?.into_inner();
    context.ui.show(&WhyView::from(explanation))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_they_are_written() {
        for (text, host, port, protocol) in [
            ("web:80", "web", 80, "tcp"),
            ("web:53/udp", "web", 53, "udp"),
            ("10.0.0.3:80/tcp", "10.0.0.3", 80, "tcp"),
            ("[fd00::3]:443", "fd00::3", 443, "tcp"),
            ("internet/icmp", "internet", 0, "icmp"),
            ("fd00::3/icmp", "fd00::3", 0, "icmp"),
            ("[fd00::3]/icmp", "fd00::3", 0, "icmp"),
        ] {
            let wanted = Destination { host: host.into(), port, protocol: protocol.into() };
            assert_eq!(text.parse::<Destination>(), Ok(wanted), "{text}");
        }
        for bad in ["", "web", "web:", "web:0", "web:65536", "web:80/sctp", ":80", "/icmp", "fd00::3:80", "web:a"] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
