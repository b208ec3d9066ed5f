//! Who has which name and address in which VPC: one table in memory, changed by whoever starts and stops containers, and read by
//! every resolver. A change is seen by the very next query. Refuses to let one VPC's table answer for another's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::ids::{ContainerId, Name};

/// Labels that mean something else than a container.
pub const GATEWAY_LABEL: &str = "gateway";
pub const LOCALHOST_LABEL: &str = "localhost";

/// A container as its VPC may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: ContainerId,
    /// Unique among the running containers of a VPC.
    pub name: Name,
    /// What it calls itself. It resolves if it is one label, differs from every name and group, and no other container has it.
    pub hostname: String,
    /// Names of its groups, each of which resolves to all members.
    pub groups: Vec<Name>,
    /// In this VPC, of both families.
    pub addresses: Vec<IpAddr>,
}

/// All VPCs' tables. It is bounded by the containers that a host can have, which the container room sees to.
#[derive(Debug, Default)]
pub struct Directory {
    vpcs: RwLock<HashMap<u32, Members>>,
}

impl Directory {
    /// Enters a container that runs, or replaces what was said of it, such as its groups. On return, it resolves.
    pub fn publish(&self, vni: u32, entry: Entry) {
        let mut vpcs = self.vpcs.write().unwrap_or_else(PoisonError::into_inner);
        let members = vpcs.entry(vni).or_default();
        members.remove(&entry.id);
        members.insert(Arc::new(entry));
    }

    /// Forgets a container. On return, it does not resolve any more. One that is not there is fine.
    pub fn withdraw(&self, vni: u32, id: &ContainerId) {
        let mut vpcs = self.vpcs.write().unwrap_or_else(PoisonError::into_inner);
        let Some(members) = vpcs.get_mut(&vni) else { return };
        members.remove(id);
        if members.entries.is_empty() {
            vpcs.remove(&vni);
        }
    }

    /// At most `most` of the addresses behind a label in lower case, of the kind that `wanted` says, in an order that changes;
    /// `None` when nothing is called so. A container's name wins over a group's, and both over a hostname.
    pub(super) fn addresses(
        &self,
        vni: u32,
        label: &str,
        most: usize,
        wanted: impl Fn(&IpAddr) -> bool,
    ) -> Option<Vec<IpAddr>> {
        let vpcs = self.vpcs.read().unwrap_or_else(PoisonError::into_inner);
        let entries = vpcs.get(&vni)?.called(label)?;
        // Each is first as often as any other.
        let start = rand::random_range(0..entries.len());
        let in_turn = entries[start..].iter().chain(&entries[..start]);
        Some(in_turn.flat_map(|entry| &entry.addresses).copied().filter(wanted).take(most).collect())
    }

    /// The name of the container that has this address.
    pub(super) fn name_of(&self, vni: u32, address: IpAddr) -> Option<Name> {
        let vpcs = self.vpcs.read().unwrap_or_else(PoisonError::into_inner);
        let name = &vpcs.get(&vni)?.by_address.get(&address)?.name;
        // A name that does not resolve to its container must not be told either.
        usable(name.as_str()).map(|_| name.clone())
    }
}

/// The containers of one VPC. An entry is never changed, only replaced.
#[derive(Debug, Default)]
struct Members {
    entries: HashMap<ContainerId, Arc<Entry>>,
    by_address: HashMap<IpAddr, Arc<Entry>>,
    by_label: HashMap<String, Called>,
}

/// What is called so.
#[derive(Debug, Default)]
struct Called {
    names: Vec<Arc<Entry>>,
    groups: Vec<Arc<Entry>>,
    hostnames: Vec<Arc<Entry>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    Group,
    Hostname,
}

impl Members {
    fn insert(&mut self, entry: Arc<Entry>) {
        for &address in &entry.addresses {
            self.by_address.insert(address, Arc::clone(&entry));
        }
        for (kind, label) in labels_of(&entry) {
            self.by_label.entry(label).or_default().of(kind).push(Arc::clone(&entry));
        }
        self.entries.insert(entry.id.clone(), entry);
    }

    fn remove(&mut self, id: &ContainerId) {
        let Some(entry) = self.entries.remove(id) else { return };
        for address in &entry.addresses {
            // Its successor may have the address already.
            if self.by_address.get(address).is_some_and(|holder| Arc::ptr_eq(holder, &entry)) {
                self.by_address.remove(address);
            }
        }
        for (kind, label) in labels_of(&entry) {
            if let Some(called) = self.by_label.get_mut(&label) {
                called.of(kind).retain(|other| !Arc::ptr_eq(other, &entry));
                if called.is_empty() {
                    self.by_label.remove(&label);
                }
            }
        }
    }

    /// Never an empty slice.
    fn called(&self, label: &str) -> Option<&[Arc<Entry>]> {
        let Called { names, groups, hostnames } = self.by_label.get(label)?;
        match (names.as_slice(), groups.as_slice(), hostnames.as_slice()) {
            // A successor may be there before the one that it follows is gone.
            ([.., newest], _, _) => Some(std::slice::from_ref(newest)),
            ([], members @ [_, ..], _) => Some(members),
            ([], [], host @ [_]) => Some(host),
            // Nobody's, or the hostname of several.
            ([], [], _) => None,
        }
    }
}

impl Called {
    fn of(&mut self, kind: Kind) -> &mut Vec<Arc<Entry>> {
        match kind {
            Kind::Name => &mut self.names,
            Kind::Group => &mut self.groups,
            Kind::Hostname => &mut self.hostnames,
        }
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.groups.is_empty() && self.hostnames.is_empty()
    }
}

/// Each label under which an entry is found, once.
fn labels_of(entry: &Entry) -> Vec<(Kind, String)> {
    let mut labels = Vec::with_capacity(2 + entry.groups.len());
    let groups = entry.groups.iter().map(|group| (Kind::Group, group.as_str()));
    for (kind, text) in [(Kind::Name, entry.name.as_str())].into_iter().chain(groups) {
        if let Some(label) = usable(text).map(|label| (kind, label))
            && !labels.contains(&label)
        {
            labels.push(label);
        }
    }
    labels.extend(usable(&entry.hostname).filter(|label| label != entry.name.as_str()).map(|l| (Kind::Hostname, l)));
    labels
}

/// A label as it is looked up; `None` for what is no label, and for what means something else.
fn usable(text: &str) -> Option<String> {
    let label = text.to_ascii_lowercase();
    let other = label.is_empty() || label.contains('.') || label == GATEWAY_LABEL || label == LOCALHOST_LABEL;
    (!other).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VNI: u32 = 7;

    fn entry(n: u8, name: &str, hostname: &str, groups: &[&str]) -> Entry {
        Entry {
            id: id(n),
            name: Name::parse(name).unwrap(),
            hostname: hostname.to_owned(),
            groups: groups.iter().map(|group| Name::parse(group).unwrap()).collect(),
            addresses: vec![IpAddr::from([10, 0, 0, n])],
        }
    }

    fn id(n: u8) -> ContainerId {
        ContainerId::parse(&format!("{n:016x}")).unwrap()
    }

    fn hosts(directory: &Directory, label: &str) -> Option<Vec<u8>> {
        let mut hosts: Vec<u8> = directory
            .addresses(VNI, label, usize::MAX, |_| true)?
            .into_iter()
            .map(|address| match address {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(ip) => ip.octets()[15],
            })
            .collect();
        hosts.sort_unstable();
        Some(hosts)
    }

    #[test]
    fn a_name_wins_over_a_group_and_both_over_a_hostname() {
        let directory = Directory::default();
        directory.publish(VNI, entry(2, "a", "a", &["web"]));
        directory.publish(VNI, entry(3, "b", "web", &["web"]));
        assert_eq!(hosts(&directory, "web"), Some(vec![2, 3]), "the group");
        directory.publish(VNI, entry(4, "web", "other", &[]));
        assert_eq!(hosts(&directory, "web"), Some(vec![4]), "the container");
        assert_eq!(hosts(&directory, "other"), Some(vec![4]));
        directory.withdraw(VNI, &id(4));
        directory.publish(VNI, entry(2, "a", "a", &[]));
        directory.publish(VNI, entry(3, "b", "web", &[]));
        assert_eq!(hosts(&directory, "web"), Some(vec![3]), "the hostname");
        directory.publish(VNI, entry(5, "c", "WEB", &[]));
        assert_eq!(hosts(&directory, "web"), None, "two have the hostname");
        directory.withdraw(VNI, &id(3));
        assert_eq!(hosts(&directory, "web"), Some(vec![5]));
    }

    #[test]
    fn another_vpc_does_not_know() {
        let directory = Directory::default();
        directory.publish(VNI + 1, entry(2, "web", "web", &["all"]));
        assert_eq!(hosts(&directory, "web"), None);
        assert_eq!(hosts(&directory, "all"), None);
        assert_eq!(directory.name_of(VNI, IpAddr::from([10, 0, 0, 2])), None);
        directory.withdraw(VNI, &id(2));
        assert!(directory.name_of(VNI + 1, IpAddr::from([10, 0, 0, 2])).is_some());
    }

    #[test]
    fn a_successor_has_name_and_address_whenever_the_former_goes() {
        let directory = Directory::default();
        let address = IpAddr::from([10, 0, 0, 2]);
        directory.publish(VNI, entry(2, "web", "web", &[]));
        let successor = Entry { id: id(9), ..entry(2, "web", "web", &[]) };
        directory.publish(VNI, successor);
        directory.withdraw(VNI, &id(2));
        assert_eq!(hosts(&directory, "web"), Some(vec![2]));
        assert_eq!(directory.name_of(VNI, address), Some(Name::parse("web").unwrap()));
        directory.withdraw(VNI, &id(9));
        assert_eq!(hosts(&directory, "web"), None);
        assert_eq!(directory.name_of(VNI, address), None);
        assert!(directory.vpcs.read().unwrap().is_empty());
    }

    #[test]
    fn nobody_is_called_gateway_or_localhost() {
        let directory = Directory::default();
        directory.publish(VNI, entry(2, "gateway", "localhost", &["localhost", "gateway"]));
        directory.publish(VNI, entry(3, "b", "www.example.com", &[]));
        for label in ["gateway", "localhost", "www.example.com"] {
            assert_eq!(hosts(&directory, label), None, "{label}");
        }
        assert_eq!(directory.name_of(VNI, IpAddr::from([10, 0, 0, 2])), None);
    }

    #[test]
    fn a_group_starts_with_each_member_in_turn() {
        let directory = Directory::default();
        for n in 2..6 {
            directory.publish(VNI, entry(n, &format!("c{n}"), "", &["web", "web"]));
        }
        let mut first = [0u32; 6];
        for _ in 0..4000 {
            let IpAddr::V4(ip) = directory.addresses(VNI, "web", 2, IpAddr::is_ipv4).unwrap()[0] else { panic!() };
            first[usize::from(ip.octets()[3])] += 1;
        }
        // 1,000 each are expected, with a standard deviation of 27.
        assert!(first[2..].iter().all(|&n| (800..1200).contains(&n)), "{first:?}");
        assert_eq!(directory.addresses(VNI, "web", 99, IpAddr::is_ipv4).unwrap().len(), 4, "each once");
        assert_eq!(directory.addresses(VNI, "web", 2, IpAddr::is_ipv4).unwrap().len(), 2);
        assert_eq!(directory.addresses(VNI, "web", 2, IpAddr::is_ipv6), Some(vec![]));
    }

    proptest! {
        /// Whatever was published and withdrawn in between, the last word counts, and nothing is left at the end.
        #[test]
        fn the_last_word_counts(steps in proptest::collection::vec((0u8..4, 0u8..4, 0u8..3, any::<bool>()), 0..40)) {
            let directory = Directory::default();
            let mut live: HashMap<u8, (u8, u8)> = HashMap::new();
            for (n, name, group, publish) in steps {
                // Names are unique among the running.
                if publish && live.iter().all(|(&other, &(taken, _))| other == n || taken != name) {
                    directory.publish(VNI, entry(n, &format!("n{name}"), "h", &[&format!("g{group}")]));
                    live.insert(n, (name, group));
                } else {
                    directory.withdraw(VNI, &id(n));
                    live.remove(&n);
                }
                for label in 0..4 {
                    let named: Vec<u8> = live.iter().filter(|(_, l)| l.0 == label).map(|(&n, _)| n).collect();
                    prop_assert_eq!(hosts(&directory, &format!("n{label}")).unwrap_or_default(), named);
                    let mut grouped: Vec<u8> = live.iter().filter(|(_, l)| l.1 == label).map(|(&n, _)| n).collect();
                    grouped.sort_unstable();
                    prop_assert_eq!(hosts(&directory, &format!("g{label}")).unwrap_or_default(), grouped);
                }
            }
            for n in 0..4 {
                directory.withdraw(VNI, &id(n));
            }
            prop_assert!(directory.vpcs.read().unwrap().is_empty());
        }
    }
}
