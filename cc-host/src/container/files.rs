//! The files that the daemon makes for a container: /etc/hosts, /etc/hostname, /etc/resolv.conf. Refuses to touch the image.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::record::ContainerRecord;
use crate::resolver;
use crate::shim::spec::Bind;

/// Writes them into `dir` and says where they belong. They are the container's own, by its ids: what it does to them stays its.
pub(super) fn write_etc(dir: &Path, id_base: u32, record: &ContainerRecord) -> io::Result<Vec<Bind>> {
    let files = [
        ("hosts", hosts(record)),
        ("hostname", format!("{}\n", record.hostname())),
        ("resolv.conf", resolv_conf(record)),
    ];
    let mut binds = Vec::new();
    for (name, text) in files {
        let source = dir.join(name);
        std::fs::write(&source, text)?;
        // Whatever the daemon's umask is.
        std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o644))?;
        std::os::unix::fs::chown(&source, Some(id_base), Some(id_base))?;
        binds.push(Bind { source, target: format!("/etc/{name}"), readonly: false, idmap: false });
    }
    Ok(binds)
}

fn hosts(record: &ContainerRecord) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let addresses = match &record.vpc {
        Some(vpc) => vpc.addresses().iter().map(|address| address.address).collect(),
        None => vec![IpAddr::from([127, 0, 1, 1])],
    };
    for address in addresses {
        let _ = writeln!(text, "{address}\t{}", record.hostname());
    }
    text
}

/// The VPC's gateway is where its resolver answers; without a VPC there is nobody to ask. Name servers of the user's own are not
/// told of the VPC's domain: what is below it is nobody else's business.
fn resolv_conf(record: &ContainerRecord) -> String {
    let servers = |servers: &[IpAddr]| servers.iter().map(|ip| format!("nameserver {ip}\n")).collect::<String>();
    match &record.vpc {
        Some(_) if !record.spec.dns.is_empty() => servers(&record.spec.dns),
        Some(vpc) => {
            let [zone, top] = resolver::DOMAIN;
            let gateways: Vec<IpAddr> = vpc.addresses().iter().filter_map(|address| address.gateway).collect();
            format!("{}search {}.{zone}.{top}\n", servers(&gateways), vpc.vpc_name)
        }
        None => String::from("# no network, so no name server\n"),
    }
}
