//! `cc group`: security groups, their rules, and who is in them. Refuses to judge a rule: the daemon does, for every client.

use cc_common::api::fault::Fault;
use cc_common::api::v1::firewall_service_client::FirewallServiceClient;
use cc_common::api::v1::{
    AddRuleRequest, CreateGroupRequest, DeleteGroupsRequest, GetGroupRequest, ListGroupsRequest, RevokeRulesRequest,
    Rule, SetGroupsRequest,
};
use clap::{Args, Subcommand, ValueEnum};

use super::Context;
use crate::client::Connection;
use crate::error::{Failure, usage};
use crate::render::Ids;
use crate::render::group::{GroupCreated, GroupRules, Groups, RuleAdded};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc group create --name web\n  \
    cc group allow web ingress --proto tcp --port 80 --from 0.0.0.0/0\n  cc run -d --vpc blue --group web --image nginx")]
pub struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// Create a group and print its id; its members reach out, and nobody reaches them
    #[command(after_help = "Example:\n  cc group create --name web\n\n\
        A VPC has a default group, which bears its name: its members reach each other.")]
    Create {
        /// A name, unique in the project
        #[arg(long)]
        name: String,
    },
    /// List groups
    #[command(visible_alias = "ls", after_help = "Example:\n  cc group list")]
    List,
    /// Delete groups: all of them, or none if any is in use
    #[command(visible_alias = "rm", after_help = "Example:\n  cc group delete web")]
    Delete {
        /// Names or ids
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Allow conversations that others begin with members (ingress), or members with others (egress)
    #[command(
        after_help = "Examples:\n  cc group allow web ingress --proto tcp --port 8000-8099 --from 10.1.0.0/16\n  \
        cc group allow db ingress --proto tcp --port 5432 --from web\n  \
        cc group allow web ingress --proto icmp --icmp-type echo-request --from 0.0.0.0/0\n\n\
        Answers need no rule. The host's own and link-local addresses take a rule that names them."
    )]
    Allow(RuleArgs),
    /// Deny them
    #[command(after_help = "Example:\n  cc group deny web egress --to bad-ones --priority 10\n\n\
        Of the rules that match, the one with the least priority number decides, and of equal ones a denial.\n\
        A conversation that lived by what changes ends with its next packet.")]
    Deny(RuleArgs),
    /// List a group's rules, in the order in which they decide
    #[command(after_help = "Example:\n  cc group rules web")]
    Rules {
        #[arg(value_name = "GROUP")]
        group: String,
    },
    /// Take rules back, by the numbers that `cc group rules` shows
    #[command(after_help = "Example:\n  cc group revoke web 17 18")]
    Revoke {
        #[arg(value_name = "GROUP")]
        group: String,
        #[arg(required = true, value_name = "RULE")]
        rules: Vec<u32>,
    },
    /// Put containers into a group, running ones too
    #[command(after_help = "Example:\n  cc group attach web c1 c2")]
    Attach {
        #[arg(value_name = "GROUP")]
        group: String,
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Take containers out of a group; each stays in one at least
    #[command(after_help = "Example:\n  cc group detach web c1")]
    Detach {
        #[arg(value_name = "GROUP")]
        group: String,
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct RuleArgs {
    #[arg(value_name = "GROUP")]
    group: String,
    #[arg(value_name = "DIRECTION")]
    direction: Direction,
    #[arg(long, default_value = "any")]
    proto: Proto,
    /// A port or a range, of tcp and udp: 80 or 8000-8099 (default: every port)
    #[arg(long, value_name = "PORT", value_parser = ports)]
    port: Option<(u16, u16)>,
    /// A type of icmp: echo-request, 3/4, … (default: every type)
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    icmp_type: String,
    /// Ingress: a CIDR, or the name of a group or prefix list (default: anybody)
    #[arg(long, value_name = "PEER", conflicts_with = "to")]
    from: Option<String>,
    /// Egress: likewise
    #[arg(long, value_name = "PEER")]
    to: Option<String>,
    /// The least decides, 0 to 65535
    #[arg(long, default_value_t = 1000)]
    priority: u16,
    /// Tell of conversations that it decides: see cc net log
    #[arg(long)]
    log: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    Ingress,
    Egress,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Proto {
    Any,
    Tcp,
    Udp,
    Icmp,
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port"));
    match text.split_once('-') {
        Some((first, last)) => Ok((port(first)?, port(last)?)),
        None => port(text).map(|port| (port, port)),
    }
}

fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl RuleArgs {
    fn rule(self, action: &str) -> Result<Rule, Fault> {
        let (peer, wrong) = match self.direction {
            Direction::Ingress => (self.from, self.to.map(|_| ("--to", "--from"))),
            Direction::Egress => (self.to, self.from.map(|_| ("--from", "--to"))),
        };
        if let Some((wrong, right)) = wrong {
            let direction = name_of(self.direction);
            let why = format!("of {direction}, the other end is named by {right}");
            return Err(usage(format!("cannot {action} with {wrong}"), why));
        }
        // `group:NAME` and `prefixes:NAME` tell apart what has one name.
        let peer = peer.unwrap_or_else(|| "any".to_owned());
        let (peer_kind, peer) = match peer.split_once(':') {
            Some((kind @ ("group" | "prefixes"), name)) => (kind.to_owned(), name.to_owned()),
            _ => (String::new(), peer),
        };
        let (port_first, port_last) = self.port.map_or((0, 0), |(first, last)| (first.into(), last.into()));
        Ok(Rule {
            action: action.to_owned(),
            direction: name_of(self.direction),
            protocol: name_of(self.proto),
            port_first,
            port_last,
            icmp_type: self.icmp_type,
            peer,
            peer_kind,
            priority: self.priority.into(),
            log: self.log,
            ..Rule::default()
        })
    }
}

pub async fn run(context: &Context, args: GroupArgs) -> Result<i32, Failure> {
    let mut client = FirewallServiceClient::new(context.connection().await?);
    match args.command {
        GroupCommand::Create { name } => {
            let group = client.create_group(CreateGroupRequest { name }).await?.into_inner();
            context.ui.show(&GroupCreated(group.into()))?;
        }
        GroupCommand::List => {
            let groups = client.list_groups(ListGroupsRequest {}).await?.into_inner().groups;
            context.ui.show(&Groups(groups.into_iter().map(Into::into).collect()))?;
        }
        GroupCommand::Delete { groups } => {
            let deleted = client.delete_groups(DeleteGroupsRequest { groups }).await?.into_inner().deleted;
            context.ui.show(&Ids(deleted))?;
        }
        GroupCommand::Allow(args) => add(context, &mut client, args, "allow").await?,
        GroupCommand::Deny(args) => add(context, &mut client, args, "deny").await?,
        GroupCommand::Rules { group } => {
            let group = client.get_group(GetGroupRequest { group }).await?.into_inner();
            context.ui.show(&GroupRules(group.into()))?;
        }
        GroupCommand::Revoke { group, rules } => {
            let revoked = rules.iter().map(ToString::to_string).collect();
            client.revoke_rules(RevokeRulesRequest { group, numbers: rules }).await?;
            context.ui.show(&Ids(revoked))?;
        }
        GroupCommand::Attach { group, containers } => set(context, containers, vec![group], vec![]).await?,
        GroupCommand::Detach { group, containers } => set(context, containers, vec![], vec![group]).await?,
    }
    Ok(0)
}

async fn add(
    context: &Context,
    client: &mut FirewallServiceClient<Connection>,
    args: RuleArgs,
    action: &str,
) -> Result<(), Failure> {
    let group = args.group.clone();
    let rule = Some(args.rule(action)?);
    let rule = client.add_rule(AddRuleRequest { group, rule }).await?.into_inner();
    Ok(context.ui.show(&RuleAdded(rule.into()))?)
}

async fn set(
    context: &Context,
    containers: Vec<String>,
    attach: Vec<String>,
    detach: Vec<String>,
) -> Result<(), Failure> {
    let mut client = context.containers().await?;
    let mut ids = Vec::new();
    for id in containers {
        let request = SetGroupsRequest { id, attach: attach.clone(), detach: detach.clone() };
        ids.push(client.set_groups(request).await?.into_inner().id);
    }
    Ok(context.ui.show(&Ids(ids))?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn rule(args: &[&str]) -> Result<Rule, Fault> {
        let all = ["cc", "group", "allow", "web"].iter().chain(args);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Group(GroupArgs { command: GroupCommand::Allow(args) }) => args.rule("allow"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_a_rule() {
        let rule1 = rule(&["ingress", "--proto", "tcp", "--port", "8000-8099", "--from", "group:db"]).unwrap();
        assert_eq!((rule1.port_first, rule1.port_last), (8000, 8099));
        assert_eq!((rule1.peer.as_str(), rule1.peer_kind.as_str(), rule1.priority), ("db", "group", 1000));
        let rule2 = rule(&["egress", "--to", "2001:db8::/32", "--log"]).unwrap();
        assert_eq!((rule2.peer.as_str(), rule2.peer_kind.as_str(), rule2.log), ("2001:db8::/32", "", true));
        assert_eq!(rule(&["ingress"]).unwrap().peer, "any");
        assert!(rule(&["ingress", "--to", "10.0.0.0/8"]).unwrap_err().why.contains("--from"));
        assert!(ports("80-x").is_err() && ports("70000").is_err());
    }
}
