//! How a host looks.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};

#[derive(Debug, Serialize)]
pub struct HostView {
    pub host_id: String,
    pub version: String,
    pub abi: u32,
    pub kernel: String,
    pub containers_running: u32,
    pub containers_total: u32,
    pub vpcs: u32,
}

impl From<v1::HostInfo> for HostView {
    fn from(info: v1::HostInfo) -> Self {
        let v1::HostInfo { version, abi, kernel, containers_running, containers_total, vpcs, host_id } = info;
        HostView { host_id, version, abi, kernel, containers_running, containers_total, vpcs }
    }
}

impl View for HostView {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let containers = format!("{} running, {} in all", self.containers_running, self.containers_total);
        table::print_pairs_into(
            out,
            &[
                ("Host", self.host_id.clone()),
                ("Version", self.version.clone()),
                ("Datapath ABI", self.abi.to_string()),
                ("Kernel", self.kernel.clone()),
                ("Containers", containers),
                ("VPCs", self.vpcs.to_string()),
            ],
        )
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.host_id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let info = v1::HostInfo {
            version: "0.1.0".into(),
            abi: 1,
            kernel: "6.18.0".into(),
            containers_running: 1,
            containers_total: 2,
            vpcs: 2,
            host_id: "h-1".into(),
        };
        let mut out = Vec::new();
        HostView::from(info).print_into(&mut out).unwrap();
        insta::assert_snapshot!("host_pairs", String::from_utf8(out).unwrap());
    }
}
