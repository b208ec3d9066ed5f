//! What a VPC's resolver knows by itself: names below `cc.internal`, single labels, and the addresses of its own ranges. Refuses
//! to send or to forward anything; it only says what must be.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{Name as DnsName, RData, RecordType};

use super::arpa::Prefix;
use super::directory::{Directory, GATEWAY_LABEL, LOCALHOST_LABEL};
use crate::ids::Name;
use crate::vpc::cidr::Cidr;

/// The domain of all VPCs. Nothing below it ever leaves the host: ICANN keeps `internal` for private use.
pub const DOMAIN: [&str; 2] = ["cc", "internal"];

/// A range of a VPC: the gateway's address in it, and its prefix length, as the gateway's interface has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub gateway: IpAddr,
    pub prefix_len: u8,
}

/// What a VPC's resolver must know of it: its name, and its ranges of either family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VpcNames {
    pub name: Name,
    pub subnets: Vec<Subnet>,
}

/// What is said to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is such a name; without records, it has nothing of the type that was asked for.
    Records { zone: Option<DnsName>, records: Vec<RData> },
    /// There is no such name, and nobody else is asked.
    NoSuchName { zone: Option<DnsName> },
    /// The rest of the world knows.
    Forward,
}

/// One VPC's view of the directory.
#[derive(Debug)]
pub(super) struct Zone {
    pub vni: u32,
    pub names: VpcNames,
    pub directory: Arc<Directory>,
}

impl Subnet {
    /// Whether all addresses that start with the first `prefix_len` bits of `address` are in it.
    fn covers(self, address: IpAddr, prefix_len: u8) -> bool {
        let same = match (self.gateway, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32u32.saturating_sub(self.prefix_len.into());
                (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128u32.saturating_sub(self.prefix_len.into());
                (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        };
        same && prefix_len >= self.prefix_len
    }

    /// The reverse zone that holds it, cut at the last whole label.
    fn reverse_zone(self) -> DnsName {
        let bits_per_label = if self.gateway.is_ipv4() { 8 } else { 4 };
        DnsName::from(self.gateway).trim_to(2 + usize::from(self.prefix_len / bits_per_label))
    }
}

impl From<Cidr> for Subnet {
    fn from(cidr: Cidr) -> Subnet {
        Subnet { gateway: cidr.gateway().into(), prefix_len: cidr.prefix_len() }
    }
}

impl Zone {
    /// What to say to `question`, with at most `most` addresses.
    pub(super) fn decide(&self, question: &Query, most: usize) -> Decision {
        let lower = question.name.to_lowercase();
        let labels: Vec<&[u8]> = lower.iter().collect();
        let wanted = question.query_type;
        match labels.as_slice() {
            // The root and its servers are the world's.
            [] => Decision::Forward,
            [rest @ .., last, top] if [*last, *top] == DOMAIN.map(str::as_bytes) => {
                let apex = || internal_name(&[]);
                match rest {
                    // A domain with names below it, and with none of its own.
                    [] if wanted == RecordType::SOA => records(Some(apex()), vec![self.authority()]),
                    [] => records(Some(apex()), Vec::new()),
                    [own] if *own == self.names.name.as_str().as_bytes() => records(Some(apex()), Vec::new()),
                    [label, own] if *own == self.names.name.as_str().as_bytes() => {
                        self.label(label, wanted, most, Some(apex()))
                    }
                    // Another VPC's names are nobody's here.
                    _ => Decision::NoSuchName { zone: Some(apex()) },
                }
            }
            [.., top] if *top == LOCALHOST_LABEL.as_bytes() => Decision::NoSuchName { zone: None },
            [rest @ .., kind, b"arpa"] if matches!(*kind, b"in-addr" | b"ip6") => self.reverse(rest, kind, wanted),
            [label] => match self.label(label, wanted, most, None) {
                // There are names below it, so it cannot be said not to exist.
                Decision::NoSuchName { .. } if *label == DOMAIN[1].as_bytes() => records(None, Vec::new()),
                decision => decision,
            },
            _ => Decision::Forward,
        }
    }

    /// The start of authority that goes with an answer that something is not there. No such answer may be kept.
    pub(super) fn authority(&self) -> RData {
        RData::SOA(SOA::new(self.full_name(GATEWAY_LABEL), DnsName::root(), 1, 0, 0, 0, 0))
    }

    fn label(&self, label: &[u8], wanted: RecordType, most: usize, zone: Option<DnsName>) -> Decision {
        let is_wanted = |address: &IpAddr| match wanted {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            _ => false,
        };
        let addresses = if label == GATEWAY_LABEL.as_bytes() {
            Some(self.names.subnets.iter().map(|subnet| subnet.gateway).filter(is_wanted).collect())
        } else {
            // What is not text is no name of ours.
            let label = std::str::from_utf8(label).ok();
            label.and_then(|label| self.directory.addresses(self.vni, label, most, is_wanted))
        };
        match addresses {
            Some(addresses) => records(zone, addresses.into_iter().map(address_record).collect::<Vec<_>>()),
            None => Decision::NoSuchName { zone },
        }
    }

    /// `labels` are those before `in-addr.arpa` or `ip6.arpa`.
    fn reverse(&self, labels: &[&[u8]], kind: &[u8], wanted: RecordType) -> Decision {
        let Prefix { address, len, below, full } =
            if kind == b"ip6" { Prefix::ipv6(labels) } else { Prefix::ipv4(labels) };
        let Some(subnet) = self.names.subnets.iter().find(|subnet| subnet.covers(address, len)) else {
            return Decision::Forward;
        };
        let zone = Some(subnet.reverse_zone());
        if below {
            return Decision::NoSuchName { zone };
        }
        if !full {
            return records(zone, Vec::new());
        }
        let name = if self.names.subnets.iter().any(|subnet| subnet.gateway == address) {
            Some(self.full_name(GATEWAY_LABEL))
        } else {
            self.directory.name_of(self.vni, address).map(|name| self.full_name(name.as_str()))
        };
        match name {
            Some(name) if wanted == RecordType::PTR => records(zone, vec![RData::PTR(PTR(name))]),
            Some(_) => records(zone, Vec::new()),
            None => Decision::NoSuchName { zone },
        }
    }

    /// `LABEL.VPC.cc.internal.`
    fn full_name(&self, label: &str) -> DnsName {
        internal_name(&[label, self.names.name.as_str()])
    }
}

fn records(zone: Option<DnsName>, records: Vec<RData>) -> Decision {
    Decision::Records { zone, records }
}

fn internal_name(labels: &[&str]) -> DnsName {
    let all = labels.iter().chain(&DOMAIN).map(|label| label.as_bytes());
    DnsName::from_labels(all).expect("two labels of at most 63 bytes and two short ones are a name")
}

fn address_record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ContainerId;
    use crate::resolver::directory::Entry;

    const VNI: u32 = 7;

    fn zone() -> Zone {
        let directory = Arc::new(Directory::default());
        let publish = |vni, n: u8, name: &str, groups: &[&str], addresses: &[&str]| {
            directory.publish(
                vni,
                Entry {
                    id: ContainerId::parse(&format!("{n:016x}")).unwrap(),
                    name: Name::parse(name).unwrap(),
                    hostname: format!("{name}-host"),
                    groups: groups.iter().map(|group| Name::parse(group).unwrap()).collect(),
                    addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                },
            );
        };
        publish(VNI, 2, "web", &["all"], &["10.0.0.2", "fd00::2"]);
        publish(VNI, 3, "db", &["all"], &["10.0.0.3"]);
        publish(VNI + 1, 4, "foreign", &[], &["10.0.0.4"]);
        let subnets = [("10.0.0.1", 24), ("fd00::1", 64)];
        let subnet = |(gateway, prefix_len): (&str, u8)| Subnet { gateway: gateway.parse().unwrap(), prefix_len };
        let names = VpcNames { name: Name::parse("prod").unwrap(), subnets: subnets.map(subnet).to_vec() };
        Zone { vni: VNI, names, directory }
    }

    /// `Some` of what is found, sorted, without the zone; `None` where the world is asked.
    fn ask(zone: &Zone, name: &str, wanted: RecordType) -> Option<Result<Vec<String>, ()>> {
        let labels = name.strip_suffix('.').unwrap().split('.').filter(|label| !label.is_empty());
        ask_labels(zone, labels.map(str::as_bytes), wanted)
    }

    /// Of any bytes, as they come over the wire.
    fn ask_labels<'a>(
        zone: &Zone,
        labels: impl IntoIterator<Item = &'a [u8]>,
        wanted: RecordType,
    ) -> Option<Result<Vec<String>, ()>> {
        let name = DnsName::from_labels(labels).unwrap();
        match zone.decide(&Query::query(name, wanted), 10) {
            Decision::Forward => None,
            Decision::NoSuchName { .. } => Some(Err(())),
            Decision::Records { records, .. } => {
                let mut found: Vec<String> = records.iter().map(ToString::to_string).collect();
                found.sort();
                Some(Ok(found))
            }
        }
    }

    fn found(records: &[&str]) -> Option<Result<Vec<String>, ()>> {
        Some(Ok(records.iter().map(|&record| record.to_owned()).collect()))
    }

    const NOBODY: Option<Result<Vec<String>, ()>> = Some(Err(()));

    #[test]
    fn names_of_the_vpc() {
        let zone = zone();
        for name in [
            "web.",
            "WEB.",
            "web.prod.cc.internal.",
            "Web.Prod.CC.Internal.",
            "web-host.",
            "web-host.prod.cc.internal.",
        ] {
            assert_eq!(ask(&zone, name, RecordType::A), found(&["10.0.0.2"]), "{name}");
            assert_eq!(ask(&zone, name, RecordType::AAAA), found(&["fd00::2"]), "{name}");
            assert_eq!(ask(&zone, name, RecordType::MX), found(&[]), "{name}");
        }
        assert_eq!(ask(&zone, "db.", RecordType::AAAA), found(&[]), "it has only IPv4: no data, not no name");
        for name in ["all.", "all.prod.cc.internal."] {
            assert_eq!(ask(&zone, name, RecordType::A), found(&["10.0.0.2", "10.0.0.3"]));
            assert_eq!(ask(&zone, name, RecordType::AAAA), found(&["fd00::2"]));
        }
        for name in ["gateway.", "gateway.prod.cc.internal."] {
            assert_eq!(ask(&zone, name, RecordType::A), found(&["10.0.0.1"]));
            assert_eq!(ask(&zone, name, RecordType::AAAA), found(&["fd00::1"]));
        }
    }

    #[test]
    fn what_is_ours_is_never_forwarded() {
        let zone = zone();
        for name in [
            "nobody.",
            "foreign.",
            "com.",
            "localhost.",
            "a.localhost.",
            "nobody.prod.cc.internal.",
            "foreign.prod.cc.internal.",
            "foreign.other.cc.internal.",
            "web.other.cc.internal.",
            "other.cc.internal.",
            "deep.web.prod.cc.internal.",
            "*.prod.cc.internal.",
        ] {
            assert_eq!(ask(&zone, name, RecordType::A), NOBODY, "{name}");
        }
        for label in [&b"web.prod"[..], b"\xff", b"\0", b"web\0"] {
            assert_eq!(ask_labels(&zone, [label], RecordType::A), NOBODY, "{label:?}");
            assert_eq!(ask_labels(&zone, [label, b"prod", b"cc", b"internal"], RecordType::A), NOBODY, "{label:?}");
        }
        assert_eq!(ask_labels(&zone, [&b"web.prod.cc"[..], b"internal"], RecordType::A), None, "one label with dots");
        for name in ["cc.internal.", "prod.cc.internal.", "internal."] {
            assert_eq!(ask(&zone, name, RecordType::A), found(&[]), "{name} has names below it");
        }
        assert_eq!(ask(&zone, "cc.internal.", RecordType::SOA).unwrap().unwrap().len(), 1);
        for name in [".", "example.com.", "internal.example.com.", "cc.internal.example.com.", "xcc.internal.", "a.b."]
        {
            assert_eq!(ask(&zone, name, RecordType::A), None, "{name}");
        }
    }

    #[test]
    fn addresses_have_names() {
        let zone = zone();
        let v6 = |last: char| format!("{last}{}.0.0.d.f.ip6.arpa.", ".0".repeat(27));
        for (name, answer) in [
            ("2.0.0.10.in-addr.arpa.", "web.prod.cc.internal."),
            ("2.0.0.10.IN-ADDR.ARPA.", "web.prod.cc.internal."),
            ("1.0.0.10.in-addr.arpa.", "gateway.prod.cc.internal."),
            (v6('2').as_str(), "web.prod.cc.internal."),
            (v6('1').as_str(), "gateway.prod.cc.internal."),
        ] {
            assert_eq!(ask(&zone, name, RecordType::PTR), found(&[answer]), "{name}");
            assert_eq!(ask(&zone, name, RecordType::A), found(&[]), "{name}");
        }
        let below = format!("x.{}", v6('2'));
        for name in [
            "4.0.0.10.in-addr.arpa.",
            "255.0.0.10.in-addr.arpa.",
            "b._dns-sd._udp.0.0.0.10.in-addr.arpa.",
            "0/25.0.0.10.in-addr.arpa.",
            "256.0.0.10.in-addr.arpa.",
            "+4.0.0.10.in-addr.arpa.",
            "x.2.0.0.10.in-addr.arpa.",
            "1.2.0.0.10.in-addr.arpa.",
            &v6('9'),
            &below,
        ] {
            assert_eq!(ask(&zone, name, RecordType::PTR), NOBODY, "{name}");
        }
        for name in ["0.0.10.in-addr.arpa.", "0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa."] {
            assert_eq!(ask(&zone, name, RecordType::PTR), found(&[]), "{name} has names below it");
        }
        for name in [
            "2.1.0.10.in-addr.arpa.",
            "0.10.in-addr.arpa.",
            "10.in-addr.arpa.",
            "in-addr.arpa.",
            "ip6.arpa.",
            "8.8.8.8.in-addr.arpa.",
            "0.0.d.f.ip6.arpa.",
            "2.0.0.10.ip6.arpa.",
            "home.arpa.",
        ] {
            assert_eq!(ask(&zone, name, RecordType::PTR), None, "{name}");
        }
    }

    #[test]
    fn an_answer_names_the_zone_that_holds_the_question() {
        let zone = zone();
        for name in ["x.prod.cc.internal.", "9.0.0.10.in-addr.arpa.", "db.prod.cc.internal.", "cc.internal."] {
            let name = DnsName::from_ascii(name).unwrap();
            let (Decision::NoSuchName { zone: Some(apex) } | Decision::Records { zone: Some(apex), .. }) =
                zone.decide(&Query::query(name.clone(), RecordType::AAAA), 10)
            else {
                panic!("{name} has a zone")
            };
            assert!(apex.zone_of(&name), "{apex} {name}");
        }
        let odd = Subnet { gateway: "10.1.32.1".parse().unwrap(), prefix_len: 20 };
        assert_eq!(odd.reverse_zone().to_string(), "1.10.in-addr.arpa.");
        assert!(odd.covers("10.1.47.255".parse().unwrap(), 32) && !odd.covers("10.1.48.0".parse().unwrap(), 32));
        assert!(!odd.covers("10.1.0.0".parse().unwrap(), 16));
        let all = Subnet { prefix_len: 0, ..odd };
        assert!(all.covers("192.0.2.1".parse().unwrap(), 0) && !all.covers("::".parse().unwrap(), 0));
    }
}
