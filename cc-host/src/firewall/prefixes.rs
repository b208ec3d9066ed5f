//! The table of prefixes: every CIDR that a rule or a list names, with the set of those names that hold it, ancestors included, so
//! that one walk tells all of them. Refuses to know what a name stands for: it is a number.

use std::collections::HashMap;

use cc_common::firewall::{PREFIX_CLOSED, PrefixEntry};
use ipnet::IpNet;

use crate::datapath::CompiledPrefixes;

/// A CIDR of a rule, or a prefix list, by its place among those that were given.
pub type Atom = u32;

/// A compiled table, and which atoms the numbers in it stand for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub compiled: CompiledPrefixes,
    /// By number; 0 is the empty set. Sorted.
    pub sets: Vec<Vec<Atom>>,
}

/// Stands for "closed" among a node's own atoms.
const CLOSED: Atom = Atom::MAX;

/// A prefix as 128 bits, an IPv4 one in the upper 32, and an atom that names it.
type Node = (u128, u8, Atom);

/// `closed` are ranges beyond every network that only atoms within them open.
pub fn build<'a>(atoms: impl IntoIterator<Item = (Atom, &'a [IpNet])>, closed: &[IpNet]) -> Table {
    let (mut v4, mut v6): (Vec<Node>, Vec<Node>) = Default::default();
    let mut add = |net: &IpNet, atom: Atom| match net {
        IpNet::V4(net) => v4.push((u128::from(net.network().to_bits()) << 96, net.prefix_len(), atom)),
        IpNet::V6(net) => v6.push((net.network().to_bits(), net.prefix_len(), atom)),
    };
    for (atom, nets) in atoms {
        nets.iter().for_each(|net| add(net, atom));
    }
    closed.iter().for_each(|net| add(net, CLOSED));
    let mut interned = Interned::new();
    let v4 = walk(v4, &mut interned);
    let v6 = walk(v6, &mut interned);
    let octets4 = |bits: u128| u32::try_from(bits >> 96).unwrap_or_default().to_be_bytes();
    let compiled = CompiledPrefixes {
        v4: v4.into_iter().map(|(bits, length, entry)| (octets4(bits), length, entry)).collect(),
        v6: v6.into_iter().map(|(bits, length, entry)| (bits.to_be_bytes(), length, entry)).collect(),
    };
    Table { compiled, sets: interned.sets }
}

/// Sets by number, each once.
struct Interned {
    numbers: HashMap<Vec<Atom>, u32>,
    sets: Vec<Vec<Atom>>,
    /// A set and one more atom: what nearly every prefix of a list asks for.
    joined: HashMap<(u32, Atom), u32>,
}

impl Interned {
    fn new() -> Self {
        Interned { numbers: HashMap::from([(Vec::new(), 0)]), sets: vec![Vec::new()], joined: HashMap::new() }
    }

    fn with(&mut self, set: u32, atom: Atom) -> u32 {
        if let Some(&known) = self.joined.get(&(set, atom)) {
            return known;
        }
        let mut atoms = self.sets[set as usize].clone();
        if let Err(at) = atoms.binary_search(&atom) {
            atoms.insert(at, atom);
        }
        let next = u32::try_from(self.sets.len()).expect("there are fewer sets than prefixes");
        let number = *self.numbers.entry(atoms.clone()).or_insert(next);
        if number == next {
            self.sets.push(atoms);
        }
        self.joined.insert((set, atom), number);
        number
    }
}

/// What holds at a node: the sets of its names, and whether it is closed.
#[derive(Clone, Copy)]
struct Holds {
    bits: u128,
    length: u8,
    inside: u32,
    outside: u32,
    closed: bool,
}

/// In the order of addresses, a shorter prefix before those within it: so its ancestors are on the stack.
fn walk(mut nodes: Vec<Node>, interned: &mut Interned) -> Vec<(u128, u8, PrefixEntry)> {
    nodes.sort_unstable();
    nodes.dedup();
    let root = Holds { bits: 0, length: 0, inside: 0, outside: 0, closed: false };
    let mut stack = vec![root];
    let mut rows: Vec<(u128, u8, PrefixEntry)> = Vec::with_capacity(nodes.len());
    for same in nodes.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let (bits, length, _) = same[0];
        while stack.last().is_some_and(|parent| !contains(parent, bits)) {
            stack.pop();
        }
        let mut holds = Holds { bits, length, ..*stack.last().unwrap_or(&root) };
        // Sorted: the mark of a closed range comes last, and what its equals name counts within it.
        if same.iter().any(|node| node.2 == CLOSED) {
            (holds.outside, holds.closed) = (0, true);
        }
        for &(_, _, atom) in same.iter().filter(|node| node.2 != CLOSED) {
            holds.inside = interned.with(holds.inside, atom);
            holds.outside = interned.with(holds.outside, atom);
        }
        let outside = holds.outside | if holds.closed { PREFIX_CLOSED } else { 0 };
        rows.push((bits, length, PrefixEntry { inside: holds.inside, outside }));
        stack.push(holds);
    }
    rows
}

fn contains(parent: &Holds, bits: u128) -> bool {
    parent.length == 0 || (parent.bits ^ bits) >> (128 - u32::from(parent.length)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::naive::lookup;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nested_prefixes_have_their_ancestors_names() {
        let (wide, list) = (nets(&["10.0.0.0/8"]), nets(&["10.1.0.0/16", "192.0.2.0/24", "2001:db8::/32"]));
        let table = build([(0, wide.as_slice()), (1, list.as_slice())], &[]);
        let sets = |address: &str| table.sets[lookup(&table, address.parse().unwrap()).inside as usize].clone();
        assert_eq!(sets("10.9.0.1"), [0]);
        assert_eq!(sets("10.1.0.1"), [0, 1]);
        assert_eq!(sets("192.0.2.1"), [1]);
        assert_eq!(sets("2001:db8::1"), [1]);
        assert_eq!(sets("198.51.100.1"), [0u32; 0]);
    }

    #[test]
    fn a_closed_range_is_opened_only_from_within() {
        let (all, host) = (nets(&["169.0.0.0/8"]), nets(&["169.254.169.254/32"]));
        let table = build([(0, all.as_slice()), (1, host.as_slice())], &nets(&["169.254.0.0/16"]));
        let outside = |address: &str| {
            let entry = lookup(&table, address.parse().unwrap());
            (table.sets[(entry.outside & !PREFIX_CLOSED) as usize].clone(), entry.outside & PREFIX_CLOSED != 0)
        };
        assert_eq!(outside("169.1.1.1"), (vec![0], false));
        assert_eq!(outside("169.254.1.1"), (vec![], true));
        assert_eq!(outside("169.254.169.254"), (vec![1], true));
        let entry = lookup(&table, "169.254.169.254".parse().unwrap());
        assert_eq!(table.sets[entry.inside as usize], [0, 1], "within a network nothing is closed");
    }

    #[test]
    fn a_million_prefixes_compile_in_time() {
        let list: Vec<IpNet> =
            (0..1_000_000u32).map(|n| IpNet::new(Ipv4Addr::from_bits(n << 8).into(), 24).unwrap()).collect();
        let began = std::time::Instant::now();
        let table = build([(0, list.as_slice())], &nets(&["127.0.0.0/8"]));
        assert_eq!(table.compiled.v4.len(), 1_000_001);
        // A debug build on a busy machine; release takes a tenth.
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
    }

    proptest! {
        #[test]
        fn one_walk_tells_every_name(
            lists in proptest::collection::vec(proptest::collection::vec((0u32..64, 0u8..=6), 0..6), 1..5),
            address in 0u32..64,
        ) {
            // A small world: six bits of address at the top.
            let net = |(bits, length): (u32, u8)| {
                IpNet::new(Ipv4Addr::from_bits(bits << 26).into(), length).unwrap().trunc()
            };
            let lists: Vec<Vec<IpNet>> = lists.into_iter().map(|l| l.into_iter().map(net).collect()).collect();
            let table = build(lists.iter().enumerate().map(|(n, l)| (n as u32, l.as_slice())), &[]);
            let address = IpAddr::from(Ipv4Addr::from_bits(address << 26 | 1));
            let expected: Vec<u32> = (0..lists.len() as u32)
                .filter(|n| lists[*n as usize].iter().any(|net| net.contains(&address)))
                .collect();
            let entry = lookup(&table, address);
            prop_assert_eq!(&table.sets[entry.inside as usize], &expected);
            prop_assert_eq!(entry.inside, entry.outside);
        }
    }
}
