//! How a VPC looks.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct VpcView {
    pub id: String,
    pub name: String,
    pub cidr: String,
    /// Empty, as its gateway, where there is no IPv6.
    pub cidr6: String,
    pub vni: u32,
    pub gateway: String,
    pub gateway6: String,
    pub containers: u32,
    pub internet: bool,
    pub created: String,
}

impl From<v1::Vpc> for VpcView {
    fn from(vpc: v1::Vpc) -> Self {
        let v1::Vpc { id, name, cidr, vni, gateway, containers, created_ms, cidr6, gateway6, internet } = vpc;
        VpcView { id, name, cidr, vni, gateway, containers, created: rfc3339_ms(created_ms), cidr6, gateway6, internet }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Vpcs(pub Vec<VpcView>);

impl View for Vpcs {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let row = |vpc: &VpcView| {
            let VpcView { id, name, cidr, vni, gateway, containers, cidr6, gateway6, internet, .. } = vpc;
            let internet = if *internet { "yes" } else { "no" }.to_owned();
            let (cidr, gateway) = (table::both(cidr, cidr6), table::both(gateway, gateway6));
            vec![id.clone(), name.clone(), cidr, gateway, vni.to_string(), containers.to_string(), internet]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        table::print_into(out, &["ID", "NAME", "CIDR", "GATEWAY", "VNI", "CONTAINERS", "INTERNET"], &rows)
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|vpc| vpc.id.as_str()).collect()
    }
}

/// A new VPC prints its id only, so that a shell can keep it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct VpcCreated(pub VpcView);

impl View for VpcCreated {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.0.id)
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.0.id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Ui;

    #[test]
    fn table_ids_and_json() {
        let vpc = |id: &str, name: &str, [cidr6, gateway6]: [&str; 2]| v1::Vpc {
            id: id.into(),
            name: name.into(),
            cidr: "10.0.0.0/24".into(),
            vni: 100,
            gateway: "10.0.0.1".into(),
            containers: 2,
            created_ms: 1_700_000_000_000,
            cidr6: cidr6.into(),
            gateway6: gateway6.into(),
            internet: cidr6.is_empty(),
        };
        let (blue, green) = (vpc("vpc-1", "blue", ["", ""]), vpc("vpc-22", "green", ["fd00:1::/64", "fd00:1::1"]));
        let vpcs = Vpcs(vec![blue.into(), green.into()]);
        let print = |json, quiet| {
            let mut out = Vec::new();
            Ui { json, quiet }.show_into(&mut out, &vpcs).unwrap();
            String::from_utf8(out).unwrap()
        };
        insta::assert_snapshot!("vpc_table", print(false, false));
        insta::assert_snapshot!("vpc_json", print(true, false));
        assert_eq!(print(false, true), "vpc-1\nvpc-22\n");
    }
}
