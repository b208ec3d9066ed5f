//! Messages as clients encode them, turned into the rooms' types: what is taken keeps its limits, and shown to a client and sent again it is
//! the same. Refuses to reach a room.

use cc_common::api::v1;
use cc_host::api::fuzzing::{rule_spec, run_spec, spec_view};
use cc_host::firewall::{Protocol, RuleSpec};
use prost::Message as _;

use crate::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.below(2) {
        0 => container(input.rest()),
        _ => rule(input.rest()),
    }
}

fn container(bytes: &[u8]) {
    let Ok(message) = v1::ContainerSpec::decode(bytes) else { return };
    let Ok(spec) = run_spec(message, false) else { return };
    assert!(!spec.image.is_empty());
    assert!(spec.memory_bytes.is_none_or(|bytes| bytes >= 4 << 20));
    assert!(spec.env.iter().all(|entry| entry.find('=').is_some_and(|at| at > 0)));
    let mut texts = spec.env.iter().chain(&spec.command).chain(&spec.dir).chain(&spec.user).chain(&spec.hostname);
    assert!(texts.all(|text| !text.contains('\0')), "no NUL reaches a program");
    assert!(spec.publish.is_sorted_by(|a, b| a < b), "each port once");
    let again = run_spec(spec_view(&spec), false).expect("what was taken is taken again");
    assert_eq!(again, spec);
    assert!(serde_json::to_vec(&spec).expect("a record can be written").len() < cc_host::store::VALUE_BYTES_MAX);
}

fn rule(bytes: &[u8]) {
    let Ok(message) = v1::Rule::decode(bytes) else { return };
    let Ok(spec) = rule_spec(message) else { return };
    if let Protocol::Tcp(ports) | Protocol::Udp(ports) = spec.protocol {
        assert!(ports.first <= ports.last);
    }
    let record = serde_json::to_vec(&spec).expect("a record can be written");
    assert_eq!(serde_json::from_slice::<RuleSpec>(&record).expect("and read"), spec);
}
