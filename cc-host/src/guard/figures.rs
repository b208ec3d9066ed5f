//! The guard's figures for Prometheus. Refuses to name a source: only reasons are counted.

use std::sync::Arc;

use super::room::Guard;
use crate::auth::Scope;
use crate::metrics::{Collect, Encoder, Family, Kind};

static PACKETS: Family = Family::of_host(
    Kind::Counter,
    "cc_guard_dropped_packets_total",
    "Packets that the guard has dropped at the host's uplinks, by reason.",
    &["reason"],
);
static BYTES: Family = Family::of_host(
    Kind::Counter,
    "cc_guard_dropped_bytes_total",
    "Bytes of frames that the guard has dropped at the host's uplinks, by reason.",
    &["reason"],
);
static FAMILIES: &[&Family] = &[&PACKETS, &BYTES];

pub struct GuardFigures {
    pub guard: Arc<Guard>,
}

impl Collect for GuardFigures {
    fn families(&self) -> &'static [&'static Family] {
        FAMILIES
    }

    fn collect(&self, out: &mut Encoder) {
        if *out.scope() != Scope::Host {
            return;
        }
        match self.guard.drops() {
            Ok(all) => {
                for of in all {
                    out.add(&PACKETS, &[of.reason], of.packets as f64);
                    out.add(&BYTES, &[of.reason], of.bytes as f64);
                }
            }
            Err(error) => out.failed("the guard's drops", &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_keep_the_conventions() {
        for family in FAMILIES {
            assert_eq!(family.fault(), None, "{}", family.name);
        }
    }
}
