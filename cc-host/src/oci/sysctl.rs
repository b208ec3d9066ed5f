//! `linux.sysctl`: kernel settings of the container's namespaces. Refuses those that are the host's.

use nix::sched::CloneFlags;
use oci_spec::runtime::Linux;
use rustix::fs::{Mode, OFlags};

use super::error::OciError;
use super::namespaces::Namespaces;
use crate::shim::init::other;
use crate::shim::protocol::StartFailure;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Below /proc/sys.
    path: String,
    value: String,
}

const OF_IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

pub fn parse(linux: Option<&Linux>, namespaces: &Namespaces) -> Result<Vec<Setting>, OciError> {
    let mut settings = Vec::new();
    for (name, value) in linux.iter().flat_map(|linux| linux.sysctl().iter().flatten()) {
        let invalid = |why: &str| Err(OciError::invalid(format!("linux.sysctl ({name})"), why));
        // The host's sysctl takes both signs: a path has the names that hold dots.
        let dotted = if name.contains('/') { name.replace('.', "\0").replace('/', ".") } else { name.clone() };
        let (owner, title) = match dotted.as_str() {
            "kernel.hostname" => return invalid("use hostname"),
            "kernel.domainname" => (CloneFlags::CLONE_NEWUTS, "uts"),
            known if OF_IPC.contains(&known) || known.starts_with("fs.mqueue.") => (CloneFlags::CLONE_NEWIPC, "ipc"),
            known if known.starts_with("net.") => (CloneFlags::CLONE_NEWNET, "network"),
            known if known.starts_with("user.") => (CloneFlags::CLONE_NEWUSER, "user"),
            _ => return invalid("it is no setting of a namespace: it would be the host's"),
        };
        if !namespaces.has(owner) {
            return invalid(&format!("without a {title} namespace it would be the host's"));
        }
        let path = dotted.replace('.', "/").replace('\0', ".");
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return invalid("it is no name of a setting");
        }
        settings.push(Setting { path, value: value.clone() });
    }
    settings.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(settings)
}

/// In the container's namespaces, by the host's /proc, which nobody of the container could have replaced.
pub fn apply(settings: &[Setting]) -> Result<(), StartFailure> {
    for Setting { path, value } in settings {
        let failed = |e| other(&format!("set linux.sysctl {}", path.replace('/', ".")), e);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(format!("/proc/sys/{path}"), flags, Mode::empty()).map_err(failed)?;
        rustix::io::write(&file, value.as_bytes()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(namespaces: &str, name: &str) -> Result<Vec<Setting>, OciError> {
        let text = format!(r#"{{"namespaces":[{{"type":"mount"}}{namespaces}],"sysctl":{{"{name}":"1"}}}}"#);
        let linux: Linux = serde_json::from_str(&text).unwrap();
        parse(Some(&linux), &Namespaces::parse(Some(&linux)).unwrap())
    }

    #[test]
    fn settings_are_of_a_namespace_of_the_containers() {
        let net = r#",{"type":"network"}"#;
        assert_eq!(parse_text(net, "net.ipv4.ip_forward").unwrap()[0].path, "net/ipv4/ip_forward");
        assert_eq!(parse_text(net, "net/ipv4/conf/eth0.1/x").unwrap()[0].path, "net/ipv4/conf/eth0.1/x");
        assert!(parse_text(r#",{"type":"ipc"}"#, "kernel.shmmax").is_ok());
        assert!(parse_text(r#",{"type":"uts"}"#, "kernel.domainname").is_ok());
        for (namespaces, name) in [
            ("", "net.ipv4.ip_forward"),
            (net, "kernel.shmmax"),
            (net, "kernel.panic"),
            (net, "vm.swappiness"),
            (net, "net.ipv4/../../kernel/panic"),
            (net, "net/../kernel/panic"),
            (r#",{"type":"network","path":"/proc/self/ns/net"}"#, "net.ipv4.ip_forward"),
            (r#",{"type":"ipc","path":"/proc/self/ns/ipc"}"#, "kernel.shmmax"),
            (r#",{"type":"uts"}"#, "kernel.hostname"),
        ] {
            assert!(parse_text(namespaces, name).is_err(), "{name}");
        }
    }
}
