//! The table `[flows]`: how long conversations are remembered without a packet, and how many a container may have. Every value has
//! bounds, and one that is refused is named with them. Refuses to know what a flow is.

use cc_common::limits::{FLOWS_GUARANTEED, FLOWS_PER_ENDPOINT, FLOWS_POOL, HALF_OPEN_PER_ENDPOINT};
use cc_common::settings::{Settings, Timeouts};
use serde::Deserialize;

/// A flow goes at the second sweep after its time, and there is a sweep a second at most: less would say nothing.
const TIMEOUT_MIN_S: u64 = 1;
/// A week. What is silent for longer is over, and its row is somebody else's.
const TIMEOUT_MAX_S: u64 = 7 * 24 * 3600;
/// Nobody can take these from an endpoint, so a limit below them would be none of ours to set.
const FLOWS_MIN: u64 = FLOWS_GUARANTEED as u64;
/// Its own and the whole pool: 64 + 2^19. More there are for no endpoint.
const FLOWS_MAX: u64 = FLOWS_GUARANTEED as u64 + FLOWS_POOL as u64;

const SECOND_NS: u64 = 1_000_000_000;
const DEFAULT: Timeouts = Timeouts::DEFAULT;

/// The names are those of Linux's connection tracking, where it has the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Table")]
pub struct Flows {
    /// The handshake is not over.
    pub tcp_syn_s: u64,
    pub tcp_established_s: u64,
    /// One side is done.
    pub tcp_fin_s: u64,
    /// Both are, or one has reset.
    pub tcp_time_wait_s: u64,
    /// Nobody has answered.
    pub udp_s: u64,
    /// Both have spoken.
    pub udp_stream_s: u64,
    pub icmp_s: u64,
    /// Of other protocols, as of UDP.
    pub other_s: u64,
    pub other_stream_s: u64,
    pub per_container_max: u64,
    pub half_open_per_container_max: u64,
}

impl Default for Flows {
    fn default() -> Self {
        Flows {
            tcp_syn_s: DEFAULT.tcp_opening_ns / SECOND_NS,
            tcp_established_s: DEFAULT.tcp_established_ns / SECOND_NS,
            tcp_fin_s: DEFAULT.tcp_closing_ns / SECOND_NS,
            tcp_time_wait_s: DEFAULT.tcp_over_ns / SECOND_NS,
            udp_s: DEFAULT.udp_opening_ns / SECOND_NS,
            udp_stream_s: DEFAULT.udp_established_ns / SECOND_NS,
            icmp_s: DEFAULT.icmp_ns / SECOND_NS,
            other_s: DEFAULT.other_opening_ns / SECOND_NS,
            other_stream_s: DEFAULT.other_established_ns / SECOND_NS,
            per_container_max: FLOWS_PER_ENDPOINT.into(),
            half_open_per_container_max: HALF_OPEN_PER_ENDPOINT.into(),
        }
    }
}

/// A key of the table: its name, its bounds, both allowed, and where its value goes.
struct Key {
    name: &'static str,
    min: u64,
    max: u64,
    place: fn(&mut Flows) -> &mut u64,
}

const fn timeout(name: &'static str, place: fn(&mut Flows) -> &mut u64) -> Key {
    Key { name, min: TIMEOUT_MIN_S, max: TIMEOUT_MAX_S, place }
}

const KEYS: [Key; 11] = [
    timeout("tcp_syn_s", |flows| &mut flows.tcp_syn_s),
    timeout("tcp_established_s", |flows| &mut flows.tcp_established_s),
    timeout("tcp_fin_s", |flows| &mut flows.tcp_fin_s),
    timeout("tcp_time_wait_s", |flows| &mut flows.tcp_time_wait_s),
    timeout("udp_s", |flows| &mut flows.udp_s),
    timeout("udp_stream_s", |flows| &mut flows.udp_stream_s),
    timeout("icmp_s", |flows| &mut flows.icmp_s),
    timeout("other_s", |flows| &mut flows.other_s),
    timeout("other_stream_s", |flows| &mut flows.other_stream_s),
    Key { name: "per_container_max", min: FLOWS_MIN, max: FLOWS_MAX, place: |flows| &mut flows.per_container_max },
    Key {
        name: "half_open_per_container_max",
        min: 1,
        max: FLOWS_MAX,
        place: |flows| &mut flows.half_open_per_container_max,
    },
];

impl TryFrom<toml::Table> for Flows {
    type Error = String;
    fn try_from(table: toml::Table) -> Result<Self, String> {
        let mut flows = Flows::default();
        for (name, value) in &table {
            let Some(Key { min, max, place, .. }) = KEYS.iter().find(|key| key.name == name) else {
                let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
                return Err(format!("flows.{name} is no key; there are {}", known.join(", ")));
            };
            match value.as_integer().and_then(|number| u64::try_from(number).ok()) {
                Some(number) if (*min..=*max).contains(&number) => *place(&mut flows) = number,
                _ => return Err(format!("flows.{name} is {value}, not a whole number from {min} to {max}")),
            }
        }
        let (half_open, all) = (flows.half_open_per_container_max, flows.per_container_max);
        if half_open > all && !table.contains_key("half_open_per_container_max") {
            // Who lowers the one limit need not know of the other.
            flows.half_open_per_container_max = all;
        } else if half_open > all {
            return Err(format!(
                "flows.half_open_per_container_max is {half_open}, more than flows.per_container_max, which is {all}"
            ));
        }
        Ok(flows)
    }
}

impl Flows {
    /// As the programs read them.
    pub fn settings(&self) -> Settings {
        let ns = |seconds: u64| seconds * SECOND_NS;
        let count = |flows: u64| u32::try_from(flows).expect("FLOWS_MAX fits");
        Settings {
            timeouts: Timeouts {
                tcp_opening_ns: ns(self.tcp_syn_s),
                tcp_established_ns: ns(self.tcp_established_s),
                tcp_closing_ns: ns(self.tcp_fin_s),
                tcp_over_ns: ns(self.tcp_time_wait_s),
                udp_opening_ns: ns(self.udp_s),
                udp_established_ns: ns(self.udp_stream_s),
                icmp_ns: ns(self.icmp_s),
                other_opening_ns: ns(self.other_s),
                other_established_ns: ns(self.other_stream_s),
            },
            flows_per_endpoint: count(self.per_container_max),
            half_open_per_endpoint: count(self.half_open_per_container_max),
            ..Settings::DEFAULT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Flows, String> {
        #[derive(Deserialize)]
        struct Whole {
            #[serde(default)]
            flows: Flows,
        }
        toml::from_str::<Whole>(text).map(|whole| whole.flows).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn what_is_not_said_is_what_the_programs_have_by_default() {
        assert_eq!(read("").unwrap().settings(), Settings::DEFAULT);
        assert_eq!(read("[flows]\n").unwrap(), Flows::default());
        let one = read("[flows]\nudp_stream_s = 7\n").unwrap();
        let timeouts = Timeouts { udp_established_ns: 7 * SECOND_NS, ..DEFAULT };
        assert_eq!(one.settings(), Settings { timeouts, ..Settings::DEFAULT });
    }

    #[test]
    fn every_key_has_a_place_of_its_own() {
        let text: Vec<String> = (0u64..).zip(&KEYS).map(|(n, key)| format!("{} = {}", key.name, 100 - n)).collect();
        let mut flows = read(&format!("[flows]\n{}\n", text.join("\n"))).unwrap();
        for (n, key) in (0u64..).zip(&KEYS) {
            assert_eq!(*(key.place)(&mut flows), 100 - n, "{}", key.name);
        }
        let Timeouts {
            tcp_opening_ns,
            tcp_established_ns,
            tcp_closing_ns,
            tcp_over_ns,
            udp_opening_ns,
            udp_established_ns,
            icmp_ns,
            other_opening_ns,
            other_established_ns,
        } = flows.settings().timeouts;
        let all = [
            tcp_opening_ns,
            tcp_established_ns,
            tcp_closing_ns,
            tcp_over_ns,
            udp_opening_ns,
            udp_established_ns,
            icmp_ns,
            other_opening_ns,
            other_established_ns,
        ];
        assert_eq!(all.map(|ns| ns / SECOND_NS), [100, 99, 98, 97, 96, 95, 94, 93, 92]);
        assert_eq!((flows.settings().flows_per_endpoint, flows.settings().half_open_per_endpoint), (91, 90));
    }

    #[test]
    fn bounds_hold_and_are_told_with_key_and_value() {
        for key in &KEYS {
            let Key { name, min, max, .. } = key;
            let all = if *name == "half_open_per_container_max" { "per_container_max = 524352\n" } else { "" };
            let with = |value: String| read(&format!("[flows]\n{all}{name} = {value}\n"));
            assert!(with(min.to_string()).is_ok() && with(max.to_string()).is_ok(), "{name}");
            for bad in [(min - 1).to_string(), (max + 1).to_string(), "-1".into(), "1.5".into(), "\"1s\"".into()] {
                let error = with(bad.clone()).unwrap_err();
                let said = error.contains(&format!("flows.{name} is {bad}"));
                assert!(said && error.contains(&format!("from {min} to {max}")), "{error}");
            }
        }
        let error = read("[flows]\nudp_timeout = 3\n").unwrap_err();
        assert!(error.contains("flows.udp_timeout") && error.contains("udp_stream_s"), "{error}");
    }

    #[test]
    fn half_open_ones_are_among_all() {
        let lowered = read("[flows]\nper_container_max = 100\n").unwrap();
        assert_eq!((lowered.per_container_max, lowered.half_open_per_container_max), (100, 100));
        let error = read("[flows]\nper_container_max = 100\nhalf_open_per_container_max = 101\n").unwrap_err();
        assert!(error.contains("101") && error.contains("flows.per_container_max, which is 100"), "{error}");
    }
}
