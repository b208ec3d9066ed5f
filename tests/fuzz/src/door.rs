//! Where frames come in, and the program that looks at them there. Refuses to judge what it does.

use programs::frame::Skb;
use programs::hooks::{from_endpoint, from_host, from_uplink, to_endpoint};
use programs::programs::TcContext;

use crate::host::{ENDPOINTS, HOST_DEVICE, UPLINK};

/// By which program a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Endpoint(usize),
    ToEndpoint,
    Uplink,
    Host,
}

impl Door {
    pub fn ifindex(self) -> u32 {
        match self {
            Door::Endpoint(at) => ENDPOINTS[at].ifindex,
            Door::ToEndpoint => ENDPOINTS[0].ifindex,
            Door::Uplink => UPLINK,
            Door::Host => HOST_DEVICE,
        }
    }

    pub fn run(self, skb: &mut Skb) -> i32 {
        let context = TcContext::new(skb.pointer());
        match self {
            Door::Endpoint(_) => from_endpoint::run(&context),
            Door::ToEndpoint => to_endpoint::run(&context),
            Door::Uplink => from_uplink::run(&context),
            Door::Host => from_host::run(&context),
        }
    }
}
