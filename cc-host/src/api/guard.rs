//! `cc.v1.GuardService`, for admins: the guard is the whole host's. Refuses to know how it is put in force.

use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::guard_service_server::GuardService;
use tonic::{Request, Response, Status};

use crate::auth::{Caller, Role};
use crate::guard::{Guard, GuardState, Line, Source};

pub struct GuardApi {
    pub guard: Arc<Guard>,
}

fn admin<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = Caller::of(request)?;
    caller.require(Role::Admin)?;
    Ok(caller)
}

#[tonic::async_trait]
impl GuardService for GuardApi {
    async fn deny(&self, request: Request<v1::GuardChange>) -> Result<Response<v1::GuardState>, Status> {
        let caller = admin(&request)?;
        self.guard.deny(&caller.project, &request.get_ref().sources).await.map_err(Fault::from)?;
        self.state().await
    }

    async fn allow(&self, request: Request<v1::GuardChange>) -> Result<Response<v1::GuardState>, Status> {
        let caller = admin(&request)?;
        self.guard.allow(&caller.project, &request.get_ref().sources).await.map_err(Fault::from)?;
        self.state().await
    }

    async fn list(&self, request: Request<v1::ListGuardRequest>) -> Result<Response<v1::GuardState>, Status> {
        admin(&request)?;
        self.state().await
    }
}

impl GuardApi {
    async fn state(&self) -> Result<Response<v1::GuardState>, Status> {
        let GuardState { lines, uplinks, drops, wanted } = self.guard.state().await.map_err(Fault::from)?;
        let lines = lines.into_iter().map(|(line, list)| line_view(&line, list));
        let uplinks = uplinks.into_iter().map(|uplink| v1::GuardedUplink {
            name: uplink.name,
            ifindex: uplink.ifindex,
            mode: uplink.mode.unwrap_or_default().to_owned(),
        });
        let drops = drops.into_iter().map(|of| v1::GuardDrop {
            reason: of.reason.to_owned(),
            packets: of.packets,
            bytes: of.bytes,
        });
        Ok(Response::new(v1::GuardState {
            lines: lines.collect(),
            uplinks: uplinks.collect(),
            drops: drops.collect(),
            wanted,
        }))
    }
}

fn line_view(line: &Line, list: Option<(String, u64)>) -> v1::GuardLine {
    let added_ms = line.added_ms;
    match (&line.source, list) {
        (Source::Cidr(cidr), _) => {
            v1::GuardLine { source: cidr.to_string(), kind: "cidr".to_owned(), prefixes: 1, added_ms }
        }
        (Source::Prefixes(id), None) => {
            v1::GuardLine { source: id.to_string(), kind: "prefixes".to_owned(), prefixes: 0, added_ms }
        }
        (Source::Prefixes(_), Some((name, prefixes))) => {
            v1::GuardLine { source: name, kind: "prefixes".to_owned(), prefixes, added_ms }
        }
    }
}
