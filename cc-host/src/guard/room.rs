//! The deny list. A change is in force before it is written down, and taken back if it cannot be: what was acknowledged is both.
//! Refuses to be in force half: a packet meets the list before the change, or the one after it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cc_common::limits::GUARD_LINES_MAX;
use ipnet::IpNet;
use nix::net::if_::if_indextoname;
use tokio::sync::Mutex;

use super::compile::{Parts, compile};
use super::error::GuardError;
use super::model::{LINES, Line, Source};
use super::tend;
use crate::config::Config;
use crate::daemon::events::Events;
use crate::datapath::{Datapath, Guarded};
use crate::firewall::{Firewall, PrefixListId, PrefixListRecord};
use crate::ids::{Project, now_ms};
use crate::store::{Store, typed};

pub struct Guard {
    store: Arc<dyn Store>,
    datapath: Arc<Datapath>,
    firewall: Arc<Firewall>,
    events: Events,
    /// Guard against malformed packets though nobody is denied.
    always: bool,
    /// Held through every change: one after the other.
    lines: Mutex<Vec<Line>>,
}

/// An uplink, and how it is guarded, if it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkState {
    pub name: String,
    pub ifindex: u32,
    pub mode: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub struct GuardState {
    /// Each with the name and the number of prefixes of its list, if it is one.
    pub lines: Vec<(Line, Option<(String, u64)>)>,
    pub uplinks: Vec<UplinkState>,
    pub drops: Vec<Guarded>,
    /// Whether uplinks are to be guarded at this moment.
    pub wanted: bool,
}

impl Guard {
    /// Puts the list in force that the store has. Before the rules of groups are: what an earlier daemon has loaded goes then.
    pub async fn open(
        config: &Config,
        store: Arc<dyn Store>,
        datapath: Arc<Datapath>,
        firewall: Arc<Firewall>,
        events: Events,
    ) -> Result<Arc<Self>, GuardError> {
        let stored = typed::get_json::<Vec<Line>>(&*store, LINES).await?;
        let lines = stored.map(|stored| stored.value).unwrap_or_default();
        let guard = Guard { store, datapath, firewall, events, always: config.guard, lines: Mutex::default() };
        let guard = Arc::new(guard);
        guard.load(&lines).await?;
        *guard.lines.lock().await = lines;
        // This daemon's program takes the earlier one's place at once; what cannot be guarded now is told by who tends it.
        let refresh = Arc::clone(&guard);
        let replaced = tokio::task::spawn_blocking(move || refresh.replace_programs()).await;
        replaced.expect("attaching programs does not panic")?;
        tokio::spawn(tend::tend(Arc::downgrade(&guard)));
        Ok(guard)
    }

    /// Denies what is named, ranges or prefix lists of the project. What is denied already is fine.
    pub async fn deny(&self, project: &Project, wanted: &[String]) -> Result<(), GuardError> {
        let sources = self.parse(project, wanted)?;
        self.change(|lines| {
            for source in sources {
                if !lines.iter().any(|line| line.source == source) {
                    lines.push(Line { source, added_ms: now_ms() });
                }
            }
            if lines.len() > GUARD_LINES_MAX { Err(GuardError::TooMany) } else { Ok(()) }
        })
        .await
    }

    /// Takes lines away. What is not denied is fine.
    pub async fn allow(&self, project: &Project, wanted: &[String]) -> Result<(), GuardError> {
        let sources = self.parse(project, wanted)?;
        self.change(|lines| {
            lines.retain(|line| !sources.contains(&line.source));
            Ok(())
        })
        .await
    }

    fn parse(&self, project: &Project, wanted: &[String]) -> Result<Vec<Source>, GuardError> {
        wanted.iter().map(|text| Source::parse(text, &self.firewall, project)).collect()
    }

    async fn change(&self, edit: impl FnOnce(&mut Vec<Line>) -> Result<(), GuardError>) -> Result<(), GuardError> {
        let mut lines = self.lines.lock().await;
        let mut new = lines.clone();
        edit(&mut new)?;
        if new == *lines {
            return Ok(());
        }
        self.load(&new).await?;
        let put = typed::put_op(LINES, &new);
        let written = match put {
            Ok(put) => self.store.txn(Vec::new(), vec![put]).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            if let Err(error) = self.load(&lines).await {
                tracing::error!(
                    error = crate::error_chain(&error),
                    "a deny list that was not written down is in force"
                );
            }
            return Err(error.into());
        }
        *lines = new;
        let wanted = self.is_wanted(&lines);
        // What cannot be attached is no reason to forget the list: it is told, and tried again.
        if let Err(error) = self.attach(wanted).await {
            tracing::warn!(error = crate::error_chain(&error), "the host's uplinks are not all guarded");
        }
        Ok(())
    }

    fn is_wanted(&self, lines: &[Line]) -> bool {
        self.always || !lines.is_empty()
    }

    /// Puts lines in force, whole.
    async fn load(&self, lines: &[Line]) -> Result<(), GuardError> {
        let mut parts = Parts::new();
        for line in lines {
            match &line.source {
                Source::Cidr(cidr) => parts.push((cidr.to_string(), Arc::new(vec![*cidr]))),
                Source::Prefixes(id) => {
                    // It cannot be deleted while the guard names it.
                    let Some(list) = self.firewall.list_of_id(id) else { continue };
                    parts.push((list.name.to_string(), self.firewall.prefixes_of(&list).await?));
                }
            }
        }
        let datapath = Arc::clone(&self.datapath);
        let loading = move || Ok(datapath.load_guard(&compile(&parts)?)?);
        tokio::task::spawn_blocking(loading).await.expect("loading prefixes does not panic")
    }

    /// Before prefix lists are deleted.
    pub async fn not_named(&self, project: &Project, lists: &[String]) -> Result<(), GuardError> {
        let lines = self.lines.lock().await;
        for list in lists.iter().filter_map(|name| self.firewall.prefix_list(project, name).ok()) {
            if names(&lines, &list.id) {
                return Err(GuardError::ListInUse { name: list.name.to_string() });
            }
        }
        Ok(())
    }

    /// Before prefixes are put into a list.
    pub async fn may_contain(&self, list: &PrefixListRecord, prefixes: &[IpNet]) -> Result<(), GuardError> {
        let everybody = prefixes.iter().any(|net| net.prefix_len() == 0);
        if everybody && names(&self.lines.lock().await, &list.id) {
            return Err(GuardError::Everybody { what: list.name.to_string() });
        }
        Ok(())
    }

    /// After a list's content has changed: it is in force when this returns.
    pub async fn list_changed(&self, list: &PrefixListId) -> Result<(), GuardError> {
        let lines = self.lines.lock().await;
        if names(&lines, list) { self.load(&lines).await } else { Ok(()) }
    }

    pub async fn state(self: &Arc<Self>) -> Result<GuardState, GuardError> {
        let lines = self.lines.lock().await.clone();
        let wanted = self.is_wanted(&lines);
        let named = lines.into_iter().map(|line| {
            let list = match &line.source {
                Source::Cidr(_) => None,
                Source::Prefixes(id) => self.firewall.list_of_id(id).map(|list| (list.name.to_string(), list.prefixes)),
            };
            (line, list)
        });
        let lines = named.collect();
        let guard = Arc::clone(self);
        let reading = move || -> Result<_, GuardError> { Ok((guard.uplink_states()?, guard.datapath.guarded()?)) };
        let read = tokio::task::spawn_blocking(reading).await.expect("reading counters does not panic");
        let (uplinks, drops) = read?;
        Ok(GuardState { lines, uplinks, drops, wanted })
    }

    fn uplink_states(&self) -> Result<Vec<UplinkState>, GuardError> {
        let guarded = self.datapath.guarded_interfaces()?;
        let mut all: BTreeSet<u32> = self.datapath.uplinks()?.into_iter().collect();
        all.extend(guarded.iter().map(|interface| interface.ifindex));
        let state = |ifindex: u32| {
            let mode = guarded.iter().find(|interface| interface.ifindex == ifindex).map(|found| found.mode.name());
            let name = if_indextoname(ifindex).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            UplinkState { name, ifindex, mode }
        };
        Ok(all.into_iter().map(state).collect())
    }

    pub(super) fn drops(&self) -> Result<Vec<Guarded>, GuardError> {
        Ok(self.datapath.guarded()?)
    }

    pub(super) async fn tell(&self, kind: &str, text: &str) {
        self.events.add(kind, "", text).await;
    }

    pub(super) async fn tend(&self) -> Result<(), GuardError> {
        let wanted = {
            let lines = self.lines.lock().await;
            self.is_wanted(&lines)
        };
        self.attach(wanted).await
    }

    /// On the uplinks that have no program yet, and off what is no uplink any more.
    async fn attach(&self, wanted: bool) -> Result<(), GuardError> {
        let datapath = Arc::clone(&self.datapath);
        let attaching = move || -> Result<Vec<(u32, &'static str)>, GuardError> {
            let wanted: Vec<u32> = if wanted { datapath.uplinks()? } else { Vec::new() };
            datapath.unguard_all_but(&wanted)?;
            let guarded = datapath.guarded_interfaces()?;
            let mut new = Vec::new();
            for ifindex in wanted.into_iter().filter(|index| !guarded.iter().any(|seen| seen.ifindex == *index)) {
                new.push((ifindex, datapath.guard_interface(ifindex)?.mode.name()));
            }
            Ok(new)
        };
        let new = tokio::task::spawn_blocking(attaching).await.expect("attaching programs does not panic")?;
        for (ifindex, mode) in new {
            self.tell("guard.attached", &format!("interface {ifindex} is guarded, in {mode} mode")).await;
        }
        Ok(())
    }

    /// Of the interfaces that an earlier daemon guarded.
    fn replace_programs(&self) -> Result<(), GuardError> {
        for interface in self.datapath.guarded_interfaces()? {
            if let Err(error) = self.datapath.guard_interface(interface.ifindex) {
                tracing::warn!(error = crate::error_chain(&error), "an interface is not guarded any more");
            }
        }
        Ok(())
    }
}

fn names(lines: &[Line], list: &PrefixListId) -> bool {
    lines.iter().any(|line| line.source == Source::Prefixes(list.clone()))
}
