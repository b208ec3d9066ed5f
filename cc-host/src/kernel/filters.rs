//! The eBPF filters on an interface, whoever put them there, as the kernel lists them. Refuses to add or remove one: the datapath does
//! that with its own.

use cc_common::names;
use futures::TryStreamExt as _;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use super::link::{LinkError, Links};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// As the interface sees it: `ingress` is what comes in by it.
    pub hook: &'static str,
    pub priority: u16,
    pub handle: u32,
    pub program_id: u32,
    pub program_name: String,
    pub tag: u64,
}

impl Filter {
    /// By its place and its name, which somebody else would have to have chosen.
    pub fn is_ours(&self) -> bool {
        let [ours, departure] = [names::FILTER_HANDLE, names::DEPARTURE_HANDLE].map(u32::from);
        let name = self.program_name.as_str();
        self.priority == names::FILTER_PRIORITY
            && ((self.handle == ours && names::PROGRAMS.contains(&name))
                || (self.handle == departure && name == names::PROGRAM_DEPARTURE))
    }
}

impl Links {
    /// In the order in which packets meet them, first those of what comes in.
    pub async fn filters(&self, ifindex: u32) -> Result<Vec<Filter>, LinkError> {
        let request = || self.handle().traffic_filter(ifindex.cast_signed()).get();
        let mut filters = Vec::new();
        for (hook, request) in [("ingress", request().ingress()), ("egress", request().egress())] {
            let found = request.execute().try_collect::<Vec<TcMessage>>().await;
            let found = found.map_err(|source| LinkError::List { source })?;
            filters.extend(found.iter().filter_map(|message| filter(hook, message)));
        }
        Ok(filters)
    }
}

/// The kernel also lists what filters of a priority have in common, without a program.
fn filter(hook: &'static str, message: &TcMessage) -> Option<Filter> {
    let priority = u16::try_from(message.header.info >> 16).unwrap_or(u16::MAX);
    let handle = u32::from(message.header.handle);
    let mut filter = Filter { hook, priority, handle, program_id: 0, program_name: String::new(), tag: 0 };
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    for option in options.flatten() {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program_id = *id,
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.program_name = name.clone(),
            TcOption::Bpf(TcFilterBpfOption::ProgTag(tag)) => filter.tag = u64::from_be_bytes(*tag),
            _ => {}
        }
    }
    (filter.program_id != 0).then_some(filter)
}
