//! `cc.v1.FirewallService`. Refuses to know how rules are kept and compiled.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use cc_common::api::fault::Fault;
use cc_common::api::v1::firewall_service_server::FirewallService;
use cc_common::api::v1::{self, edit_prefixes_input::Input};
use futures::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};

use super::rules::{Own, group_view, list_view, rule_spec, rule_view};
use crate::auth::{Caller, Role};
use crate::container::Containers;
use crate::firewall::{EditedList, Firewall, FirewallError, PrefixEdit, PrefixParser};
use crate::guard::Guard;

/// Lines of one message of a listing.
const LINES_PER_MESSAGE: usize = 10_000;

pub struct FirewallApi {
    pub firewall: Arc<Firewall>,
    pub containers: Arc<Containers>,
    pub guard: Arc<Guard>,
}

fn caller<T>(request: &Request<T>, role: Role) -> Result<Caller, Status> {
    let caller = Caller::of(request)?;
    caller.require(role)?;
    Ok(caller)
}

#[tonic::async_trait]
impl FirewallService for FirewallApi {
    type GetPrefixesStream = Pin<Box<dyn Stream<Item = Result<v1::PrefixLines, Status>> + Send>>;

    async fn create_group(&self, request: Request<v1::CreateGroupRequest>) -> Result<Response<v1::Group>, Status> {
        let caller = caller(&request, Role::Operator)?;
        let name = request.into_inner().name;
        let group = self.firewall.create_group(&caller.project, &name).await.map_err(Fault::from)?;
        Ok(Response::new(group_view(&self.firewall, &group, true)))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let caller = caller(&request, Role::Viewer)?;
        let groups = self.firewall.groups(&caller.project);
        let groups = groups.iter().map(|group| group_view(&self.firewall, group, false)).collect();
        Ok(Response::new(v1::ListGroupsResponse { groups }))
    }

    async fn get_group(&self, request: Request<v1::GetGroupRequest>) -> Result<Response<v1::Group>, Status> {
        let caller = caller(&request, Role::Viewer)?;
        let group = self.firewall.group(&caller.project, &request.get_ref().group).map_err(Fault::from)?;
        Ok(Response::new(group_view(&self.firewall, &group, true)))
    }

    async fn delete_groups(
        &self,
        request: Request<v1::DeleteGroupsRequest>,
    ) -> Result<Response<v1::DeleteGroupsResponse>, Status> {
        let caller = caller(&request, Role::Operator)?;
        let wanted = request.into_inner().groups;
        // No container is put into a group meanwhile.
        let _allocation = self.containers.allocation().await;
        let users = |group: &crate::firewall::GroupId| self.containers.in_group(group);
        let deleted = self.firewall.delete_groups(&caller.project, &wanted, users).await.map_err(Fault::from)?;
        Ok(Response::new(v1::DeleteGroupsResponse { deleted: deleted.iter().map(ToString::to_string).collect() }))
    }

    async fn add_rule(&self, request: Request<v1::AddRuleRequest>) -> Result<Response<v1::Rule>, Status> {
        let caller = caller(&request, Role::Operator)?;
        let v1::AddRuleRequest { group, rule } = request.into_inner();
        let spec = rule_spec(&Own(&self.firewall, &caller.project), rule.unwrap_or_default()).map_err(Fault::from)?;
        let (_, rule) = self.firewall.add_rule(&caller.project, &group, spec).await.map_err(Fault::from)?;
        Ok(Response::new(rule_view(&self.firewall, &rule)))
    }

    async fn revoke_rules(&self, request: Request<v1::RevokeRulesRequest>) -> Result<Response<v1::Group>, Status> {
        let caller = caller(&request, Role::Operator)?;
        let v1::RevokeRulesRequest { group, numbers } = request.into_inner();
        let group = self.firewall.revoke_rules(&caller.project, &group, &numbers).await.map_err(Fault::from)?;
        Ok(Response::new(group_view(&self.firewall, &group, true)))
    }

    async fn create_prefix_list(
        &self,
        request: Request<v1::CreatePrefixListRequest>,
    ) -> Result<Response<v1::PrefixList>, Status> {
        let caller = caller(&request, Role::Operator)?;
        let name = request.into_inner().name;
        let list = self.firewall.create_list(&caller.project, &name).await.map_err(Fault::from)?;
        Ok(Response::new(list_view(&list)))
    }

    async fn list_prefix_lists(
        &self,
        request: Request<v1::ListPrefixListsRequest>,
    ) -> Result<Response<v1::ListPrefixListsResponse>, Status> {
        let caller = caller(&request, Role::Viewer)?;
        let lists = self.firewall.prefix_lists(&caller.project).iter().map(list_view).collect();
        Ok(Response::new(v1::ListPrefixListsResponse { lists }))
    }

    async fn delete_prefix_lists(
        &self,
        request: Request<v1::DeletePrefixListsRequest>,
    ) -> Result<Response<v1::DeletePrefixListsResponse>, Status> {
        let caller = caller(&request, Role::Operator)?;
        let wanted = request.into_inner().lists;
        self.guard.not_named(&caller.project, &wanted).await.map_err(Fault::from)?;
        let deleted = self.firewall.delete_lists(&caller.project, &wanted).await.map_err(Fault::from)?;
        Ok(Response::new(v1::DeletePrefixListsResponse { deleted: deleted.iter().map(ToString::to_string).collect() }))
    }

    async fn edit_prefixes(
        &self,
        request: Request<Streaming<v1::EditPrefixesInput>>,
    ) -> Result<Response<v1::EditPrefixesResponse>, Status> {
        let caller = caller(&request, Role::Operator)?;
        let began = Instant::now();
        let mut input = request.into_inner();
        let header = match input.message().await?.and_then(|message| message.input) {
            Some(Input::Header(header)) => header,
            _ => return Err(malformed("the first message is not a header").into()),
        };
        let edit = match header.edit.as_str() {
            "add" => PrefixEdit::Add,
            "remove" => PrefixEdit::Remove,
            "replace" => PrefixEdit::Replace,
            _ => return Err(malformed("an edit is add, remove or replace").into()),
        };
        // Whether it exists, before a million lines are taken.
        let known = self.firewall.prefix_list(&caller.project, &header.list).map_err(Fault::from)?;
        let bad_line = |(line, source)| Fault::from(FirewallError::BadLine { line, source });
        let mut parser = PrefixParser::default();
        while let Some(message) = input.message().await? {
            match message.input {
                Some(Input::Lines(bytes)) => parser.push(&bytes).map_err(bad_line)?,
                _ => return Err(malformed("a header comes once").into()),
            }
        }
        let prefixes = parser.finish().map_err(bad_line)?;
        let parsed = Instant::now();
        self.guard.may_contain(&known, &prefixes).await.map_err(Fault::from)?;
        let EditedList { list, applied, stored } =
            self.firewall.edit_list(&caller.project, &header.list, edit, prefixes).await.map_err(Fault::from)?;
        self.guard.list_changed(&list.id).await.map_err(Fault::from)?;
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(v1::EditPrefixesResponse {
            list: Some(list_view(&list)),
            parse_ms: ms(parsed - began),
            store_ms: ms(stored),
            force_ms: ms(parsed.elapsed().saturating_sub(stored)),
            prefixes_loaded: applied.prefixes as u64,
        }))
    }

    async fn get_prefixes(
        &self,
        request: Request<v1::GetPrefixesRequest>,
    ) -> Result<Response<Self::GetPrefixesStream>, Status> {
        let caller = caller(&request, Role::Viewer)?;
        let list = self.firewall.prefix_list(&caller.project, &request.get_ref().list).map_err(Fault::from)?;
        let prefixes = self.firewall.prefixes_of(&list).await.map_err(Fault::from)?;
        let pieces = (0..prefixes.len().div_ceil(LINES_PER_MESSAGE)).map(move |n| {
            let piece = prefixes.iter().skip(n * LINES_PER_MESSAGE).take(LINES_PER_MESSAGE);
            let lines: String = piece.map(|net| format!("{net}\n")).collect();
            Ok(v1::PrefixLines { lines: lines.into_bytes() })
        });
        Ok(Response::new(futures::stream::iter(pieces).boxed()))
    }
}

fn malformed(why: &str) -> Fault {
    Fault::new(Code::InvalidArgument, "firewall.malformed", "cannot change the prefix list", why)
}
