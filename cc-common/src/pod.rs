//! Tells aya which structs may cross the map boundary as bytes. Refuses to define any.
#![expect(unsafe_code, reason = "Pod is an unsafe trait: it says that a struct's bytes are the struct")]

use crate::counters::{Counters, DropCount, DropKey, SocketKey};
use crate::event::{DropRecord, RuleRecord, Told, Watch};
use crate::firewall::{Prefix4Key, Prefix6Key, PrefixEntry, RuleEntry, RuleKey, RuleSet};
use crate::flow::{Flow, FlowKey, NatEntry};
use crate::fragment::{FragmentEntry, FragmentPlace};
use crate::guard::Guard;
use crate::nat::{Block, Forward, ForwardKey, MeantKey, Uplink};
use crate::net::Ip;
use crate::port::{Port, PortKey};
use crate::quota::{BegunKey, Quota};
use crate::rate::Rate;
use crate::route::{EndpointEntry, Route, RouteKey};
use crate::settings::Settings;
use crate::trace::Trace;

macro_rules! pod {
    ($($name:ident)+) => {
        $(
            // SAFETY: `repr(C)`, made of integers and byte arrays only, every byte of it a named field (its size is asserted
            // where it is defined), so that any bit pattern is a value and no padding leaks.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

pod! {
    PortKey Port RouteKey Route EndpointEntry Counters SocketKey DropKey DropCount
    RuleKey RuleEntry RuleSet Prefix4Key Prefix6Key PrefixEntry FlowKey Flow NatEntry FragmentPlace FragmentEntry
    Quota BegunKey Rate Settings Block ForwardKey Forward Uplink MeantKey Ip DropRecord RuleRecord Told Watch Guard Trace
}
