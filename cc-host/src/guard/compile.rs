//! What the lines of the deny list come to: one table of prefixes. Refuses to deny everybody: whoever did that could not take it back.

use std::sync::Arc;

use cc_common::firewall::PrefixEntry;
use ipnet::IpNet;

use super::error::GuardError;
use crate::datapath::CompiledPrefixes;

/// Ranges and the contents of lists, each with what to call it.
pub(super) type Parts = Vec<(String, Arc<Vec<IpNet>>)>;

pub(super) fn compile(parts: &Parts) -> Result<CompiledPrefixes, GuardError> {
    // Whether it is there is all that is asked of a prefix.
    let entry = PrefixEntry { inside: 0, outside: 0 };
    let mut compiled = CompiledPrefixes::default();
    for (name, nets) in parts {
        for net in nets.iter() {
            match net {
                _ if net.prefix_len() == 0 => return Err(GuardError::Everybody { what: name.clone() }),
                IpNet::V4(net) => compiled.v4.push((net.network().octets(), net.prefix_len(), entry)),
                IpNet::V6(net) => compiled.v6.push((net.network().octets(), net.prefix_len(), entry)),
            }
        }
    }
    compiled.v4.sort_unstable_by_key(|row| (row.0, row.1));
    compiled.v4.dedup_by_key(|row| (row.0, row.1));
    compiled.v6.sort_unstable_by_key(|row| (row.0, row.1));
    compiled.v6.dedup_by_key(|row| (row.0, row.1));
    Ok(compiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, nets: &[&str]) -> (String, Arc<Vec<IpNet>>) {
        (name.to_owned(), Arc::new(nets.iter().map(|net| net.parse().unwrap()).collect()))
    }

    #[test]
    fn parts_are_joined_sorted_and_each_prefix_is_there_once() {
        let parts =
            vec![part("a", &["198.51.100.0/24", "2001:db8::/32"]), part("b", &["192.0.2.0/24", "198.51.100.0/24"])];
        let compiled = compile(&parts).unwrap();
        let v4: Vec<_> = compiled.v4.iter().map(|row| (row.0, row.1)).collect();
        assert_eq!(v4, [([192, 0, 2, 0], 24), ([198, 51, 100, 0], 24)]);
        assert_eq!(compiled.v6.len(), 1);
        assert_eq!(compile(&Vec::new()).unwrap(), CompiledPrefixes::default());
    }

    #[test]
    fn nobody_can_deny_everybody() {
        for everybody in ["0.0.0.0/0", "::/0"] {
            let error = compile(&vec![part("list", &["192.0.2.0/24", everybody])]).unwrap_err();
            assert!(matches!(error, GuardError::Everybody { what } if what == "list"));
        }
    }
}
