//! Looks for what is not as it should be on this host, and, if it is told to, puts right what is ours. Refuses to touch what is somebody
//! else's: it says how to remove it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Explain;
use super::error::ExplainError;
use crate::config::Config;
use crate::container::ContainerRecord;
use crate::kernel::offload::Offload;
use crate::kernel::{check, uplink};

/// What was removed is put back by whoever watches over it; this long is waited for.
const BACK_WITHIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A container's name, or the host.
    pub subject: String,
    pub problem: String,
    /// What a person can do.
    pub next: String,
    /// Something does not work; otherwise it may surprise.
    pub grave: bool,
    pub fixed: bool,
}

impl Finding {
    fn of_host(problem: String, next: &str, grave: bool) -> Self {
        Finding { subject: "host".to_owned(), problem, next: next.to_owned(), grave, fixed: false }
    }
}

impl Explain {
    /// Of the whole host: for admins.
    pub async fn doctor(self: &Arc<Self>, config: &Config, fix: bool) -> Result<Vec<Finding>, ExplainError> {
        let mut findings = Vec::new();
        let asked = config.clone();
        let checks = tokio::task::spawn_blocking(move || check::all(&asked)).await.expect("checks do not panic");
        let lacking = checks.into_iter().filter(|check| !check.ok);
        findings.extend(lacking.map(|check| {
            let problem = format!("{}: {}; {}", check.name, check.found, check.cost);
            Finding::of_host(problem, check.next, check.required)
        }));
        let uplinks = self.datapath.uplinks()?;
        if uplinks.is_empty() {
            let next =
                "give the host a default route by an Ethernet interface, or name one: uplinks in the configuration";
            findings.push(Finding::of_host(
                "no interface leads out: no container reaches the world".to_owned(),
                next,
                false,
            ));
        }
        for name in uplinks.iter().filter_map(|&ifindex| name_of(ifindex)) {
            for trap in Offload::of(&name).traps(&name) {
                findings.push(Finding::of_host(trap.problem, &trap.next, false));
            }
        }
        let mtus: Vec<u32> = uplinks.iter().filter_map(|&ifindex| mtu_of(ifindex)).collect();
        for record in self.containers.running() {
            self.look_at(&record, &mtus, &mut findings).await?;
        }
        self.look_at_links(fix, &mut findings).await?;
        match self.containers.volumes().advice().await {
            Ok(advice) => findings.extend(advice.into_iter().map(|a| Finding::of_host(a.problem, a.next, a.grave))),
            Err(error) => {
                let problem = format!("the pool of volumes cannot be looked at: {}", crate::error_chain(&error));
                findings.push(Finding::of_host(problem, "see volumes in the configuration, and lvs", true));
            }
        }
        Ok(findings)
    }

    /// Others' programs on its interface, what that leaves to the CPU, and its MTU.
    async fn look_at(
        &self,
        record: &ContainerRecord,
        uplink_mtus: &[u32],
        findings: &mut Vec<Finding>,
    ) -> Result<(), ExplainError> {
        if record.vpc.is_none() {
            return Ok(());
        }
        let interface = record.interface();
        let mut tell = |problem, next, grave| {
            findings.push(Finding { subject: record.name.to_string(), problem, next, grave, fixed: false });
        };
        let Ok(ifindex) = nix::net::if_::if_nametoindex(interface.as_str()) else { return Ok(()) };
        for filter in self.links.filters(ifindex).await? {
            if filter.is_ours() {
                continue;
            }
            let (hook, priority) = (filter.hook, filter.priority);
            let problem = format!(
                "program {} of somebody else sees its packets ({hook} of {interface}, priority {priority})",
                filter.program_name
            );
            let handle = filter.handle;
            let next = format!("tc filter del dev {interface} {hook} pref {priority} handle {handle} bpf");
            tell(problem, next, false);
        }
        for trap in Offload::of(interface.as_str()).traps(interface.as_str()) {
            tell(trap.problem, trap.next, false);
        }
        let own = mtu_of(ifindex);
        if let (Some(own), Some(&least)) = (own, uplink_mtus.iter().min())
            && own > least
        {
            let problem = format!("its MTU of {own} is larger than an uplink's, {least}: senders are told, one by one");
            tell(problem, format!("run it with --mtu {least} or less"), false);
        }
        Ok(())
    }

    /// Pins whose link has been detached: nothing runs by it.
    async fn look_at_links(&self, fix: bool, findings: &mut Vec<Finding>) -> Result<(), ExplainError> {
        let containers = self.containers.running();
        for pin in self.datapath.detached_links()? {
            let name = pin.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let owner = containers.iter().find(|record| name.starts_with(record.id.as_str()));
            let problem = format!("link {name} is detached: its program sees nothing");
            let fixed = fix && replaced(pin).await;
            findings.push(Finding {
                subject: owner.map_or_else(|| "host".to_owned(), |record| record.name.to_string()),
                problem,
                next: "cc net doctor --fix".to_owned(),
                grave: true,
                fixed,
            });
        }
        Ok(())
    }
}

/// Without its pin it is missing, and missing links are attached anew.
async fn replaced(pin: PathBuf) -> bool {
    if std::fs::remove_file(&pin).is_err() {
        return false;
    }
    let began = std::time::Instant::now();
    while began.elapsed() < BACK_WITHIN {
        if pin.exists() {
            return true;
        }
        tokio::time::sleep(LOOK).await;
    }
    false
}

fn name_of(ifindex: u32) -> Option<String> {
    nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()
}

fn mtu_of(ifindex: u32) -> Option<u32> {
    uplink::mtu(Some(&name_of(ifindex)?)).ok().flatten()
}
